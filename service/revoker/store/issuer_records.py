"""What the store remembers of the issuers whose revocations it holds, so that new settings un-revoke nothing.

Every process reads it before it gives verdicts, and once a second from then on.

- **Names** are parts of keys. An issuer that has another name than in the store, or a name that was
  another issuer's, is a conflict: nothing is judged or revoked of it, and no process starts with it.
- **Bounds**: revocations are kept for the widest under which anybody judges. When a process starts with
  a wider one, that is noted with the one before, and holds for what is issued from :data:`DELAY_MS` on:
  by then every process keeps what it revokes for so long (:func:`revoker.rules.held_back`).
  A bound that was lowered stays as it is here: what is revoked is kept longer than it must be.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import structlog

from revoker.errors import ConfigError, StoreRefused, StoreUnavailable
from revoker.models import Issuer, Raise
from revoker.rules import SAFETY_S
from revoker.store.keys import Keys
from revoker.store.scripts import Scripts
from revoker.store.source import Source
from revoker.store.wire.connection import unavailable_on_failure, understood

_log = structlog.get_logger("store")

DELAY_MS: Final = 60_000

_BOUNDS: Final = ("max_token_lifetime", "horizon", "leeway", "clock_skew")


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One issuer: its ``iss``, and the bounds as for :class:`revoker.models.History`."""

    iss: str
    max_token_lifetime: int
    horizon: int
    leeway: int
    clock_skew: int
    raises: tuple[Raise, ...] = ()


Records = dict[str, Record]

_decode: Final = msgspec.json.Decoder(Records).decode


def encode(records: Mapping[str, Record]) -> bytes:
    """As it stands in the store: the same for the same."""
    return msgspec.json.encode(dict(sorted(records.items())))


def conflicts(records: Mapping[str, Record], issuers: Iterable[Issuer]) -> dict[str, str]:
    """What is wrong with the names of issuers, by name."""
    found = {}
    names = {record.iss: name for name, record in records.items()}
    for issuer in issuers:
        stands = records.get(issuer.name)
        if (name := names.get(issuer.iss, issuer.name)) != issuer.name:
            found[issuer.name] = (
                f"the issuer {issuer.iss} is called {issuer.name}, and {name} in the store, under which lies"
                f" what was revoked of it; call it {name}, or move that:"
                f" `revoker store rename {name} {issuer.name}`"
            )
        elif stands is not None and stands.iss != issuer.iss:
            found[issuer.name] = (
                f"the name {issuer.name} is that of {stands.iss} in the store, and of {issuer.iss} in the"
                f" settings; give this one another name, or that: `revoker store rename {issuer.name}"
                " ANOTHER-NAME`"
            )
    return found


def reconciled(records: Mapping[str, Record], issuers: Iterable[Issuer], now: int) -> Records:
    """What the store is to remember once these issuers are judged, from ``now`` (ms by Redis) on."""
    result = dict(records)
    for issuer in issuers:
        stood = records.get(issuer.name)
        own = {bound: getattr(issuer, bound) for bound in _BOUNDS}
        if stood is None:
            result[issuer.name] = Record(iss=issuer.iss, **own)
            continue
        raises = [each for each in stood.raises if now < _over(each, stood)]
        for bound, value in own.items():
            if value > (before := getattr(stood, bound)):
                raises.append(Raise(bound, before, now + DELAY_MS))  # type: ignore[arg-type]
        widest = {bound: max(value, getattr(stood, bound)) for bound, value in own.items()}
        result[issuer.name] = Record(iss=stood.iss, raises=tuple(raises), **widest)
    return result


def _over(each: Raise, record: Record) -> int:
    """When nothing from before a raise can be active any more (ms)."""
    longest = max(record.max_token_lifetime, record.horizon) + record.leeway + record.clock_skew + SAFETY_S
    return each.at + longest * 1000


def _tell(before: Mapping[str, Record], after: Mapping[str, Record]) -> None:
    for name, record in after.items():
        for each in record.raises:
            if name in before and each not in before[name].raises:
                _log.warning(
                    "bound_raised",
                    issuer=name,
                    bound=each.bound,
                    before=each.before,
                    now=getattr(record, each.bound),
                    for_what_is_issued_after=each.at / 1000,
                )


class IssuerRecords:
    """Brings the issuers of one process and what the store remembers of them together.

    Attributes:
        conflicts: What is wrong with names, by name; nothing is written while there is any.
        read: Whether the store has ever been read.
    """

    def __init__(self, servers: Source, scripts: Scripts, keys: Keys, issuers: Iterable[Issuer]) -> None:
        self._servers = servers
        self._scripts = scripts
        self._key = keys.settings
        self._issuers = list(issuers)
        self._known: Records = {}
        self.conflicts: dict[str, str] = {}
        self.read = False

    def await_reading(self) -> None:
        """Let nothing be said of the issuers before the store was read."""
        for issuer in self._issuers:
            issuer.history.conflict = "what the store remembers of the issuer has not been read yet"
            issuer.history.counts = True

    async def reconcile(self) -> None:
        """Read what the store remembers, add what is new, and let it count.

        A store that has lost it is given what this process knew.

        Raises:
            StoreUnavailable: no answer.
            StoreRefused: it can't be read.
        """
        for _ in range(8):
            text, stored, now = await self.look()
            records = self._known if stored is None else stored
            if found := conflicts(records, self._issuers):
                if found != self.conflicts:
                    _log.error("settings_conflict", problems=list(found.values()))
                self._refuse(found)
                return
            new = reconciled(records, self._issuers, now)
            if encode(new) == text:
                self._take(new)
                return
            if await self.set(text, new):
                _tell(records, new)
                self._take(new)
                return
        raise StoreUnavailable("what the store remembers of the issuers keeps changing")

    async def adopt(self) -> None:
        """As :meth:`reconcile`, but add nothing to the store: for what gives no verdicts."""
        _, stored, now = await self.look()
        records = self._known if stored is None else stored
        if found := conflicts(records, self._issuers):
            self._refuse(found)  # who calls this tells of it
        else:
            self._take(reconciled(records, self._issuers, now))

    def refuse_conflicts(self) -> None:
        """Raise ``ConfigError`` where the last reading found these settings and the store in conflict."""
        if self.conflicts:
            raise ConfigError([f"issuers: {problem}" for problem in self.conflicts.values()])

    async def look(self) -> tuple[bytes, Records | None, int]:
        """The value as it stands (empty: none), what it says, and Redis ``TIME`` (ms)."""
        async with unavailable_on_failure():
            with understood():
                text, (seconds, micros) = await self._servers.read(self._key, [("GET", self._key), ("TIME",)])
                now = int(seconds) * 1000 + int(micros) // 1000
        try:
            stored = None if text is None else _decode(text)
        except (msgspec.MsgspecError, TypeError) as error:
            raise StoreRefused("the store holds settings that can't be read") from error
        return text or b"", stored, now

    async def set(self, stood: bytes, records: Mapping[str, Record]) -> bool:
        """Set the value where it still is ``stood``; whether it was."""
        with understood():
            [done] = await self._scripts.execute("set_settings", [self._key], (stood, encode(records)))
        return bool(done)

    def _refuse(self, found: dict[str, str]) -> None:
        self.conflicts, self.read = found, True
        for issuer in self._issuers:
            if (problem := found.get(issuer.name)) is not None:
                issuer.history.conflict = problem
                issuer.history.counts = True

    def _take(self, records: Records) -> None:
        self.conflicts, self.read, self._known = {}, True, records
        for issuer in self._issuers:
            record, history = records[issuer.name], issuer.history
            for bound in _BOUNDS:
                setattr(history, bound, getattr(record, bound))
            history.raises = record.raises
            history.conflict = None
            history.counts = bool(record.raises)
