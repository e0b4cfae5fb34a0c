"""The workflows cannot run here, so actionlint and zizmor judge them, and what they call is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))
PROGRAMS = Path(sys.executable).parent


def test_actionlint_finds_nothing():
    program = PROGRAMS / "actionlint"
    assert program.exists(), "make test-release installs it"
    done = subprocess.run([program, *WORKFLOWS], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "")


def test_zizmor_finds_nothing():
    command = [PROGRAMS / "zizmor", "--offline", "--pedantic", "--no-progress", ROOT / ".github"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_runs_is_there(path):
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    text = path.read_text()
    assert yaml.safe_load(text)["permissions"] == {}
    for used in re.findall(r"uses: (\S+)", text):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used), used
    for call in re.findall(r"\bmake ((?:[a-z-]+ ?)+)$", text, re.MULTILINE):
        assert set(call.split()) <= set(targets), call
