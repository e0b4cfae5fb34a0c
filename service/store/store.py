"""The parts of the store, joined: lookups, revocations, the epoch and the watch over one server."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from service.errors import StoreRefused
from service.metrics import Metrics
from service.models import Issuer
from service.store import epoch as epochs
from service.store.addresses import address_of
from service.store.clocks import Clocks
from service.store.connection import Confirmation, Line, fence
from service.store.epoch import DataLoss, DataSet, Epoch, Reading
from service.store.keys import Keys
from service.store.lookups import Lookups
from service.store.revocations import Revocations
from service.store.scripts import Scripts
from service.store.servers import Primary
from service.store.sessions import Lifetimes, Sessions
from service.store.watch import Watch, dangers

_NOTICED_MS: Final = 3000
"""Three beats of the watch."""

_BEAT_S: Final = 0.1
_PATIENCE_BEATS: Final = 600


class Store:
    """One store as one process sees it; nothing connects before :meth:`open`.

    Attributes:
        instance: The id under which this process counts its share of the revocations.
    """

    def __init__(
        self,
        *,
        url: str,
        password: str | None,
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
        self.keys: Final = Keys(prefix)
        self.clocks: Final = Clocks(now)
        self._address = address_of(url, timeout=timeout, password=password)
        confirmation = (
            Confirmation(wait_replicas, fsync=wait_fsync, timeout=timeout) if wait_replicas else None
        )
        self._servers = Primary(self._address, confirmation)
        self._wait_replicas = wait_replicas
        self._share = self.keys.share(self.instance)
        self.issuers: Final = issuers
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()
        self.scripts: Final = Scripts(
            self._servers,
            tail=(self.keys.seq, self._share, self.keys.epoch),
            metrics=metrics,
            data=lambda: self.data,
        )
        self.revocations: Final = Revocations(self.scripts, self.keys, issuers, metrics)
        self.data: Final = DataSet(
            policy=policy,
            metrics=metrics,
            read=self.read,
            set_epoch=self.scripts.set_epoch,
            write_back=self.revocations.write_back,
        )
        self.lookups: Lookups
        self.watch: Watch

    def open(self) -> None:
        """Begin to connect and to watch; what is asked meanwhile waits up to the time-out."""
        self.lookups = Lookups(
            self._address,
            keys=self.keys,
            share=self._share,
            data=self.data,
            metrics=self._metrics,
            clocks=self.clocks,
            confirmation=self._servers.confirmation,
        )
        self.watch = Watch(
            self._servers,
            self._address,
            self.keys,
            self._share,
            list(self.issuers.values()),
            lookups=self.lookups,
            data=self.data,
            revocations=self.revocations,
            clocks=self.clocks,
            metrics=self._metrics,
            wait_replicas=self._wait_replicas,
        )
        self.lookups.open()
        self._start(self.watch.run())
        if self._servers.confirmation is not None:
            self._start(self._servers.beat(self.keys.beat(self.instance)))

    async def close(self) -> None:
        """End every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.data.close()
        if hasattr(self, "lookups"):
            await self.lookups.close()
        await self._servers.close()

    def sessions(self, issuer: Issuer, lifetimes: Lifetimes) -> Sessions:
        """The sessions of the issuer whose sessions are kept here."""
        return Sessions(
            self.scripts, self._servers, self.keys, issuer, lifetimes, revocations=self.revocations
        )

    @property
    def reached(self) -> bool:
        """Whether the store has ever given a reading that counts."""
        return self.watch.reached

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong now, by the names of :data:`service.metrics.PROBLEMS`."""
        return self.watch.problems

    async def read(self) -> Reading:
        """Read epoch, numbers, time and role once.

        Raises:
            StoreUnavailable: no answer in time.
            StoreRefused: the server is no primary.
        """
        async with fence():
            values: list[Any] = await self._servers.read(
                self.keys.epoch,
                [("TIME",), ("MGET", self.keys.epoch, self.keys.seq, self._share), ("ROLE",)],
            )
        try:
            return epochs.decode(values)
        except StoreRefused:
            self._servers.hang_up()
            raise

    async def epoch(self) -> Epoch | None:
        """The epoch that stands in the store; None where there is none."""
        reading = await self.read()
        return None if reading.epoch is None else Epoch.parse(reading.epoch)

    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        """What stands under keys, wherever they lie.

        Raises:
            StoreUnavailable: no answer in time.
        """
        async with fence():
            return await self._servers.values(keys)

    async def primaries(self) -> Mapping[str, Line]:
        """A line to each server that has a part of the data, by the server's id; raises as :meth:`values`."""
        async with fence():
            return await self._servers.primaries()

    async def dangers(self) -> dict[str, str]:
        """What about the server would lose revocations silently, in words, by the names of problems."""
        return await dangers(self._servers, self._wait_replicas)

    async def init(self) -> bool:
        """Declare the store new; False where it has an epoch already."""
        done, *_ = await self.scripts.set_epoch(b"", epochs.new_id(), 0, "new", 0)
        return done

    async def accept(self) -> Epoch | None:
        """Accept the data as it is: verdicts are given again. None where the store has no epoch.

        Waits until every process that noticed the loss has put back what it knows: each marks the store
        when it begins, which a process that runs and reaches the store does within :data:`_NOTICED_MS`.
        For one that does not reach the store, or ended while it was at it, nobody waits.

        Raises:
            StoreRefused: a process has been at it for a minute; nothing was accepted.
        """
        for _ in range(_PATIENCE_BEATS):
            reading = await self.read()
            noticed = 0 if reading.epoch is None else Epoch.parse(reading.epoch).noticed
            if reading.now - noticed >= _NOTICED_MS and not await self.revocations.refilling():
                return await self._declare("accepted", cutoff_now=False)
            await asyncio.sleep(_BEAT_S)
        raise StoreRefused("a process is still putting back what it knows: try again, nothing was accepted")

    async def declare_lost(self, policy: DataLoss) -> Epoch | None:
        """Treat the data as lost, as if a running instance had noticed; None where there is no epoch."""
        finding = {"cutoff": "cutoff", "refuse": "refused", "ignore": "ignored"}[policy]
        return await self._declare(finding, cutoff_now=policy == "cutoff")

    async def _declare(self, finding: str, *, cutoff_now: bool) -> Epoch | None:
        for _ in range(8):
            reading = await self.read()
            if reading.epoch is None:
                return None
            stood = Epoch.parse(reading.epoch)
            done, text, *_ = await self.scripts.set_epoch(
                reading.epoch,
                stood.id if finding == "accepted" and stood.id else epochs.new_id(),
                stood.noticed,
                finding,
                None if cutoff_now else stood.cutoff,
            )
            if done:
                return Epoch.parse(text)
        return None

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
