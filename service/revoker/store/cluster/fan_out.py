"""Lookups in a cluster: each request's keys are looked up where they lie, and the answers joined.

Per primary everything coalesces as at a single one. A batch reads the keys of each slot together with
that slot's epoch and numbers, since every slot is a data set of its own. Of a batch only those
requests suffer that touch a slot which has moved, is on its way, or has lost data.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final

import msgspec
import structlog

from revoker.errors import NoVerdict, ReplyNotUnderstood, StoreRefused, StoreUnavailable
from revoker.metrics import Metrics
from revoker.models import NOTHING, Standing
from revoker.store.cluster.slots import Slots
from revoker.store.cluster.topology import Cluster, Node
from revoker.store.coalescing import (
    NO_KEYS,
    Batch,
    Coalescing,
    Found,
    LastRead,
    Request,
    hand_over,
    redis_time_ms,
)
from revoker.store.consistency.clocks import Clocks
from revoker.store.keys import TokenKeys, slot_of
from revoker.store.lookups import ROLE, TIME, standing_of
from revoker.store.wire.connection import Connection, Replies, pack

_log = structlog.get_logger("store")

_USER: Final = 1
"""Where the user's key stands among those of a token."""

_REDIRECTIONS: Final = ("MOVED", "ASK", "TRYAGAIN")


class _Elsewhere(StoreUnavailable):
    """A key lies in a slot that has moved or is on its way."""


class _AtNode(Coalescing):
    """Lookups at one primary of a cluster."""

    def __init__(self, node: Node, slots: Slots, metrics: Metrics, clocks: Clocks) -> None:
        super().__init__(node, metrics=metrics, clocks=clocks, confirmation=node.confirmation)
        self.clocks: Final = clocks
        self._slots = slots

    def last_read(self, keys: TokenKeys) -> LastRead:
        loss = 0
        for key in keys:
            if key is not None:
                data = self._slots.numbered(slot_of(key))
                if data.refusal is not None:
                    raise StoreRefused(data.refusal)
                loss = max(loss, data.baseline.loss)
        if self.clocks.apart is not None:
            raise StoreRefused(self.clocks.apart)
        return LastRead(self.clocks.store_ms, loss)

    def _packed(self, batch: Batch) -> tuple[bytes, int]:
        by_slot: dict[int, dict[str, int]] = {}
        for keys, _, _ in batch.requests:
            for key in keys:
                if key is not None:
                    by_slot.setdefault(slot_of(key), {})[key] = 0
        sets = [(self._slots.numbered(slot), list(keys)) for slot, keys in by_slot.items()]
        batch.known = [(data, keys, data.watermark) for data, keys in sets]
        packed = pack([("MGET", *keys, *data.tail) for data, keys in sets])
        return TIME + packed + ROLE, len(sets) + 2

    def _judge(self, batch: Batch, connection: Connection, replies: Replies) -> None:
        stamp, *said, role = replies
        for reply in (stamp, role):
            if isinstance(reply, Exception):
                self._fail(batch, StoreUnavailable(f"the store answered {str(reply).split(' ')[0]}"))
                return
        now = redis_time_ms(stamp)
        if (distrust := self._distrust(connection, now, role, batch)) is not None:
            self._fail(batch, distrust)
            return
        values: dict[str, bytes | None] = {}
        wrong: dict[str, NoVerdict | None] = {}  # None: data is missing, and that must be settled first
        losses: dict[str, int] = {}
        missing = []
        for (data, keys, known), reply in zip(batch.known, said, strict=True):
            if isinstance(reply, Exception):
                wrong |= dict.fromkeys(keys, _refusal(str(reply).split(" ")[0]))
            elif not data.confirms(known, *reply[-3:], now):
                wrong |= dict.fromkeys(keys)
                missing.append((data, keys, known))
            elif (why := data.refusal) is not None:
                wrong |= dict.fromkeys(keys, StoreRefused(why))
            else:
                if len(reply) != len(keys) + 3:
                    raise ReplyNotUnderstood
                values |= zip(keys, reply, strict=False)
                if data.baseline.loss:
                    losses |= dict.fromkeys(keys, data.baseline.loss)
        unsettled: list[Request] = []
        for request in batch.requests:
            keys, answer, _ = request
            if answer.done():
                continue
            concerned = [key for key in keys if key is not None]
            errors = [wrong[key] for key in concerned if key in wrong]
            if None in errors:
                unsettled.append(request)
            elif errors:
                answer.set_exception(errors[0])  # type: ignore[arg-type]  # none is None
            else:
                loss = max((losses.get(key, 0) for key in concerned), default=0)
                try:
                    hand_over(request, _found(keys, values, loss, now))
                except StoreRefused as error:
                    answer.set_exception(error)
        if unsettled:
            again = Batch(unsettled, batch.deadline)
            again.tries, again.known = batch.tries, missing
            self._settle(again)

    async def _settle_data(self, batches: Sequence[Batch]) -> None:
        await self._slots.settle(data for batch in batches for data, _, _ in batch.known)


class _Joined:
    """Joins what several primaries say of one token."""

    __slots__ = ("_answer", "_fan_out", "_found", "_keys", "_missing", "_moved", "_now")

    def __init__(
        self, fan_out: "FanOut", keys: TokenKeys, answer: "asyncio.Future[Found]", primaries: int
    ) -> None:
        self._fan_out = fan_out
        self._keys = keys
        self._answer = answer
        self._missing = primaries
        self._moved = False
        self._found: list[Standing] = []
        self._now = 0

    def take_dating(self, said: "asyncio.Future[Found]") -> None:
        """As :meth:`take`, from the primary that keeps the user: its clock dates what is kept for them."""
        if not said.cancelled() and said.exception() is None:
            self._now = said.result().now
        self.take(said)

    def take(self, said: "asyncio.Future[Found]") -> None:
        self._missing -= 1
        if self._answer.done():
            said.cancelled() or said.exception()
            return
        error = StoreUnavailable("the lookup was cancelled") if said.cancelled() else said.exception()
        if isinstance(error, _Elsewhere):
            self._moved = True
        elif error is not None:
            if isinstance(error, StoreUnavailable):
                self._fan_out.learn_soon()  # who can't be reached may have been replaced
            self._answer.set_exception(error)
            return
        else:
            found = said.result()
            self._found.append(found.standing)
            self._now = self._now or found.now
        if not self._missing:
            if self._moved:
                self._fan_out.ask_singly(self._keys, self._answer)
            else:
                self._answer.set_result(Found(joined(self._found), self._now))


class FanOut:
    """Lookups at all primaries of a cluster."""

    def __init__(self, cluster: Cluster, slots: Slots, metrics: Metrics, clocks: Clocks) -> None:
        self._cluster = cluster
        self._slots = slots
        self._metrics = metrics
        self._clocks = clocks
        self._loop = asyncio.get_running_loop()
        self._at: dict[Node, _AtNode] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to learn where the primaries are."""
        self.learn_soon()

    def learn_soon(self) -> None:
        """As :meth:`revoker.store.cluster.topology.Cluster.learn_soon`."""
        self._cluster.learn_soon()

    async def close(self) -> None:
        """End every connection; what is under way fails."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(each.close() for each in self._at.values()))

    @property
    def ahead(self) -> float:
        """As :attr:`revoker.store.consistency.clocks.Clocks.ahead`, where that is furthest off."""
        return max((each.clocks.ahead for each in self._at.values()), key=abs, default=0.0)

    def find(self, keys: TokenKeys) -> "asyncio.Future[Found]":
        """As :meth:`revoker.store.coalescing.Coalescing.find`."""
        answer: asyncio.Future[Found] = self._loop.create_future()
        shares: dict[Node, list[str | None]] = {}
        for place, key in enumerate(keys):
            if key is not None:
                node = self._cluster.node_of(slot_of(key))
                if node is None:
                    self.ask_singly(keys, answer)
                    return answer
                shares.setdefault(node, list(NO_KEYS))[place] = key
        if len(shares) == 1:
            [node] = shares
            joined = _Joined(self, keys, answer, 1)
            self._lookups_at(node).find(keys).add_done_callback(joined.take)
            return answer
        joined = _Joined(self, keys, answer, len(shares))
        for node, share in shares.items():
            found = self._lookups_at(node).find(tuple(share))  # type: ignore[arg-type]  # as long as keys
            found.add_done_callback(joined.take_dating if share[_USER] is not None else joined.take)
        if not shares:
            answer.set_exception(StoreUnavailable("nothing was asked"))
        return answer

    def last_read(self, keys: TokenKeys) -> LastRead:
        """As :meth:`revoker.store.coalescing.Coalescing.last_read`: the time is the user's primary's."""
        node = self._cluster.node_of(slot_of(keys[_USER])) if keys[_USER] is not None else None
        found = self._at.get(node) if node is not None else None
        if found is None:
            found = next(iter(self._at.values()), None)
        return LastRead(None, 0) if found is None else found.last_read(keys)

    def find_shared(self, keys: TokenKeys) -> "asyncio.Future[Found]":
        """As :meth:`find`: its parts coalesce at every primary."""
        return self.find(keys)

    def find_all(self, keys: Sequence[TokenKeys]) -> Awaitable[list[Found]]:
        """As :meth:`revoker.store.coalescing.Coalescing.find_all`."""
        return asyncio.gather(*map(self.find, keys))

    async def touch(self) -> None:
        """Ask every primary whether it is there; raises as :meth:`find` fails."""
        if not self._cluster.nodes:
            await self._cluster.learn()
        for node in self._at.keys() - set(self._cluster.nodes):
            await self._at.pop(node).close()
        await asyncio.gather(*(self._lookups_at(node).touch() for node in self._cluster.nodes))

    def reconnect(self) -> None:
        """End the connections; what is under way is asked once more."""
        for each in self._at.values():
            each.reconnect()

    def ask_singly(self, keys: TokenKeys, answer: "asyncio.Future[Found]") -> None:
        """Read key by key, following each to where its slot is; beside everything else."""
        task = self._loop.create_task(self._singly(keys, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lookups_at(self, node: Node) -> _AtNode:
        found = self._at.get(node)
        if found is None:
            found = self._at[node] = _AtNode(
                node, self._slots, self._metrics, Clocks(self._clocks.now, self._clocks)
            )
            found.open()
        return found

    async def _singly(self, keys: TokenKeys, answer: "asyncio.Future[Found]") -> None:
        try:
            found = await self._slots.values([key for key in keys if key is not None])
            now = found.now.get(keys[_USER] or "", 0) or min(found.now.values())
            result = _found(keys, found.of, found.loss, now)
        except NoVerdict as error:
            failure = error
        except Exception:  # noqa: BLE001  # nobody else would answer
            _log.exception("lookup_failed")
            failure = ReplyNotUnderstood()
        else:
            if not answer.done():
                answer.set_result(result)
            return
        if not answer.done():
            answer.set_exception(failure)


def joined(standings: Sequence[Standing]) -> Standing:
    """What stands in all; no two know of the same key."""
    if all(each is NOTHING for each in standings):
        return NOTHING
    return Standing(
        jti=next((each.jti for each in standings if each.jti), None),
        user=next((each.user for each in standings if each.user), None),
        session=next((each.session for each in standings if each.session), None),
        client=next((each.client for each in standings if each.client), None),
        issuer=next((each.issuer for each in standings if each.issuer), None),
        keys=next((each.keys for each in standings if each.keys), NOTHING.keys),
        loss=max(each.loss for each in standings),
    )


def _found(keys: TokenKeys, values: Mapping[str, bytes | None], loss: int, now: int) -> Found:
    said = [None if key is None else values[key] for key in keys]
    if not loss and said.count(None) == len(said):
        return Found(NOTHING, now)
    try:
        return Found(standing_of(said, loss), now)
    except (ValueError, msgspec.MsgspecError) as error:
        _log.error("store_unreadable", error=str(error))
        raise StoreRefused("the store holds what can't be read") from error


def _refusal(code: str) -> StoreUnavailable:
    return (_Elsewhere if code in _REDIRECTIONS else StoreUnavailable)(f"the store answered {code}")
