"""The shell blocks of the documentation, and what they say that their commands print."""

import dataclasses
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from tests.rig.processes import REPOSITORY

LANGUAGES = ("sh", "console", "bash", "shell")
FOLDERS = ("clients", "deploy", "docs", "helm")

_BLOCK = re.compile(
    rf"^(?:[ ]*<!-- not run: (?P<reason>[^\n]+) -->\n)?(?P<indent> *)```(?P<language>{'|'.join(LANGUAGES)})\n"
    r"(?P<text>.*?)^(?P=indent)```$(?:\n\n```json\n(?P<answer>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
_PLACEHOLDER = re.compile(r"<([a-z_ ]+)>")
_VOLATILE = (
    r"\d{10}\.\d+",  # dates in seconds
    r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00",
    r"\d{8}-\d-[\w-]{10}",  # the kid of a generated key
)
_ELLIPSIS = "…"


@dataclasses.dataclass(frozen=True)
class ShellBlock:
    """One block of a page.

    Attributes:
        page: Its path in the repository.
        line: Of its first fence.
        language: ``console`` has commands with a prompt, and what they print.
        text: Without the indentation of the block.
        not_run: Why no test runs it, as a comment before it says; empty if one does.
        answer: What a block of JSON right after it shows.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str
    answer: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Each command with the output that the page shows for it."""
        if self.language != "console":
            return [(self.text, self.answer)]
        commands = re.findall(r"^\$ ((?:.*\\\n)*.*\n)((?:(?!\$ ).*\n)*)", self.text, re.MULTILINE)
        assert commands, f"{self}: a block of console has lines that begin with `$ `"
        return commands

    @property
    def script(self) -> str:
        """All commands."""
        return "".join(command for command, _ in self.commands)


def pages() -> list[Path]:
    """Every page of the documentation."""
    found = [
        *REPOSITORY.glob("*.md"),
        *(page for name in FOLDERS for page in REPOSITORY.glob(f"{name}/**/*.md")),
    ]
    return sorted(found)


def blocks_of(page: Path) -> Iterator[ShellBlock]:
    """The shell blocks of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        yield ShellBlock(
            page=page.relative_to(REPOSITORY).as_posix(),
            line=text.count("\n", 0, found.start("language")) + 1,
            language=found["language"],
            text=textwrap.dedent(found["text"]),
            not_run=found["reason"] or "",
            answer=found["answer"] or "",
        )


def with_words(script: str) -> str:
    """A script without placeholders, which are redirections to a shell: ``<release>`` becomes ``release``."""
    return _PLACEHOLDER.sub(lambda found: found[1].replace(" ", "-"), script)


def matches_page(printed: str, example: str) -> bool:
    """Whether a command has printed what a page shows.

    Dates and new ids differ; an ellipsis stands for any text; the page may break lines where it likes.
    """
    volatile = "|".join((_ELLIPSIS, *_VOLATILE))
    pattern = re.escape(re.sub(volatile, _ELLIPSIS, _without_breaks(example))).replace(_ELLIPSIS, ".*")
    return re.fullmatch(pattern, _without_breaks(printed)) is not None


def _without_breaks(text: str) -> str:
    return re.sub(r"\s+", "", text)
