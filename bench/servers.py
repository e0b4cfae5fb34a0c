"""The servers that are compared, each ready to take load."""

import secrets
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import serialization

from bench.material import AUDIENCE, CALLER, ISSUER, MAPPED_ISSUER, SESSIONS_ISSUER, Material, signing_key
from tests.rig.cpu import Cores
from tests.rig.processes import Process, until
from tests.rig.servers import Valkey, free_port

_CONFIG = """\
[server]
port = {port}
grpc_port = {grpc_port}
workers = {workers}

[redis]
url = "{store}"
timeout = {timeout}

[[issuers]]
name = "main"
issuer = "{issuer}"
audiences = ["{audience}"]
jwks_file = "{jwks}"

[[issuers]]
name = "mapped"
issuer = "{mapped_issuer}"
audiences = ["{audience}"]
jwks_file = "{jwks}"
[issuers.claims]
jti = ["uti"]
sub = ["oid"]
sid = ["session_id"]
client_id = ["appid"]
revocable = ["tenant", "email"]

[[callers]]
name = "{caller}"
secret_sha256 = ["{digest}"]
scopes = ["introspect", "revoke", "sessions", "feed", "read"]
"""

_SESSIONS = """
[sessions]
issuer = "{issuer}"
audiences = ["{audience}"]
signing_keys_dir = "{folder}"
refresh_key_file = "{folder}.refresh"
"""


_UPSTREAM = """\
[upstream]
url = "{url}"
secret_file = "{secret}"
max_staleness = {max_staleness}
"""


_LIKE_PRODUCTION = (
    *("--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"),
    *("--maxmemory-policy", "noeviction"),
)


class HasUrl(Protocol):
    """A store, or a relay to one."""

    @property
    def url(self) -> str: ...


@dataclass(frozen=True)
class Server:
    """A server that answers on ``url``."""

    url: str
    process: Process


def answers(url: str) -> bool:
    """Whether a GET is answered 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


class Servers:
    """Starts servers; all of them end with the ``stack``."""

    def __init__(self, stack: ExitStack, folder: Path, cores: Cores, material: Material) -> None:
        self.stack = stack
        self._folder = folder
        self.cores = cores
        self._material = material
        self._started = 0

    def store(self) -> Valkey:
        """One with the persistence that production has."""
        folder = self._folder / f"store-{self._next()}"
        valkey = Valkey(folder, *_LIKE_PRODUCTION, cores=self.cores.others).start()
        self.stack.callback(valkey.kill)
        return valkey

    def floor(self, port: int | None = None, cores: frozenset[int] | None = None) -> Server:
        """With the ``port`` of another, both share it (SO_REUSEPORT)."""
        port = port or free_port()
        return self.start(port, "-m", "bench.floor", port, cores=cores)

    def bare(self) -> Server:
        port = free_port()
        return self.start(port, "-m", "bench.bare", port)

    def naive(self, store: Valkey) -> Server:
        port = free_port()
        return self.start(port, "-m", "bench.naive", port, store.url, self._material.digest)

    def revoker(
        self,
        store: HasUrl,
        *,
        workers: int = 1,
        cores: frozenset[int] | None = None,
        sessions: str | None = None,
        grpc_port: int = 0,
        module: str = "revoker",
        environ: Mapping[str, str] | None = None,
    ) -> Server:
        """A real process with a configuration file.

        Args:
            store: Which no other service uses.
            workers: How many processes.
            cores: Where not the server's.
            sessions: The algorithm with which it signs the tokens of sessions; None: it has no sessions.
            grpc_port: Where it serves Envoy by gRPC; 0: nowhere.
            module: What is run.
            environ: Additions to its environment.
        """
        port = free_port()
        config = self.write_configuration(
            store, port=port, workers=workers, sessions=sessions, grpc_port=grpc_port
        )
        return self.start(port, "-m", module, "serve", "--config", config, cores=cores, environ=environ)

    def edge(
        self,
        upstream: Server,
        *,
        max_staleness: float = 5,
        name: str = "",
        cores: frozenset[int] | None = None,
    ) -> Server:
        """An edge of a service; several need different names."""
        port = free_port()
        config = self.write_edge_configuration(upstream, port, max_staleness=max_staleness)
        return self.start(
            port,
            *("-m", "revoker", "edge", "--config", config),
            cores=cores,
            environ={"REVOKER_UPSTREAM__NAME": name},
        )

    def consumers(self, server: Server, cursor: str, count: int) -> Process:
        """Consumers that follow the feed from a cursor (:mod:`bench.feed_consumers`)."""
        return self._process(
            *("-m", "bench.feed_consumers", server.url, self._material.authorization, cursor, count),
            cores=self.cores.others,
        )

    def write_edge_configuration(self, upstream: Server, port: int, *, max_staleness: float = 5) -> Path:
        """The configuration file of an edge."""
        name = self._next()
        jwks, secret = self._folder / f"edge-{name}.jwks", self._folder / f"edge-{name}.secret"
        jwks.write_text(self._material.jwks_text())
        secret.write_text(self._material.secret)
        config = self._folder / f"edge-{name}.toml"
        service = _CONFIG.format(
            port=port,
            grpc_port=0,
            workers=1,
            store="",
            timeout=1,
            issuer=ISSUER,
            mapped_issuer=MAPPED_ISSUER,
            audience=AUDIENCE,
            jwks=jwks,
            caller=CALLER,
            digest=self._material.digest,
        ).replace('"sessions", "feed"', '"sessions"')
        before, _, rest = service.partition("[redis]")
        _, _, after = rest.partition("\n\n")
        terms = _UPSTREAM.format(url=upstream.url, secret=secret, max_staleness=max_staleness)
        config.write_text(f"{before}{terms}\n{after}")
        return config

    def write_configuration(
        self,
        store: HasUrl,
        *,
        port: int = 0,
        workers: int = 1,
        sessions: str | None = None,
        timeout: float = 0.25,
        grpc_port: int = 0,
    ) -> Path:
        """A configuration file, by which the store is declared new; arguments as for :meth:`revoker`."""
        name = self._next()
        jwks = self._folder / f"revoker-{name}.jwks"
        jwks.write_text(self._material.jwks_text())
        config = self._folder / f"revoker-{name}.toml"
        config.write_text(
            _CONFIG.format(
                port=port,
                grpc_port=grpc_port,
                workers=workers,
                store=store.url,
                timeout=timeout,
                issuer=ISSUER,
                mapped_issuer=MAPPED_ISSUER,
                audience=AUDIENCE,
                jwks=jwks,
                caller=CALLER,
                digest=self._material.digest,
            )
            + (self._sessions(name, sessions) if sessions else "")
        )
        with self._process("-m", "revoker", "store", "init", "--or-known", "--config", config) as init:
            assert init.status() == 0, init.output()
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
        port: int,
        *arguments: object,
        program: str = sys.executable,
        cores: frozenset[int] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Server:
        """Any program that answers ``/readyz`` on a port; it ends with the stack."""
        process = self._process(*arguments, program=program, cores=cores, **(environ or {})).start()
        self.stack.callback(process.stop)
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert process.process.poll() is None, process.output()
            return answers(f"{url}/readyz")

        until(ready, f"an answer of {arguments}")
        return Server(url, process)

    def _process(
        self,
        *arguments: object,
        program: str = sys.executable,
        cores: frozenset[int] | None = None,
        **environ: str,
    ) -> Process:
        folder = self._folder / f"process-{self._next()}"
        folder.mkdir()
        return Process(folder, *arguments, program=program, cores=cores or self.cores.server, **environ)

    def _next(self) -> int:
        self._started += 1
        return self._started
