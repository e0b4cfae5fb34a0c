"""Pipelined connections: commands are written without waiting for the replies of earlier ones."""

import asyncio
import collections
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import hiredis
import structlog

from revoker.errors import ReplyNotUnderstood, StoreUnavailable

_log = structlog.get_logger("store")

_BACKOFF_S: Final = (0.02, 0.05, 0.1, 0.2, 0.4)

_INCOMPLETE: Final = object()

_WORDS: Final = 200
"""Most characters of a server's error that are repeated."""

Replies = list[Any]
Done = Callable[[Replies | None], None]
Command = tuple[Any, ...]


def pack(commands: Sequence[Command]) -> bytes:
    """Commands in the protocol's encoding."""
    return b"".join(map(hiredis.pack_command, commands))


ROLE: Final = pack([("ROLE",)])
ROLE_BY_INFO: Final = pack([("INFO", "replication")])
"""For servers that refuse ``ROLE``: it costs a few microseconds more."""


class ConnectionLost(Exception):
    """The connection ended; a command may or may not have been carried out."""


class TooFewReplicas(Exception):
    """The primary has made a change that too few replicas have confirmed.

    Attributes:
        replies: The primary's replies to the commands.
    """

    def __init__(self, text: str, replies: Replies) -> None:
        super().__init__(text)
        self.replies: Final = replies


class Refused(Exception):
    """The server answered with an error.

    Attributes:
        code: Its first word, such as ``READONLY``.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code: Final = text.partition(" ")[0]


class Connection(asyncio.Protocol):
    """One connection.

    Replies come in the order of the commands. When the connection ends, ``lost`` is called once, and the
    ``done`` of every command in flight is called with None. A ``done`` that raises ends the connection:
    otherwise later commands would be matched with the wrong replies.

    Attributes:
        server: Identifies the server: its ``run_id``, or its address where it has none.
        role: The command, encoded, by which this server shows its role: see :func:`role_in`.
        ended_by: What ended it; None while it is open, and where the server or this process closed it.
        last_error: What the server said before it ended the connection, if that was an error.
    """

    role = ROLE

    def __init__(self, lost: Callable[["Connection"], None]) -> None:
        self._lost = lost
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._pending: collections.deque[tuple[int, Done]] = collections.deque()
        self._replies: Replies = []
        self._transport: asyncio.Transport | None = None
        self.server = ""
        self.ended_by: Exception | None = None
        self.last_error = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # asyncio types it too widely

    @property
    def open(self) -> bool:
        return self._transport is not None

    def send(self, packed: bytes, replies: int, done: Done) -> None:
        """Write commands that have ``replies`` replies; ``done`` is called with them, errors as values."""
        if self._transport is None:
            done(None)
            return
        self._pending.append((replies, done))
        self._transport.write(packed)

    async def ask(self, *commands: Command) -> Replies:
        """Send commands and wait for their replies, errors as values.

        Raises:
            ConnectionLost: the connection ended.
        """
        return await self._ask(pack(commands), len(commands))

    async def ask_role(self) -> Any:
        """The reply to :attr:`role`; as :meth:`ask`."""
        return (await self._ask(self.role, 1))[0]

    async def _ask(self, packed: bytes, count: int) -> Replies:
        answered: asyncio.Future[Replies | None] = asyncio.get_running_loop().create_future()
        self.send(
            packed,
            count,
            lambda replies: None if answered.done() else answered.set_result(replies),
        )
        replies = await answered
        if replies is None:
            raise ConnectionLost("the connection broke")
        return replies

    def data_received(self, data: bytes) -> None:
        reader, pending = self._reader, self._pending
        try:
            reader.feed(data)
            while pending:
                reply = reader.gets()
                if reply is _INCOMPLETE:
                    return
                self._replies.append(reply)
                if len(self._replies) == pending[0][0]:
                    _, done = pending.popleft()
                    replies, self._replies = self._replies, []
                    done(replies)
        except hiredis.HiredisError:
            self.abort()
        except Exception:  # noqa: BLE001  # otherwise the replies after it would never be read
            _log.exception("reply_not_understood")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.ended_by = exc
        self._keep_last_error()
        self._lost(self)
        while self._pending:
            pending = self._pending.popleft()
            try:
                pending[1](None)
            except Exception:  # noqa: BLE001  # the commands after it must fail as well
                _log.exception("connection_end_not_handled")

    def _keep_last_error(self) -> None:
        """Keep an error that came in place of replies, as of a server that takes no more connections."""
        replies = list(self._replies)
        with contextlib.suppress(hiredis.HiredisError):  # what cannot be read says nothing
            replies.append(self._reader.gets())
        self.last_error = next((str(reply) for reply in replies if isinstance(reply, Exception)), "")

    def abort(self) -> None:
        """Close the connection at once; commands in flight fail."""
        if self._transport is not None:
            self._transport.abort()


Connect = Callable[[Callable[[Connection], None]], Awaitable[Connection]]


class ReconnectingConnection:
    """Keeps one connection open, with back-off between attempts.

    Attributes:
        connection: The open connection; None while there is none.
        failure: Why the last attempt failed; None before the first failure and while connected.
    """

    def __init__(self, connect: Connect, changed: Callable[[StoreUnavailable | None], None]) -> None:
        """Nothing connects before :meth:`open`.

        Args:
            connect: Opens a connection, or raises ``StoreUnavailable``.
            changed: Called with None once connected, and with the error after each failed attempt.
        """
        self._connect = connect
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.connection: Connection | None = None
        self.failure: str | None = None

    def open(self) -> None:
        """Start connecting; calling it again has no effect."""
        if self._task is None and self.connection is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._make())

    async def close(self) -> None:
        """Close the connection for good; commands in flight fail."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.reconnect()

    def reconnect(self) -> None:
        """Replace the connection, which may lead to the wrong server; commands in flight fail."""
        if self.connection is not None:
            self.connection.abort()

    def _lost(self, connection: Connection) -> None:
        if connection is self.connection:
            self.connection = None
            self.open()

    async def _make(self) -> None:
        attempt = 0
        while self.connection is None:
            try:
                connection = await self._connect(self._lost)
            except Exception as error:  # noqa: BLE001  # a further attempt must follow in any case
                failure = error if isinstance(error, StoreUnavailable) else _login_failure(error)
                self.failure = str(failure)
                self._changed(failure)
                await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
                attempt += 1
            else:
                if connection.open:
                    self.connection = connection
        self.failure = None
        self._task = None
        self._changed(None)


def parse_info(text: Any) -> dict[str, str]:
    """The fields of an ``INFO`` reply; empty where it is an error."""
    if not isinstance(text, bytes):
        return {}
    lines = text.decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def role_in(reply: Any) -> list[Any]:
    """A reply to ``ROLE``, or to ``INFO replication`` in its form.

    Raises:
        LookupError: it does not show a role.
    """
    if isinstance(reply, list):
        return reply
    fields = parse_info(reply)
    if "role" not in fields:
        raise LookupError("a reply without a role")
    offset = fields.get("master_repl_offset", "0")
    if not (offset.isascii() and offset.isdigit()):
        raise LookupError("a role whose offset is no number")
    online = [value for name, value in fields.items() if _REPLICA(name) and ",state=online," in f"{value},"]
    return [fields["role"].encode(), int(offset), online]


def replicas_in(role: list[Any]) -> int:
    """How many replicas a primary's role shows: its last element (Dragonfly has no offset before it).

    Raises:
        LookupError: it does not show them.
    """
    if len(role) < 2 or not isinstance(role[-1], list):
        raise LookupError("a role without replicas")
    return len(role[-1])


_REPLICA: Final = re.compile(r"slave\d+").fullmatch


def _login_failure(error: Exception) -> StoreUnavailable:
    _log.error("login_failed", error=repr(error))
    failure = StoreUnavailable("the store can't be logged in to: its replies are not understood")
    failure.__cause__ = error
    return failure


def retrieve_failure(done: "asyncio.Future[Any]") -> None:
    """Retrieve a failure for which nobody may wait, so that asyncio does not log it."""
    if not done.cancelled():
        done.exception()


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
async def unavailable_on_failure() -> AsyncIterator[None]:
    """Turn every failure of the store into ``StoreUnavailable``."""
    try:
        yield
    except FAILURES as error:
        raise StoreUnavailable(public_message(error)) from error


def answered_with(error: Exception, command: str = "") -> str:
    """The text that callers get for a server's error: what it refused, and in its words where these help."""
    text = str(error)
    code = text.partition(" ")[0]
    to = f"{command} with " if command else ""
    if code == "CROSSSLOT":
        return f"the store answered {to}CROSSSLOT: it is a cluster, so redis.url must begin with redis+cluster://"
    if code == "NOPERM" or "unknown command" in text or "can't run this command" in text:
        return f"the store answered {to}{printable(text)}"
    return f"the store answered {to}{code}"


def printable(text: str) -> str:
    """A server's words as logs and answers can hold them (RFC 6749 §5.2: no quote, no backslash).

    A server without a command repeats the arguments of it, and those of ``AUTH`` are secret.
    """
    plain = text.partition(", with args")[0][:_WORDS].replace('"', "'").replace("\\", "/")
    return "".join(character if " " <= character <= "~" else "?" for character in plain).strip()


FAILURES: Final = (Refused, ConnectionLost, TooFewReplicas, OSError, TimeoutError)


def public_message(error: Exception) -> str:
    """The text that callers get for one of the :data:`FAILURES`."""
    match error:
        case TooFewReplicas() | StoreUnavailable() | ReplyNotUnderstood():
            return str(error)
        case Refused():
            return answered_with(error)
        case _:
            return "the store did not answer"
