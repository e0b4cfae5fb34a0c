"""Revokes, blocks and undoes; one script and one round trip each."""

import functools
import itertools
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from revoker.errors import InvalidRequest, NoVerdict, StoreUnavailable
from revoker.metrics import Metrics
from revoker.models import Issuer, Number, Revocation
from revoker.rules import (
    FOREVER_MS,
    START_AHEAD_MS,
    cutoff_lifetime_ms,
    earliest_active_ms,
    jti_expiry_ms,
    jti_lifetime_ms,
)
from revoker.store.audit import audit_text, audit_text_of_user
from revoker.store.consistency.acknowledged import Acknowledged, Written
from revoker.store.consistency.clocks import LATEST_AHEAD_MS
from revoker.store.consistency.epoch import Watermark, new_id
from revoker.store.consistency.steps import Contributes, RepairProgress, Verifies, VerifyWrittenBack
from revoker.store.issuer_records import IssuerRecords
from revoker.store.keys import Keys, Tail, segment, tag_and_start, user_tag
from revoker.store.scripts import RESTORE, Batch, Scripts, decoded, numbers_of
from revoker.store.source import ChangeMany
from revoker.store.wire.connection import understood

AHEAD_MS: Final = 5000
"""A cutoff dated up to this far ahead is taken as now, because the caller's clock may be a little fast."""

BEFORE_AHEAD: Final = "before is further ahead than 5 seconds"
EXP_AHEAD: Final = "exp is further ahead than max_token_lifetime allows"
UNTIL_PAST: Final = "until is past"
"""The messages where a date is refused."""

_CHUNK: Final = 256
"""Scripts in one write when revocations are restored: more would block the server for other clients."""

_LATEST_LIFETIME_MS: Final = 300_000
"""Longer than two clocks may be apart: after that a slower clock has passed the time as well."""

_NUMBERS: Final = {"revoke_token": 2, "revoke_user": 2, "move_cutoff": 2}
"""How many numbers a script returns, if not one."""

_NO_REFUSALS: Final[Mapping[bytes, str]] = {}
_BEFORE_REFUSALS: Final[Mapping[bytes, str]] = {b"ahead": BEFORE_AHEAD}
_SIGNED_REFUSALS: Final[Mapping[bytes, str]] = {b"ahead": "iat is ahead", b"expired": "expired"}
"""The words by which a script refuses, and the messages for them."""

_Call = tuple[str, tuple[str, ...], tuple[object, ...]]
"""A script, its keys and its arguments."""


@dataclass(frozen=True, slots=True)
class Signed:
    """The dates of a signed request to revoke, which are compared with the store's clock.

    Attributes:
        ahead: How far ahead the requested cutoff may be dated (ms); it is taken as now then.
        expires: From then on the request is refused (ms).
    """

    ahead: int
    expires: int


@dataclass(slots=True)
class Remembered:
    """All blocks and revoked signing keys: after a loss of data no cutoff covers what they cover.

    Attributes:
        blocks: End of each block (ms), by the user's tag.
        keys: By issuer name and ``kid``.
        changes: How many changes this process has made; a reading of the store that began before is older.
        changed_blocks: The number of the latest change of a block, by the user's tag, while it matters.
    """

    blocks: dict[str, int]
    keys: dict[str, dict[str, Revocation]]
    changes: int = 0
    changed_blocks: dict[str, int] = field(default_factory=dict)

    def block(self, tag: str, until: int) -> None:
        """This process has blocked a user."""
        self._changed(tag)
        self.blocks[tag] = until

    def unblock(self, tag: str) -> None:
        """This process has ended a block."""
        self._changed(tag)
        self.blocks.pop(tag, None)

    def _changed(self, tag: str) -> None:
        self.changes += 1
        self.changed_blocks[tag] = self.changes


@dataclass(frozen=True, slots=True)
class _WrittenBack:
    """What was written back to a data set: :data:`revoker.store.consistency.steps.VerifyWrittenBack`.

    Attributes:
        part: Number of the data set.
        refill: Id of the refill.
        done: How many writes it had.
    """

    part: int
    refill: str
    done: int
    mark: Callable[[int, str, str, int, int], Awaitable[Watermark | None]]

    def __call__(self, last: bool) -> Awaitable[Watermark | None]:
        return self.mark(self.part, _step(last), self.refill, self.done, self.done)


def _step(last: bool) -> str:
    return "end" if last else "renew"


class Revocations:
    """Every write raises ``StoreUnavailable`` where it may not be stored; repeating it is safe."""

    def __init__(
        self,
        scripts: Scripts,
        keys: Keys,
        issuers: Mapping[str, Issuer],
        records: IssuerRecords,
        metrics: Metrics,
        *,
        latest: Callable[[], int] = int,
    ) -> None:
        """``latest`` gives the latest time (ms) that any server of the store has reported."""
        self._scripts = scripts
        self._keys = keys
        self._issuers = {issuer.name: issuer for issuer in issuers.values()}
        self._records = records
        self._metrics = metrics
        self._latest: Final = latest
        self.acknowledged: Final = Acknowledged(metrics, keys.part, now=latest)
        self._process: Final = new_id()
        self._part_of_user = functools.lru_cache(maxsize=65536)(lambda tag: keys.part(keys.user(tag)))
        self._taken_blocks = 0
        self._blocks_by_part: tuple[tuple[int, int], dict[int, list[tuple[str, int]]]] | None = None
        self.remembered: Final = Remembered({}, {issuer: {} for issuer in self._issuers})

    def cutoff_lifetime(self, issuer: Issuer) -> int:
        """How long after its time a cutoff is stored, in ms."""
        return cutoff_lifetime_ms(self._records.widest(issuer))

    async def revoke_token(
        self,
        issuer: Issuer,
        jti: str,
        exp: Number | None,
        *,
        bounded: bool = False,
        by: str = "",
        reason: str = "",
    ) -> int:
        """List a jti until nothing accepts its token any more (``exp`` in seconds; None: unknown).

        Args:
            issuer: Of the token.
            jti: Of the token.
            exp: Of the token.
            bounded: Whether an ``exp`` is refused that no token of the issuer can have by now.
            by: Who revokes it; stored only with a reason, since tokens are many.
            reason: Why.

        Returns:
            When it was first listed, in ms.

        Raises:
            InvalidRequest: ``exp`` is refused.
        """
        self._records.refuse_in_conflict(issuer)
        earliest = earliest_active_ms(issuer, exp) if bounded and exp is not None else ""
        widest = self._records.widest(issuer)
        audit = audit_text(by, reason=reason) if reason else b""
        expiry = "" if exp is None else jti_expiry_ms(widest, exp)
        args = (expiry, jti_lifetime_ms(widest), "", earliest, audit)
        key = self._keys.jti(issuer, jti)
        refusals = {b"ahead": EXP_AHEAD}
        at, until = await self._run("token", "revoke_token", [key], args, refusals)
        self.acknowledged.note(
            Written("revoke_token", (key,), at, until, seq=self._scripts.seq(key), audit=audit)
        )
        return at

    async def revoke_user(
        self,
        issuer: Issuer,
        sub: str,
        *,
        before: int | None,
        except_sid: str | None,
        reason: str,
        by: str = "",
        signed: Signed | None = None,
    ) -> int:
        """Move a user's cutoff forward to ``before`` (ms; None: now), sparing a session where named.

        ``by``: who does so; empty: that is not stored.

        Returns:
            The standing cutoff in ms.

        Raises:
            InvalidRequest: ``before`` is further ahead than 5 s, or than ``signed`` allows, or that expired.
        """
        tag = user_tag(issuer.iss, sub)
        keys = (self._keys.user(tag), self._keys.sessions(tag))
        return await self._cut_off(
            "user",
            issuer,
            keys,
            before,
            reason=reason,
            audit=audit_text_of_user(by, issuer, sub),
            except_sid=except_sid or "",
            signed=signed,
        )

    async def revoke_session(
        self,
        issuer: Issuer,
        sid: str,
        *,
        before: int | None,
        reason: str,
        by: str = "",
        signed: Signed | None = None,
    ) -> int:
        """As :meth:`revoke_user`, for a session."""
        own = tag_and_start(sid) if issuer.own else None
        keys = (self._keys.session_cutoff(issuer, sid),)
        return await self._cut_off(
            "session",
            issuer,
            keys,
            before,
            reason=reason,
            audit=audit_text(by),
            start=own[1] if own else 0,
            signed=signed,
        )

    async def revoke_client(
        self, issuer: Issuer, client: str, *, before: int | None, reason: str, by: str = ""
    ) -> int:
        """As :meth:`revoke_user`, for a client."""
        keys, start = (self._keys.client_cutoff(issuer, client),), self._latest_start(issuer)
        return await self._cut_off(
            "client", issuer, keys, before, reason=reason, audit=audit_text(by), start=start
        )

    async def revoke_claim(
        self, issuer: Issuer, claim: str, value: str, *, before: int | None, reason: str, by: str = ""
    ) -> int:
        """As :meth:`revoke_user`, for a value of a claim that is recorded as in use.

        See :meth:`revoker.store.issuer_records.IssuerRecords.record_claim`.
        """
        keys, start = (self._keys.claim_cutoff(issuer, claim, value),), self._latest_start(issuer)
        return await self._cut_off(
            "claim", issuer, keys, before, reason=reason, audit=audit_text(by), start=start
        )

    async def revoke_issuer(self, issuer: Issuer, *, before: int | None, reason: str, by: str = "") -> int:
        """As :meth:`revoke_user`, for everything that an issuer made."""
        keys, start = (self._keys.issuer_cutoff(issuer),), self._latest_start(issuer)
        return await self._cut_off(
            "issuer", issuer, keys, before, reason=reason, audit=audit_text(by), start=start
        )

    def _latest_start(self, issuer: Issuer) -> int:
        """The latest start (ms) that a session held by this service may have, as this process knows.

        A session begun on a server whose clock was ahead must not escape a cutoff dated by the one that has
        taken its place.
        """
        return self._latest() if issuer.own else 0

    def session_ended(self, issuer: Issuer, sid: str, at: int, audit: bytes = b"") -> None:
        """Remember the end (ms) of a session held by this service, which other scripts bring about."""
        key, until = self._keys.session_cutoff(issuer, sid), at + self.cutoff_lifetime(issuer)
        seq = self._scripts.seq(key)
        self.acknowledged.note(Written("move_cutoff", (key,), at, until, seq=seq, audit=audit))

    async def revoke_key(self, issuer: Issuer, kid: str, *, reason: str, by: str = "") -> int:
        """Revoke a signing key for good; returns when that was first done (ms)."""
        self._records.refuse_in_conflict(issuer)
        key = self._keys.revoked_keys(issuer)
        [at] = await self._run("key", "revoke_key", [key], (kid, reason, "", audit_text(by), segment(kid)))
        self.remembered.changes += 1
        self.remembered.keys[issuer.name][kid] = Revocation(at, reason)
        return at

    async def forget_key(self, issuer: Issuer, kid: str) -> bool:
        """Take back the revocation of a key; False where there was none."""
        self._records.refuse_in_conflict(issuer)
        key = self._keys.revoked_keys(issuer)
        [undone] = await self._run(
            "forget", "forget_key", [key, self._keys.beside(key).lifted], (kid, segment(kid))
        )
        self.remembered.changes += 1
        self.remembered.keys[issuer.name].pop(kid, None)
        return bool(undone)

    async def restore_keys(self, issuer: Issuer, revoked: Mapping[str, Revocation]) -> None:
        """Write revocations of signing keys again that have vanished from the store."""
        key = self._keys.revoked_keys(issuer)
        script = RESTORE["revoke_key"]
        await self._scripts.execute_together(
            [(script, (key,), (kid, found.reason, found.at)) for kid, found in revoked.items()]
        )
        self._metrics.refilled_revocations.inc(len(revoked))

    async def block_user(
        self, issuer: Issuer, sub: str, *, until: int | None, reason: str, by: str = ""
    ) -> int:
        """Let nothing of a user's be active before ``until`` (ms; None: for good).

        Returns:
            The end of the block, which never gets shorter.

        Raises:
            InvalidRequest: ``until`` is past.
        """
        self._records.refuse_in_conflict(issuer)
        tag = user_tag(issuer.iss, sub)
        [end] = await self._run(
            "block",
            "block_user",
            self._block_keys(tag),
            (
                FOREVER_MS if until is None else min(until, FOREVER_MS),
                self.cutoff_lifetime(issuer),
                reason,
                tag,
                1,
                audit_text_of_user(by, issuer, sub),
            ),
            {b"past": UNTIL_PAST},
        )
        self.remembered.block(tag, end)
        return end

    async def unblock_user(self, issuer: Issuer, sub: str) -> int:
        """End a block; returns its end (ms; 0: there was none)."""
        tag = user_tag(issuer.iss, sub)
        [undone] = await self._run(
            "unblock",
            "unblock_user",
            (*self._block_keys(tag), self._keys.beside(self._keys.user(tag)).lifted),
            (self.cutoff_lifetime(issuer), tag),
        )
        self.remembered.unblock(tag)
        return undone

    async def lift_user(self, issuer: Issuer, sub: str) -> int:
        """Undo a user's cutoff; returns its time (ms; 0: there was none). For operators only."""
        return await self._lift(self._keys.user_of(issuer, sub), "user", self.cutoff_lifetime(issuer))

    async def lift(self, key: str) -> int:
        """Take back the cutoff of a session, client, claim or issuer by its key; as :meth:`lift_user`."""
        return await self._lift(key, "", 0)

    async def write_back(self, part: int) -> VerifyWrittenBack | None:
        """Write the revocations that this process remembers to a data set again, whichever that is now.

        The scripts that revoked write the same times and expiries again. They never weaken what is
        stored, and are idempotent.

        Args:
            part: Number of the data set: 0, or a slot of a cluster.

        Returns:
            A call that checks that all of it went to one data set, to be made once that has its epoch; None
            where there was nothing to restore.

        Raises:
            StoreUnavailable: the store did not answer; some of it may be stored.
        """
        calls = self._restore_calls(part)
        if not calls:
            return None
        refill, done = new_id(), 0
        await self._mark(part, "begin", refill, 0, 0)
        for start in range(0, len(calls), _CHUNK):
            chunk = calls[start : start + _CHUNK]
            try:
                marked = await self._restore(part, chunk, refill, done)
            except StoreUnavailable:  # continue a write that failed, if the mark is still there
                if await self._mark(part, "renew", refill, done, done) is None:
                    break
                marked = await self._restore(part, chunk, refill, done)
            if not marked:
                break
            done += 1

        return _WrittenBack(part, refill, done, self._mark)

    async def write_back_many(
        self, tails: Sequence[Tail], change_many: ChangeMany
    ) -> list[VerifyWrittenBack | NoVerdict | None]:
        """As :meth:`write_back`, to many data sets; returns errors as values."""
        results: dict[Tail, VerifyWrittenBack | NoVerdict | None] = dict.fromkeys(tails)
        batches: dict[Tail, Batch] = {}
        refill = new_id()
        for tail in tails:
            part = self._keys.part(tail.epoch)
            calls = self._restore_calls(part)
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

    async def _restore(self, part: int, calls: list[_Call], refill: str, done: int) -> bool:
        """Run scripts in one write, then mark them as done; False if the mark of earlier ones is gone."""
        await self._scripts.execute_together([(RESTORE[script], keys, args) for script, keys, args in calls])
        self._metrics.refilled_revocations.inc(len(calls))
        return await self._mark(part, "renew", refill, done, done + 1) is not None

    def take_blocks(self, running: Mapping[int, dict[str, int]], changes: int) -> None:
        """Take over the blocks of all processes.

        Args:
            running: Until when (ms), by the user's tag, in some data sets.
            changes: How many there were when reading them began; later ones of this process are newer.
        """
        remembered = self.remembered
        self._taken_blocks += 1
        blocks = remembered.blocks
        newer = {tag: at for tag, at in remembered.changed_blocks.items() if at > changes}
        remembered.changed_blocks = newer
        gone: Collection[str]
        if self._keys.clustered:
            gone = [tag for tag in blocks if tag not in running.get(self._part_of_user(tag), blocks)]
        else:
            gone = blocks.keys() - running[0].keys() if running else ()
        for tag in gone:
            if tag not in newer:
                del blocks[tag]
        for read in running.values():
            for tag in newer.keys() & read.keys():
                del read[tag]
            blocks.update(read)

    async def trim_blocks(self, part: int, tags: Collection[bytes]) -> None:
        """Let blocks that have ended leave the store; raises ``NoVerdict``, which harms nothing."""
        await self._scripts.execute("trim_blocks", [self._keys.in_part(part).blocks], tuple(tags))

    async def share_latest_time(self, latest: int) -> None:
        """Share the latest time (ms) that any server of the store has reported; raises ``NoVerdict``."""
        args = (latest, LATEST_AHEAD_MS, _LATEST_LIFETIME_MS)
        await self._scripts.call_unconfirmed("share_latest_time", [self._keys.latest], args)

    async def retire_writers(self, part: int, counts: Mapping[str, int]) -> None:
        """Take ended processes, with these counts, from the list of writers; raises ``NoVerdict``."""
        args = tuple(itertools.chain.from_iterable(counts.items()))
        await self._scripts.execute("retire_writers", (), args, self._keys.in_part(part).tail(""))

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
        return not self.acknowledged.has_forgotten(part)

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

    def _restore_calls(self, part: int) -> list[_Call]:
        calls: list[_Call] = []
        if tags := self._blocks_of(part):
            lifetime_ms = max(map(self.cutoff_lifetime, self._issuers.values()))
            calls += [
                ("block_user", self._block_keys(tag), (until, lifetime_ms, "", tag)) for tag, until in tags
            ]
        for name, keys in self.remembered.keys.items():
            if not keys:
                continue
            key = self._keys.revoked_keys(self._issuers[name])
            if self._keys.part(key) == part:
                calls += [
                    ("revoke_key", (key,), (kid, revoked.reason, revoked.at)) for kid, revoked in keys.items()
                ]
        calls += [(entry.script, entry.keys, entry.args) for entry in self.acknowledged.entries(part)]
        return calls

    def _blocks_of(self, part: int) -> list[tuple[str, int]]:
        """The blocks of one data set, and their ends. Thousands of slots may be restored in one go."""
        state = (self.remembered.changes, self._taken_blocks)
        if self._blocks_by_part is None or self._blocks_by_part[0] != state:
            by_part: dict[int, list[tuple[str, int]]] = {}
            for tag, until in self.remembered.blocks.items():
                by_part.setdefault(self._part_of_user(tag), []).append((tag, until))
            self._blocks_by_part = state, by_part
        return self._blocks_by_part[1].get(part, [])

    def _block_keys(self, tag: str) -> tuple[str, str]:
        user = self._keys.user(tag)
        return user, self._keys.beside(user).blocks

    async def _cut_off(
        self,
        kind: str,
        issuer: Issuer,
        keys: tuple[str, ...],
        before: int | None,
        *,
        reason: str,
        audit: bytes,
        start: int = 0,
        except_sid: str = "",
        signed: Signed | None = None,
    ) -> int:
        self._records.refuse_in_conflict(issuer)
        lifetime = self.cutoff_lifetime(issuer)
        script: str
        last: tuple[object, ...]
        script, last = (
            ("revoke_user", (except_sid,)) if kind == "user" else ("move_cutoff", (start, START_AHEAD_MS))
        )
        ahead, expires, refusals = AHEAD_MS, "", _BEFORE_REFUSALS
        if signed is not None:
            ahead, expires, refusals = signed.ahead, str(signed.expires), _SIGNED_REFUSALS
        args = ("" if before is None else before, lifetime, reason, ahead, *last, expires, audit)
        cutoff, at = await self._run(kind, script, keys, args, refusals)
        seq = self._scripts.seq(keys[0])
        self.acknowledged.note(Written(script, keys, at, at + lifetime, reason, except_sid, seq, audit))
        return cutoff

    async def _lift(self, key: str, what: str, lifetime: int) -> int:
        [undone] = await self._run(
            "lift", "lift_cutoff", [key, self._keys.beside(key).lifted], (what, lifetime)
        )
        self.acknowledged.forget([(self._scripts.seq(key) + 1, key)])
        return undone

    async def _run(
        self,
        kind: str,
        script: str,
        keys: Sequence[str],
        args: tuple[object, ...],
        refusals: Mapping[bytes, str] = _NO_REFUSALS,
    ) -> tuple[int, ...]:
        """Run a script; ``refusals`` has the messages for the words by which it refuses."""
        reply = await self._scripts.run(script, keys, args)
        if len(reply) == 1 and (refusal := refusals.get(reply[0])) is not None:
            raise InvalidRequest(refusal)
        with understood():
            numbers = tuple(map(int, reply))
            if len(numbers) != _NUMBERS.get(script, 1):
                raise ValueError("a script returned another count of numbers")
        self._metrics.revocations.labels(kind).inc()
        return numbers


def _marked(replies: Sequence[Any]) -> Watermark | None:
    """The numbers in the reply to a mark; None if the mark of earlier writes is gone."""
    [[found, numbers]] = replies
    return numbers_of(numbers) if found else None


def _progress(replies: Sequence[Any]) -> RepairProgress:
    [[_, now, fields, numbers]] = replies
    given = {process.decode(): text for process, text in zip(fields[::2], fields[1::2], strict=True)}
    return RepairProgress(int(now), given, numbers_of(numbers))
