"""Looks after the store beside the requests.

Once a second for what must not be missed, every 30 s for what would lose revocations silently.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog

from revoker.errors import NotPrimary, NoVerdict, PrimaryStale, ReplyNotUnderstood, StoreRefused
from revoker.metrics import PROBLEMS, Metrics
from revoker.models import Issuer, Revocation
from revoker.store.cluster.lookups import ClusterLookups
from revoker.store.consistency.clocks import DEGRADED_S, LATEST_MS, Clocks
from revoker.store.consistency.dangers import dangers, number_in
from revoker.store.consistency.data_sets import BlocksPage, DataSets
from revoker.store.consistency.epoch import DataSet
from revoker.store.issuer_records import IssuerRecords
from revoker.store.keys import Keys
from revoker.store.lookups import BatchedLookups, redis_time_ms, revoked_keys
from revoker.store.revocations import Revocations
from revoker.store.servers import Servers
from revoker.store.wire.addresses import parse_info
from revoker.store.wire.connection import unavailable_on_failure, understood

_log = structlog.get_logger("store")

_BEAT_S: Final = 1.0
_CHECK_EVERY: Final = 30
_LATEST_KEPT_MS: Final = 300_000
"""Longer than two clocks may be apart: once the slower one has passed that time it decides nothing."""

_TRIMMED: Final = 1000
"""Blocks that have ended that are removed by one script at most; the next round finds the rest."""

_DANGERS: Final = (
    "eviction_policy", "no_persistence", "no_fsync", "unconfirmed_replicas", "too_few_replicas", "unchecked",
)  # fmt: skip


class Watch:
    """Keeps an eye on one store.

    Attributes:
        problems: What is wrong now: names of :data:`revoker.metrics.PROBLEMS`, each with a sentence.
        reached: Whether the store has ever given a reading that counts.
    """

    def __init__(
        self,
        servers: Servers,
        sets: DataSets,
        keys: Keys,
        issuers: Sequence[Issuer],
        *,
        moved: Callable[[], Awaitable[bool]],
        lookups: BatchedLookups | ClusterLookups,
        clocks: Clocks,
        revocations: Revocations,
        records: IssuerRecords,
        metrics: Metrics,
        wait_replicas: int,
        wait_fsync: bool,
    ) -> None:
        """Nothing is read before :meth:`beat`.

        Args:
            servers: Of the store.
            sets: Its data sets.
            keys: Its keys.
            issuers: All.
            moved: Whether connections must be made anew, since another server is the primary by now.
            lookups: Touched once a second.
            clocks: Their latest time is shared with other processes where sessions are kept here.
            revocations: What they remember is kept up to date.
            records: What the store remembers of the issuers; brought together with it.
            metrics: Where to tell.
            wait_replicas: How many replicas must confirm a change.
            wait_fsync: Whether they and the primary must have it on disk.
        """
        self._servers = servers
        self._sets = sets
        self._keys = keys
        self._issuers = issuers
        self._moved = moved
        self._lookups = lookups
        self._clocks = clocks
        self._revocations: Final = revocations
        self._remembered: Final = revocations.remembered
        self._acknowledged: Final = revocations.acknowledged
        self._records = records
        self._metrics = metrics
        self._wait_replicas = wait_replicas
        self._wait_fsync = wait_fsync
        self._evicted: dict[str, int] = {}
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
            except Exception as error:  # noqa: BLE001  # the watch outlives whatever happens to it
                if self._failure != repr(error):
                    _log.exception("watch_failed")
                self._failure = repr(error)
                self._say("unexpected_reply", f"the store can't be watched: {self._failure}")
            await asyncio.sleep(_BEAT_S)

    async def beat(self) -> None:
        """Read the store once, remember what must be remembered, and say what is wrong."""
        unreachable = not_primary = stale = unexpected = None
        try:
            with understood():
                await self._read_all()
        except StoreRefused as error:
            not_primary = str(error) if isinstance(error, NotPrimary) else None
            stale = str(error) if isinstance(error, PrimaryStale) else None
            unexpected = str(error) if isinstance(error, ReplyNotUnderstood) else None
            known = (
                self._records.read and not self._records.conflicts and any(True for _ in self._sets.known())
            )
            self.reached = self.reached or known
        except NoVerdict as error:
            unreachable = str(error)
        self._say("store_unreachable", unreachable)
        self._say("store_not_primary", not_primary)
        self._say("stale_primary", stale)
        self._say("unexpected_reply", unexpected)
        self._say_what_is_known()

    async def _read_all(self) -> None:
        if await self._moved():
            _log.warning("primary_moved")
            self._lookups.reconnect()
            self._servers.reconnect()
        self._checked = self._checked and self._beats % _CHECK_EVERY != 0
        if not self._checked:  # first: it may be why nothing else succeeds
            await self._check_configuration()
        if suspects := await self._look(self._beats):
            await self._sets.settle(suspects)
            await self._sets.settle(await self._look(0))
        await self._remember_keys()
        await self._records.reconcile()
        await self._look_for_evictions()
        self._beats += 1
        await self._lookups.touch()
        if any(issuer.own for issuer in self._issuers):
            await self._share_latest_time()
        self.reached = self.reached or not self._records.conflicts

    async def _look(self, beat: int) -> list[DataSet]:
        """Look at data sets, and take over the blocks of all processes and what was lifted in them."""
        changes = self._remembered.changes
        first_pages: dict[int, tuple[BlocksPage, int]] = {}

        def found(part: int, page: BlocksPage | None, lifted: list[bytes], now: int) -> None:
            self._acknowledged.forget(map(_lifted, lifted))
            if page is not None:
                first_pages[part] = page, now

        suspects = await self._sets.look(beat, found)
        running = {}
        for part, (page, now) in first_pages.items():
            blocks = await self._running_blocks(part, page, now)
            if blocks is not None:
                running[part] = blocks
        self._revocations.take_blocks(running, changes)
        return suspects

    async def _running_blocks(self, part: int, page: BlocksPage, now: int) -> dict[str, int] | None:
        """All blocks of a data set that have not ended, by its first page; those that have leave the store.

        None where its server has changed meanwhile: a cursor means nothing to another one.
        """
        running: dict[str, int] = {}
        key = self._keys.in_part(part).blocks
        server = self._servers.server_of(key)
        while True:
            ended = []
            for tag, text in page.until.items():
                if (until := int(text)) > now:
                    running[tag.decode()] = until
                else:
                    ended.append(tag)
            if page.last and not ended:  # as in nearly every slot of a cluster
                return running
            trimming = asyncio.ensure_future(self._trim(part, ended[:_TRIMMED]))
            try:  # both leave in one write
                following = None if page.last else await self._sets.blocks_after(part, page.cursor)
            finally:
                await trimming
            if page.last:
                return running
            if following is None or self._servers.server_of(key) != server:
                return None
            page, now = following

    async def _trim(self, part: int, ended: list[bytes]) -> None:
        with contextlib.suppress(NoVerdict):  # another round finds them again
            if ended:
                await self._revocations.trim_blocks(part, ended)

    async def _remember_keys(self) -> None:
        """Take over the revoked keys of all processes."""
        changes = self._remembered.changes
        keys = [self._keys.revoked_keys(issuer) for issuer in self._issuers]
        texts = await asyncio.gather(*map(self._sets.value, keys))
        if changes == self._remembered.changes:
            for issuer, text in zip(self._issuers, texts, strict=True):
                self._remembered.keys[issuer.name] = _keys_of(text)

    async def _share_latest_time(self) -> None:
        """Tell processes that start after a failover how late it was by the former primary's clock.

        They date the cutoffs of clients and issuers by it, so that these cover the sessions it began.
        """
        key = self._keys.latest
        text = await self._sets.value(key)
        shared = int(text) if text and text.isdigit() else 0
        self._clocks.learn_latest(shared)
        if self._clocks.latest > shared + LATEST_MS:
            self._servers.change_unconfirmed(key, "SET", key, self._clocks.latest, "PX", _LATEST_KEPT_MS)

    async def _look_for_evictions(self) -> None:
        async with unavailable_on_failure():
            answers = await self._servers.each([("INFO", "server"), ("INFO", "stats"), ("TIME",)])
        looked_at, evicted_of, all_said = asyncio.get_running_loop().time(), {}, True
        for parts, replies in answers:
            fields = parse_info(replies[0]) | parse_info(replies[1])
            server = fields.get("run_id", f"of part {parts[0]}" if parts else "")
            evicted, uptime = number_in(fields, "evicted_keys"), number_in(fields, "uptime_in_seconds")
            if evicted is None:  # `unchecked` says so
                all_said = False
                continue
            young = uptime is not None and uptime <= looked_at - self._looked_at
            before = self._evicted.get(server, 0 if self._evicted and young else evicted)
            if evicted > before:
                with understood():
                    since = redis_time_ms(replies[2])
                sets = [self._sets.numbered(part) for part in parts]
                await self._sets.settle(sets, since=since, cause="the server has evicted keys")
            evicted_of[server] = evicted
        self._evicted = evicted_of if all_said else self._evicted | evicted_of
        self._looked_at = looked_at
        gone = sum(self._evicted.values())
        self._say("evicted_keys", f"the server has evicted {gone} keys" if gone else None)

    async def _check_configuration(self) -> None:
        """Say what is wrong with the servers; one that does not answer keeps nothing else from being read."""
        try:
            found = await dangers(self._servers, self._wait_replicas, wait_fsync=self._wait_fsync)
        except NoVerdict:
            return
        self._checked = True
        for problem in _DANGERS:
            self._say(problem, found.get(problem))

    def _say_what_is_known(self) -> None:
        sets = list(self._sets.known())
        found = {data.epoch.finding for data in sets if data.epoch is not None}
        lost = ", ".join(sorted(found & {"cutoff", "ignored"}))
        self._say("data_lost", f"data was found missing ({lost})" if lost else None)
        refusals = (data.refusal for data in sets)
        self._say("data_loss_refused", next((why for why in refusals if why is not None), None))
        self._say("settings_conflict", "; ".join(self._records.conflicts.values()) or None)
        ahead = self._lookups.ahead
        self._metrics.clock_offset.set(ahead)
        self._say(
            "clock_offset",
            f"this clock is {ahead:+.1f} s off the store's" if abs(ahead) > DEGRADED_S else None,
        )

    def _say(self, problem: str, sentence: str | None) -> None:
        assert problem in PROBLEMS  # noqa: S101  # a typo would hide a problem
        if sentence is None:
            if self.problems.pop(problem, None) is not None:
                _log.info("problem_ended", problem=problem)
        else:
            if problem not in self.problems:
                _log.warning("problem", problem=problem, detail=sentence)
            self.problems[problem] = sentence
        self._metrics.problems.labels(problem).set(0 if sentence is None else 1)


def _lifted(text: bytes) -> tuple[int, str]:
    seq, _, key = text.decode().partition(" ")
    return int(seq), key


def _keys_of(text: bytes | None) -> dict[str, Revocation]:
    try:
        return {} if text is None else dict(revoked_keys(text))
    except (msgspec.MsgspecError, TypeError) as error:
        raise StoreRefused("the store holds revoked keys that can't be read") from error
