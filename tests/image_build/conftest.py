"""The image, built by buildah as root, without a registry and without a daemon.

Its base is a stand-in: Debian's own Python 3.11 on the same Debian. The suite fetches packages but no images.
``make test-image`` says NOT TESTED, and why, where a machine cannot do that.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.conftest import ROOT

REFERENCE = "localhost/revoker:test"
BASE = "localhost/base:test"


def run(*command, timeout=600, **more):
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=timeout, **more)
    assert result.returncode == 0, f"{shlex.join(map(str, command))}\n{result.stdout}{result.stderr}"[-6000:]
    return result.stdout


class Storage:
    """Images and containers in a folder of their own, as plain folders: nothing is mounted."""

    def __init__(self, folder):
        self.folder = folder

    def buildah(self, *arguments, **more):
        storage = (
            "--storage-driver",
            "vfs",
            "--root",
            self.folder / "root",
            "--runroot",
            self.folder / "run",
        )
        environ = {**os.environ, "TMPDIR": str(self.folder)}  # where the test ends, so does what it left
        return run("buildah", *storage, *arguments, env=environ, **more).strip()


def apt_source():
    """Where this machine has its packages from; None: it is no Debian."""
    sources = [*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list")]
    return next((path for path in sources if path.exists()), None)


def debian(folder):
    """A tree with Python 3.11, from the packages that this machine has for itself."""
    source = apt_source()
    archive = folder / "base.tar"
    packages = "python3-venv,passwd"  # useradd is in the image of Python, too
    with source.open() as text:
        run(
            *("mmdebstrap", "--variant=essential", f"--include={packages}"),
            *("bookworm", archive, "-"),
            stdin=text,
            env={**os.environ, "TMPDIR": str(folder)},
        )
    return archive


def base_image(storage, archive):
    container = storage.buildah("from", "scratch")
    storage.buildah("add", container, archive, "/")
    tree = Path(storage.buildah("mount", container))
    (tree / "usr/bin/python").symlink_to("python3")
    storage.buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
    storage.buildah("commit", "--rm", container, BASE)


def pip_settings(folder):
    """How pip fetches packages here, for the pip that runs in the build."""
    lines = run(sys.executable, "-m", "pip", "config", "list").splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    names = ("cert", "index-url", "extra-index-url", "proxy", "timeout")
    found = {
        name: value.strip("'")
        for name in names
        for key, value in settings.items()
        if key in {f"global.{name}", f":env:.{name}"}
    }
    volumes = []
    if certificates := found.get("cert"):
        found["cert"] = "/etc/pip-certificates.pem"
        volumes = ["--volume", f"{Path(certificates).resolve()}:{found['cert']}:ro"]
    file = folder / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in found.items()))
    return ["--volume", f"{file}:/etc/pip.conf:ro", *volumes]


class Image:
    """What was built: its configuration, and its files."""

    def __init__(self, storage):
        self.inspected = json.loads(storage.buildah("inspect", "--type", "image", REFERENCE))
        self.config = self.inspected["Docker"]["config"]
        container = storage.buildah("from", "--pull-never", REFERENCE)
        self.tree = Path(storage.buildah("mount", container))

    def command(self, *arguments, uid, gid=0, mounts=(), environ=()):
        """A command that runs in the image: read-only, without rights, as the user of these numbers.

        Each program on the way replaces the one before, so a signal reaches what runs in the image. The
        mounts are in a namespace of their own, and end with it.
        """
        tree = shlex.quote(str(self.tree))
        lines = [
            "set -e",
            "mount --make-rprivate /",
            f"mount --bind {tree} {tree}",
            f"mount -o remount,bind,ro,nosuid,nodev {tree}",
            f"mount -t tmpfs -o mode=1777 tmpfs {tree}/tmp",
            f"mount -t proc proc {tree}/proc",
            *(f"mount --rbind {shlex.quote(str(source))} {tree}{target}" for source, target in mounts),
            f"mount --bind /dev {tree}/dev",
        ]
        env = [*self.config["Env"], *(f"{name}={value}" for name, value in environ)]
        rights = ("--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all")
        inside = ["/usr/bin/env", "-i", *env, *map(str, arguments)]
        setpriv = ["/usr/bin/setpriv", f"--reuid={uid}", f"--regid={gid}", *rights, *inside]
        lines.append(f"exec chroot {tree} {shlex.join(setpriv)}")
        return ["unshare", "--mount", "sh", "-c", "\n".join(lines)]


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    try:
        storage = Storage(folder)
        base_image(storage, debian(folder))
        storage.buildah(
            *("bud", "--format", "docker", "--isolation", "chroot", "--network", "host", "--pull-never"),
            *pip_settings(folder),
            *("--build-arg", f"BASE={BASE}", "--build-arg", "REVISION=0123abc"),
            *("--file", ROOT / "deploy/Dockerfile", "--tag", REFERENCE, ROOT),
            timeout=900,
        )
        yield Image(storage)
    finally:
        shutil.rmtree(folder)  # hundreds of megabytes, which pytest would keep
