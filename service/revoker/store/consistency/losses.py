"""Reports losses of data in the log and the metrics."""

from collections.abc import Collection, Sized
from typing import Any

import structlog

from revoker.metrics import Metrics
from revoker.store.consistency.epoch import REPAIRED, Epoch

_log = structlog.get_logger("store")


class Losses:
    """Reports losses of data in the log and the metrics."""

    def __init__(self, metrics: Metrics, *, grouped: bool = False) -> None:
        """``grouped``: one report for all data sets of a cluster, at the next :meth:`report`."""
        self._metrics = metrics
        self._grouped = grouped
        self._in_repair: list[str] = []
        self._not_repaired = ""
        self._repaired: list[Epoch] = []
        self._lost: list[Epoch] = []
        self._details: dict[str, Any] = {}
        self._adopted: dict[bool, list[Epoch]] = {True: [], False: []}

    def repair_started(self, missing: str) -> None:
        """Data was found missing, and this process has begun its repair."""
        self._in_repair.append(missing)
        self._event()

    def not_repaired(self, why: str) -> None:
        """The loss that is reported next could not be repaired."""
        self._not_repaired = why

    @staticmethod
    def not_heard(processes: Collection[str]) -> None:
        """Verdicts are given although these processes have not looked at a new server of the store."""
        _log.warning("server_not_checked_by_all", missing=sorted(processes))

    def repaired(self, epoch: Epoch) -> None:
        """A loss was repaired, and this process has set this epoch."""
        self._repaired.append(epoch)
        self._event()

    def lost(self, epoch: Epoch, **details: Any) -> None:
        """Data was found missing and not repaired, and this epoch was set."""
        self._lost.append(epoch)
        self._details = details
        self._event()

    def adopted(self, epoch: Epoch, *, first: bool) -> None:
        """This epoch is used from now on; ``first``: it is the first one of this process."""
        self._adopted[first].append(epoch)
        self._event()

    def _event(self) -> None:
        if not self._grouped:
            self.report()

    def _slots(self, events: Sized) -> dict[str, int]:
        return {"slots": len(events)} if self._grouped else {}

    def report(self) -> None:
        """Report what has happened since the last time."""
        if self._in_repair:
            _log.warning("data_loss_repairing", missing=self._in_repair[0], **self._slots(self._in_repair))
            self._in_repair.clear()
        if self._repaired:
            epoch = max(self._repaired, key=_noticed)
            _log.warning("data_loss_repaired", epoch=epoch.id, **self._slots(self._repaired))
            self._repaired.clear()
        if self._lost:
            epoch = max(self._lost, key=_noticed)
            details = self._details | self._slots(self._lost)
            if self._not_repaired:
                details["not_repaired"], self._not_repaired = self._not_repaired, ""
            _log.error("data_lost", **details, epoch=epoch.id, finding=epoch.finding, cutoff_ms=epoch.cutoff)
            self._lost.clear()
        for first, adopted in self._adopted.items():
            if not adopted:
                continue
            epoch = max(adopted, key=_noticed)
            adopted.clear()
            if not first:
                _log.warning("epoch_adopted", epoch=epoch.id, finding=epoch.finding, cutoff_ms=epoch.cutoff)
            if epoch.finding == REPAIRED:
                self._metrics.repaired_losses.inc(0 if first else 1)
            elif not first or epoch.finding != "new":
                self._metrics.data_losses.inc()
            self._metrics.store_epoch.set(epoch.noticed / 1000)


def _noticed(epoch: Epoch) -> int:
    return epoch.noticed
