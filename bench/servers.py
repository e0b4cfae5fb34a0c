"""The servers that are compared, each ready to take load."""

import secrets
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import serialization

from bench.material import AUDIENCE, CALLER, ISSUER, SESSIONS_ISSUER, Material, signing_key
from bench.processes import Cores, Process, Valkey, answers, free_port

_CONFIG = """\
[server]
port = {port}
workers = {workers}

[redis]
url = "{store}"
timeout = {timeout}

[[issuers]]
name = "main"
issuer = "{issuer}"
audiences = ["{audience}"]
jwks_file = "{jwks}"

[[callers]]
name = "{caller}"
secret_sha256 = ["{digest}"]
scopes = ["introspect", "revoke", "sessions"]
"""

_SESSIONS = """
[sessions]
issuer = "{issuer}"
audiences = ["{audience}"]
signing_keys_dir = "{folder}"
refresh_key_file = "{folder}.refresh"
"""


class HasUrl(Protocol):
    """A store, or the way to one."""

    @property
    def url(self) -> str: ...


class Server:
    """A server on a port of its own."""

    def __init__(
        self,
        command: list[str],
        port: int,
        *,
        cores: frozenset[int],
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = Process(command, cores=cores, log=log, env=env)
        self.process.await_answer(lambda: answers(f"{self.url}/readyz"))


class Servers:
    """Starts servers; all of them end with the ``stack``."""

    def __init__(self, stack: ExitStack, folder: Path, cores: Cores, material: Material) -> None:
        self.stack = stack
        self._folder = folder
        self.cores = cores
        self._material = material
        self._started = 0

    def store(self) -> Valkey:
        valkey = Valkey(self._folder / f"store-{self._next()}", cores=self.cores.others)
        self.stack.callback(valkey.stop)
        return valkey

    def floor(self, port: int | None = None, cores: frozenset[int] | None = None) -> Server:
        """Another one on a ``port`` shares it with the first."""
        port = port or free_port()
        return self._start(["bench.floor", str(port)], port, cores)

    def bare(self) -> Server:
        port = free_port()
        return self._start(["bench.bare", str(port)], port)

    def naive(self, store: Valkey) -> Server:
        port = free_port()
        return self._start(["bench.naive", str(port), store.url, self._material.digest], port)

    def revoker(
        self,
        store: HasUrl,
        *,
        workers: int = 1,
        cores: frozenset[int] | None = None,
        sessions: str | None = None,
    ) -> Server:
        """A real process with a configuration file.

        Args:
            store: Of its own.
            workers: How many processes.
            cores: For another number of workers.
            sessions: The algorithm with which it signs the tokens of sessions; None: it keeps none.
        """
        port = free_port()
        config = self.configured(store, port=port, workers=workers, sessions=sessions)
        return self._start(["revoker", "serve", "--config", str(config)], port, cores)

    def configured(
        self,
        store: HasUrl,
        *,
        port: int = 0,
        workers: int = 1,
        sessions: str | None = None,
        timeout: float = 0.25,
    ) -> Path:
        """A configuration file for a store, which is declared new by it; as for :meth:`revoker`."""
        name = self._next()
        jwks = self._folder / f"revoker-{name}.jwks"
        jwks.write_text(self._material.jwks_text())
        config = self._folder / f"revoker-{name}.toml"
        config.write_text(
            _CONFIG.format(
                port=port,
                workers=workers,
                store=store.url,
                timeout=timeout,
                issuer=ISSUER,
                audience=AUDIENCE,
                jwks=jwks,
                caller=CALLER,
                digest=self._material.digest,
            )
            + (self._sessions(name, sessions) if sessions else "")
        )
        init = Process(
            [sys.executable, "-m", "revoker", "store", "init", "--or-known", "--config", str(config)],
            cores=self.cores.server,
            log=self._folder / f"init-{name}.log",
        )
        init.await_end()
        return config

    def _sessions(self, name: int, algorithm: str) -> str:
        folder = self._folder / f"signing-{name}"
        folder.mkdir()
        (folder / "key.pem").write_bytes(
            signing_key(algorithm).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        Path(f"{folder}.refresh").write_text(f"{secrets.token_urlsafe(32)}\n")
        return _SESSIONS.format(issuer=SESSIONS_ISSUER, audience=AUDIENCE, folder=folder)

    def start(
        self,
        command: list[str],
        port: int,
        cores: frozenset[int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Server:
        """Any program that answers ``/readyz`` on a port."""
        log = self._folder / f"server-{self._next()}.log"
        server = Server(command, port, cores=cores or self.cores.server, log=log, env=env)
        self.stack.callback(server.process.stop)
        return server

    def _start(self, module: list[str], port: int, cores: frozenset[int] | None = None) -> Server:
        return self.start([sys.executable, "-m", *module], port, cores)

    def _next(self) -> int:
        self._started += 1
        return self._started
