"""Lookups in a cluster: the keys of each request are looked up where they lie, and the results joined.

Lookups are batched per primary, as at a single one. A batch reads the keys of each slot together with
the epoch and numbers of that slot, since every slot is a data set of its own. Only those requests of a batch
are affected that touch a slot which has moved, is being moved, or has lost data.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from revoker.errors import NoVerdict, ReplyNotUnderstood, StoreRefused, StoreUnavailable
from revoker.metrics import Metrics
from revoker.models import NO_REVOCATIONS, Revocation, RevocationState
from revoker.store.cluster.topology import Node, Topology
from revoker.store.consistency.clocks import Clocks
from revoker.store.consistency.data_set import DataSet
from revoker.store.keys import TokenKeys, slot_of
from revoker.store.lookups import TIME, Batch, BatchedLookups, CheckServer, Request, deliver
from revoker.store.source import Found, LastRead
from revoker.store.stored_values import parse_revocation_state, redis_time_ms
from revoker.store.wire.connection import Replies, answered_with, pack

_log = structlog.get_logger("store")

_USER: Final = 1
"""Index of the user's key among the keys of a token."""

_REDIRECTIONS: Final = ("MOVED", "ASK", "TRYAGAIN")


@dataclass(frozen=True, slots=True)
class Values:
    """The values of keys, when each was read (``TIME`` in ms), and the loss cutoff over all their slots."""

    of: dict[str, bytes | None]
    now: dict[str, int]
    loss: int


class SlotDataSets(Protocol):
    """The data sets of the slots: :class:`revoker.store.cluster.source.ClusterSource`."""

    def data_set_numbered(self, part: int) -> DataSet: ...

    async def settle(self, sets: Iterable[DataSet]) -> None: ...

    async def trusted_values(self, keys: Sequence[str]) -> Values: ...


class _SlotMoved(StoreUnavailable):
    """A key is in a slot that has moved or is being moved."""


class _SlotsReader:
    """Reads batches at one primary: the keys of each slot with the numbers of that slot."""

    def __init__(self, sets: SlotDataSets) -> None:
        self._sets = sets

    def pack(self, batch: Batch, role: bytes) -> tuple[bytes, int]:
        by_slot: dict[int, dict[str, int]] = {}
        for keys, _, _ in batch.requests:
            for key in keys:
                if key is not None:
                    by_slot.setdefault(slot_of(key), {})[key] = 0
        sets = [(self._sets.data_set_numbered(slot), list(keys)) for slot, keys in by_slot.items()]
        batch.before = [(data, keys, data.watermark) for data, keys in sets]
        packed = pack([("MGET", *keys, *data.tail) for data, keys in sets])
        return TIME + packed + role, len(sets) + 2

    def answer(self, batch: Batch, replies: Replies, check_server: CheckServer) -> Batch | None:
        stamp, *slot_replies, role = replies
        if isinstance(stamp, Exception):
            raise StoreUnavailable(answered_with(stamp, "TIME"))
        now, server = redis_time_ms(stamp), batch.server
        check_server(batch, now, role)
        values: dict[str, bytes | None] = {}
        failures: dict[str, NoVerdict | None] = {}  # None: the slot must be settled first
        losses: dict[str, int] = {}
        missing = []
        for (data, keys, before), reply in zip(batch.before, slot_replies, strict=True):
            if isinstance(reply, Exception):
                failures |= dict.fromkeys(keys, _failure(reply))
            elif not data.confirms(before, *reply[-4:], now, server):
                failures |= dict.fromkeys(keys)
                missing.append((data, keys, before))
            elif data.refusal is not None:
                failures |= dict.fromkeys(keys, StoreRefused(data.refusal))
            elif len(reply) != len(keys) + 4:
                # as `understood` takes it: the batch fails, and the connection ends
                raise LookupError("the reply to MGET has another number of values")
            else:
                values |= zip(keys, reply, strict=False)
                if data.baseline.loss:
                    losses |= dict.fromkeys(keys, data.baseline.loss)
        unsettled: list[Request] = []
        for request in batch.requests:
            token_keys, result, _ = request
            if result.done():
                continue
            present = [key for key in token_keys if key is not None]
            errors = [failures[key] for key in present if key in failures]
            if None in errors:
                unsettled.append(request)
            elif errors:
                result.set_exception(errors[0])  # type: ignore[arg-type]  # none is None
            else:
                loss = max((losses.get(key, 0) for key in present), default=0)
                try:
                    deliver(request, _found(token_keys, values, loss, now))
                except StoreRefused as error:
                    result.set_exception(error)
        if not unsettled:
            return None
        again = Batch(unsettled, batch.deadline)
        again.tries, again.before = batch.tries, missing
        return again

    async def settle(self, batches: Sequence[Batch]) -> None:
        await self._sets.settle(data for batch in batches for data, _, _ in batch.before)

    def last_loss(self, keys: TokenKeys) -> int:
        loss = 0
        for key in keys:
            if key is not None:
                data = self._sets.data_set_numbered(slot_of(key))
                if data.refusal is not None:
                    raise StoreRefused(data.refusal)
                loss = max(loss, data.baseline.loss)
        return loss


class _Join:
    """Joins the results of several primaries for one token."""

    __slots__ = ("_found", "_keys", "_lookups", "_missing", "_moved", "_now", "_result")

    def __init__(
        self, lookups: "ClusterLookups", keys: TokenKeys, result: "asyncio.Future[Found]", primaries: int
    ) -> None:
        self._lookups = lookups
        self._keys = keys
        self._result = result
        self._missing = primaries
        self._moved = False
        self._found: list[RevocationState] = []
        self._now = 0

    def add_of_user(self, part: "asyncio.Future[Found]") -> None:
        """As :meth:`add`, from the primary of the user's keys: its clock dates the revocations of a user."""
        if not part.cancelled() and part.exception() is None:
            self._now = part.result().now
        self.add(part)

    def add(self, part: "asyncio.Future[Found]") -> None:
        """Take the result of one primary."""
        self._missing -= 1
        if self._result.done():
            part.cancelled() or part.exception()
            return
        error = StoreUnavailable("the lookup was cancelled") if part.cancelled() else part.exception()
        if isinstance(error, _SlotMoved):
            self._moved = True
        elif error is not None:
            if isinstance(error, StoreUnavailable):
                self._lookups.topology.learn_soon()  # the primary may have been replaced
            self._result.set_exception(error)
            return
        else:
            found = part.result()
            self._found.append(found.state)
            self._now = self._now or found.now
        if not self._missing:
            if self._moved:
                self._lookups.read_singly(self._keys, self._result)
            else:
                self._result.set_result(Found(_joined(self._found), self._now))


class ClusterLookups:
    """As :class:`revoker.store.source.Lookups`, at all primaries of a cluster."""

    def __init__(
        self,
        topology: Topology,
        sets: SlotDataSets,
        metrics: Metrics,
        clocks: Clocks,
        make: Callable[..., BatchedLookups],
    ) -> None:
        self.topology: Final = topology
        self._sets = sets
        self._metrics = metrics
        self._clocks = clocks
        self._reader: Final = _SlotsReader(sets)
        self._make: Final = make
        self._at: dict[Node, BatchedLookups] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Close every connection; lookups in flight fail."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(lookups.close() for lookups in self._at.values()))

    @property
    def ahead(self) -> float:
        return max((lookups.ahead for lookups in self._at.values()), key=abs, default=0.0)

    def find(self, keys: TokenKeys) -> "asyncio.Future[Found]":
        result: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        parts: dict[Node, list[str | None]] = {}
        for index, key in enumerate(keys):
            if key is not None:
                node = self.topology.node_of(slot_of(key))
                if node is None:
                    self.read_singly(keys, result)
                    return result
                parts.setdefault(node, [None] * len(keys))[index] = key
        if not parts:
            result.set_exception(StoreUnavailable("nothing was asked"))
            return result
        join = _Join(self, keys, result, len(parts))
        for node, part in parts.items():
            found = self._lookups_at(node).find(tuple(part))
            of_user = part[_USER] is not None and len(parts) > 1
            found.add_done_callback(join.add_of_user if of_user else join.add)
        return result

    def last_read(self, keys: TokenKeys) -> LastRead:
        user = keys[_USER]  # the clock of the user's primary dates their revocations
        node = None if user is None else self.topology.node_of(slot_of(user))
        lookups = None if node is None else self._at.get(node)
        if lookups is None:
            lookups = next(iter(self._at.values()), None)
        return LastRead(None, 0) if lookups is None else lookups.last_read(keys)

    def find_shared(self, keys: TokenKeys) -> "asyncio.Future[Found]":
        return self.find(keys)  # its parts share their batches with other lookups

    def find_all(self, keys: Sequence[TokenKeys]) -> Awaitable[list[Found]]:
        return asyncio.gather(*map(self.find, keys))

    async def touch(self) -> None:
        if not self.topology.nodes:
            await self.topology.learn()
        for node in self._at.keys() - set(self.topology.nodes):
            await self._at.pop(node).close()
        await asyncio.gather(*(self._lookups_at(node).touch() for node in self.topology.nodes))

    def reconnect(self) -> None:
        for lookups in self._at.values():
            lookups.reconnect()

    def read_singly(self, keys: TokenKeys, result: "asyncio.Future[Found]") -> None:
        """Read key by key in the background, following each to its slot."""
        task = asyncio.get_running_loop().create_task(self._read_singly(keys, result))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lookups_at(self, node: Node) -> BatchedLookups:
        lookups = self._at.get(node)
        if lookups is None:
            clocks = Clocks(self._clocks.now, self._clocks)
            lookups = self._at[node] = self._make(
                node, self._reader, metrics=self._metrics, clocks=clocks, confirmation=node.confirmation
            )
            lookups.open()
        return lookups

    async def _read_singly(self, keys: TokenKeys, result: "asyncio.Future[Found]") -> None:
        try:
            values = await self._sets.trusted_values([key for key in keys if key is not None])
            now = values.now.get(keys[_USER] or "", 0) or min(values.now.values())
            found = _found(keys, values.of, values.loss, now)
        except NoVerdict as error:
            failure = error
        except Exception:  # noqa: BLE001  # otherwise the result would never be set
            _log.exception("lookup_failed")
            failure = ReplyNotUnderstood()
        else:
            if not result.done():
                result.set_result(found)
            return
        if not result.done():
            result.set_exception(failure)


def _joined(states: Sequence[RevocationState]) -> RevocationState:
    """What applies by all of them; no two of them have read the same key."""
    if all(state is NO_REVOCATIONS for state in states):
        return NO_REVOCATIONS
    return RevocationState(
        jti=next((state.jti for state in states if state.jti), None),
        user=next((state.user for state in states if state.user), None),
        session=next((state.session for state in states if state.session), None),
        client=next((state.client for state in states if state.client), None),
        issuer=next((state.issuer for state in states if state.issuer), None),
        claims=_joined_claims([state.claims for state in states if state.claims]),
        keys=next((state.keys for state in states if state.keys), NO_REVOCATIONS.keys),
        loss=max(state.loss for state in states),
    )


def _joined_claims(found: Sequence[tuple[Revocation | None, ...]]) -> tuple[Revocation | None, ...]:
    """The cutoffs of all revocable claims, of which each part has some in their places."""
    return tuple(next(filter(None, of_claim), None) for of_claim in zip(*found, strict=True))


def _found(keys: TokenKeys, values: Mapping[str, bytes | None], loss: int, now: int) -> Found:
    found = [None if key is None else values[key] for key in keys]
    if not loss and found.count(None) == len(found):
        return Found(NO_REVOCATIONS, now)
    return Found(parse_revocation_state(found, loss), now)


def _failure(error: Exception) -> StoreUnavailable:
    moved = str(error).partition(" ")[0] in _REDIRECTIONS
    return (_SlotMoved if moved else StoreUnavailable)(answered_with(error))
