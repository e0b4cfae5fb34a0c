"""Shell blocks are sound: their syntax, and the commands, options, files and paths that they name exist.

Blocks that no test runs have nothing else that shows when they are wrong.
"""

import re
import shlex
import subprocess
from importlib.util import find_spec
from itertools import pairwise, takewhile

import pytest
import typer.main
import yaml
from typer.exceptions import TyperException

from revoker.cli.commands import command as command_line
from tests.faults import nemesis
from tests.faults.__main__ import argument_parser
from tests.pages.prepared import PREPARED
from tests.rig.processes import REPOSITORY
from tests.rig.service import OPENAPI
from tests.rig.shell_blocks import ShellBlock, blocks_of, pages, with_words

BLOCKS = [block for page in pages() for block in blocks_of(page)]
RUN_WITH_GATEWAYS = {"README.md", "docs/getting-started.md"}  # by tests/gateways/test_getting_started.py
OF_OTHER_VERSIONS = {"CHANGELOG.md", "docs/decisions.md"}
GONE = {"revoker store rename"}  # docs/upgrading.md says so

REVOKER = typer.main.get_command(command_line)
TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
VALUES = yaml.safe_load((REPOSITORY / "helm/revoker/values.yaml").read_text())


def of_blocks(blocks):
    return [pytest.param(block, id=str(block)) for block in blocks]


def simple_commands(script):
    """The words of each command, without redirections and variables that are set for it."""
    for line in with_words(script).replace("\\\n", " ").splitlines():
        words, is_file = [], False
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for token in lexer:
            if not set(token) <= set("();<>|&"):
                if not is_file and (words or not re.match(r"\w+=", token)):
                    words.append(token)
                is_file = False
            elif token[0] in "<>":
                is_file = True
            else:
                yield words
                words = []
        yield words


def arguments_of(program, script):
    """Of each call of a program, also of one that is in a folder."""
    for words in simple_commands(script):
        if words and words[0].rpartition("/")[2] == program:
            yield words[1:]


def check_revoker(arguments):
    """Parse as the program does; raises where it would refuse."""
    command, path = REVOKER, ["revoker"]
    while hasattr(command, "commands"):
        if command.invoke_without_command and arguments and arguments[0].startswith("-"):
            break
        assert arguments, f"{' '.join(path)}: a command is missing"
        name, *arguments = arguments
        assert name in command.commands, f"{' '.join(path)} has no command {name}"
        command = command.commands[name]
        path.append(name)
    command.make_context(" ".join(path), arguments)


def check_mention(text):
    """What a sentence says of a command: ``|`` is between alternatives, and arguments may be missing."""
    command, words = REVOKER, text.split()[1:]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        alternatives = words.pop(0).split("|")
        missing = set(alternatives) - command.commands.keys()
        assert not missing, f"{text}: no command {', '.join(sorted(missing))}"
        command = command.commands[alternatives[0]]
    options = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    unheard_of = {word for word in words if word.startswith("--")} - options - {"--help"}
    assert not unheard_of, f"{text}: no option {', '.join(sorted(unheard_of))}"


def check_curl(words):
    """A URL of the service has a path that it serves, with that method."""
    urls = [word for word in words if re.match(r"\$REVOKER_URL|https?://revoker\b", word)]
    has_body = any(re.match(r"(-d|--data.*|--json)$", word) for word in words)
    method = words[words.index("-X") + 1].lower() if "-X" in words else "post" if has_body else "get"
    for url in urls:
        path = re.sub(r"^(\$REVOKER_URL|https?://[^/]+)|\?.*", "", url)
        served = [
            operations
            for template, operations in OPENAPI["paths"].items()
            if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path)
        ]
        assert any(method in operations for operations in served), f"{method.upper()} {path} is not served"


def check_helm(words):
    """The chart, and the values that are set, exist."""
    if words[0] == "install":
        assert words[2] == "helm/revoker" or re.fullmatch(r"revoker-[\d.]+\.tgz", words[2]), words
    for option, setting in pairwise(words):
        if option in {"--set", "--set-string"}:
            place = VALUES
            for name in setting.partition("=")[0].split("."):
                assert name in place, f"--set {setting}: the chart has no value {name}"
                place = place[name]


def check_docker_build(words):
    """The Dockerfile exists, and has what is set for it."""
    dockerfile = (REPOSITORY / words[words.index("--file") + 1]).read_text()
    for option, setting in pairwise(words):
        if option == "--build-arg":
            assert re.search(rf"^ARG {setting.partition('=')[0]}\b", dockerfile, re.MULTILINE), setting


def check_python(words):
    """The module exists; of the one whose options the pages give most often, the options too."""
    [module] = words[words.index("-m") + 1 :][:1]
    assert find_spec(module), module
    if module == "tests.faults":
        asked = argument_parser().parse_args(words[words.index("-m") + 2 :])
        for name in (asked.nemesis or "").split(","):
            assert not name or asked.topology in nemesis.DEEDS[name].topologies, name


def check_make(words):
    targets = list(takewhile(lambda word: "=" not in word, words))
    assert TARGETS.issuperset(targets), targets


CHECKS = {
    "revoker": check_revoker,
    "curl": check_curl,
    "helm": check_helm,
    "python": check_python,
    "make": check_make,
}


@pytest.mark.parametrize("block", of_blocks(BLOCKS))
def test_a_block_is_shell_and_names_what_there_is(block):
    script = with_words(block.script)
    parsed = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (parsed.returncode, parsed.stderr) == (0, "")
    for program, check in CHECKS.items():
        for arguments in arguments_of(program, script):
            check(arguments)
    for call in re.findall(r"^docker build (.*)$", script.replace("\\\n", " "), re.MULTILINE):
        check_docker_build(call.split())


def test_a_block_without_a_test_says_why():
    assert [
        str(block)
        for block in BLOCKS
        if not block.not_run and block.page not in PREPARED and block.page not in RUN_WITH_GATEWAYS
    ] == []


def test_every_fence_of_a_shell_is_found():
    fences = sum(
        len(re.findall(r"^ *```(?:sh|console|bash|shell)$", page.read_text(), re.MULTILINE))
        for page in pages()
    )
    assert len(BLOCKS) == fences > 30


def test_commands_that_a_sentence_mentions_exist():
    mentions = set()
    for page in pages():
        if page.relative_to(REPOSITORY).as_posix() not in OF_OTHER_VERSIONS:
            text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
            mentions |= set(re.findall(r"`(revoker [a-z-][^`]*)`", text))
    assert len(mentions) > 30
    for mention in mentions - GONE:
        check_mention(re.sub(r"\s+", " ", mention))


@pytest.mark.parametrize(
    "script",
    [
        "revoker kyes list",
        "revoker keys",
        "sudo=1 .venv/bin/revoker export --outptu x",
        "revoker import < file",
        "true && curl -d sub=alice $REVOKER_URL/revoke-users",
        "curl $REVOKER_URL/revoke-user",
        "helm install revoker helm/other",
        "helm upgrade revoker helm/revoker --set store.inti=false",
        "docker build --file deploy/Dockerfile --build-arg BSAE=x .",
        "python -m tests.faults --toplogy single",
        "python -m tests.faults --topology single --nemesis failover",
        "make tset",
        "echo $(",
    ],
)
def test_a_mistake_is_found(script):
    block = ShellBlock("page.md", 1, "sh", script + "\n", "")
    with pytest.raises((AssertionError, TyperException, SystemExit)):
        test_a_block_is_shell_and_names_what_there_is(block)
