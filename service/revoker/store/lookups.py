"""What stands against tokens, as one primary says after each was asked for.

Every batch reads, in one write to the socket, its keys (equal ones once), the epoch, the two numbers,
``TIME`` and ``ROLE``; so no verdict rests on anything older than its request.

``TIME`` is read first: a cutoff made now, which this reading does not show, is then never dated before it.
"""

import asyncio
import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from revoker.bounded_cache import cached_where_short
from revoker.errors import NotPrimary, ReplyNotUnderstood, StoreRefused, StoreUnavailable
from revoker.metrics import Metrics
from revoker.models import Mark, Standing, UserStanding
from revoker.store.coalescing import NO_KEYS, Batch, Coalescing, Found, LastRead, hand_over, redis_time_ms
from revoker.store.consistency.clocks import Clocks
from revoker.store.consistency.epoch import DataSet
from revoker.store.keys import TokenKeys
from revoker.store.wire.addresses import PrimaryLocator
from revoker.store.wire.command_channel import Confirmation
from revoker.store.wire.connection import Connection, Replies, pack

_log = structlog.get_logger("store")

TIME: Final = pack([("TIME",)])
ROLE: Final = pack([("ROLE",)])

_AGAIN_S: Final = 1.0
"""A connection made anew may lead to what has lost data, and is read at once; but for so long not after one
that led to a replica, or to replies that are not understood: such a one is ended at once, and made again."""

_KEYS: Final = operator.itemgetter(0)
"""Of a request."""


class Lookups(Coalescing):
    """Lookups at the one primary that keeps everything."""

    def __init__(
        self,
        address: PrimaryLocator,
        *,
        data: DataSet,
        metrics: Metrics,
        clocks: Clocks,
        confirmation: Confirmation | None = None,
    ) -> None:
        """As :class:`Coalescing`, with what is known of the store."""
        super().__init__(address, metrics=metrics, clocks=clocks, confirmation=confirmation)
        self._data = data
        self._met_replica = -_AGAIN_S

    def last_read(self, keys: TokenKeys) -> LastRead:  # noqa: ARG002  # all are of one data set
        if (why := self._clocks.apart or self._data.refusal) is not None:
            raise StoreRefused(why)
        return LastRead(self._clocks.store_ms, self._data.baseline.loss)

    def _changed(self, error: StoreUnavailable | None) -> None:
        if error is None and self._loop.time() - self._met_replica >= _AGAIN_S:
            self.find(NO_KEYS).add_done_callback(self._saw)
        super()._changed(error)

    def _saw(self, read: "asyncio.Future[Found]") -> None:
        if not read.cancelled() and isinstance(read.exception(), (NotPrimary, ReplyNotUnderstood)):
            self._met_replica = self._loop.time()

    def _packed(self, batch: Batch) -> tuple[bytes, int]:
        keys = batch.keys
        if not keys:
            keys |= dict.fromkeys(itertools.chain.from_iterable(map(_KEYS, batch.requests)))
            keys.pop(None, None)
        batch.known = self._data.watermark
        return TIME + pack([("MGET", *keys, *self._data.tail)]) + ROLE, 3

    def _judge(self, batch: Batch, connection: Connection, replies: Replies) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                self._fail(batch, StoreUnavailable(f"the store answered {str(reply).split(' ')[0]}"))
                return
        stamp, values, role = replies
        now = redis_time_ms(stamp)
        if len(values) != len(batch.keys) + 3:  # what is missing would pass for what is not revoked
            raise ReplyNotUnderstood
        if (distrust := self._distrust(connection, now, role, batch)) is not None:
            self._fail(batch, distrust)
        elif not self._data.confirms(batch.known, values[-3], values[-2], values[-1], now):
            self._settle(batch)
        elif (why := self._data.refusal) is not None:
            self._fail(batch, StoreRefused(why))
        else:
            self._deliver(batch, values, now)

    async def _settle_data(self, batches: Sequence[Batch]) -> None:  # noqa: ARG002  # all are of one data set
        await self._data.settle()

    def _deliver(self, batch: Batch, values: list[bytes | None], now: int) -> None:
        nothing = Found(self._data.baseline, now)
        del values[-3:]
        if values.count(None) == len(values):
            for request in batch.requests:
                hand_over(request, nothing)
            return
        stands: dict[str | None, bytes | None] = dict(zip(batch.keys, values, strict=True))
        stands[None] = None
        loss = self._data.baseline.loss
        for request in batch.requests:
            keys, answer, _ = request
            if not answer.done():
                said = [stands[key] for key in keys]
                try:
                    found = Found(standing_of(said, loss), now)
                except (ValueError, msgspec.MsgspecError) as error:
                    _log.error("store_unreadable", error=str(error))
                    answer.set_exception(StoreRefused("the store holds what can't be read"))
                else:
                    hand_over(request, found)


def standing_of(said: list[bytes | None], loss: int) -> Standing:
    jti, user, session, client, issuer, revoked = said
    return Standing(
        jti=None if jti is None else mark(jti),
        user=None if user is None else user_standing(user),
        session=None if session is None else mark(session),
        client=None if client is None else mark(client),
        issuer=None if issuer is None else mark(issuer),
        keys={} if revoked is None else revoked_keys(revoked),
        loss=loss,
    )


@cached_where_short(4096, 128, len)
def mark(value: bytes) -> Mark:
    """A time in ms, then a space and a reason where one was given."""
    at, _, reason = value.decode().partition(" ")
    return Mark(int(at), reason)


user_standing: Final = msgspec.json.Decoder(UserStanding).decode
revoked_keys: Final = functools.lru_cache(maxsize=64)(msgspec.json.Decoder(dict[str, Mark]).decode)
