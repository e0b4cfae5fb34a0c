"""One process that serves: its listeners, its signals, its graceful shutdown.

SIGTERM and SIGINT: for ``drain_seconds`` not ready but still serving, and every response closes its
connection; then no new requests are read, those in progress finish, and everything is closed. A second one
ends the process at once. SIGHUP: the callers are read again.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from aiohttp import web

from revoker import logs
from revoker.config.server import ServerSettings
from revoker.errors import ConfigError
from revoker.server import start_signals
from revoker.server.connections import Runner, Site

if TYPE_CHECKING:
    from revoker.api.ext_authz import ExtAuthz
    from revoker.server.grpc_listener import GrpcListener

BACKLOG: Final = 1024
LISTENERS_PER_SOCKET: Final = 8
"""uvloop accepts one connection of a listener per iteration of the event loop. Where iterations are long and
all clients reconnect, the last would wait for seconds; so every socket has several listeners.
"""

KEEPALIVE_SECONDS: Final = 75.0
"""Longer than the 60 s after which proxies usually close an idle connection, so that they are the first."""

LINGERING_SECONDS: Final = 2.0
"""How long the rest of an unread body is read and dropped before the connection is closed."""

SHUTDOWN_SECONDS: Final = 8.0
"""For requests in progress; with the default ``drain_seconds`` well below the 30 s of Kubernetes."""

GC_THRESHOLD: Final = 20_000
"""Allocations before the garbage collector runs: most objects belong to requests in progress."""

FIELD_BYTES: Final = 32 * 1024
"""Enough for a header with a token of 16 KiB."""

CONNECTION: Final[Mapping[str, Any]] = {
    "access_log": None,
    "keepalive_timeout": KEEPALIVE_SECONDS,
    "lingering_time": LINGERING_SECONDS,
    "max_field_size": FIELD_BYTES,
    "max_line_size": FIELD_BYTES,
}
"""Options of every connection."""

log = structlog.get_logger("service")


class Service(Protocol):
    """What is served."""

    @property
    def main(self) -> Site: ...
    @property
    def ops(self) -> Site | None: ...
    @property
    def ext_authz(self) -> "ExtAuthz | None": ...
    async def start(self) -> None: ...
    def started(self) -> bool: ...
    def conflicts(self) -> list[str]: ...
    async def close(self) -> None: ...
    def drain(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """Bound sockets; ``ops`` where health and metrics have a port of their own."""

    main: Sequence[socket.socket]
    ops: Sequence[socket.socket] = ()

    def url(self, server: ServerSettings) -> str:
        """Where a client on this machine finds the service."""
        port = self.main[0].getsockname()[1]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
        scheme = "https" if server.tls_cert_file else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def bind(server: ServerSettings, *, shared: bool = False) -> Listeners:
    """Bind the addresses; nobody can connect yet.

    Args:
        server: The addresses.
        shared: Whether other processes of this service bind them too.

    Raises:
        ConfigError: an address does not exist or is in use.
    """
    main = _bind("server.port", server.host, server.port, shared=shared)
    ops = _bind("server.ops_port", server.host, server.ops_port, shared=shared) if server.ops_port else ()
    return Listeners(main=main, ops=ops)


def _bind(setting: str, host: str, port: int, *, shared: bool) -> Sequence[socket.socket]:
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        for family, address in addresses:
            listener = socket.socket(family, socket.SOCK_STREAM)
            bound.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:  # alone it serves IPv4 as well: "::" means every address
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, len(addresses) > 1)
            listener.bind((address[0], port or bound[0].getsockname()[1], *address[2:]))
    except OSError as error:
        for listener in bound:
            listener.close()
        problem = f"{setting}: can't listen on {host} port {port}: {error.strerror or error}"
        raise ConfigError([problem]) from None
    return bound


def tls_context(server: ServerSettings) -> ssl.SSLContext | None:
    """TLS 1.2 and later; client certificates are requested where their authorities are configured.

    Raises:
        ConfigError: a file is malformed.
    """
    if not server.tls_cert_file:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(server.tls_cert_file, server.tls_key_file, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError):
        problem = "must be a certificate chain in PEM, and server.tls_key_file its key without passphrase"
        raise ConfigError([f"server.tls_cert_file: {problem}"]) from None
    if server.tls_client_ca_file:
        try:
            context.load_verify_locations(server.tls_client_ca_file)
        except (ssl.SSLError, OSError, ValueError):
            raise ConfigError(["server.tls_client_ca_file: must hold certificates in PEM"]) from None
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def serve(
    service: Service,
    listeners: Listeners,
    server: ServerSettings,
    *,
    reload: Callable[[], None],
    listening: Callable[[], None],
    ready: Callable[[], None],
    shutdown_signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """Serve until a shutdown signal, and shut down gracefully.

    Args:
        service: What is served.
        listeners: Where; closed at the end.
        server: How.
        reload: Takes over what may change, for SIGHUP; raises ``ConfigError`` where it cannot.
        listening: Called once, when clients can connect.
        ready: Called once, when they get verdicts.
        shutdown_signals: Those that begin the shutdown.
    """
    shutdown = _shutdown_event(shutdown_signals)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, reload)
    if start_signals.reload_was_requested():
        _reload(reload)
    async with contextlib.AsyncExitStack() as stack:
        # The handlers go with the event loop, and the process runs on for a while after it.
        stack.callback(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGHUP})
        stack.push_async_callback(service.close)
        if not await _finishes_before(shutdown, service.start()):
            return
        if service.ops is not None:
            await _open(stack, service.ops, listeners.ops, tls=None)
        runner = await _open(stack, service.main, listeners.main, tls=tls_context(server))
        if server.unix_socket:
            await _open_unix(stack, runner, Path(server.unix_socket))
        grpc = await _open_grpc(stack, service, server) if server.grpc_port else None
        listening()
        if await _finishes_before(shutdown, _until_started(service)):
            gc.collect()
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD)
            if grpc is not None:
                await grpc.report_ready()
            ready()
        await shutdown.wait()
        service.drain()
        if grpc is not None:
            await grpc.drain()
        log.info("draining", seconds=server.drain_seconds)
        runner.close_connections_after_response()
        await asyncio.sleep(server.drain_seconds)
        log.info("closing")


def _shutdown_event(signals: Sequence[signal.Signals]) -> asyncio.Event:
    """Set at the first signal; the second ends the process."""
    shutdown = asyncio.Event()

    def handle() -> None:
        if shutdown.is_set():
            log.warning("ending at once")
            logs.flush()
            os._exit(1)
        shutdown.set()

    for number in signals:
        asyncio.get_running_loop().add_signal_handler(number, handle)
    return shutdown


async def _finishes_before(event: asyncio.Event, work: Awaitable[None]) -> bool:
    """Whether the work was done before the event; it is cancelled otherwise."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    done, _ = await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for future in (working, waiting):
        future.cancel()
    if working in done:
        working.result()
    return working in done


async def _until_started(service: Service) -> None:
    while not service.started():
        if problems := service.conflicts():
            raise ConfigError(problems)
        await asyncio.sleep(0.05)


def _reload(reload: Callable[[], None]) -> None:
    try:
        reload()
    except ConfigError as error:
        log.error("settings not taken over", problems=error.problems)  # noqa: TRY400 -- says all


def _remove_abandoned(path: Path) -> None:
    """Remove a Unix socket on which nobody listens any more."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            if path.is_socket():
                path.unlink()
        else:
            raise ConfigError([f"server.unix_socket: another process listens on {path}"])


async def _open_unix(stack: contextlib.AsyncExitStack, runner: Runner, path: Path) -> None:
    """Listen on a Unix socket; one that nobody listens on any more is replaced.

    Raises:
        ConfigError: another process listens on it, or it cannot be made.
    """
    before = os.umask(0o117)  # from the first moment on, nobody else may connect
    try:
        _remove_abandoned(path)
        await web.UnixSite(runner, path, backlog=BACKLOG).start()
    except OSError as error:
        problem = f"server.unix_socket: can't listen on {path}: {error.strerror or error}"
        raise ConfigError([problem]) from None
    finally:
        os.umask(before)
    stack.callback(path.unlink, missing_ok=True)


async def _open_grpc(
    stack: contextlib.AsyncExitStack, service: Service, server: ServerSettings
) -> "GrpcListener":
    from revoker.server.grpc_listener import GrpcListener  # noqa: PLC0415  # its libraries are an extra

    assert service.ext_authz is not None  # noqa: S101  # as there is a port
    listener = GrpcListener(service.ext_authz, server)
    stack.push_async_callback(listener.stop, SHUTDOWN_SECONDS)
    await listener.start()
    return listener


async def _open(
    stack: contextlib.AsyncExitStack,
    site: Site,
    sockets: Sequence[socket.socket],
    *,
    tls: ssl.SSLContext | None,
) -> Runner:
    runner = Runner(site, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS, **CONNECTION)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    for first in sockets:
        for listening in (first, *(first.dup() for _ in range(LISTENERS_PER_SOCKET - 1))):
            await web.SockSite(runner, listening, ssl_context=tls, backlog=BACKLOG).start()
    return runner
