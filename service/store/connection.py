"""Connections on which nobody waits for the replies of earlier commands.

A :class:`Wire` is one connection, a :class:`Link` makes it again whenever it ends, and a :class:`Line`
sends over a link what changes the store, or reads of it what no verdict rests on.
"""

import asyncio
import collections
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import hiredis

from service.errors import StoreUnavailable

_BACKOFF_S: Final = (0.02, 0.05, 0.1, 0.2, 0.4)

_INCOMPLETE: Final = object()

Replies = list[Any]
Done = Callable[[Replies | None], None]
Command = tuple[Any, ...]


class ConnectionLost(Exception):
    """The connection ended; a command may or may not have been carried out."""


class TooFewReplicas(Exception):
    """A change stands on the primary, but too few replicas have said that they have it."""


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
    and every command still under way is given back to its ``done`` with None.

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
        assert self._transport is not None  # noqa: S101  # a wire is handed out only once connected
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
            except StoreUnavailable as error:
                self.down = str(error)
                self._changed(error)
                await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
                attempt += 1
            else:
                if wire.open:
                    self.wire = wire
        self.down = None
        self._task = None
        self._changed(None)


class Confirmation:
    """How many replicas must have a change before it counts, and which server has shown so many of late.

    A primary that was cut off from its replicas goes on answering, while another may have been promoted.
    Hence none is believed that has not had a change confirmed within :data:`FRESH_S`.
    """

    FRESH_S: Final = 2.0
    BEAT_S: Final = FRESH_S / 8

    @staticmethod
    def heartbeat(key: str) -> Command:
        """A change to be confirmed where there is no other; it is gone 10 s after the last one."""
        return ("SET", key, 1, "PX", 10_000)

    def __init__(self, replicas: int, *, fsync: bool, timeout: float) -> None:
        """Confirm by replicas.

        Args:
            replicas: So many at least.
            fsync: Whether they and the primary must have it on disk (``WAITAOF``).
            timeout: For how long to wait for them, in seconds.
        """
        self.replicas: Final = replicas
        wait = ("WAITAOF", 1) if fsync else ("WAIT",)
        self.command: Final = pack([(*wait, replicas, int(timeout * 1000) or 1)])
        self._server = ""
        self._shown = 0.0

    def take(self, reply: Any, server: str, sent: float) -> bool:
        """Whether a reply to :attr:`command`, sent at a time by the loop's clock, says that enough do."""
        if isinstance(reply, Exception):
            return False
        local, replicas = reply if isinstance(reply, list) else (1, reply)
        if local < 1 or replicas < self.replicas:
            return False
        self._server, self._shown = server, sent
        return True

    def stale(self, server: str, now: float) -> bool:
        """Whether a server has not shown enough replicas for too long."""
        return server != self._server or now - self._shown > self.FRESH_S


class _Turn:
    """What one turn of the event loop sends: the commands, and who waits for how many replies."""

    __slots__ = ("asked", "packed", "timer")

    def __init__(self) -> None:
        self.packed: list[bytes] = []
        self.asked: list[tuple[asyncio.Future[Replies], int]] = []
        self.timer: asyncio.TimerHandle | None = None

    def fail(self, error: Exception) -> None:
        if self.timer is not None:
            self.timer.cancel()
        for future, _ in self.asked:
            if not future.done():
                future.set_exception(error)


class Line:
    """Sends what comes in one turn of the event loop in one write; while it is down, fails at once.

    With a :class:`Confirmation` all that one turn sends is confirmed together, and counts only then.
    """

    def __init__(self, connect: Connect, *, timeout: float, confirmation: Confirmation | None = None) -> None:
        """Nothing connects before the first use.

        Args:
            connect: Makes a wire.
            timeout: For one round trip, in seconds.
            confirmation: What must confirm a change; every command is taken for one.
        """
        self._link: Final = Link(connect, self._changed)
        self._timeout: Final = timeout if confirmation is None else 2 * timeout
        self._confirmation: Final = confirmation
        self._turn: _Turn | None = None
        self._unsent: list[_Turn] = []

    @property
    def server(self) -> str:
        """Which server it leads to now, as :attr:`Wire.server`; empty while to none."""
        return "" if self._link.wire is None else self._link.wire.server

    async def execute(self, *command: Any) -> Any:
        """Send one command; returns the reply.

        Raises:
            ConnectionLost: the connection ended; the command may or may not have been carried out.
            TimeoutError: likewise, no answer in time: the connection is ended.
            TooFewReplicas: it was carried out, but is not confirmed.
            StoreUnavailable: there is no connection to be had; nothing was sent.
            Refused: by the server.
        """
        [reply] = await self._send(hiredis.pack_command(command), 1)
        if isinstance(reply, Exception):
            raise Refused(str(reply))
        return reply

    async def pipeline(self, commands: Sequence[Command]) -> Replies:
        """Send commands in one write, not as a transaction; raises as :meth:`execute`, the first refusal."""
        replies = await self.ask(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise Refused(str(reply))
        return replies

    def ask(self, commands: Sequence[Command]) -> "asyncio.Future[Replies]":
        """As :meth:`pipeline`, with refusals among the replies as values."""
        return self._send(pack(commands), len(commands))

    async def close(self) -> None:
        """End the connection; what is under way fails."""
        await self._link.close()
        for turn in self._unsent:
            turn.fail(StoreUnavailable("the service is stopping"))

    def hang_up(self) -> None:
        """End the connection, which may lead elsewhere by now; what is under way fails."""
        self._link.hang_up()

    def _send(self, packed: bytes, replies: int) -> "asyncio.Future[Replies]":
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Replies] = loop.create_future()
        link = self._link
        if link.wire is None:
            if link.down is not None:
                answered.set_exception(StoreUnavailable(link.down))
                return answered
            link.open()
        turn = self._turn
        if turn is None:
            turn = self._turn = _Turn()
            loop.call_soon(self._leave)
        turn.packed.append(packed)
        turn.asked.append((answered, replies))
        return answered

    def _leave(self) -> None:
        turn, self._turn = self._turn, None
        assert turn is not None  # noqa: S101  # called once for each
        turn.timer = asyncio.get_running_loop().call_later(self._timeout, self._late, turn)
        if self._link.wire is not None:
            self._transmit(turn, self._link.wire)
        elif self._link.down is not None:
            turn.fail(StoreUnavailable(self._link.down))
        else:
            self._unsent.append(turn)

    def _transmit(self, turn: _Turn, wire: Wire) -> None:
        count = sum(replies for _, replies in turn.asked)
        if self._confirmation is not None:
            turn.packed.append(self._confirmation.command)
            count += 1
        sent = asyncio.get_running_loop().time()
        wire.send(b"".join(turn.packed), count, functools.partial(self._answered, turn, wire.server, sent))

    def _answered(self, turn: _Turn, server: str, sent: float, replies: Replies | None) -> None:
        if replies is None:
            turn.fail(ConnectionLost("the connection to the store broke"))
            return
        assert turn.timer is not None  # noqa: S101  # set before it left
        turn.timer.cancel()
        confirmed = self._confirmation is None or self._confirmation.take(replies.pop(), server, sent)
        place = 0
        for future, count in turn.asked:
            said = replies[place : place + count]
            place += count
            if future.done():
                continue
            if confirmed or any(isinstance(reply, Exception) for reply in said):
                future.set_result(said)
            else:
                future.set_exception(TooFewReplicas("too few replicas have confirmed the change"))

    def _late(self, turn: _Turn) -> None:
        if turn in self._unsent:
            self._unsent.remove(turn)
        else:
            self._link.hang_up()
        turn.fail(TimeoutError("the store did not answer in time"))

    def _changed(self, error: StoreUnavailable | None) -> None:
        unsent, self._unsent = self._unsent, []
        for turn in unsent:
            if error is None and self._link.wire is not None:
                self._transmit(turn, self._link.wire)
            else:
                turn.fail(error or ConnectionLost("the connection to the store broke"))


def pack(commands: Sequence[Command]) -> bytes:
    """Commands as they go over the wire."""
    return b"".join(map(hiredis.pack_command, commands))


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
