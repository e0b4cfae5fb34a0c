"""Puts revocations into a store, a million at once in bounded memory.

The scripts of the service write them, so that nothing in the store is weakened.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from revoker.errors import InvalidRequest, StoreRefused, StoreUnavailable
from revoker.models import Issuer, Number
from revoker.rules import (
    FOREVER_MS,
    START_AHEAD_MS,
    includes_cutoff,
    includes_user_cutoff,
    jti_expiry_ms,
    jti_lifetime_ms,
    revocable_value,
)
from revoker.store.keys import claim_segment, segment, tag_and_start, user_tag
from revoker.store.revocations import AHEAD_MS
from revoker.store.store import Store
from revoker.store.stored_values import parse_revocation, parse_user_state, revoked_keys
from revoker.store.transfer import records
from revoker.store.transfer.audited_records import audit_of
from revoker.store.transfer.records import Record, milliseconds

TOGETHER: Final = 256
"""Tokens in one script at most: more would block the server for other clients."""

_RECONCILE_EVERY_S: Final = 1.0
"""As often as a running service; a limit that is raised meanwhile counts only a minute after that."""

PAUSES_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Before an unacknowledged write is sent again: together long enough for a failover."""

Call = tuple[str, Sequence[str], Sequence[Any]]
"""A script, its keys, its arguments."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """One line, as it will be written.

    Attributes:
        keys: Of the script; the first is the key that it writes.
        expiry: When the key expires (ms), if that is known beforehand; what has expired is not written.
        in_effect: Whether the value of the key already does what the line asks for.
    """

    kind: str
    script: str
    keys: tuple[str, ...]
    args: tuple[Any, ...]
    expiry: int | None
    in_effect: Callable[[bytes], bool]


class Importing:
    """Puts lines into a store; repeating any of it is safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys
        self._issuers = {issuer.name: issuer for issuer in store.issuers.values()} | dict(store.issuers)
        self._clock_ms = 0.0
        self._data: list[str] = []
        self._longest_ms = 0
        self._reconciled = -math.inf
        self._claims: dict[tuple[str, str], Issuer] = {}

    async def begin(self) -> None:
        """Learn which data set this is, its time, and for how long it keeps what is revoked.

        Raises:
            ConfigError: an issuer has another name in the settings than in the store.
            StoreRefused: the store has no epoch: an instance would take it for one that has lost its data.
        """
        readings = (await self._store.readings()).values()
        if any(reading.epoch is None for reading in readings):
            raise StoreRefused("the store has no epoch: `revoker store init` where it is new")
        self._clock_ms = min(reading.now for reading in readings) - time.monotonic() * 1000
        await self._store.learn()
        await self._store.learn_latest_time()
        self._data = self._store.data_ids()
        await self._store.issuer_records.adopt()
        self._take_limits()

    @property
    def now(self) -> int:
        """The store's time, ms."""
        return int(self._clock_ms + time.monotonic() * 1000)

    def change(self, record: Record) -> Change:
        """What a line asks for.

        Raises:
            InvalidRequest: it names an issuer that is not configured, or a time that is yet to come.
        """
        if isinstance(record, records.Jti):
            return self._token(record, self._issuer(record.iss))
        match record:
            case records.User():
                return self._user(record)
            case records.Block():
                return self._block(record)
            case records.Key():
                return self._signing_key(record, self._issuer(record.iss))
            case records.Session():
                issuer = self._issuer(record.iss)
                if record.sid is None:
                    key, start = self._keys.of_segment("session-cutoff", issuer, record.segment or ""), 0
                else:
                    own = tag_and_start(record.sid) if issuer.own else None
                    key, start = self._keys.session_cutoff(issuer, record.sid), own[1] if own else 0
                return self._cutoff(record, issuer, key, start)
            case records.Client():
                issuer = self._issuer(record.iss)
                place = record.segment or segment(record.client_id or "")
                return self._shared_cutoff(
                    record, issuer, self._keys.of_segment("client-cutoff", issuer, place)
                )
            case records.Claim():
                issuer = self._issuer(record.iss)
                claim = _revocable_claim(record, issuer)
                self._claims[issuer.name, claim] = issuer
                place = f"{claim_segment(claim)}:{_value_place(record)}"
                return self._shared_cutoff(
                    record, issuer, self._keys.of_segment("claim-cutoff", issuer, place)
                )
            case records.Issuer():
                issuer = self._issuer(record.iss)
                return self._shared_cutoff(record, issuer, self._keys.issuer_cutoff(issuer))

    async def in_effect(self, changes: Sequence[Change]) -> list[bool]:
        """Which of the changes would change nothing, since all that they ask for is in effect."""
        values = await self._store.values([change.keys[0] for change in changes]) if changes else []
        pairs = zip(changes, values, strict=True)
        return [value is not None and change.in_effect(value) for change, value in pairs]

    async def store(self, changes: Sequence[Change]) -> None:
        """Write; all of it is stored and acknowledged when this returns.

        Raises:
            StoreUnavailable: some of it may not be.
            StoreRefused: the store lost data meanwhile; what was stored before may be gone.
        """
        calls = list(_calls(changes, self._keys.part))
        for pause in (*PAUSES_S, None):
            try:
                await self._reconcile()
                for (_, claim), issuer in self._claims.items():
                    await self._store.issuer_records.record_claim(issuer, claim)
                await asyncio.gather(*(self._store.scripts.run(*call) for call in calls))
                break
            except StoreUnavailable:
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        self._same_data()

    async def end(self) -> None:
        """See that all of it is still there; raises as :meth:`store`."""
        await self._store.learn()
        self._same_data()

    async def _reconcile(self) -> None:
        """Bring the settings and what the store remembers of the issuers together, as the service does."""
        if time.monotonic() - self._reconciled >= _RECONCILE_EVERY_S:
            await self._store.issuer_records.reconcile()
            self._reconciled = time.monotonic()
            self._take_limits()

    def _take_limits(self) -> None:
        self._store.issuer_records.refuse_conflicts()
        self._longest_ms = max(map(self._store.revocations.cutoff_lifetime, self._store.issuers.values()))

    def _same_data(self) -> None:
        if self._store.data_ids() != self._data:
            raise StoreRefused("the store lost data meanwhile: all of it has to be imported again")

    def _token(self, record: records.Jti, issuer: Issuer) -> Change:
        place = record.segment or segment(record.jti or "")
        expiry, at = None, "" if record.at is None else milliseconds(record.at)
        widest = self._store.issuer_records.widest(issuer)
        if record.exp is None:
            expiry_or_lifetime = -jti_lifetime_ms(widest)
        else:
            expiry_or_lifetime = expiry = jti_expiry_ms(widest, record.exp)
        key = self._keys.of_segment("jti", issuer, place)
        audit, _ = self._audit(record)
        if audit:
            lifetime = jti_lifetime_ms(widest)
            at = "" if at == "" else min(int(at), self.now)
            args = ("" if expiry is None else expiry, lifetime, at, "", audit)
            return Change("jti", "revoke_token", (key,), args, expiry, _listed)
        return Change("jti", "revoke_tokens", (key,), (expiry_or_lifetime, at), expiry, _listed)

    def _user(self, record: records.User) -> Change:
        tag, lifetime_ms, audit = self._whose(record)
        at = self._past(record.before)
        sid = record.except_sid or ""

        def in_effect(value: bytes) -> bool:
            return at is not None and includes_user_cutoff(parse_user_state(value), at, sid)

        return Change(
            "user",
            "revoke_user",
            (self._keys.user(tag), self._keys.sessions(tag)),
            ("" if at is None else at, lifetime_ms, record.reason or "", AHEAD_MS, sid, "", *audit),
            None if at is None else at + lifetime_ms,
            in_effect,
        )

    def _shared_cutoff(
        self, record: records.Client | records.Claim | records.Issuer, issuer: Issuer, key: str
    ) -> Change:
        """A cutoff of many sessions, which covers those that a faster server has dated."""
        return self._cutoff(record, issuer, key, self._store.revocations.latest_start(issuer))

    def _cutoff(
        self,
        record: records.Session | records.Client | records.Claim | records.Issuer,
        issuer: Issuer,
        key: str,
        start: int,
    ) -> Change:
        at, lifetime_ms = self._past(record.before), self._store.revocations.cutoff_lifetime(issuer)
        dated = "" if at is None else at
        ahead = (AHEAD_MS, start, START_AHEAD_MS)
        return Change(
            records.kind(record),
            "move_cutoff",
            (key,),
            (dated, lifetime_ms, record.reason or "", *ahead, "", *self._audit(record)),
            None if at is None else at + lifetime_ms,
            lambda value: at is not None and includes_cutoff(parse_revocation(value), at),
        )

    def _block(self, record: records.Block) -> Change:
        tag, lifetime_ms, audit = self._whose(record)
        until = FOREVER_MS if record.until is None else min(milliseconds(record.until), FOREVER_MS)
        return Change(
            "block",
            "block_user",
            (self._keys.user(tag), self._keys.beside(self._keys.user(tag)).blocks),
            (until, lifetime_ms, record.reason or "", tag, "", *audit),
            until,
            lambda value: parse_user_state(value).blocked >= until,
        )

    def _signing_key(self, record: records.Key, issuer: Issuer) -> Change:
        at = self._past(record.at)
        audit, _ = self._audit(record)
        return Change(
            "key",
            "revoke_key",
            (self._keys.revoked_keys(issuer),),
            (record.kid, record.reason or "", "" if at is None else at, audit, segment(record.kid)),
            None,
            lambda value: record.kid in revoked_keys(value),
        )

    def _issuer(self, named: str) -> Issuer:
        found = self._issuers.get(named)
        if found is None:
            raise InvalidRequest(f"no issuer {named} is configured")
        return found

    def _whose(self, record: records.User | records.Block) -> tuple[str, int, tuple[bytes, int | str]]:
        """The user's tag, for how long a cutoff of theirs is stored, and who made it.

        Where a line has only a tag, the issuer is not known.
        """
        if record.iss is None or record.sub is None:
            return record.tag or "", self._longest_ms, self._audit(record)
        issuer = self._issuer(record.iss)
        lifetime_ms = self._store.revocations.cutoff_lifetime(issuer)
        return user_tag(issuer.iss, record.sub), lifetime_ms, self._audit(record, issuer)

    def _audit(self, record: Record, issuer: Issuer | None = None) -> tuple[bytes, int | str]:
        """As :func:`audit_of`; raises ``InvalidRequest`` where that is yet to come."""
        self._past(record.made)
        return audit_of(record, issuer)

    def _past(self, at: Number | None) -> int | None:
        if at is None:
            return None
        when = milliseconds(at)
        if when > self.now + AHEAD_MS:
            raise InvalidRequest("the time is further ahead than 5 seconds")
        return when


def _revocable_claim(record: records.Claim, issuer: Issuer) -> str:
    """The name of a claim, which must be revocable."""
    place = record.claim_segment or claim_segment(record.claim or "")
    names = () if issuer.claim_names is None else issuer.claim_names.revocable
    for name in names:
        if claim_segment(name) == place:
            return name
    raise InvalidRequest(f"claim {record.claim or place} is not revocable at issuer {issuer.name}")


def _value_place(record: records.Claim) -> str:
    if record.segment is not None:
        return record.segment
    value = revocable_value(record.claim or "", record.value)
    if value is None:
        raise InvalidRequest("value can't be read")
    return segment(value)


def _listed(_: bytes) -> bool:
    return True


def _calls(changes: Sequence[Change], part: Callable[[str], int]) -> Iterator[Call]:
    """A script for every change, or for many tokens of one data set where nobody is named."""
    by_part: dict[int, list[Change]] = {}
    for change in changes:
        if change.script == "revoke_tokens":
            by_part.setdefault(part(change.keys[0]), []).append(change)
    for tokens in by_part.values():
        for start in range(0, len(tokens), TOGETHER):
            together = tokens[start : start + TOGETHER]
            yield (
                "revoke_tokens",
                [change.keys[0] for change in together],
                [arg for change in together for arg in change.args],
            )
    for change in changes:
        if change.script != "revoke_tokens":
            yield change.script, change.keys, change.args
