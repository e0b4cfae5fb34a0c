"""The Dockerfile before the eyes of hadolint; what else can be said of it is tested in tests/image."""

import subprocess

from tests.deploy.conftest import ROOT

DOCKERFILE = ROOT / "deploy/Dockerfile"


def test_hadolint_finds_nothing(hadolint):
    result = subprocess.run(
        [hadolint, "--failure-threshold", "info", DOCKERFILE], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout


def test_hadolint_would_find_something(hadolint):
    bad = "FROM python\nRUN apt-get install curl\nCMD serve\n"
    assert subprocess.run([hadolint, "-"], input=bad, text=True, capture_output=True).returncode != 0
