"""Finds what applies to tokens, in batches: lookups of one turn of the event loop leave as one command.

A single lookup waits for nobody: its batch leaves at the end of the turn in which it was made. Several
batches may be in flight, so that none waits for the round trip of another. What happens to a batch:

    find → waiting → _send → in flight → _answered → every future gets its result
                        ↑                    |  connection lost: sent once more, if there is time
                        └── settled ←────────┘  reading below the watermark: settled, then sent once more

Every batch reads, in one write, its keys, the epoch and the two numbers of their data sets, ``TIME`` and
``ROLE`` (``INFO replication`` where that is refused); so no verdict rests on anything older than its request.
``TIME`` is read first: a cutoff made meanwhile, which this reading does not show, is then never dated
before it.
"""

import asyncio
import collections
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

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
from revoker.store.consistency.clocks import Clocks
from revoker.store.keys import TokenKeys
from revoker.store.source import Found, LastRead
from revoker.store.wire.addresses import Connectable
from revoker.store.wire.command_channel import Confirmation
from revoker.store.wire.connection import (
    Connection,
    ReconnectingConnection,
    Replies,
    answered_with,
    pack,
    replicas_in,
    role_in,
)

if TYPE_CHECKING:
    from revoker.tracing.spans import Spans

_log = structlog.get_logger("store")

BATCH: Final = 512
"""Most lookups in one command: a longer one would delay the server's other clients."""

MAX_IN_FLIGHT: Final = 32
MAX_WAITING: Final = 65536

NO_KEYS: Final[TokenKeys] = (None, None, None, None, None, None)

TIME: Final = pack([("TIME",)])

_PROBE_PAUSE_S: Final = 1.0
"""A new connection may lead to a server that has lost data, so it is probed at once. It is not
probed within this time after one that led to a replica or to malformed replies: the probe ends such a
connection, and another follows."""


class Group:
    """Collects the results of several lookups into one future."""

    __slots__ = ("__weakref__", "_future", "_missing", "_results")

    def __init__(self, size: int, future: "asyncio.Future[list[Found]]") -> None:
        self._results: list[Any] = [None] * size
        self._missing = size
        self._future = future

    def done(self) -> bool:
        return self._future.done()

    def put(self, index: int, found: Found) -> None:
        self._results[index] = found
        self._missing -= 1
        if not self._missing and not self._future.done():
            self._future.set_result(self._results)

    def set_exception(self, error: Exception) -> None:
        self._future.set_exception(error)


Request = tuple[TokenKeys, asyncio.Future[Found], None] | tuple[TokenKeys, Group, int]
"""Keys, and where the result goes: a future, or an index of a group."""


class Batch:
    """Requests that are sent together.

    Attributes:
        deadline: By the loop's clock.
        before: What the reader noted of the data sets when it was sent, such as their watermarks.
        sent: When it was sent last, by the service's clock.
        tries: How often it was sent.
    """

    __slots__ = ("before", "connection", "deadline", "keys", "requests", "sent", "tries")

    def __init__(self, requests: list[Request], deadline: float) -> None:
        self.requests = requests
        self.deadline = deadline
        self.keys: dict[str | None, None] = {}
        self.connection: Connection | None = None
        self.before: Any = None
        self.sent = 0.0
        self.tries = 0

    @property
    def server(self) -> str:
        """The id of the server that it was sent to."""
        return "" if self.connection is None else self.connection.server


CheckServer = Callable[[Batch, int, Any], None]
"""Given a batch, ``TIME`` (ms) and the reply to ``ROLE``; raises ``NoVerdict`` if the server is not trusted.

The reply may be one to ``INFO replication`` instead.
"""


class BatchReader(Protocol):
    """How the keys of a batch are read, and what the replies mean for its requests."""

    def pack(self, batch: Batch, role: bytes) -> tuple[bytes, int]:
        """The commands that read a batch, encoded, and their number of replies; the last is ``role``."""

    def answer(self, batch: Batch, replies: Replies, check_server: CheckServer) -> Batch | None:
        """Give every request its result.

        Returns:
            The requests whose data sets have lost data and must be settled first, if any.

        Raises:
            NoVerdict: all requests fail.
        """

    async def settle(self, batches: Sequence[Batch]) -> None:
        """Settle the losses for which :meth:`answer` returned these; raises ``NoVerdict``."""

    def last_loss(self, keys: TokenKeys) -> int:
        """As :attr:`LastRead.loss`; raises ``StoreRefused`` if a data set allows no verdict."""


class BatchedLookups:
    """As :class:`revoker.store.source.Lookups`, at one server.

    Attributes:
        waiting: Requests that have not been sent.
        in_flight: Batches that were sent and are not answered.
    """

    def __init__(
        self,
        server: Connectable,
        reader: BatchReader,
        *,
        metrics: Metrics,
        clocks: Clocks,
        confirmation: Confirmation | None = None,
        probe: bool = False,
    ) -> None:
        """Nothing connects before :meth:`open`.

        Args:
            server: To connect to.
            reader: Reads the batches.
            metrics: Where to count.
            clocks: Compared with ``TIME`` of every batch.
            confirmation: Of writes at the server, whose primary is trusted only while it has its replicas.
            probe: Whether every new connection is read from at once, to detect lost data.
        """
        self._timeout = server.timeout
        self._reader: Final = reader
        self._connection = ReconnectingConnection(server.connect, self._connection_changed)
        self._confirmation = confirmation
        self._metrics = metrics
        self._observe_seconds = metrics.deferred.observing(metrics.lookup_seconds)
        self._observe_batch = metrics.deferred.observing(metrics.lookup_batch)
        self._clocks = clocks
        self._probes: Final = probe
        self._probe_failed_at = -_PROBE_PAUSE_S
        self._logged_down = False
        self._loop: asyncio.AbstractEventLoop
        self._shared: dict[TokenKeys, asyncio.Future[Found]] = {}
        self._taken = 0
        self._turns: collections.deque[tuple[int, float]] = collections.deque()
        self._again: list[Batch] = []
        self._unsettled: list[Batch] = []
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.waiting: list[Request] = []
        self.in_flight: dict[Batch, None] = {}

    def open(self) -> None:
        """Start connecting; lookups wait for the connection up to the time-out."""
        self._loop = asyncio.get_running_loop()
        self._connection.open()

    async def close(self) -> None:
        """Close the connection; lookups in flight fail."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        await self._connection.close()
        self._fail_all(StoreUnavailable("the service is stopping"))

    @property
    def ahead(self) -> float:
        return self._clocks.ahead

    def last_read(self, keys: TokenKeys) -> LastRead:
        if self._clocks.apart is not None:
            raise StoreRefused(self._clocks.apart)
        return LastRead(self._clocks.store_ms, self._reader.last_loss(keys))

    def reconnect(self) -> None:
        self._connection.reconnect()

    def find(self, keys: TokenKeys) -> "asyncio.Future[Found]":
        """As :meth:`revoker.store.source.Lookups.find`; cancelling it affects no other lookup."""
        future: asyncio.Future[Found] = self._loop.create_future()
        if self._admits(1, future):
            self.waiting.append((keys, future, None))
        return future

    def find_shared(self, keys: TokenKeys) -> "asyncio.Future[Found]":
        """As :meth:`find`, for keys that many ask for: all who ask in one turn get the same future.

        It is read after the last of them asked, as every batch is. Cancelling it cancels it for all.
        """
        future = self._shared.get(keys)
        if future is None or future.done():
            future = self._shared[keys] = self.find(keys)
        return future

    def find_all(self, keys: Sequence[TokenKeys]) -> Awaitable[list[Found]]:
        future: asyncio.Future[list[Found]] = self._loop.create_future()
        if not keys:
            future.set_result([])
            return future
        if self._admits(len(keys), future):
            group = Group(len(keys), future)
            self.waiting += [(token_keys, group, index) for index, token_keys in enumerate(keys)]
        return future

    async def touch(self) -> None:
        await self.find(NO_KEYS)

    def _admits(self, count: int, result: "asyncio.Future[Any]") -> bool:
        """Whether so many more may wait, to leave at the end of this turn; if not, the result fails."""
        if self._connection.failure is not None or len(self.waiting) + count > MAX_WAITING:
            error = self._connection.failure or "too many lookups are waiting"
            result.set_exception(StoreUnavailable(error))
            return False
        if not self._scheduled:
            self._scheduled = True
            self._turns.append((self._taken + len(self.waiting), self._loop.time()))
            self._loop.call_soon(self._send)
        return True

    def _waiting_since(self) -> float:
        """When the turn began in which the first waiting request was made."""
        turns = self._turns
        while len(turns) > 1 and turns[1][0] <= self._taken:
            turns.popleft()
        return turns[0][1]

    def _take(self, count: int) -> list[Request]:
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        self._taken += len(taken)
        return taken

    def _send(self) -> None:
        self._scheduled = False
        self._shared.clear()
        if self._timer is None and (self.waiting or self._again):
            self._timer = self._loop.call_later(self._timeout, self._expire)
        while (connection := self._connection.connection) is not None and len(self.in_flight) < MAX_IN_FLIGHT:
            if self._again:
                batch = self._again.pop(0)
            elif self.waiting:
                deadline = self._waiting_since() + self._timeout
                batch = Batch(self._take(BATCH), deadline)
            else:
                return
            batch.connection = connection
            packed, replies = self._reader.pack(batch, connection.role)
            batch.sent = self._clocks.now()
            batch.tries += 1
            self.in_flight[batch] = None
            connection.send(packed, replies, functools.partial(self._answered, batch))

    def _answered(self, batch: Batch, replies: Replies | None) -> None:
        if batch not in self.in_flight:
            return
        del self.in_flight[batch]
        if self.waiting or self._again:
            self._send()
        if replies is None:
            self._send_again(batch)
            return
        try:
            unsettled = self._reader.answer(batch, replies, self._check_server)
            if unsettled is not None:
                self._settle(unsettled)
        except NoVerdict as error:
            self._fail(batch, error)
        except ValueError as error:
            _log.error("store_unreadable", error=str(error))
            self._fail(batch, StoreRefused("the store holds what can't be read"))
        except Exception as error:  # noqa: BLE001  # the batch is not in flight any more: it would never fail
            _log.error("store_unreadable", error=repr(error))
            self._fail(batch, ReplyNotUnderstood())
            if batch.connection is not None:
                batch.connection.abort()

    def _check_server(self, batch: Batch, now: int, role: Any) -> None:
        """As :data:`CheckServer`."""
        if role.__class__ is not list:
            role = self._role_in(role)
        received = self._clocks.now()
        self._observe_seconds(received - batch.sent)
        self._observe_batch(len(batch.requests))
        if role[0] != b"master":
            self._connection.reconnect()
            raise NotPrimary("the store's server is not a primary")
        if (apart := self._clocks.compare(now, batch.sent, received)) is not None:
            raise StoreRefused(apart)
        if self._confirmation is not None:
            assert batch.connection is not None  # noqa: S101  # it was sent
            server, replicas = batch.connection.server, replicas_in(role)
            if not self._confirmation.trusts(server, replicas, self._loop.time()):
                raise PrimaryStale

    def _role_in(self, reply: Any) -> list[Any]:
        if isinstance(reply, Exception):  # the next login asks in another way
            self._connection.reconnect()
            raise StoreUnavailable(answered_with(reply, "ROLE")) from reply
        return role_in(reply)

    def _send_again(self, batch: Batch) -> None:
        if batch.tries < 2 and self._connection.failure is None and not self._closed:
            self._again.append(batch)
            self._send()
        else:
            error = self._connection.failure or "the connection to the store broke"
            self._fail(batch, StoreUnavailable(error))

    def _settle(self, batch: Batch) -> None:
        self._unsettled.append(batch)
        if len(self._unsettled) == 1:
            task: asyncio.Task[None] = self._loop.create_task(self._settle_all())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _settle_all(self) -> None:
        failure: NoVerdict | None = StoreUnavailable("the loss of data could not be settled")
        try:
            await self._reader.settle(self._unsettled)
            failure = None
        except NoVerdict as error:
            failure = error
        except Exception:  # noqa: BLE001  # the waiting requests fail below
            _log.exception("settlement_failed")
        finally:
            batches, self._unsettled = self._unsettled, []
            for batch in batches:
                if failure is not None:
                    self._fail(batch, failure)
                elif batch.tries > 2:
                    self._fail(batch, StoreUnavailable("the store does not show what was settled"))
                    self._connection.reconnect()  # it may lead to another server than that of the settlement
                else:
                    self._again.append(batch)
        self._send()

    def _fail(self, batch: Batch, error: NoVerdict) -> None:
        self._metrics.lookup_errors.inc()
        for _, result, _ in batch.requests:
            if not result.done():
                result.set_exception(error)

    def _fail_all(self, error: NoVerdict) -> None:
        waiting = self._take(len(self.waiting))
        again, self._again = self._again, []
        for batch in [*self.in_flight, *again, Batch(waiting, 0)]:
            if batch.requests:
                self._fail(batch, error)

    def _expire(self) -> None:
        """Fail what has waited longer than the time-out; a connection that is late is replaced."""
        self._timer = None
        now = self._loop.time()
        late = StoreUnavailable("the store did not answer in time")
        stuck = [batch for batch in self.in_flight if batch.deadline <= now]
        for batch in stuck:
            del self.in_flight[batch]
            self._fail(batch, late)
        unsettled = StoreRefused("what the store may have lost is being settled")
        for batches, error in ((self._again, late), (self._unsettled, unsettled)):
            for batch in [batch for batch in batches if batch.deadline <= now]:
                batches.remove(batch)
                self._fail(batch, error)
        in_time = [first for first, made in self._turns if made + self._timeout > now]
        count = max(0, in_time[0] - self._taken) if in_time else len(self.waiting)
        if count and self.waiting:
            self._fail(Batch(self._take(count), 0), late)
        if stuck:
            self._connection.reconnect()
        deadlines = [batch.deadline for batch in (*self.in_flight, *self._again, *self._unsettled)]
        if self.waiting:
            deadlines.append(self._waiting_since() + self._timeout)
        if deadlines:
            self._timer = self._loop.call_at(max(min(deadlines), now + 0.001), self._expire)

    def _connection_changed(self, error: StoreUnavailable | None) -> None:
        self._metrics.store_up.set(error is None)
        if error is None:
            if self._probes and self._loop.time() - self._probe_failed_at >= _PROBE_PAUSE_S:
                self.find(NO_KEYS).add_done_callback(self._probed)
            if self._logged_down:
                _log.info("store_up")
            self._send()
        else:
            if not self._logged_down:
                _log.error("store_down", error=str(error), cause=repr(error.__cause__))
            self._fail_all(error)
        self._logged_down = error is not None

    def _probed(self, probe: "asyncio.Future[Found]") -> None:
        if not probe.cancelled() and isinstance(probe.exception(), (NotPrimary, ReplyNotUnderstood)):
            self._probe_failed_at = self._loop.time()


def lookups_with(spans: "Spans | None") -> Callable[..., BatchedLookups]:
    """What makes the lookups of a server: those with spans where there are any."""
    if spans is None:
        return BatchedLookups
    from revoker.store.traced import TracedLookups  # noqa: PLC0415  # its libraries are an extra

    return functools.partial(TracedLookups, spans=spans)


def deliver(request: Request, found: Found) -> None:
    """Give a request its result."""
    _, result, index = request
    if isinstance(result, Group):
        result.put(index, found)  # type: ignore[arg-type]  # requests of a group have an index
    elif not result.done():
        result.set_result(found)
