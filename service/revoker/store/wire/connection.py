"""Connections on which nobody waits for the replies of earlier commands.

A :class:`Wire` is one connection, and a :class:`Link` makes it again whenever it ends.
"""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import hiredis
import structlog

from revoker.errors import ReplyNotUnderstood, StoreUnavailable

_log = structlog.get_logger("store")

_BACKOFF_S: Final = (0.02, 0.05, 0.1, 0.2, 0.4)

_INCOMPLETE: Final = object()

Replies = list[Any]
Done = Callable[[Replies | None], None]
Command = tuple[Any, ...]


class ConnectionLost(Exception):
    """The connection ended; a command may or may not have been carried out."""


class TooFewReplicas(Exception):
    """A change stands on the primary, but too few replicas have said that they have it.

    Attributes:
        replies: What the primary answered to the commands.
    """

    def __init__(self, text: str, replies: Replies) -> None:
        super().__init__(text)
        self.replies: Final = replies


class Refused(Exception):
    """The server's refusal.

    Attributes:
        code: Its first word, as ``READONLY``.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code: Final = text.partition(" ")[0]


class Wire(asyncio.Protocol):
    """One connection on which commands are written without waiting for the replies of earlier ones.

    Replies come in the order of the commands. When the connection ends, ``lost`` is called once,
    and every command still under way is given back to its ``done`` with None. A ``done`` that raises
    ends the connection, so that no later command waits for a reply that nobody reads.

    Attributes:
        server: Which server it leads to: its ``run_id``, or where it listens if that can't be had.
    """

    def __init__(self, lost: Callable[["Wire"], None]) -> None:
        self._lost = lost
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._pending: collections.deque[tuple[int, Done]] = collections.deque()
        self._replies: Replies = []
        self._transport: asyncio.Transport | None = None
        self.server = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # asyncio types it too widely

    @property
    def open(self) -> bool:
        return self._transport is not None

    def send(self, packed: bytes, replies: int, done: Done) -> None:
        """Write commands that are answered by so many replies; ``done`` gets them, errors as values."""
        if self._transport is None:  # it ended since it was handed out
            done(None)
            return
        self._pending.append((replies, done))
        self._transport.write(packed)

    async def ask(self, *commands: Command) -> Replies:
        """Send commands and wait for their replies, errors as values.

        Raises:
            ConnectionLost: the connection ended.
        """
        answered: asyncio.Future[Replies | None] = asyncio.get_running_loop().create_future()
        self.send(
            pack(commands),
            len(commands),
            lambda replies: None if answered.done() else answered.set_result(replies),
        )
        replies = await answered
        if replies is None:
            raise ConnectionLost("the connection broke")
        return replies

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
        except hiredis.HiredisError:
            self.abort()
        except Exception:  # noqa: BLE001  # whatever it is, the replies after it must not stay unread
            _log.exception("reply_not_understood")
            self.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._lost(self)
        while self._pending:
            pending = self._pending.popleft()
            try:
                pending[1](None)
            except Exception:  # noqa: BLE001  # those after it must learn of the end, too
                _log.exception("connection_end_not_handled")

    def abort(self) -> None:
        """End the connection at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()


Connect = Callable[[Callable[[Wire], None]], Awaitable[Wire]]


class Link:
    """Keeps one wire: connects, connects again when it ends, and says so while it can't.

    Attributes:
        wire: The open connection; None while there is none.
        down: Why the last attempt to connect failed; None while none has, or one is open.
    """

    def __init__(self, connect: Connect, changed: Callable[[StoreUnavailable | None], None]) -> None:
        """Nothing connects before :meth:`open`.

        Args:
            connect: Makes a wire, or raises ``StoreUnavailable``.
            changed: Called when a wire was made, and with the error after each failure to make one.
        """
        self._connect = connect
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.wire: Wire | None = None
        self.down: str | None = None

    def open(self) -> None:
        """Begin to connect, and keep at it; repeating does nothing."""
        if self._task is None and self.wire is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._make())

    async def close(self) -> None:
        """End the connection for good; what is under way fails."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.hang_up()

    def hang_up(self) -> None:
        """End the connection, which may lead elsewhere by now, and make another."""
        if self.wire is not None:
            self.wire.abort()

    def _lost(self, wire: Wire) -> None:
        if wire is self.wire:
            self.wire = None
            self.open()

    async def _make(self) -> None:
        attempt = 0
        while self.wire is None:
            try:
                wire = await self._connect(self._lost)
            except Exception as error:  # noqa: BLE001  # whatever it is, the next attempt must come
                failure = error if isinstance(error, StoreUnavailable) else _not_understood(error)
                self.down = str(failure)
                self._changed(failure)
                await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
                attempt += 1
            else:
                if wire.open:
                    self.wire = wire
        self.down = None
        self._task = None
        self._changed(None)


def pack(commands: Sequence[Command]) -> bytes:
    """Commands as they go over the wire."""
    return b"".join(map(hiredis.pack_command, commands))


def _not_understood(error: Exception) -> StoreUnavailable:
    _log.error("login_failed", error=repr(error))
    failure = StoreUnavailable("the store can't be logged in to: its replies are not understood")
    failure.__cause__ = error
    return failure


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """Turn what reading a reply of an unexpected form raises into ``ReplyNotUnderstood``.

    As a decorator of a coroutine function use :func:`reads_replies`.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        _log.error("reply_not_understood", error=repr(error))
        raise ReplyNotUnderstood from error


@contextlib.asynccontextmanager
async def reads_replies() -> AsyncIterator[None]:
    """As :func:`understood`, for a coroutine function that reads what the server replied."""
    with understood():
        yield


@contextlib.asynccontextmanager
async def fence() -> AsyncIterator[None]:
    """Let no failure of the store out but as ``StoreUnavailable``."""
    try:
        yield
    except FAILURES as error:
        raise StoreUnavailable(told(error)) from error


FAILURES: Final = (Refused, ConnectionLost, TooFewReplicas, OSError, TimeoutError)


def told(error: Exception) -> str:
    """What a caller is told of one of the :data:`FAILURES`."""
    match error:
        case TooFewReplicas():
            return str(error)
        case Refused():
            return f"the store answered {error.code}"
        case _:
            return "the store did not answer"
