"""The store: its source, and the parts that read and write it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from revoker.errors import NotPrimary, NoVerdict, StoreRefused
from revoker.metrics import Metrics
from revoker.models import Issuer
from revoker.store.audit import MAPPING
from revoker.store.cluster.source import ClusterSource
from revoker.store.consistency import epoch as epochs
from revoker.store.consistency.clocks import Clocks, shared_time
from revoker.store.consistency.data_set import Confirmed, DataSet
from revoker.store.consistency.epoch import DataLoss, Epoch, Reading
from revoker.store.consistency.losses import Losses
from revoker.store.consistency.overview import Overview
from revoker.store.consistency.steps import (
    Contributes,
    RepairProgress,
    SetsEpoch,
    Step,
    Verifies,
    WritesBack,
)
from revoker.store.dangers import dangers, inspect
from revoker.store.instances import Instances
from revoker.store.issuer_records import IssuerRecords
from revoker.store.keys import SLOTS, Keys, Tail, tag_and_start
from revoker.store.refill import Refill
from revoker.store.report import Report, worst
from revoker.store.revocations import Revocations
from revoker.store.rights import acl_rules, refused_commands
from revoker.store.scripts import JournalTerms, Scripts
from revoker.store.sessions import Lifetimes, Sessions
from revoker.store.single import SinglePrimary
from revoker.store.source import ChangeMany, MakeSource, ServerSettings, Source, SourceContext
from revoker.store.stored_values import redis_time_ms
from revoker.store.watch import Watch
from revoker.store.wire.addresses import SentinelAccess, is_cluster
from revoker.store.wire.command_channel import CommandChannel
from revoker.store.wire.connection import Refused, unavailable_on_failure, understood

if TYPE_CHECKING:
    from revoker.tracing.spans import Spans

_DATA_SETS_AT_ONCE: Final = 512
"""Data sets for which something is declared at the same time."""

NOTICED_MS: Final = 3000
"""Three beats of the watch: within that every process has noticed a loss."""

_LEAVE_S: Final = 0.25
"""How long a process that ends tries to say so to a store that does not answer."""

_ACCEPT_PAUSE_S: Final = 0.1
ACCEPT_TRIES: Final = 600


Result = TypeVar("Result")


class _RepairContext:
    """As :class:`revoker.store.consistency.repair.RepairContext`, for one data set of a store."""

    def __init__(self, store: "Store", part: int, seconds: float) -> None:
        self._seconds = seconds
        self._store = store
        self._part = part

    @property
    def seconds(self) -> float:
        return self._seconds

    def announce(self, *, repairing: bool) -> None:
        self._store.instances.announce(self._part, repairing=repairing)

    def running(self) -> Collection[str]:
        return self._store.instances.running

    def heard(self, process: str) -> None:
        self._store.instances.heard(process)

    def advance(self, processes: Collection[str]) -> bool:
        return self._store.instances.heard_within(self._seconds, processes)

    def can_vouch(self) -> bool:
        return self._store.refill.can_vouch(self._part)

    async def contribute(self, epoch: bytes, contribution: bytes, share: int | None) -> RepairProgress:
        refill = self._store.refill
        return await refill.contribute(self._part, self._store.instance, epoch, contribution, share)


class _JointSteps:
    """As :class:`revoker.store.source.JointSteps`."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    async def __call__(self, asked: Sequence[tuple[DataSet, Step]], change_many: ChangeMany) -> Sequence[Any]:
        store, (_, step) = self._store, asked[0]
        tails = [data.tail for data, _ in asked]
        steps: Sequence[Any] = [step for _, step in asked]
        match step:
            case SetsEpoch():
                return await store.scripts.set_epochs(tails, steps, change_many)
            case WritesBack():
                return await store.refill.write_back_many(tails, change_many)
            case Verifies():
                return await store.refill.verify_many(tails, steps, change_many)
            case Contributes():
                return await store.refill.contribute_many(store.instance, tails, steps, change_many)
            case _:
                raise TypeError(step)


class _Others:
    """As :class:`revoker.store.consistency.new_server.Others`, where one server has all data."""

    def __init__(self, store: "Store", seconds: float) -> None:
        self._store = store
        self._seconds = seconds

    @property
    def seconds(self) -> float:
        return self._seconds

    def leave_all_but(self, server: str) -> None:
        self._store.source.leave_all_but(server)

    async def not_at(self, server: str) -> Collection[str]:
        return await self._store.instances.not_at(server)


def source_of(url: str) -> MakeSource:
    """What makes the source that a URL names."""
    return ClusterSource if is_cluster(url) else SinglePrimary


def _traced(source: Source, spans: "Spans | None") -> Source:
    if spans is None:
        return source
    from revoker.store.traced import TracedSource  # noqa: PLC0415  # its libraries are an extra

    return cast("Source", TracedSource(source, spans))


class Store:
    """The store of one process; only what is asked connects before :meth:`open`.

    Attributes:
        instance: The id under which this process counts its share of the revocations.
        issuers: By ``iss``; one with aliases is there several times.
        lookups: Finds what applies to tokens.
        overview: Of all data sets.
        source: Where the data is; ``make_source`` makes it, by default as the URL says.
    """

    def __init__(
        self,
        *,
        url: str,
        prefix: str,
        timeout: float,
        wait_replicas: int,
        wait_fsync: bool = False,
        password_file: str = "",
        sentinels: SentinelAccess | None = None,
        policy: DataLoss,
        repair_seconds: float = 0,
        issuers: Mapping[str, Issuer],
        metrics: Metrics,
        now: Callable[[], float],
        make_source: MakeSource | None = None,
        keep_entries: int = 1_000_000,
        keep_seconds: int = 600,
        spans: "Spans | None" = None,
    ) -> None:
        self.instance: Final = epochs.new_id()
        distinct = list({issuer.name: issuer for issuer in issuers.values()}.values())
        self.keys: Final = Keys(prefix, clustered=is_cluster(url))
        self.clocks: Final = Clocks(now)
        self.overview: Final = Overview(SLOTS if self.keys.clustered else 1)
        self.issuers: Final = issuers
        self._policy: Final = policy
        self._repair_seconds: Final = repair_seconds
        self._waits_for_others: Final = repair_seconds > 0 and not self.keys.clustered
        self._session_patience: Final = 2 * timeout
        self._sessions: list[Sessions] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: Final = ServerSettings(
            url, timeout, wait_replicas, wait_fsync, password_file, sentinels or SentinelAccess()
        )
        context = SourceContext(
            self.keys, self.instance, self.clocks, metrics, self._new_data_set, _JointSteps(self), spans
        )
        self.source: Final = _traced((make_source or source_of(url))(self._servers, context), spans)
        self.lookups: Final = self.source.lookups
        terms = JournalTerms(
            key=self.keys.journal,
            beside=not self.keys.clustered,
            entries=keep_entries,
            seconds=keep_seconds,
        )
        self.scripts: Final = Scripts(self.source, metrics, self.source.data_set_of, terms)
        self.instances: Final = Instances(
            self.scripts, self.keys, self.instance, looks=self._waits_for_others
        )
        self.issuer_records: Final = IssuerRecords(self.source, self.scripts, self.keys, distinct)
        self.revocations: Final = Revocations(
            self.scripts,
            self.keys,
            issuers,
            self.issuer_records,
            metrics,
            latest=lambda: self.clocks.latest,
        )
        self.refill: Final = Refill(self.scripts, self.keys, issuers, self.revocations, metrics)
        self.watch: Final = Watch(
            self.source,
            self.keys,
            distinct,
            clocks=self.clocks,
            revocations=self.revocations,
            refill=self.refill,
            records=self.issuer_records,
            instances=self.instances,
            metrics=metrics,
            servers=self._servers,
        )

    def _new_data_set(
        self, tail: Tail, part: int, losses: Losses, confirmed: Confirmed | None = None
    ) -> DataSet:
        seconds = self._repair_seconds
        return DataSet(
            tail,
            policy=self._policy,
            losses=losses,
            read=lambda: self.source.reading(tail),
            set_epoch=lambda *epoch: self.scripts.set_epoch(tail, *epoch),
            write_back=lambda: self.refill.write_back(part),
            repairs=_RepairContext(self, part, seconds) if seconds else None,
            confirmed=confirmed,
            noted=lambda epoch, settled: self.overview.note(part, epoch, settled=settled),
            others=_Others(self, seconds) if self._waits_for_others else None,
        )

    def open(self) -> None:
        """Start to connect and to monitor; lookups wait for a connection up to the time-out."""
        self.source.open()
        self._start(self.watch.run())
        if self._servers.wait_replicas:
            self._start(self.source.keep_confirming())

    async def close(self) -> None:
        """Close every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sessions in self._sessions:
            await sessions.close()
        with contextlib.suppress(NoVerdict, TimeoutError):  # the others notice it all the same, later
            async with asyncio.timeout(_LEAVE_S):
                await self.instances.leave()
        await self.source.close()

    def sessions(self, issuer: Issuer, lifetimes: Lifetimes) -> Sessions:
        """The sessions of the issuer whose sessions this service keeps."""
        sessions = Sessions(
            self.scripts,
            self.source,
            self.keys,
            issuer,
            lifetimes,
            revocations=self.revocations,
            patience=self._session_patience,
        )
        self._sessions.append(sessions)
        return sessions

    @property
    def reached(self) -> bool:
        """As :attr:`revoker.store.watch.Watch.reached`."""
        return self.watch.reached

    @property
    def problems(self) -> dict[str, str]:
        """As :attr:`revoker.store.watch.Watch.problems`."""
        return self.watch.problems

    async def settle(self, sid: str) -> None:
        """Settle the data set of a session, if it has lost data; raises ``NoVerdict``."""
        if (found := tag_and_start(sid)) is not None:
            await self.source.settle([self.source.data_set_of(self.keys.session(found[0], sid))])

    async def epoch(self) -> Epoch | None:
        """The epoch in the store; of several the worst, None if a data set has none."""
        return worst(await self._epochs())

    async def _epochs(self) -> list[Epoch | None]:
        """The epochs of all data sets; raises ``NoVerdict``."""
        readings = [reading.epoch for _, _, reading in await self.source.readings()]
        return [None if text is None else Epoch.parse(text) for text in readings]

    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        """As :meth:`revoker.store.source.Source.values`; raises ``StoreUnavailable``."""
        async with unavailable_on_failure():
            return await self.source.values(keys)

    async def primaries(self) -> Mapping[str, CommandChannel]:
        """As :meth:`revoker.store.source.Source.primaries`; raises ``StoreUnavailable``."""
        async with unavailable_on_failure():
            return await self.source.primaries()

    async def readings(self) -> dict[int, Reading]:
        """Every data set as it is now, by number; raises ``StoreUnavailable``."""
        return {part: reading for part, _, reading in await self.source.readings()}

    async def learn(self) -> None:
        """Read all data sets, and settle those that have lost data; raises ``NoVerdict``."""
        await self.source.settle(await self.source.look(0, lambda *_: None))

    async def learn_latest_time(self) -> None:
        """Take over the latest time that the processes share, before cutoffs are made without the watch.

        They must cover the sessions that a former primary with a faster clock has begun.

        Raises:
            StoreUnavailable: no answer.
        """
        if any(issuer.own for issuer in self.issuers.values()):
            key = self.keys.latest
            async with unavailable_on_failure():
                with understood():
                    text, stamp = await self.source.read(key, [("GET", key), ("TIME",)])
                    self.clocks.learn_latest(shared_time(text), redis_time_ms(stamp))

    def data_ids(self) -> list[str]:
        """The ids of all data sets that were read; a loss changes them."""
        return [data.epoch.id for _, data in self.source.read_data_sets() if data.epoch is not None]

    async def dangers(self) -> dict[str, str]:
        """As :func:`revoker.store.dangers.dangers`."""
        return await dangers(self.source, self._servers)

    async def check(self) -> Report:
        """Check all that the service needs of the store; a check that fails is a problem in the report."""
        report = Report()
        unread: NoVerdict | None = None
        epochs_read: list[Epoch | None] = []
        try:
            epochs_read = await self._epochs()
        except NotPrimary as error:
            report.add("not_primary", str(error))
            return report
        except NoVerdict as error:
            unread = error
        try:
            refusals = await refused_commands(self.source, self.keys, self._servers)
        except NoVerdict as error:
            report.add("unreachable", str(error))
            return report
        role = ", a primary" if unread is None else ""  # it is read with the epoch
        report.checked[f"reachable, logged in{role}"] = "yes"
        report.refused = [refusal for refusal in refusals if not refusal.is_for_now]
        if report.refused:
            report.add("refused_commands", ", ".join(refusal.command for refusal in report.refused))
        for_now = [f"{refusal.command}: {refusal.words}" for refusal in refusals if refusal.is_for_now]
        if for_now:
            report.add("refused_for_now", "; ".join(for_now))
        if not refusals:
            report.checked["commands that the service needs"] = "all are allowed"
        if unread is not None:
            report.add_failure("the epoch can't be read", unread)
        else:
            report.add_epoch(epochs_read)
        try:
            await self.issuer_records.adopt()
        except NoVerdict as error:
            report.add_failure("the issuers in the store can't be read", error)
        else:
            conflicts = self.issuer_records.conflicts.values()
            report.add_all({"settings_conflict": "; ".join(conflicts)} if conflicts else {})
            report.checked["issuers as in the settings"] = "no" if conflicts else "yes"
        try:
            configuration = await inspect(self.source, self._servers)
        except NoVerdict as error:
            report.add_failure("the configuration of the servers can't be read", error)
        else:
            report.servers = configuration.servers
            report.checked |= configuration.seen
            report.add_all(configuration.dangers)
            if not refusals and not configuration.dangers.keys() & {"too_few_replicas", "no_fsync"}:
                await self._check_confirmation(report)
        if faults := await self.source.locator_faults():
            report.add("sentinels", "; ".join(faults))
        return report

    async def _check_confirmation(self, report: Report) -> None:
        """Let replicas confirm a write on every primary, as they confirm a revocation."""
        if not self._servers.wait_replicas:
            return
        try:
            async with unavailable_on_failure():
                for parts, _ in await self.source.on_every_primary([("PING",)]):
                    key = self.keys.in_part(parts[0] if parts else 0).beat(f"trial-{epochs.new_id()}")
                    await self.source.change(key, "SET", key, 1, "PX", 10_000)
        except NoVerdict as error:
            report.add("not_confirmed", str(error))
        else:
            report.checked["a write that replicas confirm"] = "yes"

    def acl_rules(self) -> str:
        """As :func:`revoker.store.rights.acl_rules`."""
        return acl_rules(self._servers, self.keys.prefix)

    async def init(self) -> bool:
        """Declare the store new; False if it has an epoch already.

        In a cluster an interrupted attempt is completed.
        """
        readings = await self.source.readings()
        without_epoch = [data for _, data, reading in readings if reading.epoch is None]
        used = any(
            reading.epoch is not None and (reading.seq or Epoch.parse(reading.epoch).finding != "new")
            for _, _, reading in readings
        )
        if not without_epoch or used:
            return False
        epoch = Epoch(epochs.new_id(), max(reading.now for _, _, reading in readings), 0, "new")
        commands = {data.tail.epoch: ("SET", data.tail.epoch, epoch.text, "NX") for data in without_epoch}
        async with unavailable_on_failure():
            replies = await self.source.change_all(commands)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise Refused(str(reply))
        return all(reply == b"OK" for reply in replies)

    async def accept(self) -> Epoch | None:
        """Accept the data as it is, so that verdicts are given again; None if the store has no epoch.

        Waits until every process that noticed the loss has written back its revocations. Each marks the
        store when it begins, within :data:`NOTICED_MS` if it can reach the store. Processes that cannot
        reach it, or that ended meanwhile, are not waited for.

        Raises:
            StoreRefused: a process has been writing back for a minute; nothing was accepted.
        """
        notice_ms = NOTICED_MS * self.source.beats_per_round
        for _ in range(ACCEPT_TRIES):
            found = [
                (part, reading.now - Epoch.parse(reading.epoch).noticed)
                for part, _, reading in await self.source.readings()
                if reading.epoch
            ]
            noticed_by_all = all(age >= notice_ms for _, age in found)
            parts = [part for part, _ in found]
            if noticed_by_all and not any(await _gather(parts, self.refill.refilling)):
                return await self._declare("accepted", cutoff_now=False)
            await asyncio.sleep(_ACCEPT_PAUSE_S)
        raise StoreRefused("a process is still putting back what it knows: try again, nothing was accepted")

    async def declare_lost(self, policy: DataLoss) -> Epoch | None:
        """Treat the data as lost, as if a process had noticed it; None if the store has no epoch."""
        finding = epochs.FINDING_OF_POLICY[policy]
        if policy == "cutoff":
            await self.learn_latest_time()
        return await self._declare(finding, cutoff_now=policy == "cutoff")

    async def accept_mapping(self, issuer: Issuer, *, keep: bool) -> tuple[list[str], int]:
        """Accept the names that the settings give an issuer's claims, by which revocations are found.

        What was revoked by other names is covered by a cutoff of the issuer, but for blocks.

        Args:
            issuer: With the new names.
            keep: Whether the operator declares that the new names find every revocation, so that there is no
                cutoff.

        Returns:
            What has changed, as :meth:`IssuerRecords.accept`, and the cutoff in ms (0: none).

        Raises:
            ConfigError: the name of the issuer is in conflict.
            StoreUnavailable: the change may be made in part; repeating it completes it.
        """
        cutoff = 0

        async def cut_off() -> None:
            nonlocal cutoff
            if not keep:
                await self.learn_latest_time()
                cutoff = await self.revocations.revoke_issuer(
                    issuer, before=None, reason="the names of its claims have changed", by=MAPPING
                )

        return await self.issuer_records.accept(issuer, cut_off), cutoff

    async def blocked_users(self) -> int:
        """How many users are blocked now, of whatever issuer; raises ``NoVerdict``."""
        await self.learn()  # before it, no reading counts
        await self.watch.look(0)
        return len(self.revocations.remembered.blocks)

    async def _declare(self, finding: str, *, cutoff_now: bool) -> Epoch | None:
        async def declare(read: tuple[DataSet, Reading]) -> Epoch | None:
            data, reading = read
            for _ in range(8):
                if reading.epoch is None:
                    return None
                present = Epoch.parse(reading.epoch)
                done, numbers = await self.scripts.set_epoch(
                    data.tail,
                    reading.epoch,
                    present.id if finding == "accepted" and present.id else epochs.new_id(),
                    max(present.noticed, self.clocks.latest) if cutoff_now else present.noticed,
                    finding,
                    None if cutoff_now else present.cutoff,
                )
                if done:
                    return Epoch.parse(numbers.epoch)
                reading = await self.source.reading(data.tail)
            return None

        readings = [(data, reading) for _, data, reading in await self.source.readings()]
        return worst(await _gather([read for read in readings if read[1].epoch is not None], declare))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _gather(items: Sequence[Any], work: Callable[[Any], Awaitable[Result]]) -> list[Result]:
    """Do something for all items, not more than :data:`_DATA_SETS_AT_ONCE` at the same time."""
    results = []
    for start in range(0, len(items), _DATA_SETS_AT_ONCE):
        results += await asyncio.gather(*map(work, items[start : start + _DATA_SETS_AT_ONCE]))
    return results
