"""Runs the Lua scripts: one round trip each, counted in the store, confirmed by replicas where configured."""

import hashlib
import importlib.resources
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from revoker.errors import NoVerdict, ReplyNotUnderstood, StoreUnavailable, Unconfirmed
from revoker.metrics import Metrics
from revoker.store.consistency.counts import Counts
from revoker.store.consistency.data_set import DataSet
from revoker.store.consistency.epoch import Watermark, new_id
from revoker.store.consistency.steps import SetsEpoch
from revoker.store.keys import Tail
from revoker.store.source import ChangeMany, Source
from revoker.store.wire.connection import (
    FAILURES,
    Command,
    ConnectionLost,
    Refused,
    Replies,
    TooFewReplicas,
    public_message,
    unavailable_on_failure,
    understood,
)

_LUA: Final = importlib.resources.files("revoker.store") / "lua"


_SHARED_PARTS: Final[dict[str, tuple[str, ...]]] = {
    "revoke_token": (),
    "revoke_tokens": (),
    "move_cutoff": (),
    "revoke_user": ("user",),
    "block_user": ("user",),
    "unblock_user": ("undo", "user"),
    "trim_blocks": (),
    "revoke_key": (),
    "forget_key": ("undo",),
    "lift_cutoff": ("undo", "user"),
    "set_epoch": (),
    "set_settings": (),
    "share_latest_time": (),
    "refill": (),
    "find_absent": (),
    "vouch": (),
    "retire_writers": (),
    "enter_instance": (),
    "note_consumers": (),
    "start_session": ("user", "session"),
    "refresh_session": ("user", "session"),
    "elevate_session": ("user", "session"),
    "end_session": ("user", "session"),
    "trim_sessions": ("user", "session"),
    "add_to_journal": (),
}
"""Each script, and the files that it needs before its own."""

UNDO: Final = frozenset(name for name, parts in _SHARED_PARTS.items() if "undo" in parts)
"""Scripts that undo a revocation. Run twice, they would undo what was revoked in between. So each request
adds a key, ``lifted`` and an id, by which the script finds that the request was carried out before. After a
loss of data it is carried out again, for processes write back what they remember: ``again`` says so."""

RESTORE: Final = {
    name: f"restore:{name}"
    for name in ("revoke_token", "move_cutoff", "revoke_user", "block_user", "revoke_key")
}
"""Scripts, and the variants that write the same again after a loss of data, without counting it."""


def _load(*names: str) -> bytes:
    return b"\n".join((_LUA / f"{name}.lua").read_bytes() for name in ("prelude", *names))


TEXTS: Final = {name: _load(*parts, name) for name, parts in _SHARED_PARTS.items()} | {
    variant: _load("restore", *_SHARED_PARTS[name], name) for name, variant in RESTORE.items()
}
DIGESTS: Final = {name: hashlib.sha1(text).hexdigest() for name, text in TEXTS.items()}  # noqa: S324


Batch = Sequence[tuple[str, Sequence[str], Sequence[Any]]]
"""Scripts on one data set: of each the name, and keys and arguments as in :meth:`Scripts.execute`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalTerms:
    """Where the journal is, and how much of it is kept.

    Attributes:
        key: Of the journal.
        beside: Whether it is in the slot of all other keys, so that every script writes to it.
        entries: How many are kept at most, roughly.
        seconds: For how long an entry is kept at most, roughly; the last thousand stay.
    """

    key: str
    beside: bool
    entries: int
    seconds: int


class Scripts:
    """Changes to the store, each atomic, and each a write even where it changes nothing."""

    def __init__(
        self,
        servers: Source,
        metrics: Metrics,
        data_of: Callable[[str], DataSet],
        journal: JournalTerms | None = None,
    ) -> None:
        """Run them on these servers.

        Args:
            servers: Which confirm changes.
            metrics: Where to count.
            data_of: The data set of a key, which records each acknowledged change. The KEYS of every script
                end with its tail.
            journal: Where every change is journaled before it is acknowledged; None: nowhere.
        """
        self._servers = servers
        self._succeeded = metrics.deferred.observing(metrics.write_seconds.labels("ok"))
        self._failed = metrics.deferred.observing(metrics.write_seconds.labels("error"))
        self._data_of = data_of
        self._journal = journal

    @property
    def journals_itself(self) -> bool:
        """Whether a script journals what it changes, so that what is stored is in the journal, too."""
        return self._journal is None or self._journal.beside

    def seq(self, key: str) -> int:
        """``rv:seq`` of the data set of a key, as last read; 0: never."""
        return self._expected(key)[0]

    def _expected(self, key: str) -> tuple[int, int]:
        """``rv:seq`` and the share of this process, as last read; 0: never."""
        watermark = self._data_of(key).watermark
        return (0, 0) if watermark is None else (watermark.seq, watermark.share)

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """Run a script that revokes or undoes a revocation; it may be repeated.

        A change that met another data set than expected may be among what was lost, or have come before what
        is restored. It is made again once that is settled.

        Returns:
            The reply of the script, without the numbers at its end.

        Raises:
            Unconfirmed: the change may or may not be stored; repeating it is safe.
            StoreUnavailable: it is not stored.
        """
        undoes = name in UNDO
        all_keys = [*keys, f"{keys[-1]}:{new_id()}"] if undoes else keys
        for all_args in (args, [*args, "again"] if undoes else args):
            try:
                reply, intact = await self.call(name, all_keys, all_args, counted=True)
            except StoreUnavailable as error:
                if not isinstance(error.__cause__, ConnectionLost):
                    raise
                try:
                    reply, intact = await self.call(name, all_keys, all_args, counted=True)
                except Unconfirmed:
                    raise
                except StoreUnavailable as again:  # but the first attempt may have been carried out
                    raise Unconfirmed(str(again)) from again
            if intact:
                return reply
            await self._data_of(keys[0]).settle()
        raise Unconfirmed("the store lost data while it was written to")

    async def call(
        self, name: str, keys: Sequence[str], args: Sequence[Any], *, counted: bool = False
    ) -> tuple[list[Any], bool]:
        """Run a script once.

        Args:
            name: Of the script.
            keys: Of the script, without the tail.
            args: Likewise.
            counted: Whether the script counts what it stores, unless it answers with one word: a refusal.

        Returns:
            As :meth:`run`, and whether the script met the expected data set, with no data missing; if not,
            the change may be among what was lost, or is not counted.

        Raises:
            Unconfirmed: as :meth:`run`, and :class:`StoreUnavailable` likewise.
        """
        data = self._data_of(keys[0])
        before = data.watermark
        try:
            reply = await self.execute(name, keys, args)
        except ReplyNotUnderstood as error:  # the script was carried out all the same
            raise Unconfirmed(str(error)) from error
        if isinstance(reply[-1], list):
            with understood():
                *values, numbers = reply
                return values, data.record_write(before, numbers_of(numbers))
        refused = len(reply) == 1 and isinstance(reply[0], bytes) and reply[0].isalpha()
        if counted and not refused:
            raise Unconfirmed(str(ReplyNotUnderstood()))
        return reply, True

    async def set_epoch(  # noqa: PLR0917  # the arguments of the script, in its order
        self,
        tail: Tail,
        expected: bytes,
        new_id: str,
        latest: int,
        finding: str,
        cutoff: int | None,
        counts: Counts | None = None,
    ) -> tuple[bool, Watermark]:
        """Set the epoch if it is still as expected, and the counts are.

        Args:
            tail: Of the data set.
            expected: The epoch; empty: none.
            new_id: Of the epoch.
            latest: The epoch is not dated before it (ms).
            finding: As that of the epoch.
            cutoff: Likewise; None: now.
            counts: Those that the data set must have; None: any.

        Returns:
            Whether it was set, and the numbers in the store.
        """
        args = _epoch_args(SetsEpoch(expected, new_id, latest, finding, cutoff, counts))
        with understood():
            done, numbers = await self.execute("set_epoch", (), args, tail)
            return bool(done), numbers_of(numbers)

    async def set_epochs(
        self, tails: Sequence[Tail], steps: Sequence[SetsEpoch], change_many: ChangeMany
    ) -> list[tuple[bool, Watermark] | NoVerdict]:
        """As :meth:`set_epoch`, for many data sets; returns errors as values."""
        batches: list[Batch] = [[("set_epoch", (), _epoch_args(step))] for step in steps]
        replies = await self.execute_in_many(tails, batches, change_many)

        def epoch_set(reply: Any) -> tuple[bool, Watermark]:
            [[done, numbers]] = reply
            return bool(done), numbers_of(numbers)

        return [decoded(reply, epoch_set) for reply in replies]

    async def execute(
        self, name: str, keys: Sequence[str], args: Sequence[Any], tail: Tail | None = None
    ) -> list[Any]:
        """Run a script once, whatever data set it meets; its whole reply, which is not empty.

        Args:
            name: Of the script.
            keys: Of the script, without the tail; empty with ``tail``.
            args: Of the script, without what the writer knows.
            tail: Of the data set; None: of that of the first key.
        """
        command = self._command(keys, args, tail)
        [reply] = await self._execute(command[1], [(name, command)])
        if not isinstance(reply, list) or not reply:
            raise ReplyNotUnderstood
        return reply

    async def execute_together(self, calls: Batch) -> Replies:
        """Run scripts that may be repeated, on one data set, in one write; their whole replies."""
        scripts = [(name, self._command(keys, args)) for name, keys, args in calls]
        return await self._execute(calls[0][1][0], scripts)

    async def execute_in_many(
        self, tails: Sequence[Tail], batches: Sequence[Batch], change_many: ChangeMany
    ) -> list[Replies | NoVerdict]:
        """As :meth:`execute_together`, in many data sets, whatever these are.

        Args:
            tails: Of the data sets, each once.
            batches: For each the scripts.
            change_many: Sends them.

        Returns:
            For each data set the whole replies of its scripts, or the error.
        """
        start = time.perf_counter()
        packed = [
            [(name, self._command(keys, args, tail)) for name, keys, args in batch]
            for tail, batch in zip(tails, batches, strict=True)
        ]
        replies: dict[int, Replies | Exception] = {}

        async def send(numbers: Sequence[int], *, whole: bool) -> None:
            commands = [(tails[number].epoch, _evaluating(packed[number], whole=whole)) for number in numbers]
            replies.update(zip(numbers, await change_many(commands), strict=True))

        unsent = list(range(len(tails)))
        while unsent:
            await send(unsent, whole=False)
            unsent = [number for number in unsent if _lacks_script(replies[number])]
            if unsent:  # of those at one server, the first one brings the scripts
                first, *unsent = unsent
                await send([first], whole=True)
        results = await self._journal_many([replies[number] for number in range(len(tails))])
        failed = any(isinstance(result, Exception) for result in results)
        (self._failed if failed else self._succeeded)(time.perf_counter() - start)
        return results

    async def _journal_many(self, replies: Sequence[Replies | Exception]) -> list[Replies | NoVerdict]:
        """As :meth:`_write_journal`, for scripts in many slots."""
        results: list[Replies | NoVerdict] = []
        changes: list[Any] = []
        journaled: list[int] = []
        for number, answer in enumerate(replies):
            if isinstance(answer, Exception):
                results.append(answer if isinstance(answer, NoVerdict) else _failure(answer))
                continue
            results.append(answer)
            if changed := _take_changes(answer):
                changes += changed
                journaled.append(number)
        if changes and self._journal is not None:
            try:
                await self.add_to_journal(changes)
            except (*FAILURES, NoVerdict) as error:
                for number in journaled:
                    results[number] = Unconfirmed(public_message(error))
        return results

    async def _execute(self, key: str, scripts: Sequence[tuple[str, tuple[Any, ...]]]) -> Replies:
        start = time.perf_counter()
        observe = self._failed
        try:
            replies = await self._send(key, scripts)
            if self._journal is None or not self._journal.beside:
                await self._write_journal(replies)
            observe = self._succeeded
        except FAILURES as error:
            if isinstance(error, Refused) and error.code == "READONLY":
                self._servers.reconnect()
            raise _failure(error) from error
        finally:
            observe(time.perf_counter() - start)
        return replies

    async def _send(self, key: str, scripts: Sequence[tuple[str, tuple[Any, ...]]]) -> Replies:
        try:
            return await self._servers.change_together(key, _evaluating(scripts, whole=False))
        except Refused as error:
            if error.code != "NOSCRIPT":
                raise
            return await self._servers.change_together(key, _evaluating(scripts, whole=True))

    async def _write_journal(self, replies: Replies) -> None:
        """Journal what scripts in other slots have changed; that is taken from their replies.

        Raises:
            Unconfirmed: the changes are made, and may not be journaled; making them again journals them.
        """
        changes = _take_changes(replies)
        if not changes or self._journal is None:
            return
        try:
            await self.add_to_journal(changes)
        except (*FAILURES, NoVerdict) as error:
            [reply, *others] = replies
            own = reply[:-1] if isinstance(reply[-1], list) else reply
            cause = error if not isinstance(error, NoVerdict) else None
            raise Unconfirmed(public_message(error), None if others else own) from cause

    async def add_to_journal(self, changes: Sequence[Any]) -> None:
        """Add entries to the journal; raises as :meth:`revoker.store.source.Source.change_together`.

        Args:
            changes: Of each the key, its value, when that expires (ms), and what was undone.
        """
        assert self._journal is not None  # noqa: S101  # otherwise there is none to write to
        key = self._journal.key
        command = self._command((), changes, self._data_of(key).tail, journaling=True)
        await self._send(key, [("add_to_journal", command)])

    async def call_unconfirmed(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """Run a script that may be repeated, without the replicas: for a change that may be lost again.

        Returns:
            Its whole reply.

        Raises:
            StoreUnavailable: it may or may not have been carried out.
        """
        command = self._command(keys, args)
        async with unavailable_on_failure():
            [reply] = await self._servers.change_unconfirmed(keys[0], "EVALSHA", DIGESTS[name], *command)
            if isinstance(reply, Exception) and Refused(str(reply)).code == "NOSCRIPT":
                [reply] = await self._servers.change_unconfirmed(keys[0], "EVAL", TEXTS[name], *command)
            if isinstance(reply, Exception):
                raise Refused(str(reply))
        return list(reply)

    def _command(
        self,
        keys: Sequence[str],
        args: Sequence[Any],
        tail: Tail | None = None,
        *,
        journaling: bool = False,
    ) -> tuple[Any, ...]:
        """What follows the script itself: the number of keys, all KEYS and all ARGV.

        ``journaling``: the keys are in the slot of the journal, wherever that is.
        """
        expected = (0, 0) if tail is not None else self._expected(keys[0])
        if tail is None:
            tail = self._data_of(keys[0]).tail
        numbers = (tail.seq, tail.share, tail.writers, tail.epoch)
        count = len(keys) + len(numbers)
        journal = self._journal
        if journal is None or not (journal.beside or journaling):
            return (count, *keys, *numbers, *args, *expected)
        keeps = (journal.entries, journal.seconds * 1000)
        return (count + 1, *keys, *numbers, journal.key, *args, *expected, *keeps)


def numbers_of(reply: list[Any]) -> Watermark:
    """Decode what a script says of the data set that it met."""
    seq, share, writers, epoch = reply
    return Watermark(epoch, int(seq), int(share), writers)


def _take_changes(replies: Replies) -> list[Any]:
    """What scripts have changed that is still to be journaled; it is taken from the ends of their replies."""
    changes: list[Any] = []
    for reply in replies:
        last = reply[-1] if isinstance(reply, list) and reply else None
        if isinstance(last, list) and last[:1] == [b"journal"]:
            changes += reply.pop()[1:]
    return changes


def _epoch_args(step: SetsEpoch) -> tuple[Any, ...]:
    """The arguments of the script that sets an epoch."""
    return (
        step.expected,
        step.new_id,
        step.latest,
        step.finding,
        "now" if step.cutoff is None else step.cutoff,
        "" if step.counts is None else step.counts.seq,
        "" if step.counts is None else step.counts.writers,
    )


T = TypeVar("T")


def decoded(reply: Replies | NoVerdict, decode: Callable[[Replies], T]) -> T | NoVerdict:
    """Decode replies that were sent together with others; a failure is a value."""
    if isinstance(reply, NoVerdict):
        return reply
    try:
        with understood():
            return decode(reply)
    except ReplyNotUnderstood as error:
        return error


def _evaluating(scripts: Sequence[tuple[str, tuple[Any, ...]]], *, whole: bool) -> list[Command]:
    """The commands that run scripts: by their digests, or with their whole texts."""
    if whole:
        return [("EVAL", TEXTS[name], *command) for name, command in scripts]
    return [("EVALSHA", DIGESTS[name], *command) for name, command in scripts]


def _lacks_script(answer: Replies | Exception) -> bool:
    return isinstance(answer, Refused) and answer.code == "NOSCRIPT"


def _failure(error: Exception) -> StoreUnavailable:
    """The error that a caller gets for a failed change."""
    if isinstance(error, TooFewReplicas) and len(error.replies) == 1:
        [reply] = error.replies
        counted = bool(reply) and isinstance(reply[-1], list)
        return Unconfirmed(public_message(error), reply[:-1] if counted else reply)
    if isinstance(error, Refused):
        return StoreUnavailable(public_message(error))
    return Unconfirmed(public_message(error))
