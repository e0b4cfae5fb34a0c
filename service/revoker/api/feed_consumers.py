"""``GET /feed/consumers`` and ``POST /feed/confirm``: who is fed, and how far each consumer has come."""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from revoker.api.consumers import Consumers
from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import ConsumerName
from revoker.store.consistency.clocks import Clocks
from revoker.store.journal.cursors import Cursor
from revoker.store.journal.shared_consumers import ConsumerState


class NoQuery(msgspec.Struct, frozen=True):
    """There are no parameters."""


class FeedConsumer(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer.

    ``cursor`` is the last that it has confirmed, or else the last that was sent to it. ``as_of`` is in ms by
    the store's clock, ``lag`` in seconds since then; null: nothing is known yet.
    """

    name: str
    caller: str
    streams: int
    cursor: str
    confirmed: bool
    as_of: int | None
    lag: float | None


class FeedConsumerList(msgspec.Struct, frozen=True):
    """The consumers of all processes and instances that use the store."""

    consumers: list[FeedConsumer]


class Confirm(msgspec.Struct, frozen=True, kw_only=True):
    """That a consumer has taken over everything up to a cursor."""

    cursor: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    as_of: Annotated[int, msgspec.Meta(ge=0, le=99_999_999_999_999)] | None = None
    name: ConsumerName | None = None


async def list_consumers(_: Call[NoQuery], *, consumers: Consumers, clocks: Clocks) -> FeedConsumerList:
    """List the consumers of all processes, by caller and name."""
    of: dict[tuple[str, str], list[ConsumerState]] = {}
    for state in await consumers.everywhere():
        of.setdefault((state.caller, state.name), []).append(state)
    now = clocks.store_ms
    return FeedConsumerList([_listed(states, now) for _, states in sorted(of.items())])


def _listed(states: Sequence[ConsumerState], now: int | None) -> FeedConsumer:
    """What is known of one consumer, by what one or more processes say; ``now`` is in ms by the store."""
    furthest = max(states, key=_progress)
    as_of = max(state.as_of for state in states)
    return FeedConsumer(
        name=furthest.name,
        caller=furthest.caller,
        streams=sum(state.streams for state in states),
        cursor=furthest.cursor,
        confirmed=furthest.confirmed,
        as_of=as_of or None,
        lag=None if not as_of or now is None else max(0, now - as_of) / 1000,
    )


def _progress(state: ConsumerState) -> tuple[bool, tuple[int, int]]:
    return state.confirmed, (0, 0) if state.at is None else state.at.place


async def confirm(call: Call[Confirm], *, consumers: Consumers) -> None:
    """Note how far a consumer has come."""
    body = call.body
    cursor = Cursor.read(body.cursor)
    consumer = consumers.seen(call.caller.name, body.name or call.caller.name)
    consumers.confirmed(consumer, cursor.text, body.as_of)


CONFIRM: Final = Endpoint(
    path="/feed/confirm",
    scope="feed",
    body=Confirm,
    answer=None,
    status=204,
    summary="Confirm that everything up to a cursor was taken over",
    handle=confirm,
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
