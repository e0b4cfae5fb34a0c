"""Checks the language of names, comments, docstrings and documents against the rules of `prose.toml`.

`make lint` runs it; it prints one line for each finding, and the status is 1 where there is any.
"""

import argparse
import ast
import functools
import inspect
import io
import os
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent
RULES: Final = Path(__file__).with_suffix(".toml")

_LEFT_OUT: Final = re.compile(
    r"^( *)(```+|~~~+).*?^\1\2[^\n]*$|<!-- generated.*?<!-- end -->|^ {4,}[^\n]*$", re.MULTILINE | re.DOTALL
)
"""Blocks of code, and what a program writes into a page."""

_CODE: Final = re.compile(r"``.+?``|`[^`\n]+`")
_LINK: Final = re.compile(r"\]\([^)\s]*\)|<https?://[^>]*>|https?://\S+")
_BREAK: Final = re.compile(r"^\s*(?:(?:[-*+]|\d+\.|#+|>|\w+(?: \(.*?\))?:)\s+|$)|\|", re.MULTILINE)
"""Where a sentence ends without a full stop: items, headings, arguments of docstrings, empty lines, cells."""

_END: Final = re.compile(r"(?<=[.!?])[*_)\"']*\s+(?=[^a-z])")
_PART: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_LUA_NAMES: Final = re.compile(
    r"\bfor ([\w, ]+) (?:in|=)|\blocal (?!function)([\w, ]+)|\bfunction (\w*)\(([^)]*)\)"
)


class Rules(NamedTuple):
    """What `prose.toml` says."""

    longest_sentence: int
    names: frozenset[str]
    terms: tuple[str, ...]
    whole_names: frozenset[str]
    vocabulary: dict[re.Pattern[str], str]


class Finding(NamedTuple):
    """One thing to change."""

    line: int
    problem: str


def rules(settings: dict[str, Any]) -> Rules:
    """Prepare the rules that were read from the file."""
    words = {
        re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE): better
        for words, better in settings["vocabulary"].items()
    }
    return Rules(
        settings["longest_sentence"],
        frozenset(settings["names"]),
        tuple(settings["terms"]),
        frozenset(settings["whole_names"]),
        words,
    )


def page(text: str, rules: Rules) -> Iterator[Finding]:
    """Check Markdown; code in it is left out."""
    text = _LEFT_OUT.sub(lambda match: "\n" * match[0].count("\n"), text)
    yield from prose(text, 1, rules)


def prose(text: str, first: int, rules: Rules) -> Iterator[Finding]:
    """Check plain text that begins in line ``first``."""
    text = _LINK.sub("]", _CODE.sub("X", text))
    for pattern, better in rules.vocabulary.items():
        for match in pattern.finditer(text):
            line = first + text.count("\n", 0, match.start())
            yield Finding(line, f'"{match[0].strip()}": better: {better}')
    start = 0
    for stop in [*_BREAK.finditer(text), None]:
        paragraph = text[start : stop.start() if stop else len(text)]
        for sentence in _END.split(paragraph):
            words = len(re.findall(r"\w[\w'-]*", sentence))
            if words > rules.longest_sentence:
                line = first + text.count("\n", 0, start + paragraph.find(sentence))
                yield Finding(line, f"a sentence of {words} words: {' '.join(sentence.split()[:8])} …")
        start = stop.end() if stop else start


def code(source: str, rules: Rules) -> Iterator[Finding]:
    """Check comments and docstrings of Python."""
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != last + 1:
                yield from prose("\n".join(block), first, rules)
                block = []
            first, last = (first if block else token.start[0]), token.start[0]
            block.append(token.string.lstrip("#! "))
    yield from prose("\n".join(block), first, rules)
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(
                value=ast.Constant(value=str(text)) as constant
            ):  # a docstring, or one of an assignment
                yield from prose(inspect.cleandoc(text), constant.lineno, rules)
            case _:
                pass


def identifiers(source: str, rules: Rules) -> Iterator[Finding]:
    """Check the names that a Python file gives: functions, classes, arguments, variables, attributes."""
    for name, line in sorted(set(_given(ast.parse(source))), key=lambda given: given[1]):
        yield from _checked(name, line, rules)


def _checked(name: str, line: int, rules: Rules) -> Iterator[Finding]:
    stripped = functools.reduce(lambda rest, term: rest.replace(term, ""), rules.terms, name)
    parts = {part.lower() for part in _PART.findall(stripped)}
    for word in sorted(parts & rules.names) or ([name] if name in rules.whole_names else []):
        yield Finding(line, f"the name {name}: {word} says nothing")


def _given(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case (
                ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
                | ast.ExceptHandler(name=str(name))
            ):
                yield name, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno
            case _:
                pass


def lua_comments(source: str, rules: Rules) -> Iterator[Finding]:
    """Check the comments of Lua; those of neighbouring lines are one text."""
    for block in re.finditer(r"(?:^ *--.*\n?)+", source, re.MULTILINE):
        text = re.sub(r"^ *--+ ?", "", block[0], flags=re.MULTILINE)
        yield from prose(text, 1 + source.count("\n", 0, block.start()), rules)


def lua_identifiers(source: str, rules: Rules) -> Iterator[Finding]:
    """Check the names of Lua's variables, functions and arguments."""
    for given in _LUA_NAMES.finditer(source):
        for name in re.findall(r"\w+", " ".join(filter(None, given.groups()))):
            yield from _checked(name, 1 + source.count("\n", 0, given.start()), rules)


def _files(globs: Iterable[str]) -> Iterator[Path]:
    for glob in globs:
        yield from sorted(ROOT.glob(glob))


def main(argv: list[str] | None = None) -> int:
    """Check all files of the rules, or those that are named."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--identifiers", action=argparse.BooleanOptionalAction, default=True)
    options.add_argument("--comments", action=argparse.BooleanOptionalAction, default=True)
    options.add_argument("paths", nargs="*", type=Path, help="default: all that the rules list")
    chosen = options.parse_args(argv)
    settings = tomllib.loads(RULES.read_text(encoding="utf-8"))
    checked = rules(settings)
    listed = list(_files(settings["pages"] + settings["code"]))
    names_only = set() if chosen.paths else set(_files(settings["code_names_only"]))
    generated = {ROOT / path for path in settings["generated"]}
    count = 0
    for path in chosen.paths or [path for path in [*listed, *sorted(names_only)] if path not in generated]:
        text = path.read_text(encoding="utf-8")
        found: list[Finding] = []
        if path.suffix == ".md":
            found += page(text, checked)
        elif path.suffix == ".lua":
            found += lua_comments(text, checked) if chosen.comments else []
            found += lua_identifiers(text, checked) if chosen.identifiers else []
        else:
            found += code(text, checked) if chosen.comments and path not in names_only else []
            found += identifiers(text, checked) if chosen.identifiers else []
        for finding in sorted(found):
            print(f"{os.path.relpath(path, ROOT)}:{finding.line}: {finding.problem}")
        count += len(found)
    print(f"prose: {count or 'no'} finding{'' if count == 1 else 's'}")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
