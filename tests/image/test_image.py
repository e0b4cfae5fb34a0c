"""The Dockerfile and the compose file, as far as they can be judged without Docker."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import revoker

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm/revoker"
DOCKERFILE = ROOT / "deploy/Dockerfile"
COMPOSE = ROOT / "deploy/compose.yaml"


def instructions(stage=-1):
    """The instructions of a stage as (name, arguments)."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    stages = [part for part in re.split(r"^(?=FROM )", text, flags=re.MULTILINE) if part.startswith("FROM")]
    return [tuple(line.split(" ", 1)) for line in stages[stage].splitlines() if line.strip()]


@pytest.mark.row("K8S-08")
def test_the_image_runs_without_a_shell_and_as_the_user_of_the_chart():
    last = dict(instructions())
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(last[name]), list)
    assert isinstance(json.loads(last["HEALTHCHECK"].partition("CMD ")[2]), list)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    context = values["podSecurityContext"]
    assert last["USER"] == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert json.loads(last["ENTRYPOINT"]) == ["revoker"]


def test_dependencies_are_locked_by_hash_and_what_installs_them_stays_behind():
    built = " ".join(arguments for name, arguments in instructions(0) if name == "RUN")
    assert "--require-hashes" in built
    assert "pip uninstall --yes setuptools pip" in built
    assert all("pip" not in arguments for name, arguments in instructions() if name == "RUN")


def test_the_version_on_the_label_is_that_of_the_package():
    version = revoker.__version__
    arguments = [value for name, value in instructions() if name == "ARG"]
    assert f"VERSION={version}" in arguments
    labels = dict(part.split("=", 1) for part in shlex.split(dict(instructions())["LABEL"]))
    assert {"version", "revision", "title", "licenses"} <= {name.rpartition(".")[2] for name in labels}


def test_only_what_is_copied_reaches_the_builder():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        name
        for instruction, arguments in instructions(0)
        if instruction == "COPY"
        for name in arguments.split()[:-1]
    }
    assert "*" in lines
    assert let_through == copied
    assert all((ROOT / name).exists() for name in copied)


def test_compose_mounts_what_is_there_and_holds_no_secret():
    compose = yaml.safe_load(COMPOSE.read_text())
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE.parent / source).exists(), (name, source)
            else:
                assert source in compose["volumes"], (name, source)
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "a development setup is for this machine only"
    assert not re.search(r"(?i)(password|secret|token)\S*\s*[:=]\s*[A-Za-z0-9+/_-]{16,}", COMPOSE.read_text())


def test_the_store_of_compose_is_persistent():
    command = yaml.safe_load(COMPOSE.read_text())["services"]["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


def test_nginx_is_given_its_configuration_and_the_secret_of_the_gateway(tmp_path):
    """The small program that puts them together, run on what the development setup leaves."""
    entrypoint = yaml.safe_load(COMPOSE.read_text())["services"]["gateway-key"]["entrypoint"]
    made = tmp_path / "development/.revoker"
    made.mkdir(parents=True)
    (made / "dev.env").write_text(
        "REVOKER_URL=http://127.0.0.1:8080\nREVOKER_GATEWAY_SECRET=abc-DEF_123\nREVOKER_ADMIN_SECRET=no\n"
    )
    program = (
        entrypoint[2]
        .replace("$$", "$")
        .replace("/var/lib/revoker", str(tmp_path / "development"))
        .replace('"/gateway', f'"{tmp_path}/gateway')
        .replace('"/nginx"', f'"{ROOT}/deploy/gateways/nginx"')
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    assert (tmp_path / "gateway/revoker-key.conf").read_text() == 'set $revoker_key "abc-DEF_123";\n'
    assert (tmp_path / "gateway/nginx.conf").exists()
