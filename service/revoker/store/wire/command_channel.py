"""Lines send what changes the store, or reads of it what no verdict rests on, and have changes confirmed."""

import asyncio
import functools
from collections.abc import Sequence
from typing import Any, Final

import hiredis

from revoker.errors import ReplyNotUnderstood, StoreUnavailable
from revoker.store.wire.connection import (
    Command,
    Connect,
    ConnectionLost,
    Link,
    Refused,
    Replies,
    TooFewReplicas,
    Wire,
    pack,
)


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
        self._name: Final = wait[0]
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

    def complaint(self, reply: Any) -> str:
        """What is wrong with a reply that was not enough."""
        if isinstance(reply, Exception):
            return f"the store answered {self._name} with {Refused(str(reply)).code}"
        return "too few replicas have confirmed the change"

    def stale(self, server: str, now: float) -> bool:
        """Whether a server has not shown enough replicas for too long."""
        return server != self._server or now - self._shown > self.FRESH_S


TOGETHER: Final = 16
"""So many requests at most leave in one write: the server is at work on them while more are being made.

Where replicas confirm, all of one turn leave together, and wait for the replicas once.
"""


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
    """Sends what comes in one turn of the event loop in few writes; while it is down, fails at once.

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
        self._together: Final = TOGETHER if confirmation is None else 0
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
        if len(turn.asked) == self._together:
            self._leave()
        return answered

    def _leave(self) -> None:
        turn, self._turn = self._turn, None
        if turn is None:  # it left before the end of the turn
            return
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
        try:
            self._hand_out(turn, server, sent, replies)
        except Exception as error:
            turn.fail(ReplyNotUnderstood())
            raise ReplyNotUnderstood from error  # ends the connection

    def _hand_out(self, turn: _Turn, server: str, sent: float, replies: Replies) -> None:
        assert turn.timer is not None  # noqa: S101  # set before it left
        turn.timer.cancel()
        complaint = ""
        if self._confirmation is not None:
            reply = replies.pop()
            if not self._confirmation.take(reply, server, sent):
                complaint = self._confirmation.complaint(reply)
        place = 0
        for future, count in turn.asked:
            said = replies[place : place + count]
            place += count
            if future.done():
                continue
            if complaint and not any(isinstance(each, Exception) for each in said):
                future.set_exception(TooFewReplicas(complaint, said))
            else:
                future.set_result(said)

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
