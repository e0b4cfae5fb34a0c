"""Puts the snippets of a page of docs/recipes where the page says, as its readers do."""

import re
import textwrap
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs" / "recipes"

_STEP = re.compile(
    r"^(?P<files>`[\w.-]+`(?: and `[\w.-]+`)*), "
    r"(?:(?P<where>before|after|instead of) `(?P<line>[^\n]+)`|a new file):\n"
    r"\n```\w+\n(?P<snippet>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NAMES = {"nginx": "nginx", "Envoy": "envoy", "Traefik": "traefik", "Caddy": "caddy", "HAProxy": "haproxy"}


def names() -> list[str]:
    """All recipes; where one builds on lines of another, that comes first."""
    return sorted(page.stem for page in PAGES.glob("*.md") if page.stem != "README")


def sections(recipe: str) -> dict[str, str]:
    """The text for every gateway, by the name of its folder."""
    found = re.split(r"^## (.+)$", (PAGES / f"{recipe}.md").read_text(), flags=re.MULTILINE)
    texts = dict(zip(found[1::2], found[2::2], strict=True))
    return {folder: texts[name] for name, folder in _NAMES.items()}


def apply(recipe: str, folder: Path, gateway: str) -> None:
    """Change the configuration in a folder.

    Raises:
        ValueError: the page and the configuration do not fit, or a snippet is not where the page says.
    """
    section = sections(recipe)[gateway]
    steps = list(_STEP.finditer(section))
    if len(steps) != section.count("\n```") // 2:
        raise ValueError(f"{recipe}: a snippet for {gateway} has no place")
    for step in steps:
        for name in re.findall(r"`([^`]+)`", step["files"]):
            file = folder / name
            if step["where"] is None:
                file.write_text(step["snippet"])
            else:
                file.write_text(_placed(file.read_text(), step, f"{recipe}: {name}"))


def _placed(text: str, step: re.Match[str], place: str) -> str:
    lines = text.splitlines(keepends=True)
    found = [number for number, line in enumerate(lines) if line.lstrip().startswith(step["line"])]
    if len(found) != 1:
        raise ValueError(f"{place} has {len(found)} lines that begin with {step['line']}")
    line = lines[found[0]]
    indented = textwrap.indent(step["snippet"], line[: len(line) - len(line.lstrip())])
    replaced = {"before": indented + line, "after": line + indented, "instead of": indented}
    return "".join([*lines[: found[0]], replaced[step["where"]], *lines[found[0] + 1 :]])
