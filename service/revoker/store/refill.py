"""Writes back what this process knows into a store that has lost data, and vouches for it in a repair.

That is what this process has revoked, and all blocks and revoked signing keys.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from revoker.errors import NoVerdict, StoreUnavailable
from revoker.metrics import Metrics
from revoker.models import Issuer, Revocation
from revoker.store.consistency.acknowledged import Written
from revoker.store.consistency.epoch import Watermark, new_id
from revoker.store.consistency.steps import Contributes, RepairProgress, Verifies, VerifyWrittenBack
from revoker.store.keys import Keys, Tail
from revoker.store.revocations import Revocations
from revoker.store.scripts import RESTORE, Batch, Scripts, decoded, numbers_of
from revoker.store.source import ChangeMany
from revoker.store.wire.connection import understood

_CHUNK: Final = 256
"""Scripts in one write when revocations are restored: more would block the server for other clients."""

_LOOKED_AT: Final = 8 * _CHUNK
"""Revocations that the store is asked about in one write."""

_Call = tuple[str, tuple[str, ...], tuple[object, ...]]
"""A script, its keys and its arguments."""


@dataclass(frozen=True, slots=True)
class _WrittenBack:
    """What was written back to a data set: :data:`revoker.store.consistency.steps.VerifyWrittenBack`.

    Attributes:
        part: Number of the data set.
        refill: Id of the refill.
        done: How many steps it had: writes, and looks for what is absent.
    """

    part: int
    refill: str
    done: int
    mark: Callable[[int, str, str, int, int], Awaitable[Watermark | None]]

    def __call__(self, last: bool) -> Awaitable[Watermark | None]:
        return self.mark(self.part, _step(last), self.refill, self.done, self.done)


def _step(last: bool) -> str:
    return "end" if last else "renew"


class Refill:
    """Writes back what this process knows."""

    def __init__(
        self,
        scripts: Scripts,
        keys: Keys,
        issuers: Mapping[str, Issuer],
        revocations: Revocations,
        metrics: Metrics,
    ) -> None:
        """``revocations`` are those that are written back."""
        self._scripts = scripts
        self._keys = keys
        self._issuers = {issuer.name: issuer for issuer in issuers.values()}
        self._acknowledged: Final = revocations.acknowledged
        self._remembered: Final = revocations.remembered
        self._cutoff_lifetime: Final = revocations.cutoff_lifetime
        self._metrics = metrics
        self._process: Final = new_id()

    async def write_back(self, part: int) -> VerifyWrittenBack | None:
        """Write the revocations that this process remembers to a data set again, whichever that is now.

        The scripts that revoked write the same times and expiries again. They never weaken what is
        stored, and are idempotent. After a failover nearly everything is there: so the store first says
        which of its own revocations this process has to write. Where the journal is in another slot, all of
        them are written: one that is stored may not be journaled.

        Args:
            part: Number of the data set: 0, or a slot of a cluster.

        Returns:
            A call that checks that all of it went to one data set, to be made once that has its epoch; None
            where there was nothing to restore.

        Raises:
            StoreUnavailable: the store did not answer; some of it may be stored.
        """
        of_all, own = self._calls_of_all(part), self._acknowledged.entries(part)
        if not of_all and not own:
            return None
        refill, done = new_id(), 0
        await self._mark(part, "begin", refill, 0, 0)
        looks = self._scripts.journals_itself
        calls = of_all if looks else of_all + [_call(entry) for entry in own]
        steps: list[Callable[[int], Awaitable[int | None]]] = [
            functools.partial(self._restore, part, calls[start : start + _CHUNK], refill)
            for start in range(0, len(calls), _CHUNK)
        ]
        steps += [
            functools.partial(self._restore_absent, part, own[start : start + _LOOKED_AT], refill)
            for start in range(0, len(own) if looks else 0, _LOOKED_AT)
        ]
        for step in steps:
            try:
                marked = await step(done)
            except StoreUnavailable:  # continue a write that failed, if the mark is still there
                if await self._mark(part, "renew", refill, done, done) is None:
                    break
                marked = await step(done)
            if marked is None:
                break
            done = marked
        else:
            return _WrittenBack(part, refill, done, self._mark)
        return _WrittenBack(part, new_id(), 0, self._mark)  # no mark has this id, so nothing verifies it

    async def write_back_many(
        self, tails: Sequence[Tail], change_many: ChangeMany
    ) -> list[VerifyWrittenBack | NoVerdict | None]:
        """As :meth:`write_back`, to many data sets; returns errors as values."""
        results: dict[Tail, VerifyWrittenBack | NoVerdict | None] = dict.fromkeys(tails)
        batches: dict[Tail, Batch] = {}
        refill = new_id()
        for tail in tails:
            part = self._keys.part(tail.epoch)
            calls = self._calls(part)
            if len(calls) > _CHUNK:
                try:
                    results[tail] = await self.write_back(part)
                except NoVerdict as error:
                    results[tail] = error
            elif calls:
                batches[tail] = [
                    self._marking(part, "begin", refill, 0, 0),
                    *((RESTORE[script], keys, args) for script, keys, args in calls),
                    self._marking(part, "renew", refill, 0, 1),
                ]
        if not batches:
            return list(results.values())
        replies = await self._scripts.execute_in_many(list(batches), list(batches.values()), change_many)
        for tail, reply in zip(batches, replies, strict=True):
            if isinstance(reply, NoVerdict):
                results[tail] = reply
            else:
                self._metrics.refilled_revocations.inc(len(batches[tail]) - 2)
                results[tail] = _WrittenBack(self._keys.part(tail.epoch), refill, 1, self._mark)
        return list(results.values())

    async def verify_many(
        self, tails: Sequence[Tail], steps: Sequence[Verifies], change_many: ChangeMany
    ) -> list[Watermark | NoVerdict | None]:
        """Call what :meth:`write_back_many` has returned; returns errors as values."""
        batches: list[Batch] = []
        for verify, last in steps:
            assert isinstance(verify, _WrittenBack)  # noqa: S101  # nothing else returns one
            batches.append([self._marking(verify.part, _step(last), verify.refill, verify.done, verify.done)])
        replies = await self._scripts.execute_in_many(tails, batches, change_many)
        return [decoded(reply, _marked) for reply in replies]

    async def _restore(self, part: int, calls: Sequence[_Call], refill: str, done: int) -> int | None:
        """Run scripts and mark that, in one write: so the mark is nowhere but where they ran.

        Returns:
            How many steps are marked; None if the mark of the earlier ones is gone.
        """
        batch: list[_Call] = [(RESTORE[script], keys, args) for script, keys, args in calls]
        batch.append(self._marking(part, "renew", refill, done, done + 1))
        replies = await self._scripts.execute_together(batch)
        self._metrics.refilled_revocations.inc(len(calls))
        with understood():
            return None if _marked(replies[-1:]) is None else done + 1

    async def _restore_absent(
        self, part: int, entries: Sequence[Written], refill: str, done: int
    ) -> int | None:
        """As :meth:`_restore`, for those of some acknowledged revocations that the store lacks."""
        looks = [entries[start : start + _CHUNK] for start in range(0, len(entries), _CHUNK)]
        replies = await self._scripts.execute_together(
            [self._looking(part, look, refill, done + number) for number, look in enumerate(looks)]
        )
        absent: list[Written] = []
        with understood():
            for look, (found, *numbers) in zip(looks, replies, strict=True):
                if not found:
                    return None
                absent += [look[number - 1] for number in numbers]
        marked: int | None = done + len(looks)
        for start in range(0, len(absent), _CHUNK):
            if marked is not None:
                calls = [_call(entry) for entry in absent[start : start + _CHUNK]]
                marked = await self._restore(part, calls, refill, marked)
        return marked

    def _looking(self, part: int, entries: Sequence[Written], refill: str, marked: int) -> _Call:
        keys = [self._keys.in_part(part).refills, *(entry.keys[0] for entry in entries)]
        args: list[object] = [self._process, refill, marked]
        for entry in entries:
            args += (0 if entry.script == "revoke_token" else entry.at, entry.until, entry.except_sid)
        return "find_absent", tuple(keys), tuple(args)

    async def refilling(self, part: int) -> int:
        """How many processes are restoring revocations in one data set."""
        key = self._keys.in_part(part).refills
        with understood():
            return int((await self._scripts.execute("refill", [key], ("count",)))[0])

    async def _mark(self, part: int, step: str, refill: str, marked: int, done: int) -> Watermark | None:
        """Mark the writes that are done in the data set; None if fewer than ``marked`` were marked before."""
        with understood():
            return _marked([await self._scripts.execute(*self._marking(part, step, refill, marked, done))])

    def _marking(self, part: int, step: str, refill: str, marked: int, done: int) -> _Call:
        return "refill", (self._keys.in_part(part).refills,), (step, self._process, refill, marked, done)

    def can_vouch(self, part: int) -> bool:
        """Whether everything that this process has acknowledged in a data set can be written back."""
        return not self._acknowledged.has_forgotten(part)

    async def contribute(
        self, part: int, instance: str, epoch: bytes, contribution: bytes, share: int | None
    ) -> RepairProgress:
        """As :meth:`revoker.store.consistency.repair.RepairContext.contribute`, to a numbered data set."""
        call = self._contribution(part, instance, Contributes(epoch, contribution, share))
        with understood():
            return _progress([await self._scripts.execute(*call)])

    async def contribute_many(
        self, instance: str, tails: Sequence[Tail], steps: Sequence[Contributes], change_many: ChangeMany
    ) -> list[RepairProgress | NoVerdict]:
        """As :meth:`contribute`, to many data sets; returns errors as values."""
        batches: list[Batch] = [
            [self._contribution(self._keys.part(tail.epoch), instance, step)]
            for tail, step in zip(tails, steps, strict=True)
        ]
        replies = await self._scripts.execute_in_many(tails, batches, change_many)
        return [decoded(reply, _progress) for reply in replies]

    def _contribution(self, part: int, instance: str, step: Contributes) -> _Call:
        args = (step.epoch, instance, step.contribution, "" if step.share is None else step.share)
        return "vouch", (self._keys.in_part(part).repair,), args

    def _calls(self, part: int) -> list[_Call]:
        """What writes all of it to a data set again."""
        return self._calls_of_all(part) + [_call(entry) for entry in self._acknowledged.entries(part)]

    def _calls_of_all(self, part: int) -> list[_Call]:
        """What writes the blocks and revoked signing keys of all processes to a data set again."""
        calls: list[_Call] = []
        if tags := self._remembered.blocks_of(part):
            lifetime_ms = max(map(self._cutoff_lifetime, self._issuers.values()))
            calls += [
                ("block_user", self._keys.of_block(tag), (until, lifetime_ms, "", tag)) for tag, until in tags
            ]
        for name, keys in self._remembered.keys.items():
            if not keys:
                continue
            key = self._keys.revoked_keys(self._issuers[name])
            if self._keys.part(key) == part:
                calls += [
                    ("revoke_key", (key,), (kid, revoked.reason, revoked.at)) for kid, revoked in keys.items()
                ]
        return calls

    async def restore_keys(self, issuer: Issuer, revoked: Mapping[str, Revocation]) -> None:
        """Write revocations of signing keys again that have vanished from the store."""
        key = self._keys.revoked_keys(issuer)
        script = RESTORE["revoke_key"]
        await self._scripts.execute_together(
            [(script, (key,), (kid, found.reason, found.at)) for kid, found in revoked.items()]
        )
        self._metrics.refilled_revocations.inc(len(revoked))


def _call(entry: Written) -> _Call:
    return entry.script, entry.keys, entry.args


def _marked(replies: Sequence[Any]) -> Watermark | None:
    """The numbers in the reply to a mark; None if the mark of earlier writes is gone."""
    [[found, numbers]] = replies
    return numbers_of(numbers) if found else None


def _progress(replies: Sequence[Any]) -> RepairProgress:
    [[_, now, fields, numbers]] = replies
    given = {process.decode(): text for process, text in zip(fields[::2], fields[1::2], strict=True)}
    return RepairProgress(int(now), given, numbers_of(numbers))
