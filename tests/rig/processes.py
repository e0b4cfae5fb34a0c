"""The service as a real process: started, told by signals, watched until it has ended."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from revoker.auth import digest
from tests.conftest import SECRETS
from tests.rig import forge


def until(condition, seconds=120.0):
    """The first true value of ``condition``; asks again and again until the time is over."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
    return value


class Process:
    """A Python program; ends with the ``with`` block at the latest."""

    def __init__(self, folder: Path, *arguments: object, **environ: str) -> None:
        self.folder = folder
        self.arguments = [sys.executable, *map(str, arguments)]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REVOKER")}
        self.environ = {**inherited, "PYTHONPATH": str(Path(__file__).parents[2]), **environ}
        self.out, self.err = folder / "out", folder / "err"

    def __enter__(self):
        return self.start()

    def start(self):
        """Start it, also once more after it has ended."""
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                self.arguments,
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def pid(self):
        return self.process.pid

    def lines(self):
        """Those lines of the output that are events of the log."""
        return [json.loads(line) for line in self.out.read_text().splitlines() if line.startswith("{")]

    def logged(self, event):
        """The first such event, once it was logged."""

        def found():
            assert self.process.poll() is None, self.out.read_text() + self.err.read_text()
            return next((line for line in self.lines() if line["event"] == event), None)

        return until(found)

    def url(self):
        """Where it answers, once it does."""
        return self.logged("listening")["url"]

    def tell(self, which=signal.SIGTERM):
        self.process.send_signal(which)

    def status(self, seconds=120.0):
        """How it ended."""
        return self.process.wait(seconds)


def configured(folder, store, *, server, timeout=10):
    """A configuration file with the issuer ``main`` and the callers ``gateway`` and ``admin``."""
    (folder / "keys.jwks").write_text(json.dumps(forge.jwks(forge.rsa_key("main-1"))))
    settings = "\n".join(f"{name} = {json.dumps(value)}" for name, value in server.items())
    file = folder / f"revoker-{server['port']}.toml"
    file.write_text(f"""
[server]
{settings}

[redis]
url = "{store}"
timeout = {timeout}

[[issuers]]
name = "main"
issuer = "{forge.ISSUER}"
audiences = ["{forge.AUDIENCE}"]
algorithms = ["RS256"]
jwks_file = "keys.jwks"

[[callers]]
name = "gateway"
secret_sha256 = ["{digest(SECRETS["gateway"])}"]
scopes = ["introspect"]

[[callers]]
name = "admin"
secret_sha256 = ["{digest(SECRETS["admin"])}"]
scopes = ["introspect", "revoke"]
""")
    return file


def declare_new(folder, configuration):
    """Say that the store is new."""
    with Process(folder, "-m", "revoker", "store", "init", "--config", configuration) as init:
        assert init.status() == 0


def ended(pid):
    """Whether there is no such process any more."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"
