"""Detects that the store has lost data, and settles the loss.

The store carries an *epoch*: the id of the data set, when data was last found missing, and the cutoff
that followed. Every reading of the store includes the epoch, ``seq`` (the number of revocations ever
stored) and this process's share of it. While the epoch stays the same and neither number has decreased,
nothing that this process has seen was lost. Otherwise no reading counts until the loss is settled.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog

from revoker.errors import NotPrimary, StoreRefused, StoreUnavailable
from revoker.metrics import Metrics
from revoker.models import NO_REVOCATIONS, RevocationState
from revoker.store.keys import Tail
from revoker.store.wire.connection import reads_replies, retrieve_failure, understood

_log = structlog.get_logger("store")

DataLoss = Literal["cutoff", "refuse", "ignore"]
FINDING_OF_POLICY: Final[dict[DataLoss, str]] = {
    "cutoff": "cutoff",
    "refuse": "refused",
    "ignore": "ignored",
}
DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Epoch:
    """The identity of a data set.

    Attributes:
        noticed: When data was last found missing, by Redis ``TIME`` (ms); 0 for a store declared new.
        cutoff: Tokens issued before it are not active (ms; 0: none).
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
        """Read the value of ``rv:epoch``; a malformed one is another data set of unknown age."""
        parts = text.decode(errors="replace").split(" ")
        if len(parts) == 4 and parts[1].isdecimal() and parts[2].isdecimal():
            return cls(parts[0], int(parts[1]), int(parts[2]), parts[3])
        return cls("", 0, 0, "")


@dataclass(frozen=True, slots=True)
class Watermark:
    """The least that a reading must show: the epoch as stored, ``seq`` and the share."""

    epoch: bytes
    seq: int
    share: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Epoch, ``seq`` and share as one command read them from a primary, and its ``TIME`` (ms)."""

    epoch: bytes | None
    seq: int
    share: int | None
    now: int


SETTLE_WAIT_S: Final = 0.5
"""How long a request waits while a loss is being settled; settling continues without it."""

Read = Callable[[], Awaitable[Reading]]
SetEpoch = Callable[[bytes, str, int, str, int | None], Awaitable[tuple[bool, bytes, int, int]]]
VerifyWrittenBack = Callable[[], Awaitable[Watermark | None]]
"""Returns the data set's numbers if it holds everything that was written back, else None; called once."""
WriteBack = Callable[[], Awaitable[VerifyWrittenBack | None]]
"""Writes back the revocations that this process has seen; returns None if there are none."""


class Losses:
    """Reports losses of data in the log and the metrics."""

    def __init__(self, metrics: Metrics, *, grouped: bool = False) -> None:
        """``grouped``: one report for all data sets of a cluster, at the next :meth:`report`."""
        self._metrics = metrics
        self._grouped = grouped
        self._lost: list[Epoch] = []
        self._details: dict[str, Any] = {}
        self._adopted: dict[bool, list[Epoch]] = {True: [], False: []}

    def lost(self, epoch: Epoch, **details: Any) -> None:
        """Data was found missing, and this epoch was set."""
        self._lost.append(epoch)
        self._details = details
        if not self._grouped:
            self.report()

    def adopted(self, epoch: Epoch, *, first: bool) -> None:
        """This epoch is used from now on; ``first``: it is the first one of this process."""
        self._adopted[first].append(epoch)
        if not self._grouped:
            self.report()

    def report(self) -> None:
        """Report what has happened since the last time."""
        if self._lost:
            epoch = max(self._lost, key=_noticed)
            details = self._details | ({"slots": len(self._lost)} if self._grouped else {})
            _log.error("data_lost", **details, epoch=epoch.id, finding=epoch.finding, cutoff_ms=epoch.cutoff)
            self._lost.clear()
        for first, adopted in self._adopted.items():
            if not adopted:
                continue
            epoch = max(adopted, key=_noticed)
            adopted.clear()
            if not first:
                _log.warning("epoch_adopted", epoch=epoch.id, finding=epoch.finding, cutoff_ms=epoch.cutoff)
            if not first or epoch.finding != "new":
                self._metrics.data_losses.inc()
            self._metrics.store_epoch.set(epoch.noticed / 1000)


def _noticed(epoch: Epoch) -> int:
    return epoch.noticed


class DataSet:
    """What this process has seen of one data set, and how it settles a loss of it.

    Attributes:
        tail: The keys of epoch, ``seq`` and share.
        watermark: The least that the next reading must show; None before the first.
        epoch: The epoch in use; None before the first reading.
        baseline: What applies to tokens of which the data set has no entry: nothing, or the cutoff of a loss.
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
        self.watermark: Watermark | None = None
        self.epoch: Epoch | None = None
        self.baseline: RevocationState = NO_REVOCATIONS
        self._wrote_blindly = False
        self._read_at = 0
        self._wrote_at = 0

    @property
    def refusal(self) -> str | None:
        """Why no verdict may rest on the data set although the store answers; None where one may."""
        if self.epoch is not None and self.epoch.finding == "refused":
            return "the store has lost data, and nobody has accepted that"
        return None

    def confirms(
        self,
        before: Watermark | None,
        epoch: bytes | None,
        seq: bytes | int | None,
        share: bytes | int | None,
        now: int,
    ) -> bool:
        """Whether a reading shows at least the watermark from before it was sent; if so, raise the watermark.

        Args:
            before: :attr:`watermark` when the command was sent.
            epoch: As read.
            seq: As read.
            share: As read.
            now: Redis ``TIME`` of the reading, ms.

        Raises:
            ValueError: a number is malformed.
        """
        if before is None or epoch != before.epoch or self.watermark is None or self.watermark.epoch != epoch:
            return False
        if self._settling:  # revocations made meanwhile raise the numbers
            return False
        count, own = int(seq or 0), int(share or 0)
        if count < before.seq or own < before.share:
            return False
        self._read_at = max(self._read_at, now)
        if count > before.seq or own > before.share:
            self._raise_watermark(epoch, count, own)
        return True

    def confirms_reading(self, before: Watermark | None, reading: Reading) -> bool:
        """As :meth:`confirms`."""
        return self.confirms(before, reading.epoch, reading.seq, reading.share, reading.now)

    def record_write(self, before: Watermark | None, epoch: bytes, seq: int, share: int) -> bool:
        """Raise the watermark by a write of this process.

        Args:
            before: :attr:`watermark` when the write was sent.
            epoch: As the write found it.
            seq: Including the write.
            share: Including the write.

        Returns:
            Whether the write found the data set with everything that was seen of it. If not, the watermark is
            set higher than the data set can show, so that later writes do not hide the loss. A write that is
            answered while a loss is being settled does not count either: it may be lost, too.
        """
        if before is None or self.watermark is None:
            self._wrote_blindly = True
            return True
        if self._settling or epoch != before.epoch or self.watermark.epoch != epoch:
            return False
        self._raise_watermark(epoch, max(seq, before.seq + 1), max(share, before.share + 1))
        if seq <= before.seq or share <= before.share:
            return False
        self._wrote_at = self._read_at
        return True

    def adopt_first(self, reading: Reading) -> bool:
        """Adopt the epoch of the first reading; False if it is another reading or has none: then settle."""
        if self.epoch is not None or self._wrote_blindly or reading.epoch is None:
            return False
        epoch = Epoch.parse(reading.epoch)
        if epoch.id:
            self._adopt(epoch, _numbers(reading), reading.now)
        return epoch.id != ""

    def share_ages(self) -> bool:
        """Whether the key of this process's share must have its expiry extended soon."""
        return bool(self.watermark and self.watermark.share) and self._read_at - self._wrote_at > DAY_MS // 4

    def share_refreshed(self) -> None:
        """The share expires in a day from the last reading."""
        self._wrote_at = self._read_at

    def _raise_watermark(self, epoch: bytes, seq: int, share: int) -> None:
        present = self.watermark
        if present is not None and present.epoch == epoch:
            self.watermark = Watermark(epoch, max(seq, present.seq), max(share, present.share))

    async def settle(self, *, since: int = 0, cause: str = "") -> None:
        """Agree with the store on one epoch, after a reading was below the watermark.

        Args:
            since: Data is missing since this Redis ``TIME`` (ms): no epoch noticed earlier settles it.
            cause: Why, where ``since`` is given.

        Raises:
            StoreUnavailable: the store did not answer; nothing is settled.
            StoreRefused: the server is no primary, or settling takes longer than :data:`SETTLE_WAIT_S`.
        """
        task = self._task
        if task is None or since:
            task = asyncio.get_running_loop().create_task(self._settle(since, cause))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
            if not since:
                self._task = task
        done, _ = await asyncio.wait({task}, timeout=SETTLE_WAIT_S)
        if not done:
            raise StoreRefused("the store has lost data, and what is known of it is being put back")
        task.result()

    async def close(self) -> None:
        """Cancel what is being settled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task is self._task:
            self._task = None
        retrieve_failure(task)

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
        supersedes = found is not None and self._supersedes_ours(found, since)
        if supersedes and found is not None and self._is_accepted(found, reading):
            self._adopt(found, _numbers(reading), reading.now)
            return True
        self._settling = True
        verify = await self._write_back()  # before a new epoch shows others that it is settled
        set_to = _numbers(reading) if supersedes else await self._begin(reading, found, missing or cause)
        if set_to is None:
            return False
        verified = set_to if verify is None else await verify()
        if verified is None or verified.epoch != set_to.epoch:
            return False
        self._adopt(Epoch.parse(verified.epoch), verified, reading.now)
        return True

    def _missing(self, reading: Reading, found: Epoch | None) -> str | None:
        present = self.watermark
        if found is None:
            return "the store has no epoch"
        if present is None or self.epoch is None or reading.epoch != present.epoch:
            return "the store holds another data set"
        if reading.seq < present.seq:
            return "the store holds fewer revocations than before"
        share = reading.share or 0
        if share < present.share:
            if reading.now - self._wrote_at < DAY_MS - 3_600_000:
                return "the store has lost revocations of this process"
            self.watermark = Watermark(present.epoch, present.seq, share)
        self._read_at = max(self._read_at, reading.now)
        return None

    def _supersedes_ours(self, found: Epoch, since: int) -> bool:
        """Whether another instance has recorded this loss already."""
        if self.epoch is None:
            return found.id != ""
        if found == self.epoch:
            return False
        return found.noticed >= max(self._read_at, since)

    def _is_accepted(self, found: Epoch, reading: Reading) -> bool:
        """Whether an operator accepted the data, so that only the finding has changed; nothing is missing."""
        present = self.watermark
        return (
            self.epoch is not None
            and present is not None
            and found.id == self.epoch.id
            and reading.seq >= present.seq
            and (reading.share or 0) >= present.share
        )

    async def _begin(self, reading: Reading, found: Epoch | None, missing: str) -> Watermark | None:
        """Set a new epoch if the present one is still as read; returns its numbers, None if it was not."""
        last = self.epoch or found
        refused = last is not None and last.finding == "refused"
        finding = "refused" if refused else FINDING_OF_POLICY[self._policy]
        cutoff = max(self.epoch.cutoff if self.epoch else 0, found.cutoff if found else 0)
        latest = max(self._read_at, self.epoch.noticed if self.epoch else 0, cutoff)
        done, text, seq, share = await self._set_epoch(
            reading.epoch or b"",
            new_id(),
            latest,
            finding,
            None if finding == "cutoff" else cutoff,
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
        return Watermark(text, seq, share)

    def _adopt(self, epoch: Epoch, numbers: Watermark, now: int) -> None:
        self._losses.adopted(epoch, first=self.epoch is None)
        self.epoch = epoch
        self.watermark = numbers
        self._read_at = max(self._read_at, now)
        self._wrote_at = self._read_at - DAY_MS // 2  # the expiry of the share is unknown: extend it soon
        self.baseline = RevocationState(loss=epoch.cutoff) if epoch.cutoff else NO_REVOCATIONS


def _numbers(reading: Reading) -> Watermark:
    return Watermark(reading.epoch or b"", reading.seq, reading.share or 0)


def new_id() -> str:
    return secrets.token_hex(8)


def decode(values: list[Any]) -> Reading:
    """Decode the replies to ``TIME``, ``MGET epoch seq share`` and ``ROLE``.

    Raises:
        StoreRefused: the server is no primary.
        ReplyNotUnderstood: a reply has an unexpected form.
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
