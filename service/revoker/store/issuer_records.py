"""Reads what the store remembers of the issuers, adds those of this process, and applies what it has read.

:mod:`revoker.store.recorded_issuers` says what that is, and what it is for.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final

import msgspec
import structlog

from revoker.errors import ConfigError, StoreRefused, StoreUnavailable
from revoker.models import Issuer, OldLimits
from revoker.store.keys import Keys
from revoker.store.recorded_issuers import (
    LIMITS,
    IssuerRecord,
    IssuerRecordsByName,
    accepted,
    claim_changes,
    conflict_of_names,
    conflicts,
    decode,
    encode,
    reconciled,
)
from revoker.store.scripts import Scripts
from revoker.store.source import Source
from revoker.store.stored_values import redis_time_ms
from revoker.store.wire.connection import unavailable_on_failure, understood

_log = structlog.get_logger("store")

_ATTEMPTS: Final = 8
"""How often a change is tried while other processes change the value, too."""

NOTICE_MS: Final = 3000
"""Three beats of the watch: within that every process that reaches the store has read a change."""


def _log_increases(before: Mapping[str, IssuerRecord], after: Mapping[str, IssuerRecord]) -> None:
    for name, record in after.items():
        for increase in record.increases:
            if name in before and increase not in before[name].increases:
                _log.warning(
                    "bound_raised",
                    issuer=name,
                    bound=increase.limit,
                    before=increase.old_value,
                    now=getattr(record, increase.limit),
                    for_what_is_issued_after=increase.until / 1000,
                )


class IssuerRecords:
    """What one process has last read of them, and how it adds its own issuers.

    Attributes:
        old_limits: By issuer name, only of issuers that have any; frozen, and replaced as a whole. Before the
            first reading it allows no verdict on any issuer.
        conflicts: What is wrong with names and claims, by name; nothing is written while there is any.
        read: Whether the store has ever been read.
    """

    def __init__(self, servers: Source, scripts: Scripts, keys: Keys, issuers: Iterable[Issuer]) -> None:
        self._servers = servers
        self._scripts = scripts
        self._key = keys.settings
        self._issuers = list(issuers)
        self._records: IssuerRecordsByName = {}
        self._read_at = 0
        self._widest: dict[str, Issuer] = {}
        unread = OldLimits(conflict="what the store remembers of the issuer has not been read yet")
        self.old_limits: Mapping[str, OldLimits] = {issuer.name: unread for issuer in self._issuers}
        self.conflicts: dict[str, str] = {}
        self.read = False

    def widest(self, issuer: Issuer) -> Issuer:
        """The issuer with the widest limits by which any process judges; revocations are stored for those."""
        return self._widest.get(issuer.name, issuer)

    def refuse_in_conflict(self, issuer: Issuer) -> None:
        """Raise ``StoreRefused`` where a revocation would not be found under the issuer's name."""
        old = self.old_limits.get(issuer.name)
        if old is not None and old.conflict is not None:
            raise StoreRefused(old.conflict)

    async def reconcile(self) -> None:
        """Read what the store remembers, add what is new, and apply it.

        A store that has lost it is given what this process knew.

        Raises:
            StoreUnavailable: no answer.
            StoreRefused: it can't be read.
        """
        for _ in range(_ATTEMPTS):
            text, stored, now = await self.look()
            records = self._records if stored is None else stored
            if found := conflicts(records, self._issuers):
                if found != self.conflicts:
                    _log.error("settings_conflict", problems=list(found.values()))
                self._refuse(found, records, now)
                return
            new = reconciled(records, self._issuers, now)
            if encode(new) == text:
                self._apply(new)
                return
            if await self.set(text, new):
                _log_increases(records, new)
                self._apply(new)
                return
        raise StoreUnavailable("what the store remembers of the issuers keeps changing")

    async def adopt(self) -> None:
        """As :meth:`reconcile`, but add nothing to the store: for what gives no verdicts."""
        _, stored, now = await self.look()
        records = self._records if stored is None else stored
        if found := conflicts(records, self._issuers):
            self._refuse(found, records, now)  # the caller reports it
        else:
            self._apply(reconciled(records, self._issuers, now))

    def refuse_conflicts(self) -> None:
        """Raise ``ConfigError`` where the last reading found these settings and the store in conflict."""
        if self.conflicts:
            raise ConfigError([f"issuers: {problem}" for problem in self.conflicts.values()])

    async def accept(self, issuer: Issuer, cut_off: Callable[[], Awaitable[object]]) -> list[str]:
        """Record the claims of an issuer as the settings name them. What is interrupted can be repeated.

        Meanwhile no process gives verdicts on tokens of the issuer, or revokes one: by the old names it could
        store what nobody would find. ``cut_off`` is called once every process has noticed that, and before
        any process judges by the new names.

        Returns:
            What has changed, as :func:`claim_changes`; empty where nothing had to be accepted.

        Raises:
            ConfigError: the name of the issuer is in conflict.
            StoreUnavailable: no answer; the change may be made in part.
        """
        changes: list[str] = []
        for _ in range(_ATTEMPTS):
            text, stored, now = await self.look()
            records = stored or {}
            if problem := conflict_of_names(records, issuer):
                raise ConfigError([f"issuers: {problem}"])
            record = records.get(issuer.name)
            if record is None or not (record.changing or claim_changes(record, issuer)):
                return changes
            changes = claim_changes(record, issuer) or changes or ["an interrupted change is completed"]
            if not record.changing:
                record = msgspec.structs.replace(record, changing=now)
                if not await self.set(text, {**records, issuer.name: record}):
                    continue
            self._apply(reconciled(records, self._issuers, now))
            await asyncio.sleep(max(0, record.changing + NOTICE_MS - now) / 1000)
            await cut_off()
            if await self._complete(issuer, record):
                return changes
        raise StoreUnavailable("what the store remembers of the issuers keeps changing")

    async def _complete(self, issuer: Issuer, changing: IssuerRecord) -> bool:
        """Record the claims; False where another operator has done it, perhaps by other settings."""
        for _ in range(_ATTEMPTS):
            text, stored, _ = await self.look()
            if stored is None or stored.get(issuer.name) != changing:
                return False
            if await self.set(text, {**stored, issuer.name: accepted(changing, issuer)}):
                return True
        return False

    async def record_claim(self, issuer: Issuer, claim: str) -> None:
        """Record that something is revoked by a revocable claim, before it is.

        From then on a process whose settings lack the claim gives no verdicts on tokens of the issuer. The
        first call waits until every process has noticed that.

        Raises:
            StoreUnavailable: no answer; nothing may be revoked by the claim yet.
            StoreRefused: the issuer is in conflict.
        """
        self.refuse_in_conflict(issuer)
        record = self._records.get(issuer.name)
        if record is not None and record.revoked_by.get(claim, self._read_at) + NOTICE_MS <= self._read_at:
            return
        for _ in range(_ATTEMPTS):
            await self.reconcile()
            self.refuse_in_conflict(issuer)
            text, stored, now = await self.look()
            record = (stored or {}).get(issuer.name)
            if stored is None or record is None:
                continue
            since = record.revoked_by.get(claim)
            if since is None:
                since = now
                record = msgspec.structs.replace(record, revoked_by={**record.revoked_by, claim: now})
                if not await self.set(text, {**stored, issuer.name: record}):
                    continue
            await asyncio.sleep(max(0, since + NOTICE_MS - now) / 1000)
            self.refuse_in_conflict(issuer)
            return
        raise StoreUnavailable("what the store remembers of the issuers keeps changing")

    async def look(self) -> tuple[bytes, IssuerRecordsByName | None, int]:
        """The value as stored (empty: none), its records, and Redis ``TIME`` (ms)."""
        async with unavailable_on_failure():
            with understood():
                text, stamp = await self._servers.read(self._key, [("GET", self._key), ("TIME",)])
                now = redis_time_ms(stamp)
        stored = None if text is None else decode(text)
        self._read_at = now
        return text or b"", stored, now

    async def set(self, expected: bytes, records: Mapping[str, IssuerRecord]) -> bool:
        """Set the value where it still is ``expected``; whether it was."""
        with understood():
            [done] = await self._scripts.execute("set_settings", [self._key], (expected, encode(records)))
        return bool(done)

    def _refuse(self, found: dict[str, str], records: Mapping[str, IssuerRecord], now: int) -> None:
        """Take over what is wrong; issuers in conflict keep the limits that they had."""
        if self._widest:  # without it nothing was ever applied, and there are no verdicts on any issuer
            self._take(reconciled(records, [i for i in self._issuers if i.name not in found], now), found)
        else:
            self._records = dict(records)
        self.conflicts, self.read = found, True
        old = dict(self.old_limits)
        for name, problem in found.items():
            old[name] = msgspec.structs.replace(old.get(name, OldLimits()), conflict=problem)
        self.old_limits = old

    def _apply(self, records: IssuerRecordsByName) -> None:
        self.conflicts, self.read = {}, True
        self._take(records, ())

    def _take(self, records: IssuerRecordsByName, without: Collection[str]) -> None:
        """Take over the limits of all issuers but some."""
        self._records = records
        self.old_limits = {
            name: OldLimits(record.increases, record.wider)
            for name, record in records.items()
            if record.increases or record.wider
        }
        self._widest |= {
            issuer.name: dataclasses.replace(
                issuer, **{limit: getattr(records[issuer.name], limit) for limit in LIMITS}
            )
            for issuer in self._issuers
            if issuer.name not in without
        }
