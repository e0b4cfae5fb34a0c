"""Reads all revocations of a store in steps, with bounded memory.

Tokens, cutoffs, blocks and keys are exported. Sessions are not: they belong to the store that created them.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from revoker.errors import StoreRefused
from revoker.rules import FOREVER_MS, SAFETY_S
from revoker.store.consistency.epoch import Epoch
from revoker.store.keys import Held, claim_segment
from revoker.store.lookups import parse_revocation, parse_user_state, revoked_keys
from revoker.store.store import Store
from revoker.store.transfer import records
from revoker.store.transfer.records import Record, date
from revoker.store.wire.command_channel import CommandChannel
from revoker.store.wire.connection import unavailable_on_failure

KEYS_PER_STEP: Final = 1000
"""Keys that one step of an export reads, roughly."""


class Step(NamedTuple):
    """The result of one step of an export.

    Attributes:
        lines: Revocations, encoded.
        unreadable: Keys whose value cannot be read, or whose kind is unknown.
    """

    lines: list[bytes]
    unreadable: list[str]


class Exporting:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys
        self._issuers = {issuer.name: issuer for issuer in store.issuers.values()}
        self._own = next((issuer.iss for issuer in store.issuers.values() if issuer.own), "sessions")

    async def size(self) -> int:
        """How many keys the servers hold, roughly: sessions and keys of other services count too."""
        connections = (await self._store.primaries()).values()
        async with unavailable_on_failure():
            return sum([int(await connection.execute("DBSIZE")) for connection in connections])

    async def steps(self) -> AsyncIterator[Step]:
        """Read all revocations.

        Raises:
            StoreUnavailable: the store did not answer.
            StoreRefused: a server was replaced meanwhile, so that keys may be missing.
        """
        yield Step(await self._lost_data(), [])
        for server, connection in sorted((await self._store.primaries()).items()):
            cursor = b"0"
            while True:
                async with unavailable_on_failure():
                    cursor, found = await connection.execute(
                        "SCAN", cursor, "MATCH", self._keys.all(), "COUNT", KEYS_PER_STEP
                    )
                    step = await self._read(connection, [key.decode(errors="replace") for key in found])
                if connection.server != server:
                    raise StoreRefused(
                        "a server of the store was restarted or replaced during the export: export again"
                    )
                yield step
                if cursor == b"0":
                    break

    async def _lost_data(self) -> list[bytes]:
        """The cutoff of a data loss, as a cutoff of every issuer: both cover the same tokens."""
        readings = (await self._store.readings()).values()
        cutoff = max((Epoch.parse(reading.epoch).cutoff for reading in readings if reading.epoch), default=0)
        if not cutoff:
            return []
        return [
            records.write(records.Issuer(iss=issuer.iss, before=date(cutoff), reason="data loss"))
            for issuer in self._issuers.values()
        ]

    async def _read(self, connection: CommandChannel, found: Sequence[str]) -> Step:
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
        *replies, (seconds, micros) = await connection.ask([*commands, ("TIME",)])
        now = int(seconds) * 1000 + int(micros) // 1000
        ttls = iter(replies[len(places) :])
        lines: list[bytes] = []
        for (key, place), value in zip(places.items(), replies[: len(places)], strict=True):
            ttl = next(ttls) if place.kind == "jti" else -1
            if value is None:  # it has expired since the SCAN
                continue
            if isinstance(value, Exception):
                unreadable.append(key)
                continue
            try:
                expires = None if ttl < 0 else now + ttl
                lines += map(records.write, self._records(place, value, expires, now))
            except (ValueError, msgspec.MsgspecError):
                unreadable.append(key)
        return Step(lines, unreadable)

    def _records(self, place: Held, value: bytes, expires: int | None, now: int) -> Iterator[Record]:
        iss = self._iss(place.issuer)
        match place.kind:
            case "jti":
                yield self._token(place, parse_revocation(value).at, expires)
            case "user":
                yield from self._user(place.value, value, now)
            case "keys":
                for kid, revoked in revoked_keys(value).items():
                    reason = revoked.reason or None
                    yield records.Key(iss=iss, kid=kid, at=date(revoked.at), reason=reason)
            case "session-cutoff":
                yield records.Session(iss=iss, **_named("sid", place.value), **_dated(value))
            case "client-cutoff":
                yield records.Client(iss=iss, **_named("client_id", place.value), **_dated(value))
            case "claim-cutoff":
                yield records.Claim(
                    iss=iss, **self._claim(place), **_named("value", place.value), **_dated(value)
                )
            case _:
                yield records.Issuer(iss=iss, **_dated(value))

    def _token(self, place: Held, at: int, expires: int | None) -> records.Jti:
        """``exp`` has no leeway or margin: the store that imports it adds its own."""
        issuer = self._issuers.get(place.issuer)
        margin_ms = ((0 if issuer is None else issuer.leeway) + SAFETY_S) * 1000 + 1
        exp = records.LATEST_S if expires is None else date(max(0, expires - margin_ms))
        return records.Jti(iss=self._iss(place.issuer), **_named("jti", place.value), exp=exp, at=date(at))

    def _user(self, tag: str, value: bytes, now: int) -> Iterator[Record]:
        user = parse_user_state(value)
        reason = user.reason or None
        if user.hard:
            yield records.User(tag=tag, before=date(user.hard), reason=reason)
        if user.soft > user.hard:
            yield records.User(tag=tag, before=date(user.soft), except_sid=user.sid, reason=reason)
        if user.blocked > now:
            until = None if user.blocked >= FOREVER_MS else date(user.blocked)
            yield records.Block(tag=tag, until=until, reason=user.block_reason or None)

    def _claim(self, place: Held) -> dict[str, Any]:
        """The name of a claim, or its digest if that is the name of no claim that is revocable by now."""
        if not place.claim.startswith("="):
            return {"claim": place.claim}
        issuer = self._issuers.get(place.issuer)
        names = () if issuer is None or issuer.claim_names is None else issuer.claim_names.revocable
        name = next((name for name in names if claim_segment(name) == place.claim), None)
        return {"claim_segment": place.claim} if name is None else {"claim": name}

    def _iss(self, name: str) -> str:
        """The ``iss``; the name of an issuer that is no longer configured, which an import accepts too."""
        if not name:
            return self._own
        issuer = self._issuers.get(name)
        return name if issuer is None else issuer.iss


def _named(member: str, value: str) -> dict[str, Any]:
    return {"segment" if value.startswith("=") else member: value}


def _dated(value: bytes) -> dict[str, Any]:
    cutoff = parse_revocation(value)
    return {"before": date(cutoff.at), "reason": cutoff.reason or None}
