"""Detects that the store has lost data, and settles the loss.

The store carries an *epoch*: the id of the data set, when data was last found missing, and the cutoff
that followed. Every reading of the store includes the epoch, ``seq`` (the number of revocations ever
stored) and this process's share of it, and the counts of all writers. While the epoch stays the same and no
number has decreased, nothing that this process has seen was lost. Otherwise no reading counts until the loss
is settled: repaired if that can be proved (:mod:`revoker.store.consistency.repair`), else as configured. No
reading of a new server counts before all running processes have looked there
(:mod:`revoker.store.consistency.new_server`).

Where replicas must confirm writes, a reading is held only to what they are known to have: a promoted replica
that lacks what was never acknowledged has lost nothing.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from revoker.errors import StoreRefused, StoreUnavailable
from revoker.models import NO_REVOCATIONS, RevocationState
from revoker.store.consistency.counts import Counts, hold_all
from revoker.store.consistency.epoch import (
    DAY_MS,
    FINDING_OF_POLICY,
    REPAIRED,
    REPAIRING,
    DataLoss,
    Epoch,
    Reading,
    Watermark,
    new_id,
)
from revoker.store.consistency.epoch_changes import EpochChanges
from revoker.store.consistency.losses import Losses
from revoker.store.consistency.new_server import NewServer, Others
from revoker.store.consistency.repair import NotRepaired, Repair, RepairContext, Repaired
from revoker.store.consistency.steps import (
    READS,
    WRITES_BACK,
    Contributes,
    Pauses,
    Reads,
    SetsEpoch,
    Step,
    Steps,
    Verifies,
    VerifyWrittenBack,
    WritesBack,
)
from revoker.store.keys import Tail
from revoker.store.wire.connection import reads_replies, retrieve_failure, understood

SETTLE_WAIT_S: Final = 0.5
"""How long a request waits while a loss is being settled; settling continues without it."""

BEING_SETTLED: Final = "the store has lost data, and what is known of it is being put back"

_KEEPS_CHANGING: Final = "the store's epoch keeps changing"

_TRIES: Final = 8
"""How often a data set is settled again at once, because it has become another one meanwhile."""

Read = Callable[[], Awaitable[Reading]]


class SetEpoch(Protocol):
    """Sets the epoch of a data set."""

    def __call__(  # noqa: PLR0917  # the arguments of the script, in its order
        self,
        expected: bytes,
        new_id: str,
        latest: int,
        finding: str,
        cutoff: int | None,
        counts: Counts | None = None,
    ) -> Awaitable[tuple[bool, Watermark]]:
        """As :meth:`revoker.store.scripts.Scripts.set_epoch`."""


Confirmed = Callable[[str, float], bool]
"""Whether replicas have confirmed a write that was sent to a server, by its id, after a time of the loop."""
WriteBack = Callable[[], Awaitable[VerifyWrittenBack | None]]
"""Writes back the revocations that this process has seen; returns None if there are none."""

T = TypeVar("T")


class SuspectReading(NamedTuple):
    """A reading that was not confirmed.

    Attributes:
        before: :attr:`DataSet.watermark` when the command was sent.
    """

    before: Watermark | None
    reading: Reading


class Settlement:
    """A data set that is settled together with others (:mod:`revoker.store.consistency.joint_settlement`).

    Attributes:
        data: The data set.
        ended: Done when it has ended, in whatever way.
    """

    __slots__ = ("_over", "_steps", "data", "ended")

    def __init__(self, data: "DataSet", steps: Steps[None], over: Callable[["Settlement"], None]) -> None:
        """``over`` is called when it has ended."""
        self.data: Final = data
        self.ended: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self._steps: Final = steps
        self._over: Final = over

    def advance(self, given: Any) -> Step | None:
        """Take what a step gives, or its exception (None at the beginning); returns the next one, if any."""
        try:
            if isinstance(given, Exception):
                return self._steps.throw(given)
            return self._steps.send(given)
        except StopIteration:
            self._end(None)
        except Exception as error:  # noqa: BLE001  # as that of a task; the others continue
            self._end(error)
        return None

    def abandon(self) -> None:
        """End it, unless it has ended: the next reading that is not confirmed settles the data set again."""
        if not self.ended.done():
            self._end(StoreUnavailable("the loss of data could not be settled"))

    def _end(self, error: Exception | None) -> None:
        try:
            self._steps.close()
        finally:
            self._over(self)
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)
                retrieve_failure(self.ended)


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
        repairs: RepairContext | None = None,
        confirmed: Confirmed | None = None,
        noted: Callable[[bytes, bool], None] | None = None,
        others: Others | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is read.

        Args:
            tail: As the attribute.
            policy: What follows from a loss that is not repaired.
            losses: Where to report losses.
            read: Reads the data set.
            set_epoch: Sets its epoch.
            write_back: Writes back what this process knows.
            repairs: For losses that can be repaired; None: none can.
            confirmed: What replicas have; None: no replicas are waited for.
            noted: Called with the epoch as stored, and whether verdicts may rest on the data set as far as is
                known, whenever one of the two may have changed.
            others: Who must have looked at a server before it is trusted; None: nobody.
            clock: Measures how long they could do so, in seconds.
        """
        self.tail: Final = tail
        self._policy: Final = policy
        self._losses = losses
        self._read = read
        self._set_epoch = set_epoch
        self._write_back = write_back
        self._changes: Final = EpochChanges()
        self._repair: Final = None if repairs is None else Repair(repairs, losses, self._changes)
        self._confirmed: Final = confirmed
        self._noted: Final = noted
        self._new_server: Final = None if others is None else NewServer(others, losses, clock)
        self._server = ""
        self._closed = False
        self._candidate: tuple[Watermark, str, float] | None = None
        self._lock = asyncio.Lock()
        self._settling = False
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._joined: Settlement | None = None
        self.watermark: Watermark | None = None
        self.epoch: Epoch | None = None
        self.baseline: RevocationState = NO_REVOCATIONS
        self._wrote_blindly = False
        self._met_loss = False
        self._read_at = 0
        self._wrote_at = 0

    @property
    def refusal(self) -> str | None:
        """Why no verdict may rest on the data set although the store answers; None where one may."""
        if self.epoch is not None and self.epoch.finding == "refused":
            return "the store has lost data, and nobody has accepted that"
        return None

    def is_new(self, server: str) -> bool:
        """Whether a server may lack what other processes acknowledged, and these may not have noticed."""
        return self._new_server is not None and server != self._new_server.trusted

    def _note(self) -> None:
        """Report what may have changed."""
        if self._noted is not None and self.watermark is not None:
            settled = not (self._settling or self._met_loss or self.refusal is not None)
            self._noted(self.watermark.epoch, settled)

    def confirms(  # noqa: PLR0917  # nearly every lookup would pay for keywords
        self,
        before: Watermark | None,
        epoch: bytes | None,
        seq: bytes | int | None,
        share: bytes | int | None,
        writers: bytes | None,
        now: int,
        server: str,
    ) -> bool:
        """Whether a reading shows at least the watermark from before it was sent; if so, raise the watermark.

        Args:
            before: :attr:`watermark` when the command was sent.
            epoch: As read.
            seq: As read.
            share: As read.
            writers: As read.
            now: Redis ``TIME`` of the reading, ms.
            server: The id of the server that was read.

        Raises:
            ValueError: a number is malformed.
        """
        if before is None or epoch != before.epoch or self.watermark is None or self.watermark.epoch != epoch:
            return False
        if self._settling or self._met_loss:  # revocations made meanwhile may raise the numbers
            return False
        if self._new_server is not None and server != self._new_server.trusted:
            return False
        count, own = int(seq or 0), int(share or 0)
        if count < before.seq or own < before.share:
            return False
        same_writers = writers == before.writers
        if not same_writers and not hold_all(Counts(count, writers or b""), before.counts):
            return False
        self._read_at = max(self._read_at, now)
        if not same_writers or count > before.seq or own > before.share:
            self._expect(Watermark(epoch, count, own, writers or b""), server)
        return True

    def confirms_reading(self, before: Watermark | None, reading: Reading) -> bool:
        """As :meth:`confirms`."""
        return self.confirms(
            before,
            reading.epoch,
            reading.seq,
            reading.share,
            reading.writers,
            reading.now,
            reading.server,
        )

    def _expect(self, numbers: Watermark, server: str) -> None:
        """Raise the watermark to what was read; where replicas are waited for, once they have all of it.

        They have it if they have confirmed a write that was sent to the same server after the reading.
        """
        if self._confirmed is None:
            self._raise_watermark(numbers)
            return
        if self._candidate is not None:
            candidate, read_from, read_at = self._candidate
            if candidate.epoch == numbers.epoch and read_from == server:
                if not self._confirmed(read_from, read_at):
                    return
                self._raise_watermark(candidate)
        self._candidate = numbers, server, asyncio.get_running_loop().time()

    def record_write(self, before: Watermark | None, written: Watermark) -> bool:
        """Raise the watermark by a write of this process, which was confirmed where replicas are waited for.

        Args:
            before: :attr:`watermark` when the write was sent.
            written: The epoch as the write found it, and the numbers including the write.

        Returns:
            Whether the write found the data set with everything that was seen of it. If not, no reading
            counts until that is settled, so that later writes do not hide the loss. A write that is answered
            while a loss is being settled does not count either: it may be lost, too.
        """
        if before is None or self.watermark is None:
            self._wrote_blindly = True
            return True
        if self._settling or not written.epoch == before.epoch == self.watermark.epoch:
            return False
        if (
            written.seq <= before.seq
            or written.share <= before.share
            or not hold_all(written.counts, before.counts)
        ):
            self._met_loss = True
            self._note()
            return False
        self._raise_watermark(written)
        self._wrote_at = self._read_at
        return True

    def adopt_first(self, reading: Reading) -> bool:
        """Adopt the epoch of the first reading; False if it is another reading or has none: then settle."""
        if self.epoch is not None or self._wrote_blindly or reading.epoch is None:
            return False
        epoch = Epoch.parse(reading.epoch)
        if not epoch.id or epoch.finding == REPAIRING:
            return False
        self._adopt_reading(epoch, reading)
        return True

    def share_ages(self) -> bool:
        """Whether the key of this process's share must have its expiry extended soon."""
        return bool(self.watermark and self.watermark.share) and self._read_at - self._wrote_at > DAY_MS // 4

    def share_refreshed(self) -> None:
        """The share expires in a day from the last reading."""
        self._wrote_at = self._read_at

    def _raise_watermark(self, numbers: Watermark) -> None:
        present = self.watermark
        if present is not None and present.epoch == numbers.epoch:
            latest = numbers if numbers.seq >= present.seq else present
            self.watermark = replace(latest, share=max(numbers.share, present.share))

    async def settle(self, *, since: int = 0, cause: str = "") -> None:
        """Agree with the store on one epoch, after a reading was below the watermark or of a new server.

        Args:
            since: Data is missing since this Redis ``TIME`` (ms): no epoch noticed earlier settles it.
            cause: Why, where ``since`` is given.

        Raises:
            StoreUnavailable: the store did not answer; nothing is settled.
            StoreRefused: the server is no primary, or settling takes longer than :data:`SETTLE_WAIT_S`.
        """
        settling = self.begin_alone(since, cause)
        done, _ = await asyncio.wait({settling}, timeout=SETTLE_WAIT_S)
        if not done and self._new_server is not None and self._new_server.awaits_others:
            raise StoreRefused("the store has a new server, at which another process has not looked yet")
        if not done:
            raise StoreRefused(BEING_SETTLED)
        settling.result()

    def look_at_new_server(self, server: str) -> None:
        """Look at a server if it is new, so that the other processes need not wait for this one."""
        if self.epoch is not None and self.is_new(server) and not self._closed:
            self.begin_alone()

    def begin_together(
        self, since: int = 0, cause: str = "", read: SuspectReading | None = None
    ) -> Settlement | None:
        """Begin to settle it together with others; None if it is being settled.

        Args:
            since: As :meth:`settle`.
            cause: Likewise.
            read: What was just read of it; None: it is to be read.
        """
        assert self._new_server is None  # noqa: S101  # where slots move between servers, nobody is waited for
        if self._tasks or self._joined is not None or self._closed:
            return None
        if self._repair is not None:
            self._repair.note_running()
        self._joined = Settlement(self, self._all_steps(since, cause, read), self._leave)
        return self._joined

    def _leave(self, settlement: Settlement) -> None:
        if settlement is self._joined:
            self._joined = None

    def begin_alone(self, since: int = 0, cause: str = "") -> "asyncio.Future[None]":
        """Begin to settle it, unless it is being settled; done when that has ended. As :meth:`settle`."""
        if self._joined is not None and not since:
            return self._joined.ended
        task = self._task
        if task is None or since:
            if self._repair is not None:
                self._repair.note_running()
            task = asyncio.get_running_loop().create_task(self._settle(since, cause))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
            if not since:
                self._task = task
        return task

    async def close(self) -> None:
        """Cancel what is being settled."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task is self._task:
            self._task = None
        retrieve_failure(task)

    async def _settle(self, since: int, cause: str) -> None:
        while self._joined is not None:
            await asyncio.wait({self._joined.ended})
        async with self._lock:
            if self._new_server is not None:
                self._new_server.begin()
            try:
                for _ in range(_TRIES):
                    if await self._take(self._settled(since, cause)) and await self._is_at_checked_server():
                        return
            finally:
                self._settling = False
                if self._new_server is not None:
                    self._new_server.awaits_others = False
                self._note()
            raise StoreUnavailable(_KEEPS_CHANGING)

    def _all_steps(self, since: int, cause: str, read: SuspectReading | None) -> Steps[None]:
        """The steps of :meth:`_settle`."""
        try:
            for _ in range(_TRIES):
                if (yield from self._settled(since, cause, read)):
                    return
                read = None
        finally:
            self._settling = False
            self._note()
        raise StoreUnavailable(_KEEPS_CHANGING)

    async def _take(self, steps: Steps[T]) -> T:
        """Take steps of this data set alone; returns what they return."""
        try:
            step = next(steps)
            while True:
                try:
                    given = await self._counted(step)
                except Exception as error:  # noqa: BLE001  # the steps decide what follows
                    step = steps.throw(error)
                else:
                    step = steps.send(given)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            steps.close()

    async def _counted(self, step: Step) -> Any:
        """Carry out a step; the time that it takes counts at a new server."""
        carrying_out = self._carry_out(step)
        if self._new_server is None:
            return await carrying_out
        return await self._new_server.count(self._server, step, carrying_out)

    async def _carry_out(self, step: Step) -> Any:
        match step:
            case Reads():
                return await self._read()
            case SetsEpoch():
                return await self._set_epoch(*step)
            case WritesBack():
                return await self._write_back()
            case Verifies(verify, last):
                return await verify(last)
            case Contributes():
                assert self._repair is not None  # noqa: S101  # otherwise there is no repair
                return await self._repair.context.contribute(*step)
            case Pauses(seconds):
                return await asyncio.sleep(seconds)

    async def _is_at_checked_server(self) -> bool:
        """Wait until no running process can have acknowledged what the server lacks.

        Returns:
            False if the data set is to be settled again.
        """
        new_server, server = self._new_server, self._server
        if new_server is None or server == new_server.trusted:
            return True
        if not server:  # it changed while it was read
            return False
        self._settling = False  # what is acknowledged from now on is at this server
        return await new_server.is_checked(server, self._lacks_nothing)

    @reads_replies()
    async def _lacks_nothing(self) -> bool:
        """Whether a reading is of the same server as the last one, and has all that was seen."""
        reading = await self._read()
        found = None if reading.epoch is None else Epoch.parse(reading.epoch)
        return reading.server == self._server and self._missing(reading, found) is None

    def _settled(self, since: int, cause: str, read: SuspectReading | None = None) -> Steps[bool]:
        """Settle what one reading shows; False if the data set has become another one meanwhile."""
        with understood():
            reading: Reading
            if read is not None and read.before is self.watermark:  # nothing was written since
                reading = read.reading
            else:
                reading = yield READS
            self._server = reading.server
            found = Epoch.parse(reading.epoch) if reading.epoch is not None else None
            self._changes.found(found)
            missing = self._missing(reading, found)
            if missing is None and (since == 0 or (self.epoch is not None and self.epoch.noticed >= since)):
                return True
            supersedes = found is not None and self._supersedes_ours(found, since)
            if supersedes and found is not None and self._is_accepted(found, reading):
                self._adopt_reading(found, reading)
                return True
            self._settling = True
            self._note()
            verify: VerifyWrittenBack | None
            settled_by_others = supersedes and not self._is_repair(found)
            if self._repair is not None and not settled_by_others and self._can_be_repaired(found, since):
                repair = found if supersedes else None
                if repair is None:  # before anything is written back: no process gives verdicts from now on
                    cutoff, latest = self._latest_dates(found)
                    began, repair = yield from self._repair.begin(
                        reading.epoch or b"", latest, cutoff, missing or cause
                    )
                    if not began and not (repair.finding == REPAIRING and self._supersedes_ours(repair, 0)):
                        return False
                verify = yield WRITES_BACK
                ended = yield from self._repaired(self._repair, repair, verify)
                if ended is not NotRepaired.NOT_PROVEN:
                    return ended is not NotRepaired.REPLACED
                reading = yield READS
                found = Epoch.parse(reading.epoch or b"")
                if found != repair:
                    return False
            else:
                verify = yield WRITES_BACK  # before a new epoch shows others that it is settled
            if settled_by_others and found is not None and verify is None:
                self._adopt_reading(found, reading)
                return True
            set_to = (
                _numbers(reading)
                if settled_by_others
                else (yield from self._begin(reading, found, missing or cause))
            )
            if set_to is None:
                return False
            verified = set_to if verify is None else (yield Verifies(verify, True))
            if verified is None or verified.epoch != set_to.epoch:
                return False
            self._adopt(Epoch.parse(verified.epoch), verified, reading.now)
            return True

    def _is_repair(self, found: Epoch | None) -> bool:
        """Whether an epoch is that of a repair to which this process must contribute."""
        if found is None:
            return False
        return found.finding == REPAIRING or (found.finding == REPAIRED and self.epoch is not None)

    def _can_be_repaired(self, found: Epoch | None, since: int) -> bool:
        """Whether a repair may end what was found: keys were not evicted, and nobody has to accept a loss."""
        if since or (self.epoch is not None and self.epoch.finding == "refused"):
            return False
        return self._is_repair(found) or self.epoch is not None

    def _repaired(
        self, part: Repair, repair: Epoch, verify: VerifyWrittenBack | None
    ) -> Steps[Repaired | NotRepaired]:
        """Take part in a repair until it has ended; adopt the data set if it was repaired.

        Args:
            part: The part of this process.
            repair: The epoch of the repair; or of one that ended without this process.
            verify: Of what was written back.
        """
        if verify is not None:
            written = yield Verifies(verify, False)
            if written is None or written.epoch != repair.text.encode():
                return NotRepaired.REPLACED
        own_cutoff = 0 if self.epoch is None else self.epoch.cutoff
        ended = yield from part.take_part(repair, self.watermark, own_cutoff)
        if isinstance(ended, Repaired):
            if verify is not None:
                yield Verifies(verify, True)
            self._adopt(ended.epoch, ended.numbers, ended.epoch.noticed)
        return ended

    def _missing(self, reading: Reading, found: Epoch | None) -> str | None:
        present = self.watermark
        if found is None:
            return "the store has no epoch"
        if present is None or self.epoch is None or reading.epoch != present.epoch:
            return "the store holds another data set"
        if self._met_loss or reading.seq < present.seq:
            return "the store holds fewer revocations than before"
        if not hold_all(Counts(reading.seq, reading.writers), present.counts):
            return "the store has lost revocations of another process"
        share = reading.share or 0
        if share < present.share:
            if reading.now - self._wrote_at < DAY_MS - 3_600_000:
                return "the store has lost revocations of this process"
            self.watermark = replace(present, share=share)
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
            and not self._met_loss
            and present is not None
            and found.id == self.epoch.id
            and (reading.share or 0) >= present.share
            and hold_all(Counts(reading.seq, reading.writers), present.counts)
        )

    def _latest_dates(self, found: Epoch | None) -> tuple[int, int]:
        """The latest cutoff in force, and the latest time that was read of the store (ms)."""
        cutoff = max(self.epoch.cutoff if self.epoch else 0, found.cutoff if found else 0)
        return cutoff, max(self._read_at, self.epoch.noticed if self.epoch else 0, cutoff)

    def _begin(self, reading: Reading, found: Epoch | None, missing: str) -> Steps[Watermark | None]:
        """Set a new epoch if the present one is still as read; returns its numbers, None if it was not."""
        last = self.epoch or found
        refused = last is not None and last.finding == "refused"
        finding = "refused" if refused else FINDING_OF_POLICY[self._policy]
        cutoff, latest = self._latest_dates(found)
        report = functools.partial(
            self._losses.lost,
            missing=missing,
            policy=self._policy,
            blocks_and_keys="written back" if self.epoch else "not known to this process",
            hint=None if reading.epoch is not None else
            "a new installation is declared with `revoker store init` before the first start",
        )  # fmt: skip
        done, numbers = yield from self._changes.set(
            SetsEpoch(
                reading.epoch or b"",
                new_id(),
                latest,
                finding,
                None if finding == "cutoff" else cutoff,
            ),
            report,
        )
        return numbers if done else None

    def _adopt_reading(self, epoch: Epoch, reading: Reading) -> None:
        """Adopt an epoch; where replicas are waited for, they may lack what was read."""
        numbers = _numbers(reading)
        self._adopt(
            epoch, numbers if self._confirmed is None else Watermark(numbers.epoch, 0, 0), reading.now
        )

    def _adopt(self, epoch: Epoch, numbers: Watermark, now: int) -> None:
        self._losses.adopted(epoch, first=self.epoch is None)
        self.epoch = epoch
        self.watermark = numbers
        self._met_loss = False
        self._candidate = None
        self._read_at = max(self._read_at, now)
        self._wrote_at = self._read_at - DAY_MS // 2  # the expiry of the share is unknown: extend it soon
        self.baseline = RevocationState(loss=epoch.cutoff) if epoch.cutoff else NO_REVOCATIONS
        self._note()


def _numbers(reading: Reading) -> Watermark:
    return Watermark(reading.epoch or b"", reading.seq, reading.share or 0, reading.writers)
