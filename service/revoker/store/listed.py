"""Reads from keys of the store the revocations that somebody has selected."""

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import msgspec
import structlog

from revoker.models import Issuer
from revoker.store.audit import Audit, read_audit
from revoker.store.keys import Held
from revoker.store.pace import Turn
from revoker.store.store import Store
from revoker.store.transfer import records
from revoker.store.transfer.audited_records import audited_part, audited_time
from revoker.store.transfer.records import Record
from revoker.store.transfer.stored_records import StoredRecords
from revoker.store.wire.connection import reads_replies, unavailable_on_failure

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


class Candidate(NamedTuple):
    """A key that can hold what is selected.

    Attributes:
        names: The key, and those that say who made what it holds, as far as its value need not be known.
    """

    held: Held
    names: list[str]


class Listed(msgspec.Struct, frozen=True, gc=False):
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
        self._store: Final = store
        self._keys: Final = store.keys
        self._records: Final = StoredRecords({issuer.name: issuer for issuer in store.issuers.values()})
        self._own: Final = own

    @reads_replies()
    async def candidates(
        self, keys: Iterable[bytes], selection: Selection, turn: Turn
    ) -> dict[bytes, Candidate]:
        """Those keys that can hold what is selected, in the same order."""
        candidates = {}
        for raw in keys:
            await turn.give_way()
            try:
                key = raw.decode()
                held = self._keys.held(key) if key else None
            except ValueError:
                continue
            if held is not None and selection.may_include(held):
                candidates[raw] = Candidate(held, self._names(key, held.kind))
        return candidates

    @reads_replies()
    async def read(
        self, candidates: Mapping[bytes, Candidate], selection: Selection, turn: Turn, *, now: int
    ) -> dict[bytes, list[Listed]]:
        """What keys hold of what is selected."""
        listed: dict[bytes, list[Listed]] = {}
        replies = await self._read_together([candidate.names for candidate in candidates.values()])
        turn.begin_piece()
        for (raw, candidate), reply in zip(candidates.items(), replies, strict=True):
            await turn.give_way()
            (value, *audits), ttl = reply
            if value is None:
                continue
            held, expires = candidate.held, None if ttl < 0 else now + ttl
            try:
                found = list(self._records.of(held, value, expires, now))
            except (ValueError, msgspec.MsgspecError) as error:
                _log.error("revocation_unreadable", error=str(error))
                continue
            parts = [audited_part(record) for record in found]
            if held.kind == "keys":
                made = await self._store.values([self._keys.audit(raw.decode(), kid) for kid in parts])
            else:
                made = [audits[part == "block"] for part in parts]
            all_of_key = self._listed(held, found, expires, made)
            selected = [item for item in all_of_key if selection.includes(item)]
            if selected:
                listed[raw] = selected
        return listed

    def _names(self, key: str, kind: str) -> list[str]:
        if kind == "keys":
            return [key]
        if kind == "user":
            return [key, self._keys.audit(key), self._keys.audit(key, "block")]
        return [key, self._keys.audit(key)]

    def _listed(
        self, place: Held, found: Sequence[Record], expires: int | None, audits: Sequence[bytes | None]
    ) -> list[Listed]:
        made = [read_audit(text, audited_time(record)) for record, text in zip(found, audits, strict=True)]
        issuer, sub = place.issuer or self._own, ""
        if place.kind == "user":  # any audit that names the user will do: all are about the same one
            named = next((audit for audit in made if audit is not None and audit.issuer), None)
            issuer, sub = ("", "") if named is None else (named.issuer, named.sub)
        return [
            Listed(record, issuer, sub, expires, audit) for record, audit in zip(found, made, strict=True)
        ]

    async def _read_together(self, names: Sequence[Sequence[str]]) -> list[tuple[list[bytes | None], int]]:
        """Of keys that share a slot, for each slot: their values, and the ``PTTL`` of the first."""
        async with unavailable_on_failure():
            if not self._keys.clustered:
                return await self._read_slot(names) if names else []
            replies = await asyncio.gather(*(self._read_slot([of_slot]) for of_slot in names))
            return [reply for [reply] in replies]

    async def _read_slot(self, names: Sequence[Sequence[str]]) -> list[tuple[list[bytes | None], int]]:
        values, *ttls = await self._store.source.read(
            names[0][0],
            [
                ("MGET", *itertools.chain.from_iterable(names)),
                *(("PTTL", first) for first, *_ in names),
            ],
        )
        rest = iter(values)
        return [([next(rest) for _ in of_slot], ttl) for of_slot, ttl in zip(names, ttls, strict=True)]
