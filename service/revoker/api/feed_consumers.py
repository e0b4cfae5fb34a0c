"""``GET /feed/consumers`` and ``POST /feed/confirm``: who is fed, and how far each consumer has come."""

import functools
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from revoker.api.consumers import Consumers
from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import ConsumerName
from revoker.store.consistency.clocks import Clocks
from revoker.store.journal.cursors import Cursor
from revoker.store.journal.shared_consumers import MAX_LISTED_S, ConsumerState
from revoker.store.journal.tail import JournalTail


class NoQuery(msgspec.Struct, frozen=True):
    """There are no parameters."""


class FeedConsumer(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer.

    ``cursor`` is the last that it has confirmed, or else the last that was sent to it. ``confirms``: a
    revocation that waits for all edges waits for it. ``as_of`` is in ms by the store's clock, ``lag`` in
    seconds since then; null: nothing is known yet.
    """

    name: str
    caller: str
    streams: int
    cursor: str
    confirmed: bool
    confirms: bool
    as_of: int | None
    lag: float | None


class FeedConsumerList(msgspec.Struct, frozen=True):
    """The consumers of all processes and instances that use the store."""

    consumers: list[FeedConsumer]


class Confirm(msgspec.Struct, frozen=True, kw_only=True):
    """That a consumer has taken over everything up to a cursor.

    ``max_staleness``: for so many seconds it may give verdicts by that if it gets nothing more.
    """

    cursor: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    as_of: Annotated[int, msgspec.Meta(ge=0, le=99_999_999_999_999)] | None = None
    name: ConsumerName | None = None
    max_staleness: Annotated[float, msgspec.Meta(ge=0, le=MAX_LISTED_S)] | None = None


async def list_consumers(
    _: Call[NoQuery], *, consumers: Consumers, clocks: Clocks, tail: JournalTail
) -> FeedConsumerList:
    """List the consumers of all processes, by caller and name."""
    of: dict[tuple[str, str], list[ConsumerState]] = {}
    for state in (await consumers.everywhere()).states:
        of.setdefault((state.caller, state.name), []).append(state)
    now, data_set = clocks.store_ms, (await tail.position()).cursor.data_set
    return FeedConsumerList([_listed(states, now, data_set) for _, states in sorted(of.items())])


def _listed(states: Sequence[ConsumerState], now: int | None, data_set: bytes) -> FeedConsumer:
    """What is known of one consumer, by what one or more processes say.

    Args:
        states: All that is known of it.
        now: In ms by the store.
        data_set: The present one: places in the journal of another mean nothing any more.
    """
    furthest = max(states, key=functools.partial(_progress, data_set))
    as_of = max(state.as_of for state in states)
    return FeedConsumer(
        name=furthest.name,
        caller=furthest.caller,
        streams=sum(state.streams for state in states),
        cursor=furthest.cursor,
        confirmed=furthest.confirmed,
        confirms=any(state.counts for state in states),
        as_of=as_of or None,
        lag=None if not as_of or now is None else max(0, now - as_of) / 1000,
    )


def _progress(data_set: bytes, state: ConsumerState) -> tuple[bool, bool, tuple[int, int]]:
    if (at := state.at) is None:
        return False, state.confirmed, (0, 0)
    return at.data_set == data_set, state.confirmed, at.place


async def confirm(call: Call[Confirm], *, consumers: Consumers) -> None:
    """Note how far a consumer has come."""
    body = call.body
    cursor = Cursor.read(body.cursor)
    consumer = consumers.seen(call.caller.name, body.name or call.caller.name)
    consumers.confirmed(consumer, cursor, body.as_of, body.max_staleness or 0.0)


CONFIRM: Final = Endpoint(
    path="/feed/confirm",
    scope="feed",
    body=Confirm,
    answer=None,
    status=204,
    summary="Confirm that everything up to a cursor was taken over",
    handle=confirm,
    confirmation=True,
)
ENDPOINTS: Final = (
    Endpoint(
        path="/feed/consumers",
        method="GET",
        scope="revoke",
        body=NoQuery,
        answer=FeedConsumerList,
        summary="List the consumers of the feed, and how far each has come",
        handle=list_consumers,
    ),
    CONFIRM,
)
