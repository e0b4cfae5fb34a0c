"""The image as it is built: small, without rights, and an orderly process."""

import base64
import contextlib
import json
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from revoker import __version__
from revoker.auth import digest
from tests.rig import forge
from tests.rig.processes import until
from tests.rig.servers import free_port

UID_OF_A_PLATFORM = 1000730000
"""As OpenShift gives: any number, in the group 0, and not in /etc/passwd."""

LARGEST = 140 * 2**20
"""Bytes of /opt/revoker, which is what the image adds to its base."""


def size(folder):
    return sum(path.lstat().st_size for path in folder.rglob("*"))


@pytest.fixture(params=[10001, UID_OF_A_PLATFORM])
def service(request, image, tmp_path, own_valkey):
    """The service in the image, ready; its process, port and environment."""
    port = free_port()
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "main.json").write_text(json.dumps(forge.jwks(forge.rsa_key("main-1"))))
    (folder / "revoker.toml").write_text(
        f"""
[server]
host = "127.0.0.1"
port = {port}
drain_seconds = 0
[redis]
url = "{own_valkey.url}"
[[issuers]]
name = "main"
issuer = "{forge.ISSUER}"
audiences = ["{forge.AUDIENCE}"]
jwks_file = "/mnt/main.json"
[[callers]]
name = "gateway"
scopes = ["introspect"]
secret_sha256 = ["{digest("a secret of the tests")}"]
"""
    )
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    inside = {
        "uid": request.param,
        "mounts": [(folder, "/mnt")],
        "environ": [("REVOKER_CONFIG", "/mnt/revoker.toml")],
    }
    init = image.command(*image.config["Entrypoint"], "store", "init", **inside)
    subprocess.run(init, check=True, capture_output=True, timeout=120)
    command = image.command(*image.config["Entrypoint"], *image.config["Cmd"], **inside)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: answers(process, port, tmp_path / "log"), "the service is ready")
        yield process, port, inside
    finally:
        process.kill()
        process.wait(60)


def answers(process, port, log):
    assert process.poll() is None, log.read_text()
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60).status == 200


def introspect(port, token):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/introspect", data=f"token={token}".encode())
    credentials = base64.b64encode(b"gateway:a secret of the tests").decode()
    request.add_header("Authorization", f"Basic {credentials}")
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_it_answers_as_any_user_with_a_read_only_root_and_ends_on_sigterm(service):
    process, port, _ = service
    assert introspect(port, forge.token(forge.rsa_key("main-1")))["active"] is True
    assert introspect(port, "none") == {"active": False}
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_its_process_has_no_rights(service):
    process, _, inside = service
    about = Path(f"/proc/{process.pid}")
    status = dict(line.split(":", 1) for line in (about / "status").read_text().splitlines() if ":" in line)
    assert set(status["Uid"].split()) == {str(inside["uid"])}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert (about / "root").readlink() != Path("/")


def test_the_root_file_system_is_read_only_for_the_test(image):
    """Or the test above would prove nothing."""
    writes = image.command("python", "-c", "open('/opt/revoker/x', 'w')", uid=0)
    result = subprocess.run(writes, capture_output=True, text=True, timeout=120)
    assert "Read-only file system" in result.stderr


def test_its_health_check_passes_while_it_answers_and_fails_then(service, image):
    process, port, inside = service
    check = image.config["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    inside = {**inside, "environ": [("REVOKER_HEALTH_URL", f"http://127.0.0.1:{port}/livez")]}
    command = image.command(*check[1:], **inside)
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert subprocess.run(command, capture_output=True, timeout=120).returncode != 0


def test_its_user_is_a_number_and_its_signal_is_sigterm(image):
    assert image.config["User"] == "10001:10001"
    assert image.config.get("StopSignal", "SIGTERM") == "SIGTERM"
    assert image.config["Entrypoint"] == ["revoker"]


def test_its_labels_say_what_it_is(image):
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in image.config["Labels"].items()
    }
    assert labels["version"] == __version__
    assert labels["revision"] == "0123abc"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["base.name"] == "localhost/base:test"
    assert {"title", "description", "created"} <= labels.keys()


def test_it_has_what_it_needs_and_no_installer(image):
    programs = {path.name for path in (image.tree / "opt/revoker/bin").iterdir()}
    assert "revoker" in programs
    assert not {name for name in programs if name.startswith(("pip", "easy_install"))}
    [packages] = (image.tree / "opt/revoker/lib").glob("python3*/site-packages")
    names = {path.name.split("-")[0] for path in packages.iterdir()}
    assert not names & {"pip", "setuptools", "wheel", "pytest"}
    assert {"revoker", "aiohttp", "redis"} <= names


def test_no_file_of_it_can_be_changed_by_its_user(image):
    for path in (image.tree / "opt/revoker").rglob("*"):
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (0, 0), path
        assert path.is_symlink() or not found.st_mode & 0o002, path


def test_it_is_small(image):
    added = size(image.tree / "opt/revoker")
    print(f"/opt/revoker: {added / 2**20:.1f} MiB")
    assert added < LARGEST
