"""Builds the documentation as a site into site/; `make site` runs it.

Pages link to each other and to other files of the repository by relative paths. So the pages, and each
file that one of them links to, are copied to the same paths of a temporary folder, from which MkDocs
makes the site and in which it checks all links and anchors.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from revoker import __version__

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = (
    "*.md",
    "docs/**/*.md",
    "docs/pictures/*.png",
    "docs/pictures/*.svg",
    "clients/python/README.md",
    "deploy/gateways/*/README.md",
    "helm/revoker/README.md",
)

MERMAID: Final = "mermaid@12.3.0"
MERMAID_INTEGRITY: Final = (
    "sha512-4113TdXeLAsMruJ79OpFL5O8+LTFXhQqZ260rF3tgUmiNAtRm4Uume04I+65PRN6yZ69J4f8rVYWW8zRk65UYw=="
)
"""Of the package: npm would otherwise take whatever has this version."""

_LINK: Final = re.compile(r"(?<!!)\]\(([^)\s#]+)((?:#[^)\s]*)?)\)")
_BLOCK: Final = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def main() -> None:
    """Build the site; the status is not 0 where a link or an anchor leads nowhere."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").absolute()
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages"
        copy_pages(pages)
        (pages / "assets").mkdir()
        shutil.copyfile(ROOT / "deploy/site/accessible.css", pages / "assets/accessible.css")
        shutil.move(fetch_mermaid(Path(folder)), pages / "assets/mermaid.min.js")
        settings = {
            "SITE_PAGES": str(pages),
            "SITE_TARGET": str(target),
            "SITE_VERSION": f"Revoker {__version__}",
        }
        command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file")
        # The theme's notes on the future of MkDocs are no faults of the pages.
        environment = {**os.environ, **settings, "NO_MKDOCS_2_WARNING": "1"}
        status = subprocess.run((*command, ROOT / "deploy/site/mkdocs.yml"), env=environment, check=False)  # noqa: S603
    sys.exit(status.returncode)


def copy_pages(pages: Path) -> None:
    """Copy all pages, and what they link to; a folder that is linked becomes a page that lists its files."""
    sources = sorted({path for glob in PAGES for path in ROOT.glob(glob)})
    for source in sources:
        target = pages / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix != ".md":
            shutil.copyfile(source, target)
            continue
        parts = _BLOCK.split(source.read_text(encoding="utf-8"))
        parts[::2] = [_LINK.sub(functools.partial(_link, source), text) for text in parts[::2]]
        target.write_text("".join(parts), encoding="utf-8")
        for linked in _linked(source):
            copy = pages / linked.relative_to(ROOT)
            if linked.is_dir():
                _write_list(linked, pages)
            elif linked not in sources:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(linked, copy)


def _linked(source: Path) -> Iterator[Path]:
    """The files and folders that a page links to, except pages."""
    for part in _BLOCK.split(source.read_text(encoding="utf-8"))[::2]:
        for found in _LINK.finditer(part):
            linked = (source.parent / found[1]).resolve()
            if ":" not in found[1] and linked.exists() and linked.suffix != ".md":
                yield linked


def _link(source: Path, found: re.Match[str]) -> str:
    """A link as MkDocs wants it: to a page instead of to a folder."""
    path = found[1]
    if ":" not in path and (source.parent / path).is_dir():
        return f"]({path.rstrip('/')}/README.md{found[2]})"
    return found[0]


def _write_list(folder: Path, pages: Path) -> None:
    """A page that lists a folder, with copies of its files."""
    target = pages / folder.relative_to(ROOT)
    target.mkdir(parents=True, exist_ok=True)
    lines = [f"---\nsearch:\n  exclude: true\n---\n\n# {folder.relative_to(ROOT)}\n"]
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and path.suffix != ".md":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
        if path.is_file() and not path.name.startswith("."):
            lines.append(f"- [{name}]({name})")
    if not (folder / "README.md").exists():
        (target / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def fetch_mermaid(folder: Path) -> Path:
    """The script that draws the diagrams, from npm."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm is missing: the script that draws diagrams comes from there")
    command = (npm, "pack", MERMAID, "--json", "--loglevel", "error", "--pack-destination", folder)
    ended = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if ended.returncode:
        sys.exit(f"{MERMAID} cannot be had from npm: {ended.stdout}{ended.stderr}")
    packed = json.loads(ended.stdout)[0]
    if packed["integrity"] != MERMAID_INTEGRITY:
        sys.exit(f"{MERMAID} is not what it was: {packed['integrity']}")
    with tarfile.open(folder / packed["filename"]) as archive:
        archive.extract("package/dist/mermaid.min.js", folder, filter="data")
    return folder / "package/dist/mermaid.min.js"


if __name__ == "__main__":
    main()
