"""Puts load on a server: by ``wrk`` where it is installed, else by a generator of our own."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.material import Workload
from tests.rig.cpu import inherited_affinity

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """What one run of the load generator saw; latencies in µs, of whole requests."""

    requests: int
    seconds: float
    p50: float
    p99: float
    failed: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class Load:
    """Load on connections that stay open; no two runs begin with the same body."""

    def __init__(self, cores: frozenset[int]) -> None:
        self._cores = cores
        self._wrk = shutil.which("wrk")
        self._sent: Counter[tuple[str, Path]] = Counter()

    @property
    def generator(self) -> str:
        return "wrk" if self._wrk else "bench.generator (wrk is not installed)"

    def run(
        self,
        url: str,
        workload: Workload,
        *,
        connections: int,
        seconds: float,
        rate: float = 0,
        refusals: bool = False,
    ) -> Run:
        """Send for so many seconds; at a fixed rate where one is given.

        With ``refusals`` it is measured how many answers are not 2xx, and requests and latencies are of the
        others; ``wrk`` can't tell them apart.

        Raises:
            RuntimeError: more than one answer in a hundred was not 2xx: such a run measures nothing.
        """
        sent = (url, workload.bodies)
        arguments = [
            *(str(workload.bodies), workload.path, workload.authorization, str(self._sent[sent])),
            workload.content_type,
            str(rate),
        ]
        if self._wrk and not refusals:
            script = str(_HERE / workload.script)
            duration = f"{max(1, round(seconds))}s"
            command = [
                *(self._wrk, "-t1", f"-c{connections}", f"-d{duration}", "-s", script, url, "--"),
                *arguments,
            ]
        elif workload.script != "wrk.lua":
            raise RuntimeError(f"{workload.name} is measured with wrk, which is not installed")
        else:
            command = [
                sys.executable,
                "-m",
                "bench.generator",
                url,
                str(connections),
                str(seconds),
                *arguments,
            ]
        with inherited_affinity(self._cores):
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=_HERE.parent)
        seen = json.loads(done.stdout.splitlines()[-1])
        self._sent[sent] += seen["requests"] + connections
        run = Run(seen["requests"], seen["microseconds"] / 1e6, seen["p50"], seen["p99"], seen["failed"])
        if (run.failed * 100 > run.requests and not refusals) or not run.requests:
            raise RuntimeError(f"{run.failed} of {run.requests} requests failed at {url}{workload.path}")
        return run
