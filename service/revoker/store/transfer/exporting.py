"""Takes the revocations out of a store, a million at once in bounded memory.

What is taken out are tokens, cutoffs, blocks and keys, never sessions: those belong to the store that began
them.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from revoker.errors import StoreRefused
from revoker.rules import FOREVER_MS, SAFETY_S
from revoker.store.consistency.epoch import Epoch
from revoker.store.keys import Held
from revoker.store.lookups import mark, revoked_keys, user_standing
from revoker.store.store import Store
from revoker.store.transfer import records
from revoker.store.transfer.records import Record, date
from revoker.store.wire.command_channel import CommandChannel
from revoker.store.wire.connection import unavailable_on_failure

SCANNED: Final = 1000
"""Keys that one step of an export looks at, roughly."""

_CHANGED: Final = StoreRefused(
    "the store's servers have changed or started anew: export again from the start"
)


@dataclass(frozen=True, slots=True)
class Place:
    """How far an export has come; the fields are those of :class:`revoker.store.transfer.records.Place`."""

    servers: tuple[str, ...]
    at: int
    cursor: str


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of an export brought.

    Attributes:
        lines: Revocations, written out.
        unreadable: Keys that hold what can't be read, or that nobody knows.
        place: From where the rest is found.
    """

    lines: list[bytes]
    unreadable: list[str]
    place: Place


class Exporting:
    """Reads all revocations out of a store, one step after the other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys
        self._issuers = {issuer.name: issuer for issuer in store.issuers.values()}
        self._own = next((issuer.iss for issuer in store.issuers.values() if issuer.own), "sessions")

    async def size(self) -> int:
        """How many keys there are to look at, roughly: sessions and those of others too."""
        lines = (await self._store.primaries()).values()
        async with unavailable_on_failure():
            return sum([int(await line.execute("DBSIZE")) for line in lines])

    async def steps(self, since: Place | None = None) -> AsyncIterator[Step]:
        """All there is, or what an earlier export had not come to.

        Args:
            since: The place at which that one had arrived.

        Raises:
            StoreUnavailable: the store did not answer.
            StoreRefused: its servers are not those of the beginning, so the rest can't be found.
        """
        lines = await self._store.primaries()
        servers = tuple(sorted(lines))
        if since is None:
            since = Place(servers, 0, "0")
            yield Step(await self._lost_data(), [], since)
        elif since.servers != servers or since.at > len(servers):
            raise StoreRefused(_CHANGED)
        cursor = since.cursor
        for at in range(since.at, len(servers)):
            line = lines[servers[at]]
            while True:
                cursor, step = await self._step(line, cursor)
                if line.server != servers[at]:
                    raise StoreRefused(_CHANGED)
                over = cursor == "0"
                yield Step(*step, Place(servers, at + 1 if over else at, cursor))
                if over:
                    break

    async def _step(self, line: CommandChannel, cursor: str) -> tuple[str, tuple[list[bytes], list[str]]]:
        async with unavailable_on_failure():
            after, found = await line.execute(*("SCAN", cursor, "MATCH", self._keys.all(), "COUNT", SCANNED))
            return after.decode(), await self._lines(line, [key.decode(errors="replace") for key in found])

    async def _lost_data(self) -> list[bytes]:
        """What a loss of data has revoked stays revoked: by cutoffs of the issuers, which cover the same."""
        readings = (await self._store.readings()).values()
        cutoff = max((Epoch.parse(each.epoch).cutoff for each in readings if each.epoch), default=0)
        if not cutoff:
            return []
        return [
            records.write(records.Issuer(iss=issuer.iss, before=date(cutoff), reason="data loss"))
            for issuer in self._issuers.values()
        ]

    async def _lines(self, line: CommandChannel, found: Sequence[str]) -> tuple[list[bytes], list[str]]:
        places: dict[str, Held] = {}
        unreadable = []
        for key in found:
            try:
                place = self._keys.held(key)
            except ValueError:
                unreadable.append(key)
                continue
            if place is not None:
                places[key] = place
        commands: list[tuple[str, ...]] = [("GET", key) for key in places]
        commands += [("PTTL", key) for key, place in places.items() if place.kind == "jti"]
        *replies, (seconds, micros) = await line.ask([*commands, ("TIME",)])
        now = int(seconds) * 1000 + int(micros) // 1000
        left = iter(replies[len(places) :])
        lines: list[bytes] = []
        for (key, place), value in zip(places.items(), replies[: len(places)], strict=True):
            ttl = next(left) if place.kind == "jti" else -1
            if value is None:  # expired since it was found
                continue
            if isinstance(value, Exception):
                unreadable.append(key)
                continue
            try:
                lines += map(records.write, self._told(place, value, None if ttl < 0 else now + ttl, now))
            except (ValueError, msgspec.MsgspecError):
                unreadable.append(key)
        return lines, unreadable

    def _told(self, place: Held, value: bytes, till: int | None, now: int) -> Iterator[Record]:
        match place.kind:
            case "jti":
                yield self._token(place, mark(value).at, till)
            case "user":
                yield from self._user(place.value, value, now)
            case "keys":
                for kid, stood in revoked_keys(value).items():
                    yield records.Key(
                        iss=self._iss(place.issuer), kid=kid, at=date(stood.at), reason=stood.reason or None
                    )
            case "session-cutoff":
                yield records.Session(
                    iss=self._iss(place.issuer), **_named("sid", place.value), **_dated(value)
                )
            case "client-cutoff":
                yield records.Client(
                    iss=self._iss(place.issuer), **_named("client_id", place.value), **_dated(value)
                )
            case _:
                yield records.Issuer(iss=self._iss(place.issuer), **_dated(value))

    def _token(self, place: Held, at: int, till: int | None) -> records.Jti:
        """``exp`` is what the store that reads it will forget it by, whatever leeway that one has."""
        issuer = self._issuers.get(place.issuer)
        kept_after_ms = ((0 if issuer is None else issuer.leeway) + SAFETY_S) * 1000 + 1
        exp = records.LATEST_S if till is None else date(max(0, till - kept_after_ms))
        return records.Jti(iss=self._iss(place.issuer), **_named("jti", place.value), exp=exp, at=date(at))

    def _user(self, tag: str, value: bytes, now: int) -> Iterator[Record]:
        user = user_standing(value)
        reason = user.reason or None
        if user.hard:
            yield records.User(tag=tag, before=date(user.hard), reason=reason)
        if user.soft > user.hard:
            yield records.User(tag=tag, before=date(user.soft), except_sid=user.sid, reason=reason)
        if user.blocked > now:
            until = None if user.blocked >= FOREVER_MS else date(user.blocked)
            yield records.Block(tag=tag, until=until, reason=user.block_reason or None)

    def _iss(self, name: str) -> str:
        """An issuer that is configured no more is called by its name, as a file to import may."""
        if not name:
            return self._own
        issuer = self._issuers.get(name)
        return name if issuer is None else issuer.iss


def _named(member: str, value: str) -> dict[str, Any]:
    return {"segment" if value.startswith("=") else member: value}


def _dated(value: bytes) -> dict[str, Any]:
    stood = mark(value)
    return {"before": date(stood.at), "reason": stood.reason or None}
