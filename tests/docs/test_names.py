"""Functions and files that the developers' pages name exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = ("docs/architecture.md", "docs/decisions.md", "CONTRIBUTING.md")
FOLDERS = (ROOT, ROOT / "service/revoker")


def codes(page):
    """What stands between backticks in a page, blocks of code left out."""
    text = re.sub(r"^( *)```.*?^\1```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def exists(name):
    """Whether a dotted name leads to a module, or to something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found is not None
    return False


@pytest.mark.parametrize("page", PAGES)
def test_every_function_that_a_page_names_exists(page):
    assert [code for code in codes(page) if re.fullmatch(r"revoker(\.\w+)+", code) and not exists(code)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page):
    files = [code for code in codes(page) if re.fullmatch(r"[\w./-]+\.(py|lua|md|toml|yaml)", code)]
    folders = [code for code in codes(page) if re.fullmatch(r"\w[\w./-]*/", code)]
    assert files
    assert [name for name in files + folders if not any((folder / name).exists() for folder in FOLDERS)] == []


def test_a_missing_function_is_found():
    assert exists("revoker.store.keys.Keys.jti")
    assert exists("revoker.rules")
    assert not exists("revoker.store.keys.Keys.missing")
    assert not exists("revoker.missing.keys")
