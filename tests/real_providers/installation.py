"""Where the identity providers come from, and what they need. They are installed into `.venv/providers`."""

import hashlib
import http.client
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".venv" / "providers"
_PINNED = Path(__file__).parent
_LONGEST_S = 600
"""After this time a download, or a command of an installation, has failed."""

_OUT_OF_REACH = (
    r"dial tcp|no such host|i/o timeout|connection refused|connection reset|TLS handshake|unexpected EOF"
    r"|: EOF$|: reading https?://|failed to verify certificate"
    r"|npm error (network|code (E[45]\d\d|ENOTFOUND|ECONN|ETIMEDOUT|EIDLETIMEOUT|EAI_AGAIN|EPIPE|EPROTO"
    r"|E\w+UNREACH|ERR_SOCKET|ERR_STREAM_PREMATURE|FETCH_ERROR|\w*CERT|UNABLE_TO_))"
)
"""What npm and go print when a download fails, also in its middle, and not when its content is wrong."""

_KEYCLOAK = "26.4.5"
_KEYCLOAK_URL = (
    f"https://repo1.maven.org/maven2/org/keycloak/keycloak-quarkus-dist/{_KEYCLOAK}/"
    f"keycloak-quarkus-dist-{_KEYCLOAK}.zip"
)
_KEYCLOAK_SHA256 = "72f73642a2c36de797d51b4b2b342d4a49f6e5832af10aa470cd123627bd80b3"


class UnavailableError(Exception):
    """The provider cannot be had on this machine; the text says why."""


@dataclass(frozen=True)
class Program:
    """A program that a provider needs, of a version or later."""

    name: str
    asks: tuple[str, ...]
    version: tuple[int, ...]

    def check(self):
        wanted = f"{self.name} {'.'.join(map(str, self.version))} or later"
        if shutil.which(self.name) is None:
            raise UnavailableError(f"{wanted} is missing")
        answer = subprocess.run([self.name, *self.asks], capture_output=True, text=True)
        found = re.search(r"\d+(\.\d+)*", answer.stdout + answer.stderr)
        if answer.returncode or not found:
            raise UnavailableError(f"{self.name} does not start: {(answer.stdout + answer.stderr).strip()}")
        if tuple(map(int, found[0].split("."))) < self.version:
            raise UnavailableError(f"{wanted} is needed, and this is {found[0]}")


@dataclass(frozen=True)
class Installation:
    """One provider. ``pinned`` are the files, and the text, that say what is installed."""

    name: str
    version: str
    programs: tuple[Program, ...]
    pinned: tuple[str, ...]
    install: Callable[[Path], None]

    @property
    def folder(self):
        return FOLDER / self.name

    def _fingerprint(self):
        content = [(_PINNED / name).read_bytes() for name in self.pinned]
        return hashlib.sha256(b"\0".join([self.version.encode(), *content])).hexdigest()

    def installed(self):
        stamp = self.folder / ".installed"
        return stamp.exists() and stamp.read_text() == self._fingerprint()

    def ensure(self):
        """Install it, unless it is there already.

        Raises:
            UnavailableError: a program is missing, or a download is out of reach.
            subprocess.CalledProcessError: what was downloaded cannot be installed.
        """
        for program in self.programs:
            program.check()
        if self.installed():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name in self.pinned:
            shutil.copy(_PINNED / name, self.folder)
        self.install(self.folder)
        (self.folder / ".installed").write_text(self._fingerprint())


def _run(folder, *command):
    """Run a command of an installation."""
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LONGEST_S,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"`{' '.join(command)}` took longer than {_LONGEST_S} s") from None
    if not ended.returncode:
        return
    output = (ended.stdout + ended.stderr).strip()
    unreached = [line for line in output.splitlines() if re.search(_OUT_OF_REACH, line)]
    if not unreached:
        print(output)
        ended.check_returncode()
    raise UnavailableError(f"`{' '.join(command)}`: a download is out of reach: {unreached[-1]}")


def _oidc_provider(folder):
    _run(folder, "npm", "ci", "--no-audit", "--no-fund")


def _keycloak(folder):
    archive = folder / "keycloak.zip"
    download(_KEYCLOAK_URL, archive)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != _KEYCLOAK_SHA256:
        raise ValueError(f"{_KEYCLOAK_URL} has another SHA-256: {found}")
    _run(folder, sys.executable, "-m", "zipfile", "--extract", archive.name, ".")
    for script in folder.glob("keycloak-*/bin/*.sh"):
        script.chmod(0o755)  # zipfile leaves it out
    archive.unlink()


def _hydra(folder):
    package = "github.com/ory/hydra/v2"
    _run(
        folder, "go", "build", "-tags", "sqlite", "-buildvcs=false", "-ldflags=-s -w", "-o", "hydra", package
    )


def _dex(folder):
    package = "github.com/dexidp/dex/cmd/dex"
    go_build = ("env", "CGO_ENABLED=0", "go", "build", "-buildvcs=false", "-ldflags=-s -w")  # no SQLite
    _run(folder, *go_build, "-o", "dex", package)


def download(url, target):
    """Write to a file what is at a URL.

    Raises:
        UnavailableError: the server does not answer, or breaks off.
    """
    deadline = time.monotonic() + _LONGEST_S
    try:
        with urllib.request.urlopen(url, timeout=60) as response, target.open("wb") as file:
            while block := response.read1():
                file.write(block)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not complete after {_LONGEST_S} s")
            if response.length:  # read1 does not raise where the connection ends too early
                raise ConnectionError(f"broken off {response.length} bytes before its end")
    except (OSError, http.client.HTTPException) as fault:
        raise UnavailableError(f"{url} is out of reach: {fault!r}") from fault


INSTALLATIONS = {
    installation.name: installation
    for installation in (
        Installation(
            name="oidc-provider",
            version="9.8.4",
            programs=(Program("node", ("--version",), (20,)), Program("npm", ("--version",), (9,))),
            pinned=("oidc_provider/package.json", "oidc_provider/package-lock.json"),
            install=_oidc_provider,
        ),
        Installation(
            name="keycloak",
            version=_KEYCLOAK,
            programs=(Program("java", ("-version",), (17,)),),
            pinned=(),
            install=_keycloak,
        ),
        Installation(
            name="hydra",
            version="2.3.0",
            programs=(Program("go", ("version",), (1, 24)), Program("gcc", ("--version",), (5,))),
            pinned=("hydra_module/go.mod", "hydra_module/go.sum"),
            install=_hydra,
        ),
        Installation(
            name="dex",
            version="2.45.1",
            programs=(Program("go", ("version",), (1, 25)),),
            pinned=("dex_module/go.mod", "dex_module/go.sum"),
            install=_dex,
        ),
    )
}


def installed(name):
    return INSTALLATIONS[name].installed()
