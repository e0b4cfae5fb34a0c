"""Instances of the service, and edges, as processes."""

import contextlib
import json
import signal
import time
from pathlib import Path
from typing import Any

from tests.faults import clocks
from tests.rig.network import Network
from tests.rig.processes import Process

_OF_BOTH = """\
[server]
port = {port}
drain_seconds = 0

[[issuers]]
name = "main"
issuer = "{issuer}"
audiences = ["{audience}"]
algorithms = ["ES256"]
jwks_file = "{jwks}"
claims.revocable = ["grant_id"]

[[callers]]
name = "gateway"
secret_sha256 = ["{gateway}"]
scopes = ["introspect"]
"""

CONFIG = (
    _OF_BOTH
    + """
[redis]
url = "{url}"
wait_replicas = {wait_replicas}

[revocation]
data_loss = "{data_loss}"
repair_seconds = {repair_seconds}

[[callers]]
name = "admin"
secret_sha256 = ["{admin}"]
scopes = ["introspect", "revoke"]

[[callers]]
name = "edge"
secret_sha256 = ["{edge}"]
scopes = ["feed", "introspect"]
"""
)

EDGE_CONFIG = (
    _OF_BOTH
    + """
[upstream]
url = {upstreams}
secret_file = "{secret}"
name = "{name}"
max_staleness = {max_staleness}
beyond = "{beyond}"
"""
)

MAX_STALENESS_S = 2.0
"""Of the edges: the least that can be configured."""


class Instance:
    """The service as a process; it can be killed, stopped and started again on the same port.

    Attributes:
        running: Whether it listens.
        ended: When its process last ended; 0: never.
    """

    _command = "serve"

    def __init__(
        self,
        name: str,
        network: Network,
        folder: Path,
        *,
        config: str,
        url: str,
        mutant: str = "",
        environ: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self._environ = environ or {}
        self._network = network
        self.url = url
        self._folder = folder
        self._config = folder / f"{name}.toml"
        self._config.write_text(config)
        self._module = ("tests.faults.mutants", mutant) if mutant else ("revoker",)
        self._lives: list[Process] = []
        self.running = False
        self.ended = 0.0

    @property
    def pid(self) -> int:
        return int(self._lives[-1].pid)

    def init(self) -> None:
        """Declare the store new."""
        folder = self._folder / "init"
        folder.mkdir()
        command = ("-m", "revoker", "store", "init", "--config", self._config)
        with Process(folder, *command, REVOKER_REDIS__TIMEOUT="10") as process:
            self._network.assign_process(process.pid, self.name)
            assert process.status() == 0, (folder / "err").read_text() + (folder / "out").read_text()

    def start(self) -> None:
        """Return once it listens."""
        self.launch()
        self.await_start()

    def launch(self) -> None:
        """Start it, without waiting for it."""
        folder = self._folder / f"{self.name}-{len(self._lives) + 1}"
        folder.mkdir()
        command = ("-m", *self._module, self._command, "--config", self._config)
        process = Process(folder, *command, **self._environ)
        process.__enter__()
        self._network.assign_process(process.pid, self.name)
        self._lives.append(process)

    def await_start(self) -> None:
        """Wait until it listens."""
        self._lives[-1].logged("listening")
        self.running = True

    def kill(self) -> None:
        self.running = False
        if self._lives:
            self._lives[-1].__exit__()
            self.ended = time.monotonic()

    def end(self) -> None:
        """SIGTERM: it leaves the others in order."""
        self.running = False
        self._lives[-1].stop()
        self.ended = time.monotonic()

    def send_signal(self, which: signal.Signals) -> None:
        self._lives[-1].send_signal(which)

    def lines(self) -> list[dict[str, Any]]:
        """All that it has logged in all its lives; a line that a SIGKILL broke off is left out."""
        found = []
        for life in self._lives:
            for line in life.out.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    def errors(self) -> str:
        return "".join(life.err.read_text() for life in self._lives)


class Edge(Instance):
    """An edge as a process.

    Attributes:
        wall: The file with the seconds by which the wall clock of its machine is ahead.
    """

    _command = "edge"

    def __init__(self, name: str, network: Network, folder: Path, **parts: Any) -> None:
        self.wall = folder / f"{name}.clock"
        clocks.put_ahead(self.wall, 0.0)
        super().__init__(name, network, folder, environ={clocks.WALL: str(self.wall)}, **parts)
