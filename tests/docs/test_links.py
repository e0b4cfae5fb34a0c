"""Links between documents, and from alerts to the runbook, lead to a file and a heading that exist."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("clients", "deploy", "docs", "helm")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in ROOT.glob(f"{folder}/**/*.md"))])
CODE = re.compile(r"^( *)```.*?^\1```$|``.+?``|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def anchors(text):
    """The anchors that a forge makes of the headings of a page."""
    found = []
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        before = found.count(slug)
        found.append(f"{slug}-{before}" if before else slug)
    return found


def broken(page):
    """The relative links of a page that lead nowhere."""
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        if not linked.exists() or (anchor and anchor not in anchors(linked.read_text())):
            yield target


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_every_relative_link_of_a_page_leads_to_a_file_and_a_heading(page):
    assert list(broken(page)) == []


def test_a_link_to_a_missing_file_or_heading_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Title, `code`\n[a](#title-code) [b](#other) [c](missing.md) [d](page.md#x) `[e](no.md)`"
    )
    assert list(broken(page)) == ["#other", "missing.md", "page.md#x"]


def test_every_alert_links_to_a_section_of_the_runbook():
    rules = yaml.safe_load((ROOT / "deploy/monitoring/rules.yaml").read_text())
    urls = [
        rule["annotations"]["runbook_url"]
        for group in rules["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert len(urls) > 15
    for url in urls:
        path, _, anchor = url.partition("#")
        assert anchor in anchors((ROOT / path).read_text()), url


def test_every_page_of_the_documentation_can_be_reached_from_the_list_in_it():
    linked = set(re.findall(r"\]\(([\w-]+\.md)", (ROOT / "docs/README.md").read_text()))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} == linked
    assert "docs/README.md" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["providers", "recipes"])
def test_every_page_of_a_folder_can_be_reached_from_the_list_in_it(name):
    folder = ROOT / "docs" / name
    linked = set(re.findall(r"\]\(([\w-]+\.md)", (folder / "README.md").read_text()))
    assert {page.name for page in folder.glob("*.md")} - {"README.md"} <= linked
    assert f"{name}/README.md" in (ROOT / "docs/README.md").read_text()
