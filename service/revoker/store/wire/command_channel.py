"""Channels for writes and administrative reads, with optional ``WAIT`` for replicas."""

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis

from revoker.errors import ReplyNotUnderstood, StoreUnavailable
from revoker.store.wire.addresses import PrimaryLocator
from revoker.store.wire.connection import (
    Command,
    Connect,
    Connection,
    ConnectionLost,
    ReconnectingConnection,
    Refused,
    Replies,
    TooFewReplicas,
    pack,
)


class Confirmation:
    """How many replicas must confirm a write, and which server verdicts may rest on.

    A primary that is partitioned from its replicas continues to answer while another may have been promoted.
    Hence a server is trusted if it had a write confirmed within the last :data:`FRESH_S`.

    After a failover a primary may have too few replicas for that. It is trusted all the same if Sentinels
    name it, and count no more other servers than must confirm a write. Another primary would be one of these,
    and lack one replica: it could acknowledge nothing.
    """

    FRESH_S: Final = 2.0
    BEAT_S: Final = FRESH_S / 8

    @staticmethod
    def heartbeat(key: str) -> Command:
        """A write to be confirmed when there is no other; its key expires after 10 s."""
        return ("SET", key, 1, "PX", 10_000)

    def __init__(
        self, replicas: int, *, fsync: bool, timeout: float, locator: PrimaryLocator | None = None
    ) -> None:
        """No server has been confirmed yet.

        Args:
            replicas: How many must confirm, at least.
            fsync: Whether they and the primary must have it on disk (``WAITAOF``).
            timeout: How long to wait for them, in seconds.
            locator: Says what Sentinels name; None: there are none.
        """
        self._locator: Final = locator
        self.replicas: Final = replicas
        wait = ("WAITAOF", 1) if fsync else ("WAIT",)
        self._name: Final = wait[0]
        self.command: Final = pack([(*wait, replicas, int(timeout * 1000) or 1)])
        self._server = ""
        self._confirmed_at = 0.0

    def record(self, reply: Any, server: str, sent: float) -> bool:
        """Whether a reply to :attr:`command` confirms; ``sent`` is by the loop's clock."""
        if isinstance(reply, Exception):
            return False
        local, replicas = reply if isinstance(reply, list) else (1, reply)
        if local < 1 or replicas < self.replicas:
            return False
        self._server, self._confirmed_at = server, sent
        return True

    def complaint(self, reply: Any) -> str:
        """Why a reply does not confirm."""
        if isinstance(reply, Exception):
            return f"the store answered {self._name} with {Refused(str(reply)).code}"
        return "too few replicas have confirmed the change"

    def confirmed_since(self, server: str, time: float) -> bool:
        """Whether a server had a write confirmed that was sent after a time, by the loop's clock."""
        return server == self._server and self._confirmed_at > time

    def stale(self, server: str, now: float) -> bool:
        """Whether a server had no write confirmed within :data:`FRESH_S`."""
        return server != self._server or now - self._confirmed_at > self.FRESH_S

    def is_late(self, server: str, now: float) -> bool:
        """Whether a server has missed a beat."""
        return server != self._server or now - self._confirmed_at > 2 * self.BEAT_S

    def trusts(self, server: str, replicas: int, now: float) -> bool:
        """Whether verdicts may rest on a primary to which so many replicas are connected.

        If the last writes of one with too few replicas were confirmed, Sentinels must have had time to name
        another primary, to which its replicas may have gone. That can be one that Sentinels do not know.
        """
        if replicas >= self.replicas and not self.stale(server, now):
            return True
        naming = None if self._locator is None else self._locator.naming
        if naming is None or naming.server != server or now - naming.asked > self.FRESH_S:
            return False
        if naming.others is None or naming.others > self.replicas:
            return False
        had_none = self._server not in {"", server}
        return had_none or naming.asked - max(self._confirmed_at, naming.since) >= self.FRESH_S


REQUESTS_PER_WRITE: Final = 16
"""Most requests in one write, so that the server begins with these while this process prepares more.

Where replicas confirm, all requests of one turn of the event loop share one write and one ``WAIT``.
"""


class _Write:
    """Requests that are sent together: their commands, and for each its future and number of replies."""

    __slots__ = ("packed", "requests", "timer")

    def __init__(self) -> None:
        self.packed: list[bytes | None] = []  # None: the command for the role, which the connection chooses
        self.requests: list[tuple[asyncio.Future[Replies], int]] = []
        self.timer: asyncio.TimerHandle | None = None

    def fail(self, error: Exception) -> None:
        if self.timer is not None:
            self.timer.cancel()
        for future, _ in self.requests:
            if not future.done():
                future.set_exception(error)


class CommandChannel:
    """Sends the commands of one turn of the event loop in few writes; without a connection they fail at once.

    With a :class:`Confirmation` all commands of one write are confirmed together, and fail if they are not.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        timeout: float,
        confirmation: Confirmation | None = None,
        connected: Callable[[], None] | None = None,
    ) -> None:
        """Nothing connects before the first use.

        Args:
            connect: Opens a connection.
            timeout: For one round trip, in seconds; doubled where replicas confirm.
            confirmation: Confirms every command; None: no replicas are waited for.
            connected: Called when there is a connection.
        """
        self._connected: Final = connected
        self._reconnecting: Final = ReconnectingConnection(connect, self._changed)
        self._timeout: Final = timeout if confirmation is None else 2 * timeout
        self._confirmation: Final = confirmation
        self._requests_per_write: Final = REQUESTS_PER_WRITE if confirmation is None else 0
        self._next_write: _Write | None = None
        self._unsent: list[_Write] = []

    @property
    def server(self) -> str:
        """As :attr:`Connection.server`; empty while there is no connection."""
        return "" if self._reconnecting.connection is None else self._reconnecting.connection.server

    async def execute(self, *command: Any) -> Any:
        """Send one command; returns the reply.

        Raises:
            ConnectionLost: the connection ended; the command may or may not have been carried out.
            TimeoutError: likewise, no answer in time: the connection is ended.
            TooFewReplicas: it was carried out, but not confirmed.
            StoreUnavailable: there is no connection; nothing was sent.
            Refused: the server answered with an error.
        """
        [reply] = await self._send(hiredis.pack_command(command), 1)
        if isinstance(reply, Exception):
            raise Refused(str(reply))
        return reply

    async def pipeline(self, commands: Sequence[Command], *, with_role: bool = False) -> Replies:
        """Send commands in one write, not as a transaction; raises the first error, as :meth:`execute`.

        Args:
            commands: To send.
            with_role: Whether to ask for the role as well; the last reply is that of ``role_in``.
        """
        replies = await self._send(pack(commands), len(commands) + with_role, with_role=with_role)
        for reply in replies:
            if isinstance(reply, Exception):
                raise Refused(str(reply))
        return replies

    def ask(self, commands: Sequence[Command]) -> "asyncio.Future[Replies]":
        """As :meth:`pipeline`, with errors among the replies as values."""
        return self._send(pack(commands), len(commands))

    async def close(self) -> None:
        """Close the connection; requests in flight fail."""
        await self._reconnecting.close()
        for write in self._unsent:
            write.fail(StoreUnavailable("the service is stopping"))

    def reconnect(self) -> None:
        """Replace the connection, which may lead to the wrong server; requests in flight fail."""
        self._reconnecting.reconnect()

    def _send(self, packed: bytes, replies: int, *, with_role: bool = False) -> "asyncio.Future[Replies]":
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Replies] = loop.create_future()
        reconnecting = self._reconnecting
        if reconnecting.connection is None:
            if reconnecting.failure is not None:
                answered.set_exception(StoreUnavailable(reconnecting.failure))
                return answered
            reconnecting.open()
        write = self._next_write
        if write is None:
            write = self._next_write = _Write()
            loop.call_soon(self._flush)
        write.packed.append(packed)
        if with_role:
            write.packed.append(None)
        write.requests.append((answered, replies))
        if len(write.requests) == self._requests_per_write:
            self._flush()
        return answered

    def _flush(self) -> None:
        write, self._next_write = self._next_write, None
        if write is None:  # it was full, and sent before the end of the turn
            return
        write.timer = asyncio.get_running_loop().call_later(self._timeout, self._late, write)
        if self._reconnecting.connection is not None:
            self._transmit(write, self._reconnecting.connection)
        elif self._reconnecting.failure is not None:
            write.fail(StoreUnavailable(self._reconnecting.failure))
        else:
            self._unsent.append(write)

    def _transmit(self, write: _Write, connection: Connection) -> None:
        count = sum(replies for _, replies in write.requests)
        if self._confirmation is not None:
            write.packed.append(self._confirmation.command)
            count += 1
        sent = asyncio.get_running_loop().time()
        connection.send(
            b"".join([connection.role if packed is None else packed for packed in write.packed]),
            count,
            functools.partial(self._answered, write, connection.server, sent),
        )

    def _answered(self, write: _Write, server: str, sent: float, replies: Replies | None) -> None:
        if replies is None:
            write.fail(ConnectionLost("the connection to the store broke"))
            return
        try:
            self._deliver(write, server, sent, replies)
        except Exception as error:
            write.fail(ReplyNotUnderstood())
            raise ReplyNotUnderstood from error  # ends the connection

    def _deliver(self, write: _Write, server: str, sent: float, replies: Replies) -> None:
        assert write.timer is not None  # noqa: S101  # set when it was flushed
        write.timer.cancel()
        complaint = ""
        if self._confirmation is not None:
            reply = replies.pop()
            if not self._confirmation.record(reply, server, sent):
                complaint = self._confirmation.complaint(reply)
        start = 0
        for future, count in write.requests:
            own = replies[start : start + count]
            start += count
            if future.done():
                continue
            if complaint and not any(isinstance(reply, Exception) for reply in own):
                future.set_exception(TooFewReplicas(complaint, own))
            else:
                future.set_result(own)

    def _late(self, write: _Write) -> None:
        if write in self._unsent:
            self._unsent.remove(write)
        else:
            self._reconnecting.reconnect()
        write.fail(TimeoutError("the store did not answer in time"))

    def _changed(self, error: StoreUnavailable | None) -> None:
        unsent, self._unsent = self._unsent, []
        for write in unsent:
            if error is None and self._reconnecting.connection is not None:
                self._transmit(write, self._reconnecting.connection)
            else:
                write.fail(error or ConnectionLost("the connection to the store broke"))
        if error is None and self._connected is not None:
            self._connected()
