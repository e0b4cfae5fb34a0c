"""docs/log-events.md has the events of the audit log, and no others."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
AUDIT = re.compile(r"(_audit\.(info|warning|error)|call\.audit|_log_cutoff|_report)")


def events():
    """The names that are given to calls which write an audit line."""
    for path in (ROOT / "service/revoker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and AUDIT.fullmatch(ast.unparse(node.func)):
                match node.args[0]:
                    case ast.Constant(value=str(name)):
                        yield name
                    case _:
                        pass


def test_the_page_has_every_event_of_the_audit_log_and_no_others():
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/log-events.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted({*events(), "audit", "service", "store"})
