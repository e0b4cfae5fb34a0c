"""Where the identity providers come from, and what they need. They are installed into `.venv/providers`."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".venv" / "providers"
_PINNED = Path(__file__).parent
_LONGEST_S = 900
"""After this time a command of an installation has failed."""


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


def _run(folder, *command, downloads, **environ):
    """Run a command of an installation; ``downloads``: its failure means that a download is out of reach."""
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | environ,
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
    if not downloads or re.search("EINTEGRITY|checksum mismatch|SECURITY ERROR", output):
        print(output)
        ended.check_returncode()
    raise UnavailableError(f"`{' '.join(command)}` failed, the download may be out of reach: {output[-500:]}")


def _oidc_provider(folder):
    _run(folder, "npm", "ci", "--no-audit", "--no-fund", downloads=True)


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
    )
}


def installed(name):
    return INSTALLATIONS[name].installed()
