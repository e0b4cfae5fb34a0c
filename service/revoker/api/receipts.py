"""``wait_edges``: an answer that waits until edges have confirmed a revocation.

The revocation is stored before anybody waits, and holds whatever edges do. It counts as confirmed by an edge
whose cursor is at or after the end of the journal, as read once the revocation was acknowledged.
"""

import asyncio
import bisect
import collections
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import structlog

from revoker.api.consumers import Consumers
from revoker.api.endpoint import Call
from revoker.errors import NoVerdict
from revoker.metrics import Metrics
from revoker.store.journal.cursors import Cursor
from revoker.store.journal.tail import JournalTail

_log = structlog.get_logger("service")

MAX_WAITING: Final = 200
"""Requests of one caller that wait at the same time; others are answered with what is known right away."""

_LOOK_PAUSE_S: Final = 0.02
"""Between two looks at the confirmations, which are made once for all that wait."""

ASK_PAUSE_S: Final = 0.1
"""Between two requests to consumers to confirm, at least: edges confirm no more often than that."""

_CHECK_S: Final = 0.1
"""How often a request looks for the end of its client, where the store answers slowly."""


class WaitsForEdges(msgspec.Struct, frozen=True, kw_only=True):
    """Members of every request that revokes."""

    wait_edges: Annotated[
        bool | Annotated[int, msgspec.Meta(ge=0, le=100_000)],
        msgspec.Meta(
            description="answer once so many edges have confirmed the change (true: all that are connected;"
            " 0: count them), or after wait_seconds; it holds in any case"
        ),
    ] = False
    wait_seconds: Annotated[float, msgspec.Meta(ge=0, le=30)] = 2.0


class Edges(msgspec.Struct, frozen=True):
    """How many edges have confirmed the change, and how many are connected: null if that is not known."""

    reached: int
    connected: int | None


class _Look(NamedTuple):
    """What was seen at once.

    Attributes:
        end: Of the journal.
        connected: How many consumers there are that confirm; None: perhaps some are not known yet.
        confirmed: Where those of them are that have confirmed an entry of this journal, in ascending order.
    """

    end: Cursor
    connected: int | None
    confirmed: Sequence[tuple[int, int]]

    def edges(self, place: tuple[int, int]) -> Edges:
        """Those that have confirmed a place of the journal."""
        return Edges(len(self.confirmed) - bisect.bisect_left(self.confirmed, place), self.connected)


class Receipts:
    """Waits for confirmations; one task looks at them for all requests of a process, while any wait."""

    def __init__(self, *, consumers: Consumers, tail: JournalTail, metrics: Metrics, patience: float) -> None:
        """``patience``: for how many seconds the first look may last, without which nothing is known."""
        self._consumers: Final = consumers
        self._tail: Final = tail
        self._metrics: Final = metrics
        self._patience: Final = patience
        self._waiting: collections.Counter[str] = collections.Counter()
        self._next_look: asyncio.Future[_Look | None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._asks = False
        self._asked_at = float("-inf")

    async def of(self, call: Call[Any], *, stored: bool = True) -> Edges | None:
        """Wait as a request says whose change is acknowledged; None if it does not wait.

        A request whose client has gone, and all of a process that drains, wait no longer.

        Args:
            call: The request.
            stored: Whether there was anything to change; otherwise nobody is asked to confirm.
        """
        body: WaitsForEdges = call.body
        if body.wait_edges is False:
            return None
        caller = call.caller.name
        seconds = body.wait_seconds if self._waiting[caller] < MAX_WAITING else 0.0
        wanted = None if body.wait_edges is True else body.wait_edges
        self._waiting[caller] += 1
        try:
            edges = await self._wait(call, wanted, seconds, asks=stored and wanted != 0 and seconds > 0)
        finally:
            self._waiting[caller] -= 1
            if not self._waiting[caller]:
                del self._waiting[caller]
        self._metrics.waited_for_edges.labels("reached" if _satisfies(edges, wanted) else "late").inc()
        return edges

    async def close(self) -> None:
        """End what was begun."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _wait(self, call: Call[Any], wanted: int | None, seconds: float, *, asks: bool) -> Edges:
        clock = asyncio.get_running_loop().time
        began, limit = clock(), max(seconds, self._patience)
        edges, target = Edges(0, None), None
        self._asks |= asks
        while True:
            look = await self._look(began + limit - clock())
            if look is not None:
                limit = seconds
                if target is None:
                    target = look.end
                elif target.data_set != look.end.data_set:  # its cursors are of snapshots with the change
                    target = look.end
                    self._asks |= asks
                edges = look.edges(target.place)
            if _satisfies(edges, wanted) or call.client_gone() or self._consumers.draining:
                return edges
            if clock() - began >= limit:
                return edges

    async def _look(self, seconds: float) -> _Look | None:
        """The next look that begins after this call; None if it fails or takes too long."""
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().create_future()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look_on())
        look = self._next_look
        await asyncio.wait([look], timeout=max(0.0, min(seconds, _CHECK_S)))
        return look.result() if look.done() else None

    async def _look_on(self) -> None:
        while self._waiting:
            waited_for, self._next_look = self._next_look, None
            look = None
            try:
                look = await self._look_once()
                if self._asks:
                    await self._ask(look)
            except NoVerdict:
                pass  # the next look may succeed
            except Exception:  # noqa: BLE001  # all that wait depend on this task
                _log.exception("confirmations_not_read")
            if waited_for is not None:
                waited_for.set_result(look)
            await asyncio.sleep(_LOOK_PAUSE_S)
        self._asks = False

    async def _ask(self, look: _Look) -> None:
        """Have consumers asked to confirm, unless all have, or they were asked just now."""
        now = asyncio.get_running_loop().time()
        if now < self._asked_at + ASK_PAUSE_S:
            return
        self._asks = False
        if look.connected is None or look.edges(look.end.place).reached < look.connected:
            self._asked_at = now
            self._consumers.somebody_waits()
            try:
                await self._tail.ask_to_confirm()
            except NoVerdict:
                self._asks = True
                raise

    async def _look_once(self) -> _Look:
        end, everyone = await asyncio.gather(self._tail.position(), self._consumers.everywhere())
        states = [state for state in everyone.states if state.confirms]
        connected = {(state.caller, state.name) for state in states if state.heard}
        data_set = end.cursor.data_set
        confirmed = {
            (state.caller, state.name, cursor)
            for state in states
            if state.confirmed
            and (state.caller, state.name) in connected
            and (cursor := state.at) is not None
            and cursor.data_set == data_set
        }
        existing = await self._tail.existing({cursor for _, _, cursor in confirmed})
        furthest: dict[tuple[str, str], tuple[int, int]] = {}
        for caller, name, cursor in confirmed:
            if cursor in existing:  # only then what follows it in the journal is what the consumer gets next
                place = furthest.get((caller, name), cursor.place)
                furthest[caller, name] = max(place, cursor.place)
        number = len(connected) if everyone.complete else None
        return _Look(end.cursor, number, sorted(furthest.values()))


def _satisfies(edges: Edges, wanted: int | None) -> bool:
    """Whether there is nothing to wait for any more; no edge is missing only if all are known."""
    if edges.connected is None:
        return bool(wanted) and edges.reached >= (wanted or 0)
    return edges.reached >= (edges.connected if wanted is None else wanted)
