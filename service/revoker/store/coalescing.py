"""Lookups that coalesce: all that wait in one turn of the event loop leave as one command.

A request that is alone waits for nobody, since its batch leaves at the end of the very turn in which it
came. Several batches may be under way, so nobody waits for another's round trip.

What happens to a batch:

    find → waiting → _send → under way → _answered → _judge → every future gets its own
                        ↑                    |  connection lost: once more, if there is time
                        └── settled ←────────┘  numbers too low: the loss is settled first, then once more
"""

import asyncio
import collections
import functools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import structlog

from revoker.errors import (
    NotPrimary,
    NoVerdict,
    PrimaryStale,
    ReplyNotUnderstood,
    StoreRefused,
    StoreUnavailable,
)
from revoker.metrics import Metrics
from revoker.models import Standing
from revoker.store.consistency.clocks import Clocks
from revoker.store.keys import TokenKeys
from revoker.store.wire.addresses import Reachable
from revoker.store.wire.command_channel import Confirmation
from revoker.store.wire.connection import Link, Replies, Wire

_log = structlog.get_logger("store")

BATCH: Final = 512
"""Lookups in one command at most: longer ones would keep the server from everybody else."""

NO_KEYS: Final[TokenKeys] = (None, None, None, None, None, None)

UNDER_WAY: Final = 32
WAITING: Final = 65536


class Found:
    """What the store said about one token, and its ``TIME`` (ms) when it said so."""

    __slots__ = ("now", "standing")

    def __init__(self, standing: Standing, now: int) -> None:
        self.standing = standing
        self.now = now


class Group:
    """Collects the answers of several lookups into one future."""

    __slots__ = ("_found", "_future", "_missing")

    def __init__(self, size: int, future: "asyncio.Future[list[Found]]") -> None:
        self._found: list[Any] = [None] * size
        self._missing = size
        self._future = future

    def done(self) -> bool:
        return self._future.done()

    def put(self, index: int, found: Found) -> None:
        self._found[index] = found
        self._missing -= 1
        if not self._missing and not self._future.done():
            self._future.set_result(self._found)

    def set_exception(self, error: Exception) -> None:
        self._future.set_exception(error)


@dataclass(frozen=True, slots=True)
class LastRead:
    """What is known of the store while it is away.

    Attributes:
        now: Its time (ms), by the last reading and what has passed since; None where it was never read.
        loss: As :attr:`revoker.models.Standing.loss`.
    """

    now: int | None
    loss: int


Request = tuple[TokenKeys, asyncio.Future[Found], None] | tuple[TokenKeys, Group, int]
"""Keys, and where the answer goes: a future, or a place in a group."""


class Batch:
    """Requests that leave together; what a subclass of :class:`Coalescing` notes of them beside.

    Attributes:
        deadline: By the loop's clock.
        sent: By the service's clock.
    """

    __slots__ = ("deadline", "keys", "known", "requests", "sent", "tries")

    def __init__(self, requests: list[Request], deadline: float) -> None:
        self.requests = requests
        self.deadline = deadline
        self.keys: dict[str | None, None] = {}
        self.known: Any = None
        self.sent = 0.0
        self.tries = 0


class Coalescing(ABC):
    """Lookups at one server: admission, batches, time-outs and the connection."""

    def __init__(
        self,
        address: Reachable,
        *,
        metrics: Metrics,
        clocks: Clocks,
        confirmation: Confirmation | None = None,
    ) -> None:
        """Nothing connects before :meth:`open`.

        Args:
            address: Of the server.
            metrics: Where to count.
            clocks: Told Redis ``TIME`` with every batch; may forbid verdicts.
            confirmation: Where changes are confirmed: forbids verdicts of a primary without replicas.
        """
        self._timeout = address.timeout
        self._link = Link(address.wire, self._changed)
        self._confirmation = confirmation
        self._metrics = metrics
        self._observe_seconds = metrics.deferred.observing(metrics.lookup_seconds)
        self._observe_batch = metrics.deferred.observing(metrics.lookup_batch)
        self._clocks = clocks
        self._loop = asyncio.get_running_loop()
        self._told_down = False
        self._waiting: list[Request] = []
        self._shared: dict[TokenKeys, asyncio.Future[Found]] = {}
        self._left = 0
        self._turns: collections.deque[tuple[int, float]] = collections.deque()
        self._again: list[Batch] = []
        self._unsettled: list[Batch] = []
        self._under_way: dict[Batch, None] = {}
        self._scheduled = False
        self._watch: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @abstractmethod
    def _packed(self, batch: Batch) -> tuple[bytes, int]:
        """The commands of a batch as they go over the wire, and how many replies they have."""

    @abstractmethod
    def _judge(self, batch: Batch, wire: Wire, replies: Replies) -> None:
        """Give every request of a batch what it waits for."""

    @abstractmethod
    async def _settle_data(self, batches: Sequence[Batch]) -> None:
        """Settle what data of these batches was found missing; raises ``NoVerdict``."""

    def open(self) -> None:
        """Begin to connect, and keep at it; what is asked meanwhile waits up to the time-out."""
        self._link.open()

    async def close(self) -> None:
        """End the connection; what is under way fails."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._watch is not None:
            self._watch.cancel()
        await self._link.close()
        self._fail_all(StoreUnavailable("the service is stopping"))

    @property
    def ahead(self) -> float:
        """As :attr:`revoker.store.consistency.clocks.Clocks.ahead`."""
        return self._clocks.ahead

    @abstractmethod
    def last_read(self, keys: TokenKeys) -> "LastRead":
        """What was last read of the store, for a token whose keys can't be looked up.

        Raises:
            StoreRefused: what was read allows no verdict.
        """

    def hang_up(self) -> None:
        """End the connection, which leads elsewhere by now; what is under way is asked once more."""
        self._link.hang_up()

    def find(self, keys: TokenKeys) -> "asyncio.Future[Found]":
        """Look one token up.

        The future fails with ``StoreUnavailable`` where the store is unreachable or late, and with
        ``StoreRefused`` where it may not be believed. Cancelling it harms no other lookup.
        """
        future: asyncio.Future[Found] = self._loop.create_future()
        if self._admits(1, future):
            self._waiting.append((keys, future, None))
        return future

    def find_shared(self, keys: TokenKeys) -> "asyncio.Future[Found]":
        """As :meth:`find`, for what many ask: who asks the same in one turn gets the same future.

        It is read after the last of them asked, as every batch is. Who is cancelled while waiting for it
        cancels it for all of them.
        """
        future = self._shared.get(keys)
        if future is None or future.done():
            future = self._shared[keys] = self.find(keys)
        return future

    def find_all(self, keys: Sequence[TokenKeys]) -> Awaitable[list[Found]]:
        """Look several tokens up; the answers stand in the same order, and fail together."""
        future: asyncio.Future[list[Found]] = self._loop.create_future()
        if not keys:
            future.set_result([])
            return future
        if self._admits(len(keys), future):
            group = Group(len(keys), future)
            self._waiting += [(each, group, index) for index, each in enumerate(keys)]
        return future

    async def touch(self) -> None:
        """Read what every batch reads, and no more; raises as :meth:`find` fails."""
        await self.find(NO_KEYS)

    def _admits(self, count: int, answer: "asyncio.Future[Any]") -> bool:
        """Whether so many more may wait, to leave at the end of this turn; else the answer fails."""
        if self._link.down is not None or len(self._waiting) + count > WAITING:
            answer.set_exception(StoreUnavailable(self._link.down or "too many lookups are waiting"))
            return False
        if not self._scheduled:
            self._scheduled = True
            self._turns.append((self._left + len(self._waiting), self._loop.time()))
            self._loop.call_soon(self._send)
        return True

    def _since(self) -> float:
        """When the turn began in which the first of those waiting came."""
        turns = self._turns
        while len(turns) > 1 and turns[1][0] <= self._left:
            turns.popleft()
        return turns[0][1]

    def _take(self, count: int) -> list[Request]:
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._left += len(taken)
        return taken

    def _send(self) -> None:
        self._scheduled = False
        self._shared.clear()
        if self._watch is None and (self._waiting or self._again):
            self._watch = self._loop.call_later(self._timeout, self._expire)
        while (wire := self._link.wire) is not None and len(self._under_way) < UNDER_WAY:
            if self._again:
                batch = self._again.pop(0)
            elif self._waiting:
                deadline = self._since() + self._timeout
                batch = Batch(self._take(BATCH), deadline)
            else:
                return
            self._transmit(wire, batch)

    def _transmit(self, wire: Wire, batch: Batch) -> None:
        packed, replies = self._packed(batch)
        batch.sent = self._clocks.now()
        batch.tries += 1
        self._under_way[batch] = None
        wire.send(packed, replies, functools.partial(self._answered, batch, wire))

    def _answered(self, batch: Batch, wire: Wire, replies: Replies | None) -> None:
        if batch not in self._under_way:
            return
        del self._under_way[batch]
        if self._waiting or self._again:
            self._send()
        if replies is None:
            self._once_more(batch)
            return
        try:
            self._judge(batch, wire, replies)
        except ValueError as error:
            _log.error("store_unreadable", error=str(error))
            self._fail(batch, StoreRefused("the store holds what can't be read"))
        except Exception as error:  # noqa: BLE001  # the batch is no longer under way: nobody else would fail it
            _log.error("store_unreadable", error=repr(error))
            self._fail(batch, ReplyNotUnderstood())
            wire.abort()

    def _distrust(self, wire: Wire, now: int, role: list[Any], batch: Batch) -> NoVerdict | None:
        """Why nothing that a server says counts, by its ``TIME`` (ms) and ``ROLE``; None where it does."""
        received = self._clocks.now()
        self._observe_seconds(received - batch.sent)
        self._observe_batch(len(batch.requests))
        if role[0] != b"master":
            self._link.hang_up()
            return NotPrimary("the store's server is not a primary")
        if (apart := self._clocks.compare(now, batch.sent, received)) is not None:
            return StoreRefused(apart)
        if self._confirmation is not None and (
            len(role[2]) < self._confirmation.replicas
            or self._confirmation.stale(wire.server, self._loop.time())
        ):
            return PrimaryStale()
        return None

    def _once_more(self, batch: Batch) -> None:
        if batch.tries < 2 and self._link.down is None and not self._closed:
            self._again.append(batch)
            self._send()
        else:
            self._fail(batch, StoreUnavailable(self._link.down or "the connection to the store broke"))

    def _settle(self, batch: Batch) -> None:
        self._unsettled.append(batch)
        if len(self._unsettled) == 1:
            self._start(self._settle_all())

    async def _settle_all(self) -> None:
        failure: NoVerdict | None = StoreUnavailable("the loss of data could not be settled")
        try:
            await self._settle_data(self._unsettled)
            failure = None
        except NoVerdict as error:
            failure = error
        except Exception:  # noqa: BLE001  # those who wait are failed below
            _log.exception("settlement_failed")
        finally:
            batches, self._unsettled = self._unsettled, []
            for batch in batches:
                if failure is not None:
                    self._fail(batch, failure)
                elif batch.tries > 2:
                    self._fail(batch, StoreUnavailable("the store does not show what was settled"))
                    self._link.hang_up()  # it may lead to another server than that of the settlement
                else:
                    self._again.append(batch)
        self._send()

    def _fail(self, batch: Batch, error: NoVerdict) -> None:
        self._metrics.lookup_errors.inc()
        for _, answer, _ in batch.requests:
            if not answer.done():
                answer.set_exception(error)

    def _fail_all(self, error: NoVerdict) -> None:
        waiting = self._take(len(self._waiting))
        again, self._again = self._again, []
        for batch in [*self._under_way, *again, Batch(waiting, 0)]:
            if batch.requests:
                self._fail(batch, error)

    def _expire(self) -> None:
        """Fail what has waited longer than the time-out; a connection that is that late is ended."""
        self._watch = None
        now = self._loop.time()
        late = StoreUnavailable("the store did not answer in time")
        stuck = [batch for batch in self._under_way if batch.deadline <= now]
        for batch in stuck:
            del self._under_way[batch]
            self._fail(batch, late)
        unsettled = StoreRefused("the store has lost data, and that is being settled")
        for batches, error in ((self._again, late), (self._unsettled, unsettled)):
            for batch in [batch for batch in batches if batch.deadline <= now]:
                batches.remove(batch)
                self._fail(batch, error)
        fresh = [first for first, came in self._turns if came + self._timeout > now]
        count = max(0, fresh[0] - self._left) if fresh else len(self._waiting)
        if count and self._waiting:
            self._fail(Batch(self._take(count), 0), late)
        if stuck:
            self._link.hang_up()
        ends = [batch.deadline for batch in (*self._under_way, *self._again, *self._unsettled)]
        if self._waiting:
            ends.append(self._since() + self._timeout)
        if ends:
            self._watch = self._loop.call_at(max(min(ends), now + 0.001), self._expire)

    def _changed(self, error: StoreUnavailable | None) -> None:
        self._metrics.store_up.set(error is None)
        if error is None:
            if self._told_down:
                _log.info("store_up")
            self._send()
        else:
            if not self._told_down:
                _log.error("store_down", error=str(error), cause=repr(error.__cause__))
            self._fail_all(error)
        self._told_down = error is not None

    def _start(self, work: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def hand_over(request: Request, found: Found) -> None:
    _, answer, index = request
    if isinstance(answer, Group):
        answer.put(cast("int", index), found)
    elif not answer.done():
        answer.set_result(found)


def milliseconds(stamp: list[bytes]) -> int:
    """A reply to ``TIME``."""
    return int(stamp[0]) * 1000 + int(stamp[1]) // 1000
