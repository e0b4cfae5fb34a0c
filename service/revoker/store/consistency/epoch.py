"""Notices that the store has lost data, and says what follows (DESIGN §5).

The store carries an *epoch*: the id of the data set, when data was last found missing, and the cutoff
that followed. Every reading of the store brings the epoch, the number of revocations ever stored and
this process's share of them. As long as the epoch is the one known and no number went down, nothing
that this process knows of was lost. Otherwise the reading is worth nothing until the loss is settled.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog

from revoker.errors import NotPrimary, StoreRefused, StoreUnavailable
from revoker.metrics import Metrics
from revoker.models import NOTHING, Standing
from revoker.store.keys import Tail
from revoker.store.wire.connection import reads_replies, understood

_log = structlog.get_logger("store")

DataLoss = Literal["cutoff", "refuse", "ignore"]
_FINDINGS: Final[dict[DataLoss, str]] = {
    "cutoff": "cutoff",
    "refuse": "refused",
    "ignore": "ignored",
}
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Epoch:
    """One data set.

    Attributes:
        noticed: When data was last found missing, by Redis (ms); 0 for a store declared new.
        cutoff: Everything issued before it is not active (ms; 0: none).
        finding: ``new``, ``cutoff``, ``refused`` (no verdicts until accepted), ``ignored`` or ``accepted``.
    """

    id: str
    noticed: int
    cutoff: int
    finding: str

    @property
    def text(self) -> str:
        """The value of ``rv:epoch``."""
        return f"{self.id} {self.noticed} {self.cutoff} {self.finding}"

    @classmethod
    def parse(cls, text: bytes) -> "Epoch":
        """Read the value of ``rv:epoch``; what can't be read is some other data set of unknown age."""
        parts = text.decode(errors="replace").split(" ")
        if len(parts) == 4 and parts[1].isdecimal() and parts[2].isdecimal():
            return cls(parts[0], int(parts[1]), int(parts[2]), parts[3])
        return cls("", 0, 0, "")


@dataclass(frozen=True, slots=True)
class Known:
    """What a reading must at least show: the epoch as it stands in the store, and the two numbers."""

    epoch: bytes
    seq: int
    share: int


@dataclass(frozen=True, slots=True)
class Reading:
    """The epoch and the numbers as one command read them from a primary, and its ``TIME`` in ms."""

    epoch: bytes | None
    seq: int
    share: int | None
    now: int


PATIENCE_S: Final = 0.5
"""So long does a request wait for the settling of a loss, which goes on without it."""

Read = Callable[[], Awaitable[Reading]]
SetEpoch = Callable[[bytes, str, int, str, int | None], Awaitable[tuple[bool, bytes, int, int]]]
Stands = Callable[[], Awaitable[Known | None]]
"""Whether all that was put back stands in one data set, None if not; asked once."""
WriteBack = Callable[[], Awaitable[Stands | None]]
"""Puts back what this process knows; None where that is nothing."""


class Losses:
    """Tells of lost data."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def lost(self, epoch: Epoch, **told: Any) -> None:
        """Data was found missing, and this epoch was set."""
        _log.error("data_lost", **told, epoch=epoch.id, finding=epoch.finding, cutoff_ms=epoch.cutoff)

    def adopted(self, epoch: Epoch, *, first: bool) -> None:
        """This epoch is used from now on; ``first``: none was before."""
        if not first:
            _log.warning("epoch_adopted", epoch=epoch.id, finding=epoch.finding, cutoff_ms=epoch.cutoff)
        if not first or epoch.finding != "new":
            self._metrics.data_losses.inc()
        self._metrics.store_epoch.set(epoch.noticed / 1000)


class DataSet:
    """What this process knows of the data set, and what it does when that turns out to be gone.

    Attributes:
        tail: Its keys.
    """

    def __init__(
        self,
        tail: Tail,
        *,
        policy: DataLoss,
        losses: Losses,
        read: Read,
        set_epoch: SetEpoch,
        write_back: WriteBack,
    ) -> None:
        self.tail: Final = tail
        self._policy: Final = policy
        self._losses = losses
        self._read = read
        self._set_epoch = set_epoch
        self._write_back = write_back
        self._lock = asyncio.Lock()
        self._settling = False
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.known: Known | None = None
        self.epoch: Epoch | None = None
        self.nothing: Standing = NOTHING
        self._wrote_blindly = False
        self._read_at = 0
        self._wrote_at = 0

    @property
    def refusal(self) -> str | None:
        """Why the store may not be believed although it answers; None where it may."""
        if self.epoch is not None and self.epoch.finding == "refused":
            return "the store has lost data, and nobody has accepted that"
        return None

    def confirms(
        self,
        known: Known | None,
        epoch: bytes | None,
        seq: bytes | int | None,
        share: bytes | int | None,
        now: int,
    ) -> bool:
        """Whether a reading shows all that was known before it was asked for; if so, learn from it.

        Args:
            known: :attr:`known` as it was when the reading was asked for.
            epoch: As read.
            seq: As read.
            share: As read.
            now: Redis ``TIME`` of the reading, ms.

        Raises:
            ValueError: a number can't be read.
        """
        if known is None or epoch != known.epoch or self.known is None or self.known.epoch != epoch:
            return False
        if self._settling:  # what is revoked meanwhile raises the numbers
            return False
        count, own = int(seq or 0), int(share or 0)
        if count < known.seq or own < known.share:
            return False
        self._read_at = max(self._read_at, now)
        if count > known.seq or own > known.share:
            self._learn(epoch, count, own)
        return True

    def wrote(self, before: Known | None, epoch: bytes, seq: int, share: int) -> bool:
        """Learn the numbers that a write of this process's own brought.

        Args:
            before: :attr:`known` as it was when the write left.
            epoch: As the write met it.
            seq: With the write.
            share: With the write.

        Returns:
            Whether the write met the known data set with all that was known of it. If not, what it must
            show from now on is more than it can, so that no further write hides the loss. Nor does one
            count whose answer comes while a loss is being settled: it may be among what was lost.
        """
        if before is None or self.known is None:
            self._wrote_blindly = True
            return True
        if self._settling or epoch != before.epoch or self.known.epoch != epoch:
            return False
        self._learn(epoch, max(seq, before.seq + 1), max(share, before.share + 1))
        if seq <= before.seq or share <= before.share:
            return False
        self._wrote_at = self._read_at
        return True

    def begun(self, reading: Reading) -> bool:
        """Take over the epoch of a first reading; False where it is none or has none, and must be settled."""
        if self.epoch is not None or self._wrote_blindly or reading.epoch is None:
            return False
        epoch = Epoch.parse(reading.epoch)
        if epoch.id:
            self._adopt(epoch, _numbers(reading), reading.now)
        return epoch.id != ""

    def share_ages(self) -> bool:
        """Whether this process's share must be kept alive by a heartbeat soon."""
        return bool(self.known and self.known.share) and self._read_at - self._wrote_at > _DAY_MS // 4

    def renewed(self) -> None:
        """The share lives for another day."""
        self._wrote_at = self._read_at

    def _learn(self, epoch: bytes, seq: int, share: int) -> None:
        known = self.known
        if known is not None and known.epoch == epoch:
            self.known = Known(epoch, max(seq, known.seq), max(share, known.share))

    async def settle(self, *, since: int = 0, cause: str = "") -> None:
        """Bring this process and the store to one epoch, after a reading did not confirm what was known.

        Args:
            since: Data is known to be missing at this Redis time (ms); an epoch noticed before it won't do.
            cause: Why, where ``since`` is given.

        Raises:
            StoreUnavailable: the store did not answer; nothing is settled.
            StoreRefused: it is no primary, or it takes longer than :data:`PATIENCE_S` and goes on.
        """
        task = self._task
        if task is None or since:
            task = asyncio.get_running_loop().create_task(self._settle(since, cause))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
            if not since:
                self._task = task
        done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
        if not done:
            raise StoreRefused("the store has lost data, and what is known of it is being put back")
        task.result()

    async def close(self) -> None:
        """Settle nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task is self._task:
            self._task = None
        if not task.cancelled():
            task.exception()  # for whoever waits; it may be that nobody does any more

    async def _settle(self, since: int, cause: str) -> None:
        async with self._lock:
            try:
                for _ in range(8):
                    if await self._settled(since, cause):
                        return
            finally:
                self._settling = False
            raise StoreUnavailable("the store's epoch keeps changing")

    @reads_replies()
    async def _settled(self, since: int, cause: str) -> bool:
        reading = await self._read()
        found = Epoch.parse(reading.epoch) if reading.epoch is not None else None
        missing = self._missing(reading, found)
        if missing is None and (since == 0 or (self.epoch is not None and self.epoch.noticed >= since)):
            return True
        answer = found is not None and self._answers(found, since)
        if answer and found is not None and self._is_renamed(found, reading):
            self._adopt(found, _numbers(reading), reading.now)
            return True
        self._settling = True
        stands = await self._write_back()  # before the epoch says to anybody that this is settled
        set_to = _numbers(reading) if answer else await self._begin(reading, found, missing or cause)
        if set_to is None:
            return False
        shown = set_to if stands is None else await stands()
        if shown is None or shown.epoch != set_to.epoch:
            return False
        self._adopt(Epoch.parse(shown.epoch), shown, reading.now)
        return True

    def _missing(self, reading: Reading, found: Epoch | None) -> str | None:
        known = self.known
        if found is None:
            return "the store has no epoch"
        if known is None or self.epoch is None or reading.epoch != known.epoch:
            return "the store holds another data set"
        if reading.seq < known.seq:
            return "the store holds fewer revocations than before"
        share = reading.share or 0
        if share < known.share:
            if reading.now - self._wrote_at < _DAY_MS - 3_600_000:
                return "the store has lost revocations of this process"
            self.known = Known(known.epoch, known.seq, share)
        self._read_at = max(self._read_at, reading.now)
        return None

    def _answers(self, found: Epoch, since: int) -> bool:
        """Whether an epoch that is not this process's own tells of all that this process misses."""
        if self.epoch is None:
            return found.id != ""
        if found == self.epoch:
            return False
        return found.noticed >= max(self._read_at, since)

    def _is_renamed(self, found: Epoch, reading: Reading) -> bool:
        """Whether only the finding is another, since an operator accepted it, and nothing is missing."""
        known = self.known
        return (
            self.epoch is not None
            and known is not None
            and found.id == self.epoch.id
            and reading.seq >= known.seq
            and (reading.share or 0) >= known.share
        )

    async def _begin(self, reading: Reading, found: Epoch | None, missing: str) -> Known | None:
        """Set a new epoch where it is still as read; returns it as it stands, None where it was not."""
        last = self.epoch or found
        refused = last is not None and last.finding == "refused"
        finding = "refused" if refused else _FINDINGS[self._policy]
        stood = max(self.epoch.cutoff if self.epoch else 0, found.cutoff if found else 0)
        latest = max(self._read_at, self.epoch.noticed if self.epoch else 0, stood)
        done, text, seq, share = await self._set_epoch(
            reading.epoch or b"",
            new_id(),
            latest,
            finding,
            None if finding == "cutoff" else stood,
        )
        if not done:
            return None
        epoch = Epoch.parse(text)
        self._losses.lost(
            epoch,
            missing=missing,
            policy=self._policy,
            blocks_and_keys="written back" if self.epoch else "not known to this process",
            hint=None if reading.epoch is not None else
            "a new installation is declared with `revoker store init` before the first start",
        )  # fmt: skip
        return Known(text, seq, share)

    def _adopt(self, epoch: Epoch, numbers: Known, now: int) -> None:
        self._losses.adopted(epoch, first=self.epoch is None)
        self.epoch = epoch
        self.known = numbers
        self._read_at = max(self._read_at, now)
        self._wrote_at = self._read_at - _DAY_MS // 2  # the share's age is not known: a heartbeat is due
        self.nothing = Standing(loss=epoch.cutoff) if epoch.cutoff else NOTHING


def _numbers(reading: Reading) -> Known:
    return Known(reading.epoch or b"", reading.seq, reading.share or 0)


def new_id() -> str:
    return secrets.token_hex(8)


def decode(values: list[Any]) -> Reading:
    """A :class:`Reading` of ``TIME``, ``MGET epoch seq share`` and ``ROLE``.

    Raises:
        StoreRefused: the server is no primary.
        ReplyNotUnderstood: a reply has another form.
    """
    with understood():
        (seconds, micros), (epoch, seq, share), role = values
        if role[0] not in {b"master", "master"}:
            raise NotPrimary("the store's server is not a primary")
        if epoch is not None and not isinstance(epoch, bytes):
            raise TypeError("an epoch of another type")
        return Reading(
            epoch,
            int(seq or 0),
            None if share is None else int(share),
            int(seconds) * 1000 + int(micros) // 1000,
        )
