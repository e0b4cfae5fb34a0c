"""Edges, and feeds of the service, that are broken in a way that the checker must notice.

A mutant replaces attributes by ``replace``: ``setattr`` for good, or that of pytest's ``monkeypatch``.
"""

import time
from collections.abc import Callable
from typing import Any

from revoker.store.journal import entries, snapshot, tail
from revoker.store.mirror import feed_lines, mirror

Replace = Callable[[Any, str, Any], None]


class AnyNumber(int):
    """A number of lines that is as many as there are."""

    __slots__ = ()
    __hash__ = int.__hash__

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False


def fresh_by_timer(replace: Replace) -> None:
    """The feed says ``fresh`` once in a while, whether or not the store was read."""

    def fresh_at(self, cursor):
        if self._at is None or self._at != cursor:
            return None
        return tail.Fresh(cursor, int(time.time() * 1000))

    replace(tail.JournalTail, "fresh_at", fresh_at)


def cursor_after_snapshot(replace: Replace) -> None:
    """The place from which changes follow is read after everything else."""
    steps = snapshot.Snapshot.steps

    async def begin(store, journal):
        first = await begin_right(store, journal)
        early = [lines async for lines in steps(first, journal)]
        late = await begin_right(store, journal)
        late.lines, late.early = first.lines, early
        return late

    async def only_early(self, _):
        for lines in self.early:
            yield lines

    begin_right = snapshot.Snapshot.begin
    replace(snapshot.Snapshot, "begin", staticmethod(begin))
    replace(snapshot.Snapshot, "steps", only_early)


def drops_removals(replace: Replace) -> None:
    """The feed does not say what was undone."""
    replace(entries.LineMaker, "removal", lambda *_: None)


def accepts_half_snapshots(replace: Replace) -> None:
    """An edge takes a snapshot that has broken off for a whole one."""
    replace(feed_lines, "decode_end", lambda _: feed_lines.End(end=True, lines=AnyNumber()))


def trusts_own_clock(replace: Replace) -> None:
    """An edge takes what arrives for read at that moment."""
    confirm = mirror.Mirror.confirm

    def confirm_now(self, as_of):
        confirm(self, as_of)
        self._take_reading(self._now())

    replace(mirror.Mirror, "confirm", confirm_now)


MUTANTS: dict[str, Callable[[Replace], None]] = {
    "fresh-by-timer": fresh_by_timer,
    "cursor-after-snapshot": cursor_after_snapshot,
    "drops-removals": drops_removals,
    "accepts-half-snapshots": accepts_half_snapshots,
    "trusts-own-clock": trusts_own_clock,
}
