"""What is made from the code is as the code is now."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
_spec = importlib.util.spec_from_file_location("generate", ROOT / "deploy/generate.py")
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in generate.outputs()]
)
def test_a_generated_file_is_current(path):
    assert path.read_text() == generate.outputs()[path], "make docs writes it anew"


def test_the_metrics_page_has_a_row_for_every_metric():
    page = (ROOT / "docs/metrics.md").read_text()
    for name in ("revoker_verdicts_total", "revoker_introspection_seconds", "revoker_problem"):
        assert page.count(f"| `{name}` |") == 1
    assert "token_revoked" in page
    assert "| `verdict`: active, " in page
