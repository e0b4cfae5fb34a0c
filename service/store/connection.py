"""Two roads to the server: a pipelined wire for lookups, and redis-py for everything else."""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import (
    BlockingConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.retry import Retry

from service.errors import StoreUnavailable

CONNECTIONS: Final = 16
"""For redis-py at most: more of them only make each slower."""

_WAIT: Final = 4
"""Time-outs for which a change waits for a connection while others make use of all."""

_INCOMPLETE: Final = object()

Replies = list[Any]
Done = Callable[[Replies | None], None]


class Wire(asyncio.Protocol):
    """One connection on which commands are written without waiting for the replies of earlier ones.

    Replies come in the order of the commands. When the connection ends, ``lost`` is called once,
    and every command still under way is given back to its ``done`` with None.
    """

    def __init__(self, lost: Callable[["Wire"], None]) -> None:
        self._lost = lost
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._pending: collections.deque[tuple[int, Done]] = collections.deque()
        self._replies: Replies = []
        self._together: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # asyncio types it too widely

    @property
    def open(self) -> bool:
        return self._transport is not None

    def send(self, packed: bytes, replies: int, done: Done) -> None:
        """Write commands that are answered by so many replies; ``done`` gets them, errors as values."""
        assert self._transport is not None  # noqa: S101  # a wire is handed out only once connected
        self._pending.append((replies, done))
        self._transport.write(packed)

    def send_together(self, packed: bytes, replies: int, done: Done) -> None:
        """As :meth:`send`, in one write with all that is sent in this turn of the event loop.

        Only for a wire on which everything is sent so, or the replies would go astray.
        """
        self._pending.append((replies, done))
        self._together.append(packed)
        if len(self._together) == 1:
            asyncio.get_running_loop().call_soon(self._write_together)

    def _write_together(self) -> None:
        packed, self._together = b"".join(self._together), []
        if self._transport is not None:
            self._transport.write(packed)

    def data_received(self, data: bytes) -> None:
        feed, pending = self._reader, self._pending
        try:
            feed.feed(data)
            while pending:
                reply = feed.gets()
                if reply is _INCOMPLETE:
                    return
                self._replies.append(reply)
                if len(self._replies) == pending[0][0]:
                    _, done = pending.popleft()
                    replies, self._replies = self._replies, []
                    done(replies)
        except hiredis.ProtocolError:
            self.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._lost(self)
        while self._pending:
            self._pending.popleft()[1](None)

    def abort(self) -> None:
        """End the connection at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()


class Address:
    """Where the store is and how to be let in, from its URL (``redis://``, ``rediss://``, ``unix://``)."""

    def __init__(self, url: str, *, timeout: float, password: str | None = None) -> None:
        self._options: dict[str, Any] = dict(parse_url(url))
        if password:
            self._options["password"] = password
        self.timeout: Final = timeout

    async def wire(self, lost: Callable[[Wire], None]) -> Wire:
        """Connect and log in.

        Raises:
            StoreUnavailable: refused, not let in, or not within the time-out.
        """
        options = self._options
        loop = asyncio.get_running_loop()
        wire = Wire(lost)
        try:
            async with asyncio.timeout(self.timeout):
                if options.get("connection_class") is UnixDomainSocketConnection:
                    await loop.create_unix_connection(lambda: wire, options["path"])
                else:
                    await loop.create_connection(
                        lambda: wire,
                        options.get("host", "localhost"),
                        options.get("port", 6379),
                        ssl=self._tls(),
                    )
                await self._log_in(wire)
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: a host or a file of TLS
            wire.abort()
            raise StoreUnavailable("the store can't be reached") from error
        except BaseException:  # cancelled too: the connection may stand already
            wire.abort()
            raise
        return wire

    async def _log_in(self, wire: Wire) -> None:
        options = self._options
        commands: list[tuple[Any, ...]] = []
        if password := options.get("password"):
            user = options.get("username")
            commands.append(("AUTH", user, password) if user else ("AUTH", password))
        if db := options.get("db"):
            commands.append(("SELECT", db))
        commands.append(("PING",))  # a server that hangs accepts connections all the same
        answered: asyncio.Future[Replies | None] = asyncio.get_running_loop().create_future()
        wire.send(
            pack(commands),
            len(commands),
            lambda replies: None if answered.done() else answered.set_result(replies),
        )
        replies = await answered
        if replies is None or not wire.open:
            raise StoreUnavailable("the store closed the connection")
        for reply in replies:
            if isinstance(reply, Exception):
                raise StoreUnavailable(f"the store answered {str(reply).split(' ')[0]}") from reply

    def _tls(self) -> Any:
        if self._options.get("connection_class") is not SSLConnection:
            return None
        options = {k: v for k, v in self._options.items() if k != "connection_class"}
        return SSLConnection(**options).ssl_context.get()

    def client(self) -> Redis:
        """A redis-py client whose commands fail after one time-out, without trying again."""
        options = {
            **self._options,
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        return Redis.from_pool(BlockingConnectionPool(CONNECTIONS, _WAIT * self.timeout, **options))


class Line:
    """A wire for commands that change something: made at the first use, and again after it ended."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._wire: Wire | None = None
        self._connecting: Final = asyncio.Lock()

    async def execute(self, *command: Any) -> Any:
        """Send one command; what is under way at the same time is not waited for.

        Raises:
            ConnectionLost: the connection ended; the command may or may not have been carried out.
            TimeoutError: likewise, no answer in time: the connection is ended.
            StoreUnavailable: there is no connection to be had.
            ResponseError: the server's refusal.
        """
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Replies | None] = loop.create_future()
        wire = self._wire or await self._connected()
        wire.send_together(
            hiredis.pack_command(command),
            1,
            lambda replies: None if answered.done() else answered.set_result(replies),
        )
        late = loop.call_later(self._address.timeout, _give_up, answered, wire)
        try:
            replies = await answered
        finally:
            late.cancel()
        if replies is None:
            raise ConnectionLost("the connection to the store broke")
        [reply] = replies
        if isinstance(reply, Exception):
            code = str(reply).partition(" ")[0]
            raise _REFUSALS.get(code, ResponseError)(str(reply))
        return reply

    async def _connected(self) -> Wire:
        async with self._connecting:
            if self._wire is None:
                self._wire = await self._address.wire(self._lost)
            return self._wire

    def hang_up(self) -> None:
        """End the connection; what is under way fails."""
        if self._wire is not None:
            self._wire.abort()

    def _lost(self, wire: Wire) -> None:
        if wire is self._wire:
            self._wire = None


def _give_up(answered: "asyncio.Future[Replies | None]", wire: Wire) -> None:
    if not answered.done():
        answered.set_exception(TimeoutError("the store did not answer in time"))
        wire.abort()


_REFUSALS: Final[dict[str, type[ResponseError]]] = {"NOSCRIPT": NoScriptError, "READONLY": ReadOnlyError}


def pack(commands: Sequence[tuple[Any, ...]]) -> bytes:
    """Commands as they go over the wire."""
    return b"".join(hiredis.pack_command(command) for command in commands)


async def hang_up(client: Redis) -> None:
    """End the connections that lie idle: the address leads to another server by now, it seems."""
    await client.connection_pool.disconnect(inuse_connections=False)


@contextlib.asynccontextmanager
async def fence() -> AsyncIterator[None]:
    """Let nothing of redis-py's out: every failure of the store is a ``StoreUnavailable``."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable("the store did not answer, or refused") from error
