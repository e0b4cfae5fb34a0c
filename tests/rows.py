"""A pytest plugin that tells which test shows which row of docs/compliance.md.

A test bears a row by ``@pytest.mark.row("7662-01", ...)``, or a case of it by an id that begins so.
"""

import json
import os
import re
from pathlib import Path

import pytest

FAMILIES = (
    "7662|7009|RU|6749|CA|9700|JWT|9068|KIND|ATK|9701|8414|JWKS|BCL|FWD|POP|HTTP|9457|MET|K8S"
    "|SET|8935|8936|SSF|CAEP|TSL|D"
)
ROW = rf"(?:{FAMILIES})-\d{{2}}"


def rows_of(item: pytest.Item) -> set[str]:
    """The rows that one case of a test bears."""
    case = getattr(item, "callspec", None)
    return {row for mark in item.iter_markers("row") for row in mark.args} | set(
        re.findall(rf"(?:^|-)({ROW})(?= )", case.id if case else "")
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write what was found where the caller wants it."""
    found: dict[str, set[str]] = {}
    for item in session.items:
        for row in rows_of(item):
            found.setdefault(row, set()).add(item.nodeid.partition("[")[0])
    rows = {row: sorted(tests) for row, tests in sorted(found.items())}
    Path(os.environ["ROWS_FILE"]).write_text(json.dumps(rows, indent=1))
