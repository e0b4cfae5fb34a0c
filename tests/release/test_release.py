"""`make release`: its files are whole, and its wheel serves in an environment of its own."""

import hashlib
import os
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import pytest

from deploy import helm_program
from revoker import __version__
from tests.rig.processes import Process, until
from tests.rig.servers import free_port

ROOT = Path(__file__).parents[2]
BUILDING_S = 600


def run(*command, **options):
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=BUILDING_S, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The folder of the release, and what was printed."""
    folder = tmp_path_factory.mktemp("release") / "dist"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return folder, run(sys.executable, ROOT / "deploy/release.py", folder, cwd=ROOT, env=environment)


@pytest.fixture(scope="session")
def dist(made):
    return made[0]


@pytest.fixture(scope="session")
def installed(dist, tmp_path_factory):
    """The environment in which the wheel was installed, with its locked dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    environment = {**os.environ, "VIRTUAL_ENV": str(folder / "venv")}
    uv = Path(sys.executable).parent / "uv"
    run(uv, "venv", "--quiet", "--python", sys.executable, folder / "venv")
    locked = ROOT / "requirements/service.txt"
    run(uv, "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", locked, env=environment)
    run(uv, "pip", "install", "--quiet", "--no-deps", *dist.glob("revoker-*.whl"), env=environment)
    return folder / "venv"


def test_every_file_of_a_release_is_there(made):
    dist, printed = made
    names = {path.name for path in dist.iterdir()}
    assert {
        "SHA256SUMS",
        f"revoker-{__version__}-py3-none-any.whl",
        f"revoker-{__version__}.cdx.json",
        f"revoker-{__version__}.tar.gz",
        f"revoker-{__version__}.tgz",
    } <= names
    assert len([name for name in names if name.startswith("revoker_client-")]) == 3
    assert ("image: NOT BUILT" in printed) != (f"revoker-{__version__}-image.tar" in names)


def test_the_checksums_are_those_of_all_other_files(dist):
    lines = dict(reversed(line.split("  ")) for line in (dist / "SHA256SUMS").read_text().splitlines())
    assert set(lines) == {path.name for path in dist.iterdir()} - {"SHA256SUMS"}
    for name, checksum in lines.items():
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == checksum


def test_wheel_and_sdist_have_every_file_of_the_package(dist):
    package = {
        str(path.relative_to(ROOT / "service"))
        for path in (ROOT / "service/revoker").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(*dist.glob("revoker-*.whl")) as wheel:
        assert package <= set(wheel.namelist())
    [source] = dist.glob(f"revoker-{__version__}.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/service/")[2] for name in archive.getnames()}
    assert package <= names


def test_a_release_made_twice_has_the_same_wheels(dist, tmp_path):
    again = tmp_path / "dist"
    run(sys.executable, "-c", REBUILD, again, cwd=ROOT)
    for path in again.glob("*.whl"):
        assert path.read_bytes() == (dist / path.name).read_bytes(), path.name


REBUILD = """
import sys
from pathlib import Path
sys.path.insert(0, "")
from deploy import release
target = Path(sys.argv[1])
target.mkdir()
release.copy_repository(target / "tree")
release.build_distributions(target / "tree", target)
release.build_distributions(target / "tree/clients/python", target)
"""


def test_the_installed_wheel_serves_with_its_page(installed, tmp_path):
    port = free_port()
    program = str(installed / "bin/revoker")
    environ = {"REVOKER_SERVER__PORT": str(port), "PYTHONPATH": ""}
    with Process(tmp_path, "serve", program=program, **environ) as service:
        until(lambda: "More tokens" in service.output(), "the start of the service")
        for path in ("/livez", "/openapi.json", "/docs"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as response:
                assert response.status == 200
                assert response.read()
        service.stop()


def test_the_packaged_chart_renders_and_has_its_readme(dist, tmp_path):
    helm = helm_program.unpack("helm/helm", tmp_path)
    [chart] = dist.glob("revoker-*.tgz")
    values = ROOT / "helm/revoker/ci/trial-values.yaml"
    rendered = run(helm, "template", "revoker", chart, "--values", values, env={"HOME": str(tmp_path)})
    assert "kind: Deployment" in rendered
    with tarfile.open(chart) as archive:
        assert "revoker/README.md" in archive.getnames()
