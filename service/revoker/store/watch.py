"""Monitors the store in the background.

Once a second it looks for lost data and changes by other processes, every 30 s for configuration under which
revocations would be lost silently.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from revoker.errors import (
    NotPrimary,
    NoVerdict,
    PrimaryStale,
    ReplyNotUnderstood,
    StoreRefused,
    StoreUnavailable,
)
from revoker.metrics import PROBLEMS, Metrics
from revoker.models import Issuer, Revocation
from revoker.store.consistency.blocks import BlocksPage
from revoker.store.consistency.clocks import DEGRADED_S, LATEST_MS, Clocks, shared_time
from revoker.store.consistency.counts import parse_writers
from revoker.store.consistency.data_set import DataSet
from revoker.store.consistency.presence import Sample, lifted_key
from revoker.store.dangers import dangers, number_in
from revoker.store.instances import Instances
from revoker.store.issuer_records import IssuerRecords
from revoker.store.keys import Keys
from revoker.store.refill import Refill
from revoker.store.revocations import Revocations
from revoker.store.source import ServerSettings, Source
from revoker.store.stored_values import redis_time_ms, revoked_keys
from revoker.store.wire.connection import parse_info, unavailable_on_failure, understood

_log = structlog.get_logger("store")

BEAT_S: Final = 1.0
_BEATS_PER_CHECK: Final = 30
_BLOCKS_PER_TRIM: Final = 1000
"""Most ended blocks that one script removes; the next round finds the rest."""

_LISTS_PER_BEAT: Final = 256
"""Most lists of writers that are shortened in one beat."""

_SAMPLE: Final = 512
"""Acknowledged revocations of this process that one beat looks for in the store, besides some blocks."""

_BLOCKS_IN_SAMPLE: Final = 64

_CONFIGURATION_PROBLEMS: Final = (
    "eviction_policy", "no_persistence", "no_fsync", "unconfirmed_replicas", "too_few_replicas", "unchecked",
)  # fmt: skip


class Watch:
    """Monitors one store.

    Attributes:
        problems: What is wrong now: a sentence for each name of :data:`revoker.metrics.PROBLEMS`.
        reached: Whether the store has ever given a reading that counts.
    """

    def __init__(
        self,
        source: Source,
        keys: Keys,
        issuers: Sequence[Issuer],
        *,
        clocks: Clocks,
        revocations: Revocations,
        refill: Refill,
        records: IssuerRecords,
        instances: Instances,
        metrics: Metrics,
        servers: ServerSettings,
    ) -> None:
        """Nothing is read before :meth:`beat`."""
        self._source = source
        self._keys = keys
        self._issuers = issuers
        self._holds_sessions: Final = any(issuer.own for issuer in issuers)
        self._clocks = clocks
        self._revocations: Final = revocations
        self._refill: Final = refill
        self._remembered: Final = revocations.remembered
        self._acknowledged: Final = revocations.acknowledged
        self._records = records
        self._instances = instances
        self._metrics = metrics
        self._servers = servers
        self._evicted: dict[str, int] = {}
        self._absent: set[str] = set()
        self._unsampled_blocks: list[str] = []
        self._looked_at = 0.0
        self._beats = 0
        self._checked = False
        self._failure = ""
        self.problems: dict[str, str] = {}
        self.reached = False

    async def run(self) -> None:
        """Beat once a second until cancelled."""
        while True:
            try:
                await self.beat()
                self._failure = ""
            except Exception as error:  # noqa: BLE001  # monitoring must continue
                if self._failure != repr(error):
                    _log.exception("watch_failed")
                self._failure = repr(error)
                self._report("unexpected_reply", f"the store can't be watched: {self._failure}")
            await asyncio.sleep(BEAT_S)

    async def beat(self) -> None:
        """Read the store once, take over what other processes have changed, and report problems."""
        unreachable = not_primary = stale = unexpected = None
        try:
            with understood():
                await self._read_all()
        except StoreRefused as error:
            not_primary = str(error) if isinstance(error, NotPrimary) else None
            stale = str(error) if isinstance(error, PrimaryStale) else None
            unexpected = str(error) if isinstance(error, ReplyNotUnderstood) else None
            was_read = any(True for _ in self._source.read_data_sets())
            records_read = self._records.read and not self._records.conflicts
            self.reached = self.reached or (records_read and was_read)
        except NoVerdict as error:
            unreachable = str(error)
        self._report("store_unreachable", unreachable)
        self._report("store_not_primary", not_primary)
        self._report("stale_primary", stale)
        self._report("unexpected_reply", unexpected)
        self._report_data_sets()

    async def _read_all(self) -> None:
        if await self._source.follow():
            _log.warning("primary_moved")
            self._source.lookups.reconnect()
            self._source.reconnect()
        self._checked = self._checked and self._beats % _BEATS_PER_CHECK != 0
        if not self._checked:  # first: it may be the reason for other failures
            await self._check_configuration()
        # what follows may fail for long, as while a shard is down: others wait for this process
        with contextlib.suppress(NoVerdict):
            await self._join_repairs()
        if suspects := await self.look(self._beats):
            await self._source.settle(suspects)
            await self._source.settle([*await self.look(self._beats), *await self._source.suspects()])
        await self._join_repairs()
        await self._retire_writers()
        await self._remember_keys()
        shared = await self._learn_latest_time() if self._holds_sessions else 0
        await self._records.reconcile()  # from then on this process revokes: it must know the latest time
        await self._look_for_evictions()
        await self._look_for_revocations()
        self._beats += 1
        await self._source.lookups.touch()
        if self._holds_sessions and self._clocks.latest > shared + LATEST_MS:
            await self._share_latest_time()
        self.reached = self.reached or not self._records.conflicts

    async def look(self, beat: int) -> list[DataSet]:
        """Read data sets, and take over the blocks of all processes and what they have lifted."""
        changes = self._remembered.changes
        first_pages: dict[int, tuple[BlocksPage, int]] = {}

        def on_data_set(part: int, page: BlocksPage | None, lifted: list[bytes], now: int) -> None:
            self._acknowledged.forget(map(lifted_key, lifted))
            if page is not None:
                first_pages[part] = page, now

        suspects = await self._source.look(beat, on_data_set)
        running = {}
        for part, (page, now) in first_pages.items():
            blocks = await self._running_blocks(part, page, now)
            if blocks is not None:
                running[part] = blocks
        self._remembered.take_blocks(running, changes)
        return suspects

    async def _running_blocks(self, part: int, page: BlocksPage, now: int) -> dict[str, int] | None:
        """All blocks of a data set that have not ended, after its first page; ended ones are removed.

        None if its server has changed meanwhile: a cursor is not valid on another one.
        """
        running: dict[str, int] = {}
        key = self._keys.in_part(part).blocks
        server = self._source.server_of(key)
        while True:
            ended = []
            for tag, text in page.until.items():
                if (until := int(text)) > now:
                    running[tag.decode()] = until
                else:
                    ended.append(tag)
            if page.last and not ended:  # nearly every slot of a cluster
                return running
            trimming = asyncio.ensure_future(self._trim(part, ended[:_BLOCKS_PER_TRIM]))
            try:  # both leave in one write
                following = None if page.last else await self._source.blocks_after(part, page.cursor)
            finally:
                await trimming
            if page.last:
                return running
            if following is None or self._source.server_of(key) != server:
                return None
            page, now = following

    async def _trim(self, part: int, ended: list[bytes]) -> None:
        with contextlib.suppress(NoVerdict):  # another round finds them again
            if ended:
                await self._revocations.trim_blocks(part, ended)

    async def _join_repairs(self) -> None:
        """Enter this process in the store, and take part in the repairs of others."""
        in_repair: set[int] = set()
        with contextlib.suppress(NoVerdict):  # a store that takes no writes can be read all the same
            in_repair = await self._instances.enter()
        if in_repair:
            await self._source.settle(map(self._source.data_set_numbered, sorted(in_repair)))

    async def _retire_writers(self) -> None:
        """Take processes that have ended for good from the lists of writers, so that those do not grow."""
        found = 0
        for part, data in self._source.read_data_sets():
            if data.watermark is None or not data.watermark.writers:
                continue
            counts = parse_writers(data.watermark.writers)
            if gone := self._instances.retired(counts):
                with contextlib.suppress(NoVerdict):  # another beat does it
                    await self._revocations.retire_writers(part, {writer: counts[writer] for writer in gone})
                found += 1
                if found == _LISTS_PER_BEAT:
                    return

    async def _remember_keys(self) -> None:
        """Take over the signing keys that other processes have revoked; one that nobody forgot is kept."""
        changes = self._remembered.changes
        keys = [self._keys.revoked_keys(issuer) for issuer in self._issuers]
        read = await asyncio.gather(*map(self._source.trusted_value, keys))
        found = {issuer: _keys_of(text) for issuer, (text, _) in zip(self._issuers, read, strict=True)}
        for issuer, present in found.items():
            remembered = self._remembered.keys[issuer.name]
            gone = {kid: revoked for kid, revoked in remembered.items() if kid not in present}
            if gone and changes == self._remembered.changes:
                gone = await self._vanished(issuer, gone)
            if changes != self._remembered.changes:
                return
            if gone:
                _log.error("revoked_keys_restored", issuer=issuer.name, kids=sorted(gone))
                await self._refill.restore_keys(issuer, gone)
            self._remembered.keys[issuer.name] = present | gone

    async def _vanished(self, issuer: Issuer, gone: dict[str, Revocation]) -> dict[str, Revocation]:
        """Those of some signing keys, gone from the store, whose revocation nobody has taken back."""
        key = self._keys.revoked_keys(issuer)
        part = self._keys.part(key)
        commands = {part: [("ZRANGE", self._keys.in_part(part).lifted, 0, -1)]}
        for read in await self._source.read_parts(commands):
            with understood():
                forgotten = {name for _, name in map(lifted_key, read.replies[0])}
            return {kid: revoked for kid, revoked in gone.items() if f"{key} {kid}" not in forgotten}
        raise StoreUnavailable("the store has lost data")

    async def _learn_latest_time(self) -> int:
        """Take over the latest time (ms) that the processes share; 0 where there is none to be believed.

        The cutoffs of clients and issuers are dated by it, so that they cover sessions that a former primary
        with a faster clock has started.
        """
        text, now = await self._source.trusted_value(self._keys.latest)
        shared = shared_time(text)
        return shared if self._clocks.learn_latest(shared, now) else 0

    async def _share_latest_time(self) -> None:
        """Share the latest time with processes that start after a failover."""
        with contextlib.suppress(NoVerdict):  # another beat shares it
            await self._revocations.share_latest_time(self._clocks.latest)

    async def _look_for_evictions(self) -> None:
        async with unavailable_on_failure():
            answers = await self._source.on_every_primary([("INFO", "server"), ("INFO", "stats"), ("TIME",)])
        looked_at, evicted_of, all_answered = asyncio.get_running_loop().time(), {}, True
        for parts, replies in answers:
            fields = parse_info(replies[0]) | parse_info(replies[1])
            server = fields.get("run_id", f"of part {parts[0]}" if parts else "")
            evicted, uptime = number_in(fields, "evicted_keys"), number_in(fields, "uptime_in_seconds")
            if evicted is None:  # reported as `unchecked`
                all_answered = False
                continue
            young = uptime is not None and uptime <= looked_at - self._looked_at
            before = self._evicted.get(server, 0 if self._evicted and young else evicted)
            if evicted > before:
                with understood():
                    since = redis_time_ms(replies[2])
                sets = [self._source.data_set_numbered(part) for part in parts]
                await self._source.settle(sets, since=since, cause="the server has evicted keys")
            evicted_of[server] = evicted
        self._evicted = evicted_of if all_answered else self._evicted | evicted_of
        self._looked_at = looked_at
        gone = sum(self._evicted.values())
        self._report("evicted_keys", f"the server has evicted {gone} keys" if gone else None)

    async def _look_for_revocations(self) -> None:
        """Look for some of the revocations that this process knows: an absent one was lost.

        So evictions are noticed that the server does not report, and keys that somebody has deleted.
        """
        samples: dict[int, Sample] = {}
        for written in self._acknowledged.sample(_SAMPLE):
            part = self._keys.part(written.keys[0])
            samples.setdefault(part, Sample(self._keys.in_part(part))).written.append(written)
        for tag, until in self._sample_of_blocks():
            part = self._keys.part(self._keys.user(tag))
            samples.setdefault(part, Sample(self._keys.in_part(part))).blocks[tag] = until
        commands = {part: sample.commands(self._keys) for part, sample in samples.items()}
        for found in await self._source.read_parts(commands) if commands else ():
            with understood():
                absent, present = samples[found.part].judge(found.replies, found.now, self._acknowledged)
            self._absent -= present
            new = absent - self._absent  # one that could not be written back is one loss, not one a second
            data = self._source.data_set_numbered(found.part)
            if new and data.refusal is None:
                cause = f"the store lacks {len(new)} revocations that it had"
                await self._source.settle([data], since=found.now, cause=cause)
            if new and data.refusal is None:
                self._absent |= new
        if len(self._absent) > len(self._acknowledged) + len(self._remembered.blocks):
            self._absent.clear()  # most have expired

    def _sample_of_blocks(self) -> list[tuple[str, int]]:
        """Some blocks; repeated calls go through all of them, and then begin again."""
        if not self._unsampled_blocks:
            self._unsampled_blocks = list(self._remembered.blocks)
        taken, self._unsampled_blocks = (
            self._unsampled_blocks[-_BLOCKS_IN_SAMPLE:],
            self._unsampled_blocks[:-_BLOCKS_IN_SAMPLE],
        )
        blocks = self._remembered.blocks
        return [(tag, blocks[tag]) for tag in taken if tag in blocks]

    async def _check_configuration(self) -> None:
        """Report dangerous configuration of the servers; if one does not answer, the beat continues."""
        try:
            found = await dangers(self._source, self._servers)
        except NoVerdict:
            return
        self._checked = True
        for problem in _CONFIGURATION_PROBLEMS:
            self._report(problem, found.get(problem))

    def _report_data_sets(self) -> None:
        sets = [data for _, data in self._source.read_data_sets()]
        found = {data.epoch.finding for data in sets if data.epoch is not None}
        lost = ", ".join(sorted(found & {"cutoff", "ignored"}))
        self._report("data_lost", f"data was found missing ({lost})" if lost else None)
        refusals = (data.refusal for data in sets)
        self._report("data_loss_refused", next((why for why in refusals if why is not None), None))
        self._report("settings_conflict", "; ".join(self._records.conflicts.values()) or None)
        ahead = self._source.lookups.ahead
        self._metrics.clock_offset.set(ahead)
        self._report(
            "clock_offset",
            f"this clock is {ahead:+.1f} s off the store's" if abs(ahead) > DEGRADED_S else None,
        )

    def _report(self, problem: str, sentence: str | None) -> None:
        assert problem in PROBLEMS  # noqa: S101  # a typo would hide a problem
        if sentence is None:
            if self.problems.pop(problem, None) is not None:
                _log.info("problem_ended", problem=problem)
        else:
            if problem not in self.problems:
                _log.warning("problem", problem=problem, detail=sentence)
            self.problems[problem] = sentence
        self._metrics.problems.labels(problem).set(0 if sentence is None else 1)


def _keys_of(text: bytes | None) -> dict[str, Revocation]:
    try:
        return {} if text is None else dict(revoked_keys(text))
    except (msgspec.MsgspecError, TypeError) as error:
        raise StoreRefused("the store holds revoked keys that can't be read") from error
