"""The prose linter finds what it is for, and nothing else."""

import importlib.util
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
_spec = importlib.util.spec_from_file_location("prose", ROOT / "deploy/prose.py")
prose = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(prose)

RULES = prose.rules(tomllib.loads((ROOT / "deploy/prose.toml").read_text()))
LONG = " ".join(["word"] * 41)


def problems(findings):
    return [(finding.line, finding.problem) for finding in findings]


@pytest.mark.parametrize(
    "source",
    [
        "def told(): ...",
        "async def ask_each(): ...",
        "class Known: ...",
        "class KnownKeys: ...",
        "class Line: ...",
        "def add(kept): ...",
        "def add(*, kept_until): ...",
        "def add(*said): ...",
        "def add(**shown): ...",
        "_told = 1",
        "KEPT = 1",
        "keptUntil = 1",
        "self.begun = 1",
        "kept: int = 1",
        "for each in range(3): ...",
        "[each for each in range(3)]",
        "with open('x') as kept: ...",
        "if (told := 1): ...",
        "try: ...\nexcept ValueError as told: ...",
        "import os as known",
        "match 1:\n  case each: ...",
        "match [1]:\n  case [*each]: ...",
    ],
)
def test_a_banned_name_is_found_wherever_it_is_given(source):
    assert len(problems(prose.identifiers(source, RULES))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def reach(): ...",
        "teacher = 1",
        "class Outline: ...",
        "class Pipeline: ...",
        "unknown = 1",
        "well_known_routes = 1",
        "print(each)",
        "other.told()",
        "add(kept=1)",
        "text = 'told, kept and known'",
        "import each",
    ],
)
def test_other_names_and_those_given_elsewhere_are_left_alone(source):
    assert problems(prose.identifiers(source, RULES)) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Everybody is told.", 1),
        ("First.\n\nIn order to finish.", 3),
        ("As DESIGN says.", 1),
        ("It stands there.", 1),
        ("- an item that can not be\n", 1),
        ("| cell | that tells |\n", 1),
        (f"{LONG}.", 1),
        (f"One.\n\n- {LONG}.", 3),
        (f"Short. A {LONG}", 1),
    ],
)
def test_a_discouraged_word_or_a_long_sentence_of_a_page_is_found(text, line):
    assert [found for found, _ in problems(prose.page(text, RULES))] == [line]


@pytest.mark.parametrize(
    "text",
    [
        "It says `told` and [links](told.md) to <https://told.example>.",
        "```sh\ntell told\n```\n",
        "Text:\n\n    told()\n",
        f"A {LONG[10:]}. A {LONG[10:]}.",
        f"- {' '.join(['word'] * 30)}\n- {' '.join(['word'] * 30)}\n",
        f"| {' '.join(['word'] * 30)} | {' '.join(['word'] * 30)} |\n",
        "RFC stands for Request for Comments.",
    ],
)
def test_code_links_and_short_sentences_are_left_alone(text):
    assert problems(prose.page(text, RULES)) == []


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ('"""What is told."""', 1),
        ("x = 1  # told once", 1),
        ("# first\n# and told\nx = 1", 2),
        ('x = 1\n"""What it is told."""', 2),
        (f'def add():\n    """{" ".join(["word"] * 30)}\n    {" ".join(["word"] * 30)}.\n    """', 2),
    ],
)
def test_comments_and_docstrings_are_checked_like_pages(source, line):
    assert [found for found, _ in problems(prose.code(source, RULES))] == [line]


def test_strings_and_arguments_in_a_docstring_are_left_alone():
    words = " ".join(["word"] * 30)
    source = (
        f'x = "told"\ndef add():\n    """Add.\n\n    Args:\n        a: {words}\n        b: {words}\n    """\n'
    )
    assert problems(prose.code(source, RULES)) == []


def test_names_and_comments_of_lua_are_checked_too():
    source = (
        "-- What is told.\nlocal known, b = 1, 2\nlocal function add(kept)\nend\nfor each = 1, 3 do\nend\n"
    )
    assert [found for found, _ in problems(prose.lua_comments(source, RULES))] == [1]
    assert [found for found, _ in problems(prose.lua_identifiers(source, RULES))] == [2, 3, 5]
    sound = "local seq = 1 -- told\nlocal text = 'known'\nreturn known(each)\n"
    assert problems(prose.lua_identifiers(sound, RULES)) == []


def test_the_command_fails_on_a_bad_sample_and_names_file_and_line(tmp_path, capsys):
    page, module = tmp_path / "page.md", tmp_path / "module.py"
    page.write_text("# Title\n\nEverybody is told.\n")
    module.write_text("told = 1\n")

    assert prose.main([str(page), str(module)]) == 1
    printed = capsys.readouterr().out
    assert 'page.md:3: "told"' in printed
    assert "module.py:1: the name told" in printed
    assert prose.main(["--no-identifiers", str(module)]) == 0


@pytest.mark.parametrize(("folder", "problems"), [("names", "1 finding"), ("text", "2 findings")])
def test_where_only_names_are_checked_comments_are_not(folder, problems, tmp_path, monkeypatch, capsys):
    for name in ("names", "text"):
        (tmp_path / name).mkdir()
    (tmp_path / folder / "module.py").write_text("told = 1  # told\n")
    listed = 'pages = []\ngenerated = []\ncode = ["text/*.py"]\ncode_names_only = ["names/*.py"]\n'
    words = 'longest_sentence = 40\nnames = ["told"]\nterms = []\nwhole_names = []\n'
    words += '[vocabulary]\ntold = "reports"\n'
    (tmp_path / "prose.toml").write_text(listed + words)
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    monkeypatch.setattr(prose, "RULES", tmp_path / "prose.toml")

    assert prose.main([]) == 1
    assert capsys.readouterr().out.endswith(f"prose: {problems}\n")


def test_every_glob_of_the_rules_finds_files():
    settings = tomllib.loads((ROOT / "deploy/prose.toml").read_text())
    for glob in chain.from_iterable(
        settings[key] for key in ("pages", "code", "code_names_only", "generated")
    ):
        assert glob == "helm/**/*.md" or list(ROOT.glob(glob)), glob
