"""The parts of the store, joined: at one primary, or over a cluster."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from revoker.errors import StoreRefused
from revoker.metrics import Metrics
from revoker.models import Issuer
from revoker.store.cluster.lookups import ClusterLookups
from revoker.store.cluster.slots import ROUND, LossesOfSlots, Slots
from revoker.store.cluster.topology import Cluster
from revoker.store.consistency import epoch as epochs
from revoker.store.consistency.clocks import Clocks
from revoker.store.consistency.dangers import dangers
from revoker.store.consistency.data_sets import DataSets, Whole
from revoker.store.consistency.epoch import DataLoss, DataSet, Epoch, Losses, Reading
from revoker.store.issuer_records import IssuerRecords
from revoker.store.keys import Keys, Tail, tag_and_start
from revoker.store.lookups import BatchedLookups, DataSetReader
from revoker.store.revocations import Revocations
from revoker.store.scripts import Scripts
from revoker.store.servers import Primary
from revoker.store.sessions import Lifetimes, Sessions
from revoker.store.watch import Watch
from revoker.store.wire.addresses import Login, PrimaryLocator, address_of, is_cluster, parse_server_list
from revoker.store.wire.command_channel import CommandChannel, Confirmation
from revoker.store.wire.connection import unavailable_on_failure

_CHUNK: Final = 512
"""Data sets that are declared something together."""

_NOTICED_MS: Final = 3000
"""Three beats of the watch."""

_BEAT_S: Final = 0.1
_PATIENCE_BEATS: Final = 600


Result = TypeVar("Result")


class Store:
    """One store as one process sees it; nothing connects before :meth:`open`.

    Attributes:
        instance: The id under which this process counts its share of the revocations.
    """

    def __init__(
        self,
        *,
        url: str,
        prefix: str,
        timeout: float,
        wait_replicas: int,
        wait_fsync: bool = False,
        policy: DataLoss,
        issuers: Mapping[str, Issuer],
        metrics: Metrics,
        now: Callable[[], float],
    ) -> None:
        self.instance: Final = epochs.new_id()
        self.keys: Final = Keys(prefix, clustered=is_cluster(url))
        self.clocks: Final = Clocks(now)
        self.issuers: Final = issuers
        self._metrics = metrics
        self._policy: Final = policy
        self._patience: Final = 2 * timeout
        self._sessions: list[Sessions] = []
        self._wait_replicas = wait_replicas
        self._wait_fsync = wait_fsync
        self._tasks: set[asyncio.Task[None]] = set()

        def confirm() -> Confirmation | None:
            return Confirmation(wait_replicas, fsync=wait_fsync, timeout=timeout) if wait_replicas else None

        self._servers: Primary | Cluster
        self._sets: DataSets
        self._address: PrimaryLocator | None = None
        if is_cluster(url):
            places, options = parse_server_list(url)
            self._servers = Cluster(places, Login(options, timeout=timeout), confirm)
            losses = LossesOfSlots(metrics)
            self._sets = Slots(
                self._servers,
                self.keys,
                self.instance,
                lambda tail, slot: self._data(tail, slot, losses),
                losses,
            )
        else:
            self._address = address_of(url, timeout=timeout)
            self._servers = Primary(self._address, confirm())
            self._sets = Whole(
                self._servers,
                self.keys,
                functools.partial(self._data, self.keys.tail(self.instance), 0, Losses(metrics)),
            )
        self.scripts: Final = Scripts(self._servers, metrics, self._sets.of)
        self.issuer_records: Final = IssuerRecords(self._servers, self.scripts, self.keys, issuers.values())
        self.revocations: Final = Revocations(
            self.scripts,
            self.keys,
            issuers,
            self.issuer_records,
            metrics,
            latest=lambda: self.clocks.latest,
        )
        self.lookups: BatchedLookups | ClusterLookups
        self.watch: Watch

    def _data(self, tail: Tail, part: int, losses: Losses) -> DataSet:
        return DataSet(
            tail,
            policy=self._policy,
            losses=losses,
            read=lambda: self._sets.read(tail),
            set_epoch=lambda *epoch: self.scripts.set_epoch(tail, *epoch),
            write_back=lambda: self.revocations.write_back(part),
        )

    def open(self) -> None:
        """Begin to connect and to watch; what is asked meanwhile waits up to the time-out."""
        if isinstance(self._servers, Cluster):
            assert isinstance(self._sets, Slots)  # noqa: S101  # made together
            self.lookups = ClusterLookups(self._servers, self._sets, self._metrics, self.clocks)
        else:
            assert self._address is not None and isinstance(self._sets, Whole)  # noqa: S101, PT018  # likewise
            self.lookups = BatchedLookups(
                self._address,
                DataSetReader(self._sets.data),
                metrics=self._metrics,
                clocks=self.clocks,
                confirmation=self._servers.confirmation,
                probe=True,
            )
        self.watch = Watch(
            self._servers,
            self._sets,
            self.keys,
            list(self.issuers.values()),
            moved=self._servers.moved,
            lookups=self.lookups,
            clocks=self.clocks,
            revocations=self.revocations,
            records=self.issuer_records,
            metrics=self._metrics,
            wait_replicas=self._wait_replicas,
            wait_fsync=self._wait_fsync,
        )
        self.issuer_records.await_reading()
        self.lookups.open()
        self._start(self.watch.run())
        if self._wait_replicas:
            self._start(self._servers.beat(lambda part: self.keys.in_part(part).beat(self.instance)))

    async def close(self) -> None:
        """End every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sessions in self._sessions:
            await sessions.close()
        await self._sets.close()
        if hasattr(self, "lookups"):
            await self.lookups.close()
        await self._servers.close()

    def sessions(self, issuer: Issuer, lifetimes: Lifetimes) -> Sessions:
        """The sessions of the issuer whose sessions are kept here."""
        sessions = Sessions(
            self.scripts,
            self._servers,
            self.keys,
            issuer,
            lifetimes,
            revocations=self.revocations,
            patience=self._patience,
        )
        self._sessions.append(sessions)
        return sessions

    @property
    def reached(self) -> bool:
        """Whether the store has ever given a reading that counts."""
        return self.watch.reached

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong now, by the names of :data:`revoker.metrics.PROBLEMS`."""
        return self.watch.problems

    async def settle(self, sid: str) -> None:
        """See whether data was lost beside a session kept here, and what follows; raises ``NoVerdict``."""
        if (found := tag_and_start(sid)) is not None:
            await self._sets.settle([self._sets.of(self.keys.session(found[0], sid))])

    async def epoch(self) -> Epoch | None:
        """The epoch that stands in the store, of several the one that matters most; None where one lacks."""
        readings = [reading.epoch for _, _, reading in await self._sets.readings()]
        return _worst([None if text is None else Epoch.parse(text) for text in readings])

    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        """What stands under keys, wherever they lie.

        Raises:
            StoreUnavailable: no answer in time.
        """
        async with unavailable_on_failure():
            return await self._servers.values(keys)

    async def primaries(self) -> Mapping[str, CommandChannel]:
        """A line to each server that has a part of the data, by the server's id; raises as :meth:`values`."""
        async with unavailable_on_failure():
            return await self._servers.primaries()

    async def readings(self) -> dict[int, Reading]:
        """Every data set as it is now, by number; raises as :meth:`values`."""
        return {part: reading for part, _, reading in await self._sets.readings()}

    async def learn(self) -> None:
        """Learn of every data set what it must show from now on, and settle what is missing.

        Raises:
            NoVerdict: some could not be read, or settled.
        """
        await self._sets.settle(await self._sets.look(0, lambda *_: None))

    def data_ids(self) -> list[str]:
        """The ids of all data sets, as far as they were read: other ones where data was lost since."""
        return [data.epoch.id for data in self._sets.known() if data.epoch is not None]

    async def dangers(self) -> dict[str, str]:
        """What about the server would lose revocations silently, in words, by the names of problems."""
        return await dangers(self._servers, self._wait_replicas, wait_fsync=self._wait_fsync)

    async def init(self) -> bool:
        """Declare the store new; False where it has an epoch already.

        In a cluster an attempt that broke off is completed.
        """
        readings = await self._sets.readings()
        bare = [data for _, data, reading in readings if reading.epoch is None]
        used = any(
            reading.epoch is not None and (reading.seq or Epoch.parse(reading.epoch).finding != "new")
            for _, _, reading in readings
        )
        if not bare or used:
            return False
        epoch = Epoch(epochs.new_id(), max(reading.now for _, _, reading in readings), 0, "new")
        commands = {data.tail.epoch: ("SET", data.tail.epoch, epoch.text, "NX") for data in bare}
        async with unavailable_on_failure():
            replies = await self._servers.change_all(commands)
        return all(reply == b"OK" for reply in replies)

    async def accept(self) -> Epoch | None:
        """Accept the data as it is: verdicts are given again. None where the store has no epoch.

        Waits until every process that noticed the loss has put back what it knows: each marks the store
        when it begins, which a process that runs and reaches the store does within :data:`_NOTICED_MS`.
        For one that does not reach the store, or ended while it was at it, nobody waits.

        Raises:
            StoreRefused: a process has been at it for a minute; nothing was accepted.
        """
        for _ in range(_PATIENCE_BEATS):
            readings = await self._sets.readings()
            stand = [(part, each, Epoch.parse(each.epoch)) for part, _, each in readings if each.epoch]
            fresh = any(each.now - epoch.noticed < self._noticed_ms for _, each, epoch in stand)
            parts = [part for part, _, _ in stand]
            if not fresh and not any(await self._all(parts, self.revocations.refilling)):
                return await self._declare("accepted", cutoff_now=False)
            await asyncio.sleep(_BEAT_S)
        raise StoreRefused("a process is still putting back what it knows: try again, nothing was accepted")

    async def declare_lost(self, policy: DataLoss) -> Epoch | None:
        """Treat the data as lost, as if a running instance had noticed; None where there is no epoch."""
        finding = epochs.FINDING_OF_POLICY[policy]
        return await self._declare(finding, cutoff_now=policy == "cutoff")

    async def _declare(self, finding: str, *, cutoff_now: bool) -> Epoch | None:
        async def declare(read: tuple[DataSet, Reading]) -> Epoch | None:
            data, reading = read
            for _ in range(8):
                if reading.epoch is None:
                    return None
                stood = Epoch.parse(reading.epoch)
                done, text, *_ = await self.scripts.set_epoch(
                    data.tail,
                    reading.epoch,
                    stood.id if finding == "accepted" and stood.id else epochs.new_id(),
                    stood.noticed,
                    finding,
                    None if cutoff_now else stood.cutoff,
                )
                if done:
                    return Epoch.parse(text)
                reading = await self._sets.read(data.tail)
            return None

        readings = [(data, reading) for _, data, reading in await self._sets.readings()]
        return _worst(await self._all([each for each in readings if each[1].epoch is not None], declare))

    @property
    def _noticed_ms(self) -> int:
        return _NOTICED_MS * ROUND if isinstance(self._servers, Cluster) else _NOTICED_MS

    @staticmethod
    async def _all(those: Iterable[Any], work: Callable[[Any], Awaitable[Result]]) -> list[Result]:
        """Do something for each, not for all at once; in a cluster they are many."""
        waiting, results = list(those), []
        for start in range(0, len(waiting), _CHUNK):
            results += await asyncio.gather(*map(work, waiting[start : start + _CHUNK]))
        return results

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _worst(epochs: Iterable[Epoch | None]) -> Epoch | None:
    found = list(epochs)
    known = [each for each in found if each is not None]
    if len(known) < len(found) or not known:
        return None
    return max(known, key=lambda epoch: (epoch.finding == "refused", epoch.noticed))
