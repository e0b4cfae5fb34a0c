"""``GET /feed/consumers`` and ``POST /feed/confirm``: who is fed, and how far each consumer has come."""

from typing import Annotated

import msgspec

from revoker.api.consumers import Consumers
from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import ConsumerName
from revoker.store.consistency.clocks import Clocks
from revoker.store.journal.cursors import Cursor


class NoQuery(msgspec.Struct, frozen=True):
    """There are no parameters."""


class FeedConsumer(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer of this process.

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
    """The consumers of the process that answers; of several processes each has its own."""

    consumers: list[FeedConsumer]


class Confirm(msgspec.Struct, frozen=True, kw_only=True):
    """That a consumer has taken over everything up to a cursor."""

    cursor: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    as_of: Annotated[int, msgspec.Meta(ge=0, le=99_999_999_999_999)] | None = None
    name: ConsumerName | None = None


async def list_consumers(_: Call[NoQuery], *, consumers: Consumers, clocks: Clocks) -> FeedConsumerList:
    """List the consumers of this process."""
    now = clocks.store_ms
    return FeedConsumerList([
        FeedConsumer(
            name=consumer.name,
            caller=consumer.caller,
            streams=consumer.streams,
            cursor=consumer.cursor,
            confirmed=consumer.confirmed,
            as_of=consumer.as_of or None,
            lag=None if not consumer.as_of or now is None else max(0, now - consumer.as_of) / 1000,
        )
        for consumer in consumers.listed()
    ])  # fmt: skip


async def confirm(call: Call[Confirm], *, consumers: Consumers) -> None:
    """Note how far a consumer has come."""
    body = call.body
    cursor = Cursor.read(body.cursor)
    consumers.seen(call.caller.name, body.name or call.caller.name).confirm(cursor.text, body.as_of)


ENDPOINTS = (
    Endpoint(
        path="/feed/consumers",
        method="GET",
        scope="revoke",
        body=NoQuery,
        answer=FeedConsumerList,
        summary="List the consumers of the feed that this process has",
        handle=list_consumers,
    ),
    Endpoint(
        path="/feed/confirm",
        scope="feed",
        body=Confirm,
        answer=None,
        status=204,
        summary="Confirm that everything up to a cursor was taken over",
        handle=confirm,
    ),
)
