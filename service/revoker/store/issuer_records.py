"""What the store remembers of the issuers whose revocations it holds, so that new settings un-revoke nothing.

Every process reads it before it gives verdicts, and once a second from then on.

- **Names** are parts of keys. An issuer that has another name than in the store, or a name that was
  another issuer's, is a conflict: there are no verdicts on its tokens, nothing of it is revoked, and no
  process starts with it.
- **Limits**: revocations are stored for the widest limits by which any process judges. When a process
  starts with a wider one, the store remembers the old value, which applies to what is issued within
  :data:`DELAY_MS` from then: after that every process stores its revocations for long enough
  (:func:`revoker.rules.check_old_limits`). A limit that was lowered stays as it is in the store:
  revocations are stored for longer than they must be.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import structlog

from revoker.errors import ConfigError, StoreRefused, StoreUnavailable
from revoker.models import Issuer, LimitIncrease, OldLimits
from revoker.rules import SAFETY_S
from revoker.store.keys import Keys
from revoker.store.scripts import Scripts
from revoker.store.source import Source
from revoker.store.wire.connection import unavailable_on_failure, understood

_log = structlog.get_logger("store")

DELAY_MS: Final = 60_000
_ATTEMPTS: Final = 8
"""To change the value while other processes change it, too."""


LIMITS: Final = ("max_token_lifetime", "horizon", "leeway", "clock_skew")


class IssuerRecord(
    msgspec.Struct, frozen=True, omit_defaults=True, rename={"increases": "raises"}, kw_only=True
):
    """One issuer: its ``iss``, and the widest limits (s) by which any process judges."""

    iss: str
    max_token_lifetime: int
    horizon: int
    leeway: int
    clock_skew: int
    increases: tuple[LimitIncrease, ...] = ()


IssuerRecordsByName = dict[str, IssuerRecord]

_decode: Final = msgspec.json.Decoder(IssuerRecordsByName).decode


def encode(records: Mapping[str, IssuerRecord]) -> bytes:
    """The value in the store: equal for equal records, whatever their order."""
    return msgspec.json.encode(dict(sorted(records.items())))


def conflicts(records: Mapping[str, IssuerRecord], issuers: Iterable[Issuer]) -> dict[str, str]:
    """What is wrong with the names of issuers, by name."""
    found = {}
    names = {record.iss: name for name, record in records.items()}
    for issuer in issuers:
        stored = records.get(issuer.name)
        if (name := names.get(issuer.iss, issuer.name)) != issuer.name:
            found[issuer.name] = (
                f"the issuer {issuer.iss} is called {issuer.name} in the settings and {name} in the store;"
                f" call it {name}, or run `revoker export` with that name and `revoker import` with the new"
                " one, into an empty store or under another redis.key_prefix"
            )
        elif stored is not None and stored.iss != issuer.iss:
            # not "change the file": users are exported by a hash that contains the old `iss`
            remedy = "use another store or another redis.key_prefix" if issuer.own else "give it another name"
            found[issuer.name] = (
                f"the issuer named {issuer.name} is {stored.iss} in the store and {issuer.iss} in the"
                f" settings; {remedy}"
            )
    return found


def reconciled(
    records: Mapping[str, IssuerRecord], issuers: Iterable[Issuer], now: int
) -> IssuerRecordsByName:
    """What the store must remember once these issuers are judged, from ``now`` (ms by Redis) on."""
    result = dict(records)
    for issuer in issuers:
        stored = records.get(issuer.name)
        limits = {limit: getattr(issuer, limit) for limit in LIMITS}
        if stored is None:
            result[issuer.name] = IssuerRecord(iss=issuer.iss, **limits)
            continue
        increases = [increase for increase in stored.increases if now < _obsolete_at(increase, stored)]
        for limit, value in limits.items():
            if value > (old_value := getattr(stored, limit)):
                increases.append(LimitIncrease(limit, old_value, now + DELAY_MS))  # type: ignore[arg-type]
        widest = {limit: max(value, getattr(stored, limit)) for limit, value in limits.items()}
        result[issuer.name] = IssuerRecord(iss=stored.iss, increases=tuple(increases), **widest)
    return result


def _obsolete_at(increase: LimitIncrease, record: IssuerRecord) -> int:
    """When no token from before an increase can be active any more (ms)."""
    longest = max(record.max_token_lifetime, record.horizon) + record.leeway + record.clock_skew + SAFETY_S
    return increase.until + longest * 1000


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
        conflicts: What is wrong with names, by name; nothing is written while there is any.
        read: Whether the store has ever been read.
    """

    def __init__(self, servers: Source, scripts: Scripts, keys: Keys, issuers: Iterable[Issuer]) -> None:
        self._servers = servers
        self._scripts = scripts
        self._key = keys.settings
        self._issuers = list(issuers)
        self._records: IssuerRecordsByName = {}
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
                self._refuse(found)
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
            self._refuse(found)  # the caller reports it
        else:
            self._apply(reconciled(records, self._issuers, now))

    def refuse_conflicts(self) -> None:
        """Raise ``ConfigError`` where the last reading found these settings and the store in conflict."""
        if self.conflicts:
            raise ConfigError([f"issuers: {problem}" for problem in self.conflicts.values()])

    async def look(self) -> tuple[bytes, IssuerRecordsByName | None, int]:
        """The value as stored (empty: none), its records, and Redis ``TIME`` (ms)."""
        async with unavailable_on_failure():
            with understood():
                text, (seconds, micros) = await self._servers.read(self._key, [("GET", self._key), ("TIME",)])
                now = int(seconds) * 1000 + int(micros) // 1000
        try:
            stored = None if text is None else _decode(text)
        except (msgspec.MsgspecError, TypeError) as error:
            raise StoreRefused("the store holds settings that can't be read") from error
        return text or b"", stored, now

    async def set(self, expected: bytes, records: Mapping[str, IssuerRecord]) -> bool:
        """Set the value where it still is ``expected``; whether it was."""
        with understood():
            [done] = await self._scripts.execute("set_settings", [self._key], (expected, encode(records)))
        return bool(done)

    def _refuse(self, found: dict[str, str]) -> None:
        self.conflicts, self.read = found, True
        old = dict(self.old_limits)
        for name, problem in found.items():
            old[name] = msgspec.structs.replace(old.get(name, OldLimits()), conflict=problem)
        self.old_limits = old

    def _apply(self, records: IssuerRecordsByName) -> None:
        self.conflicts, self.read, self._records = {}, True, records
        self.old_limits = {
            name: OldLimits(record.increases) for name, record in records.items() if record.increases
        }
        self._widest = {
            issuer.name: dataclasses.replace(
                issuer, **{limit: getattr(records[issuer.name], limit) for limit in LIMITS}
            )
            for issuer in self._issuers
        }
