"""Writes pictures of the import package into docs/architecture.md: its parts, and who imports whom.

`make docs` runs it; a test fails while a picture differs from the code.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import grimp

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs/architecture.md"

Arrows = dict[str, set[str]]


def arrows(graph: grimp.ImportGraph, package: str) -> Arrows:
    """The parts of a package, each with those it imports; modules below a part count as the part."""
    children = sorted(graph.find_children(package))
    return {
        child: {
            other
            for other in children
            if other != child and graph.direct_import_exists(importer=child, imported=other, as_packages=True)
        }
        for child in children
    }


def reduced(parts: Mapping[str, set[str]]) -> Arrows:
    """The same without arrows that a longer way implies; parts that import each other keep theirs."""
    return {
        part: {
            other
            for other in imported
            if not any(
                other in _reached(parts, between) and between not in _reached(parts, other)
                for between in imported - {other}
                if part not in _reached(parts, between)
            )
        }
        for part, imported in parts.items()
    }


def _reached(parts: Mapping[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for other in parts[waiting.pop()] - reached:
            reached.add(other)
            waiting.append(other)
    return reached


def mermaid(graph: grimp.ImportGraph, package: str) -> str:
    """A picture: packages have double sides, modules have none."""
    parts = reduced(arrows(graph, package))
    names = {part: part.removeprefix(f"{package}.") for part in parts}
    shapes = {
        part: f'{name}[["{name}"]]' if graph.find_children(part) else f'{name}("{name}")'
        for part, name in names.items()
    }
    lines = [f"  {shape}" for shape in shapes.values()]
    lines += [
        f"  {names[part]} --> {names[other]}" for part, others in parts.items() for other in sorted(others)
    ]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def replaced(page: str, section: str, text: str) -> str:
    """The page with another text between the markers of a section."""
    start, end = f"<!-- generated: {section} -->\n", "\n<!-- end -->"
    before, found, rest = page.partition(start)
    if not found or end not in rest:
        raise ValueError(f"no section {section} in the page")
    return before + start + text + rest[rest.index(end) :]


def current(page: str, packages: Iterable[str] = ("revoker", "revoker.store")) -> str:
    """The page with the pictures of the code as it is."""
    graph = grimp.build_graph("revoker", cache_dir=None)
    for package in packages:
        page = replaced(page, package, mermaid(graph, package))
    return page


def main() -> None:
    """Write the pictures of the code, or that of an earlier state."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--before", type=Path, help="a folder with an earlier state, to be drawn instead")
    options.add_argument("--package", default="service", help="the import package of that state")
    chosen = options.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    if chosen.before is None:
        new = current(page)
    else:
        sys.path.insert(0, str(chosen.before))
        graph = grimp.build_graph(chosen.package, cache_dir=None)
        new = replaced(page, "before", mermaid(graph, chosen.package))
    if new != page:
        PAGE.write_text(new, encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
