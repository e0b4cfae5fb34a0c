"""Reads from keys of the store the revocations that somebody has selected."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import structlog

from revoker.models import Issuer
from revoker.store.audit import Audit, read_audit
from revoker.store.keys import Held
from revoker.store.store import Store
from revoker.store.transfer import records
from revoker.store.transfer.audited_records import audited_part, audited_time
from revoker.store.transfer.records import Record
from revoker.store.transfer.stored_records import StoredRecords
from revoker.store.wire.connection import unavailable_on_failure

_log = structlog.get_logger("store")

Kind = Literal["jti", "user", "session", "client", "claim", "issuer", "block", "key"]

_KINDS_OF: Final[Mapping[str, frozenset[str]]] = {
    "jti": frozenset({"jti"}),
    "user": frozenset({"user", "block"}),
    "session-cutoff": frozenset({"session"}),
    "client-cutoff": frozenset({"client"}),
    "claim-cutoff": frozenset({"claim"}),
    "issuer-cutoff": frozenset({"issuer"}),
    "keys": frozenset({"key"}),
}

_KEYS_A_TURN: Final = 5
"""Keys that are decoded before other requests get a turn, which wait for about 50 µs."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One revocation.

    Attributes:
        issuer: The name of its issuer; empty: of a user of whom that is not known.
        sub: Of a user of whom it is known; else empty.
        expires: When the store drops it (ms), of a user together with all their revocations; None: never.
        audit: Who made it; None: nobody knows.
    """

    record: Record
    issuer: str
    sub: str
    expires: int | None
    audit: Audit | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which revocations are listed.

    Attributes:
        kind: None: all.
        issuer: Its name; None: of all that are visible.
        visible: Names of issuers; None: of any, and those of whom that is not known.
    """

    kind: Kind | None
    issuer: str | None
    visible: frozenset[str] | None

    def may_include(self, place: Held) -> bool:
        """Whether a key can hold what is selected; those of users and their sessions name no issuer."""
        if self.kind is not None and self.kind not in _KINDS_OF.get(place.kind, ()):
            return False
        return not place.issuer or self._includes_issuer(place.issuer)

    def includes(self, listed: Listed) -> bool:
        kind = records.kind(listed.record)
        return (self.kind is None or kind == self.kind) and self._includes_issuer(listed.issuer)

    def _includes_issuer(self, name: str) -> bool:
        if self.issuer is not None and name != self.issuer:
            return False
        return self.visible is None or name in self.visible

    @property
    def text(self) -> str:
        """Equal for equal selections, in any process."""
        visible = None if self.visible is None else sorted(self.visible)
        return repr((self.kind, self.issuer, visible))


def visible_issuers(
    of_caller: Mapping[str, Issuer], configured: Mapping[str, Issuer]
) -> frozenset[str] | None:
    """The names of the issuers whose revocations a caller sees; None: all, by whatever issuer."""
    if of_caller.keys() >= configured.keys():
        return None
    return frozenset(issuer.name for issuer in of_caller.values())


class ListedReader:
    """Reads the revocations that keys hold, and who made them."""

    def __init__(self, store: Store, own: str) -> None:
        """``own``: the name of the issuer of the sessions that this service keeps; empty: there is none."""
        self._source: Final = store.source
        self._keys: Final = store.keys
        self._records: Final = StoredRecords({issuer.name: issuer for issuer in store.issuers.values()})
        self._own: Final = own

    async def read(self, keys: Sequence[bytes], selection: Selection, now: int) -> dict[bytes, list[Listed]]:
        """What keys hold of what is selected."""
        places: dict[str, Held] = {}
        for raw in keys:
            key = raw.decode(errors="replace")
            try:
                place = self._keys.held(key) if key else None
            except ValueError:
                continue
            if place is not None and selection.may_include(place):
                places[key] = place
        replies = await self._read_together({key: [("GET", key), ("PTTL", key)] for key in places})
        found: dict[str, list[tuple[Record, int | None]]] = {}
        audits: dict[str, list[tuple[str, ...]]] = {}
        for number, (key, place) in enumerate(places.items(), 1):
            if number % _KEYS_A_TURN == 0:
                await asyncio.sleep(0)
            value, ttl = replies[key]
            if value is None or isinstance(value, Exception):
                continue
            expires = None if ttl < 0 else now + ttl
            try:
                of_key = [(record, expires) for record in self._records.of(place, value, expires, now)]
            except (ValueError, msgspec.MsgspecError) as error:
                _log.error("revocation_unreadable", error=str(error))
                continue
            if not of_key:  # of a user whose revocations were undone
                continue
            found[key] = of_key
            audits[key] = [("GET", self._keys.audit(key, audited_part(record))) for record, _ in of_key]
        made = await self._read_together(audits)
        listed: dict[bytes, list[Listed]] = {}
        for number, (key, of_key) in enumerate(found.items(), 1):
            if number % _KEYS_A_TURN == 0:
                await asyncio.sleep(0)
            all_of_key = self._listed(places[key], of_key, made[key])
            selected = [item for item in all_of_key if selection.includes(item)]
            if selected:
                listed[key.encode()] = selected
        return listed

    def _listed(
        self, place: Held, found: Sequence[tuple[Record, int | None]], audits: Sequence[Any]
    ) -> list[Listed]:
        made = [
            read_audit(text, audited_time(record)) for (record, _), text in zip(found, audits, strict=True)
        ]
        issuer, sub = place.issuer or self._own, ""
        if place.kind == "user":  # any audit that names the user will do: all are about the same one
            named = next((audit for audit in made if audit is not None and audit.issuer), None)
            issuer, sub = ("", "") if named is None else (named.issuer, named.sub)
        return [
            Listed(record, issuer, sub, expires, audit)
            for (record, expires), audit in zip(found, made, strict=True)
        ]

    async def _read_together(self, commands: Mapping[str, Sequence[tuple[str, ...]]]) -> dict[str, list[Any]]:
        """Send the commands of several keys; those of a key read from its slot."""
        async with unavailable_on_failure():
            if self._keys.clustered:
                replies = await asyncio.gather(
                    *(self._source.read(key, of_key) for key, of_key in commands.items())
                )
                return dict(zip(commands, replies, strict=True))
            flat = [command for of_key in commands.values() for command in of_key]
            rest = iter(await self._source.read("", flat) if flat else ())
            return {key: [next(rest) for _ in of_key] for key, of_key in commands.items()}
