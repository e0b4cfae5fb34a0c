"""Sets the epochs of one data set, and has each reported once, even if the reply to it is lost."""

from collections.abc import Callable

from revoker.errors import StoreUnavailable
from revoker.store.consistency.epoch import Epoch, Watermark
from revoker.store.consistency.steps import SetsEpoch, Steps

Report = Callable[[Epoch], None]


class EpochChanges:
    """What this process has set, or may have set: it was sent, and no reply came."""

    def __init__(self) -> None:
        self._unanswered: tuple[SetsEpoch, Report] | None = None

    def set(self, step: SetsEpoch, report: Report) -> Steps[tuple[bool, Watermark]]:
        """Set an epoch, and report it if it was set; it is sent once more if no reply comes.

        Returns:
            Whether it was set, and the numbers of the data set.

        Raises:
            StoreUnavailable: it may have been set. If :meth:`found` is given it, it is reported then.
        """
        self._unanswered = step, report
        done: bool
        numbers: Watermark
        try:
            done, numbers = yield step
            epoch = Epoch.parse(numbers.epoch)
        except StoreUnavailable:
            done, numbers = yield step
            epoch = Epoch.parse(numbers.epoch)
            done = done or _is_set_by(step, epoch)
        self._unanswered = None
        if done:
            report(epoch)
        return done, numbers

    def found(self, epoch: Epoch | None) -> None:
        """Report the epoch of the data set if this process has set it, and knows that only now."""
        if self._unanswered is None:
            return
        (step, report), self._unanswered = self._unanswered, None
        if epoch is not None and _is_set_by(step, epoch):
            report(epoch)


def _is_set_by(step: SetsEpoch, epoch: Epoch) -> bool:
    """Whether the step was carried out; the end of a repair may be that by another process, too."""
    return (epoch.id, epoch.finding) == (step.new_id, step.finding)
