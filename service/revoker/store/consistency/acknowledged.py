"""The revocations that this process has made: they are written back into a store that has lost data.

Blocks and revoked keys are not among them: every process remembers all of those, whoever made them
(:mod:`revoker.store.consistency.remembered`).
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
import structlog

from revoker.metrics import Metrics
from revoker.store.keys import segment
from revoker.store.stored_values import parse_user_state

_log = structlog.get_logger("store")

LIMIT: Final = 100_000
"""Revocations that one process remembers, some 40 MB; beyond it the oldest are forgotten first."""

LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Beyond it the oldest are forgotten first, too: a reason and an excepted session may be long."""

_ENTRY_BYTES: Final = 256
"""Size of an entry without its texts."""

_SWEEP_MS: Final = 60_000


class Written(msgspec.Struct, frozen=True, gc=False):
    """One acknowledged revocation, with what its script needs to make it again.

    Attributes:
        script: ``revoke_token``, ``move_cutoff`` or ``revoke_user``.
        keys: Of the script, without those that every script ends with; the first is the revocation's own.
        at: The time of the revocation (ms by Redis).
        until: When its key expires (ms).
        reason: As given.
        except_sid: The excepted session of ``revoke_user``.
        seq: ``rv:seq`` when it was acknowledged, or later.
        audit: Who made it, as the script stores that.
    """

    script: str
    keys: tuple[str, ...]
    at: int
    until: int
    reason: str = ""
    except_sid: str = ""
    seq: int = 0
    audit: bytes = b""

    @property
    def identity(self) -> str:
        """Deduplication key: a later entry replaces an earlier one. No Redis key contains a space.

        It is short, whatever the excepted session is.
        """
        return f"{self.keys[0]} {segment(self.except_sid)}" if self.except_sid else self.keys[0]

    @property
    def size(self) -> int:
        """Estimated memory of the entry."""
        texts = (*self.keys, self.reason, self.except_sid, self.audit)
        if self.except_sid:  # otherwise the identity is one of the keys
            texts += (self.identity,)
        return _ENTRY_BYTES + sum(map(sys.getsizeof, texts))

    def is_held_by(self, value: bytes | None) -> bool:
        """Whether the value of its key still has this revocation, or a stronger one.

        A value that cannot be read counts as one: every lookup of it fails, so nothing is active by it.
        """
        if value is None:
            return False
        try:
            match self.script:
                case "revoke_token":
                    return True
                case "move_cutoff":
                    return int(value.partition(b" ")[0]) >= self.at
                case _:
                    user = parse_user_state(value)
                    return max(user.hard, user.soft) >= self.at
        except (ValueError, msgspec.MsgspecError):
            return True

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments with which the script makes it again, with the same date and expiry."""
        match self.script:
            case "revoke_token":
                return (self.until, 0, self.at, "", self.audit)
            case "move_cutoff":
                return (self.at, self.until - self.at, self.reason, "", 0, "", "", self.audit)
            case _:
                return (self.at, self.until - self.at, self.reason, "", self.except_sid, "", self.audit)


class Acknowledged:
    """Remembers revocations until they expire, within a limit."""

    def __init__(
        self,
        metrics: Metrics,
        part: Callable[[str], int],
        *,
        now: Callable[[], int],
        limit: int = LIMIT,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        """Nothing is remembered yet.

        Args:
            metrics: Where to count.
            part: Gives the number of the data set of a key.
            now: The store's time (ms). Entries do not show it, since callers choose some of their dates.
            limit: Of entries.
            limit_bytes: Of their memory.
        """
        self._metrics = metrics
        self._part: Final = part
        self._limit: Final = limit
        self._limit_bytes: Final = limit_bytes
        self._entries: dict[str, Written] = {}
        self._bytes = 0
        self._by_part: dict[int, dict[str, None]] = {}
        self._forgotten_until: dict[int, int] = {}
        self._now: Final = now
        self._swept = 0
        self._warned = -_SWEEP_MS
        self._unsampled: list[str] = []

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self, part: int) -> list[Written]:
        """All entries of one data set."""
        return [self._entries[identity] for identity in self._by_part.get(part, ())]

    def has_forgotten(self, part: int) -> bool:
        """Whether an entry of a data set was forgotten for lack of room, and has not expired."""
        return self._forgotten_until.get(part, 0) > self._now()

    def sample(self, count: int) -> list[Written]:
        """Some entries; repeated calls go through all of them, and then begin again."""
        if not self._unsampled:
            self._unsampled = list(self._entries)
        taken, self._unsampled = self._unsampled[-count:], self._unsampled[:-count]
        return [self._entries[identity] for identity in taken if identity in self._entries]

    def holds(self, written: Written) -> bool:
        """Whether an entry was neither forgotten nor replaced since it was returned."""
        return self._entries.get(written.identity) is written

    def drop(self, written: Written) -> None:
        """Forget an entry that :meth:`holds`."""
        self._drop(written.identity)
        self._metrics.remembered_revocations.set(len(self._entries))

    def note(self, written: Written) -> None:
        """Remember an acknowledged revocation, merged with an earlier entry of the same identity."""
        identity = written.identity
        earlier = self._entries.pop(identity, None)
        if earlier is not None:
            self._bytes -= earlier.size
            last = earlier if earlier.at > written.at else written
            written = msgspec.structs.replace(
                last, until=max(earlier.until, written.until), seq=max(earlier.seq, written.seq)
            )
        self._entries[identity] = written
        self._bytes += written.size
        self._by_part.setdefault(self._part(written.keys[0]), {})[identity] = None
        if self._is_full():
            self._make_room()
        self._metrics.remembered_revocations.set(len(self._entries))

    def forget(self, lifted: Iterable[tuple[int, str]]) -> None:
        """Forget what an operator has lifted: keys, with ``rv:seq`` at the time of the lift."""
        latest: dict[str, int] = {}
        for seq, key in lifted:
            latest[key] = max(seq, latest.get(key, 0))
        if not latest:
            return
        for identity, written in list(self._entries.items()):
            if written.seq < latest.get(written.keys[0], 0):
                self._drop(identity)
        self._metrics.remembered_revocations.set(len(self._entries))

    def _drop(self, identity: str) -> None:
        written = self._entries.pop(identity)
        self._bytes -= written.size
        part = self._part(written.keys[0])
        del self._by_part[part][identity]
        if not self._by_part[part]:
            del self._by_part[part]

    def _is_full(self) -> bool:
        return len(self._entries) > self._limit or self._bytes > self._limit_bytes

    def _make_room(self) -> None:
        """Forget what has expired, then the oldest."""
        now = self._now()
        if now - self._swept >= _SWEEP_MS:
            self._swept = now
            for identity in [key for key, written in self._entries.items() if written.until <= now]:
                self._drop(identity)
        while self._is_full():
            identity, oldest = next(iter(self._entries.items()))
            part = self._part(oldest.keys[0])
            self._forgotten_until[part] = max(oldest.until, self._forgotten_until.get(part, 0))
            self._drop(identity)
            self._metrics.forgotten_revocations.inc()
            if now - self._warned >= _SWEEP_MS:
                self._warned = now
                _log.warning(
                    "revocations_forgotten",
                    limit=self._limit,
                    detail="the oldest would not be put back if the store lost data",
                )
