"""One process that serves: its listeners, the signals it is told by, its orderly end.

SIGTERM and SIGINT: not ready, but still answering for ``drain_seconds``, each answer asking the
client to connect anew elsewhere; then no new requests, those under way finish, all is closed. A
second one ends the process at once. SIGHUP: the callers are read again.
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
from typing import Any, Final, Protocol

import structlog
from aiohttp import web

from revoker import logs
from revoker.config.schema import ServerSettings, Settings
from revoker.errors import ConfigError
from revoker.server import start_signals
from revoker.server.connections import Runner, Site

BACKLOG: Final = 1024
ACCEPTED_AT_ONCE: Final = 8
"""uvloop takes one new connection of each listening socket in each turn of the event loop; where turns are
long and all clients connect anew, the last would wait for seconds. So each socket is listened on so often.
"""

KEEPALIVE_SECONDS: Final = 75.0
"""Longer than the 60 s after which proxies usually drop an idle connection, so that they do it."""

LINGERING_SECONDS: Final = 2.0
"""For the rest of a body that nobody waits for any more; then the connection ends."""

SHUTDOWN_SECONDS: Final = 8.0
"""For requests under way; with the default drain well below the 30 s of Kubernetes."""

GARBAGE: Final = 20_000
"""Objects made and not yet freed before cycles are looked for: what requests in flight hold is no garbage."""

FIELD_BYTES: Final = 32 * 1024
"""A header with a token of 16 KiB gets through, with room for others' ideas of a limit."""

CONNECTION: Final[Mapping[str, Any]] = {
    "access_log": None,
    "keepalive_timeout": KEEPALIVE_SECONDS,
    "lingering_time": LINGERING_SECONDS,
    "max_field_size": FIELD_BYTES,
    "max_line_size": FIELD_BYTES,
}
"""What a client may do, in aiohttp's words."""

log = structlog.get_logger("service")


class Service(Protocol):
    """What is served."""

    @property
    def main(self) -> Site: ...
    @property
    def ops(self) -> Site | None: ...
    async def start(self) -> None: ...
    def started(self) -> bool: ...
    def conflicts(self) -> list[str]: ...
    async def close(self) -> None: ...
    def drain(self) -> None: ...
    def reload(self, settings: Settings) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """Bound sockets; the second ones where health and metrics have a port of their own."""

    main: Sequence[socket.socket]
    ops: Sequence[socket.socket] = ()

    def url(self, server: ServerSettings) -> str:
        """Where a client on this machine finds the service."""
        port = self.main[0].getsockname()[1]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
        scheme = "https" if server.tls_cert_file else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def bind(server: ServerSettings, *, shared: bool = False) -> Listeners:
    """Take the addresses; nobody can connect yet.

    Args:
        server: What to listen on.
        shared: Whether other processes of this service bind the same addresses too.

    Raises:
        ConfigError: an address is not there, or taken.
    """
    main = _bound("server.port", server.host, server.port, shared=shared)
    ops = _bound("server.ops_port", server.host, server.ops_port, shared=shared) if server.ops_port else ()
    return Listeners(main=main, ops=ops)


def _bound(setting: str, host: str, port: int, *, shared: bool) -> Sequence[socket.socket]:
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        for family, address in addresses:
            each = socket.socket(family, socket.SOCK_STREAM)
            bound.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:  # alone it serves IPv4 as well: "::" means every address
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, len(addresses) > 1)
            each.bind((address[0], port or bound[0].getsockname()[1], *address[2:]))
    except OSError as error:
        for each in bound:
            each.close()
        problem = f"{setting}: can't listen on {host} port {port}: {error.strerror or error}"
        raise ConfigError([problem]) from None
    return bound


def tls_context(server: ServerSettings) -> ssl.SSLContext | None:
    """TLS 1.2 and later, asking for client certificates where their authorities are configured.

    Raises:
        ConfigError: a file holds something else than it should.
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
    read_again: Callable[[], Settings],
    listening: Callable[[], None],
    ready: Callable[[], None],
    ending_signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """Serve until a signal tells to end, and end in order.

    Args:
        service: What is served.
        listeners: Where; closed at the end.
        server: How.
        read_again: The settings as they are now in file and environment; for SIGHUP.
        listening: Called once, when clients can connect.
        ready: Called once, when they get verdicts.
        ending_signals: What tells to end.
    """
    told = _told(ending_signals)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, service, read_again)
    if start_signals.reload_was_asked():
        _reload(service, read_again)
    async with contextlib.AsyncExitStack() as stack:
        # The loop takes its handlers along when it ends, and what ends after it takes time.
        stack.callback(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGHUP})
        stack.push_async_callback(service.close)
        if not await _unless(told, service.start()):
            return
        if service.ops is not None:
            await _open(stack, service.ops, listeners.ops, tls=None)
        runner = await _open(stack, service.main, listeners.main, tls=tls_context(server))
        listening()
        if await _unless(told, _until_started(service)):
            gc.collect()
            gc.freeze()
            gc.set_threshold(GARBAGE)
            ready()
        await told.wait()
        service.drain()
        log.info("draining", seconds=server.drain_seconds)
        runner.close_connections_after_response()
        await asyncio.sleep(server.drain_seconds)
        log.info("closing")


def _told(signals: Sequence[signal.Signals]) -> asyncio.Event:
    told = asyncio.Event()

    def tell() -> None:
        if told.is_set():
            log.warning("ending at once")
            logs.flush()
            os._exit(1)
        told.set()

    for each in signals:
        asyncio.get_running_loop().add_signal_handler(each, tell)
    return told


async def _unless(told: asyncio.Event, work: Awaitable[None]) -> bool:
    """Whether the work was done before the end was told; it is cancelled otherwise."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(told.wait())
    done, _ = await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for each in (working, waiting):
        each.cancel()
    if working in done:
        working.result()
    return working in done


async def _until_started(service: Service) -> None:
    while not service.started():
        if problems := service.conflicts():
            raise ConfigError(problems)
        await asyncio.sleep(0.05)


def _reload(service: Service, read_again: Callable[[], Settings]) -> None:
    try:
        service.reload(read_again())
    except ConfigError as error:
        log.error("settings not taken over", problems=error.problems)  # noqa: TRY400 -- says all


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
    for each in sockets:
        for listening in (each, *(each.dup() for _ in range(ACCEPTED_AT_ONCE - 1))):
            await web.SockSite(runner, listening, ssl_context=tls, backlog=BACKLOG).start()
    return runner
