"""docs/compliance.md claims nothing that no test shows, and leaves out nothing that one does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rows import ROW

ROOT = Path(__file__).parents[1]
UNSHOWN = ("Not offered", "Differs", "Open")


@pytest.fixture(scope="module")
def borne(tmp_path_factory):
    """The tests of each row, as pytest collects them."""
    found = tmp_path_factory.mktemp("rows") / "rows.json"
    collecting = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.rows", "--collect-only", "-q", "tests"],
        cwd=ROOT,
        env={**os.environ, "ROWS_FILE": str(found)},
        capture_output=True,
        text=True,
    )
    assert found.exists(), collecting.stdout[-2000:] + collecting.stderr[-2000:]
    return {row: set(tests) for row, tests in json.loads(found.read_text()).items()}


@pytest.fixture(scope="module")
def claimed():
    """What the page says of each row, and the tests that it names."""
    page = (ROOT / "docs" / "compliance.md").read_text()
    lines = re.findall(rf"^\| ({ROW}) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", page, re.MULTILINE)
    assert len(lines) == len(re.findall(rf"^\| {ROW} ", page, re.MULTILINE)), "a row is not well-formed"
    assert len({line[0] for line in lines}) == len(lines), "a row stands twice"
    return {row: (done, set(re.findall(r"`([^`]+::[^`]+)`", tests))) for row, _, done, tests in lines}


def test_every_test_that_the_page_names_exists_and_bears_the_row(claimed, borne):
    wrong = {row: tests - borne.get(row, set()) for row, (_, tests) in claimed.items()}

    assert not {row: tests for row, tests in wrong.items() if tests}


def test_every_row_that_a_test_bears_is_on_the_page_with_a_test(claimed, borne):
    assert not [row for row in borne if not claimed.get(row, ("", set()))[1]]


def test_a_row_without_a_test_says_why(claimed):
    unshown = {row: done for row, (done, tests) in claimed.items() if not tests}

    assert not [row for row, done in unshown.items() if not done.startswith(UNSHOWN)]
