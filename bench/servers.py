"""The servers that are compared, each ready to take load."""

import sys
from contextlib import ExitStack
from pathlib import Path

from bench.material import AUDIENCE, CALLER, ISSUER, Material
from bench.processes import Cores, Process, Valkey, answers, free_port

_CONFIG = """\
[server]
port = {port}
workers = {workers}

[redis]
url = "{store}"

[[issuers]]
name = "main"
issuer = "{issuer}"
audiences = ["{audience}"]
jwks_file = "{jwks}"

[[callers]]
name = "{caller}"
secret_sha256 = ["{digest}"]
scopes = ["introspect", "revoke"]
"""


class Server:
    """A server on a port of its own."""

    def __init__(self, command: list[str], port: int, *, cores: frozenset[int], log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = Process(command, cores=cores, log=log)
        self.process.await_answer(lambda: answers(f"{self.url}/readyz"))


class Servers:
    """Starts servers; all of them end with the ``stack``."""

    def __init__(self, stack: ExitStack, folder: Path, cores: Cores, material: Material) -> None:
        self._stack = stack
        self._folder = folder
        self._cores = cores
        self._material = material
        self._started = 0

    def store(self) -> Valkey:
        valkey = Valkey(self._folder / f"store-{self._next()}", cores=self._cores.others)
        self._stack.callback(valkey.stop)
        return valkey

    def floor(self) -> Server:
        port = free_port()
        return self._start(["bench.floor", str(port)], port)

    def naive(self, store: Valkey) -> Server:
        port = free_port()
        return self._start(["bench.naive", str(port), store.url, self._material.digest], port)

    def revoker(self, store: Valkey, *, workers: int = 1, cores: frozenset[int] | None = None) -> Server:
        """A real process with a configuration file; ``cores`` for another number of workers."""
        port = free_port()
        name = self._next()
        jwks = self._folder / f"revoker-{name}.jwks"
        jwks.write_text(self._material.jwks_text())
        config = self._folder / f"revoker-{name}.toml"
        config.write_text(
            _CONFIG.format(
                port=port,
                workers=workers,
                store=store.url,
                issuer=ISSUER,
                audience=AUDIENCE,
                jwks=jwks,
                caller=CALLER,
                digest=self._material.digest,
            )
        )
        init = Process(
            [sys.executable, "-m", "service", "store", "init", "--config", str(config)],
            cores=self._cores.server,
            log=self._folder / f"init-{name}.log",
        )
        init.await_end()
        return self._start(["service", "serve", "--config", str(config)], port, cores)

    def _start(self, module: list[str], port: int, cores: frozenset[int] | None = None) -> Server:
        log = self._folder / f"server-{self._next()}.log"
        server = Server([sys.executable, "-m", *module], port, cores=cores or self._cores.server, log=log)
        self._stack.callback(server.process.stop)
        return server

    def _next(self) -> int:
        self._started += 1
        return self._started
