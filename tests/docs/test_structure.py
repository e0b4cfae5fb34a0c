"""The pictures of the structure in docs/architecture.md are those of the code as it is."""

import importlib.util
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent.parent
_spec = importlib.util.spec_from_file_location("structure", ROOT / "deploy/structure.py")
structure = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(structure)


@pytest.fixture
def shop():
    """A package whose module and packages import each other in a chain, and one arrow beside it."""
    graph = grimp.ImportGraph()
    for module in ("shop", "shop.web", "shop.web.pages", "shop.stock", "shop.stock.shelf", "shop.money"):
        graph.add_module(module)
    graph.add_import(importer="shop.web.pages", imported="shop.stock.shelf")
    graph.add_import(importer="shop.stock.shelf", imported="shop.money")
    graph.add_import(importer="shop.web", imported="shop.money")
    return graph


def test_the_pictures_are_current():
    page = structure.PAGE.read_text()
    assert structure.current(page) == page, "make docs draws them again"


def test_a_part_imports_what_any_module_below_it_imports(shop):
    assert structure.arrows(shop, "shop") == {
        "shop.web": {"shop.stock", "shop.money"},
        "shop.stock": {"shop.money"},
        "shop.money": set(),
    }


def test_an_arrow_that_a_longer_way_implies_is_left_out(shop):
    assert structure.reduced(structure.arrows(shop, "shop"))["shop.web"] == {"shop.stock"}


def test_parts_with_mutual_imports_keep_their_arrows():
    circle = {"a": {"b"}, "b": {"a", "c"}, "c": set()}
    assert structure.reduced(circle) == circle


def test_packages_and_modules_look_different(shop):
    assert structure.mermaid(shop, "shop").splitlines() == [
        "```mermaid",
        "flowchart TD",
        '  money("money")',
        '  stock[["stock"]]',
        '  web[["web"]]',
        "  stock --> money",
        "  web --> stock",
        "```",
    ]


def test_a_page_without_the_section_is_refused():
    with pytest.raises(ValueError, match="no section shop"):
        structure.replaced("# Page\n", "shop", "picture")
