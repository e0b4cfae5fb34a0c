"""Programs as child processes: the service, other servers, the CPU that they take, and their end."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from revoker.auth import digest
from tests.rig import cpu, forge
from tests.rig.service import SECRETS

REPOSITORY = Path(__file__).resolve().parents[2]

T = TypeVar("T")


def until(
    condition: Callable[[], T | None],
    what: str = "what the test waits for",
    seconds: float = 120.0,
    ignored: tuple[type[Exception], ...] = (),
) -> T:
    """The first true value of ``condition``; an ``ignored`` error counts as a false one.

    Raises:
        AssertionError: there was none in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(*ignored):
            if value := condition():
                return value
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.02)


class Process:
    """A program whose output goes to files; it ends with the ``with`` block at the latest.

    Settings of the service in this process's own environment (``REVOKER_*``) are not passed on.

    Args:
        folder: The working directory; the output goes to ``out`` and ``err`` in it.
        arguments: Of the program.
        program: Python where nothing else is given.
        cores: Which it may run on; None: all.
        environ: Additions to the environment.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: object,
        program: str = sys.executable,
        cores: frozenset[int] | None = None,
        **environ: str,
    ) -> None:
        self.folder = folder
        self.arguments = [program, *map(str, arguments)]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REVOKER")}
        self.environ = {**inherited, "PYTHONPATH": str(REPOSITORY), **environ}
        self.out, self.err = folder / "out", folder / "err"
        self._cores = cores

    def __enter__(self) -> Self:
        return self.start()

    def start(self) -> Self:
        """Start it, also once more after it has ended."""
        with self.out.open("wb") as out, self.err.open("wb") as err, cpu.inherited_affinity(self._cores):
            self.process = subprocess.Popen(
                self.arguments,
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 15.0) -> None:
        """End it by SIGTERM; by SIGKILL where that takes too long."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.__exit__()

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        """All that it has written, errors last."""
        return self.out.read_text(errors="replace") + self.err.read_text(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """The events in its log."""
        return [json.loads(line) for line in self.out.read_text().splitlines() if line.startswith("{")]

    def logged(self, event: str) -> dict[str, Any]:
        """The first such event, once it was logged."""

        def found() -> dict[str, Any] | None:
            assert self.process.poll() is None, self.output()
            return next((line for line in self.lines() if line["event"] == event), None)

        return until(found, f"the event {event}")

    def url(self) -> str:
        """Where it answers, once it does."""
        return str(self.logged("listening")["url"])

    def send_signal(self, which: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(which)

    def status(self, seconds: float = 120.0) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(seconds)

    def cpu_seconds(self) -> float:
        """User and system time of it and its children until now."""
        return cpu.seconds(self.pid)

    def resident_bytes(self) -> int:
        """Its memory, without that of its children."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()


def write_configuration(folder: Path, store: str, *, server: Mapping[str, Any], timeout: float = 10) -> Path:
    """A configuration file with the issuer ``main`` and the callers ``gateway`` and ``admin``.

    Args:
        folder: Where to write it, with the issuer's keys.
        store: URL of the store.
        server: Values of ``[server]``, the port among them.
        timeout: Of the store, in seconds.
    """
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


def init_store(folder: Path, configuration: Path) -> None:
    """Declare the store new: ``revoker store init``."""
    with Process(folder, "-m", "revoker", "store", "init", "--config", configuration) as init:
        assert init.status() == 0, init.output()


def ended(pid: int) -> bool:
    """Whether there is no such process any more."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"
