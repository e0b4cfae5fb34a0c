"""The service, broken in a way that the checker must notice.

    python -m tests.faults.mutants MUTANT serve --config PATH
    python -m tests.faults.mutants MUTANT edge --config PATH

Nothing of it is in the service: a mutant replaces parts of it before it starts. ``none`` breaks nothing, and
has the clocks that a campaign can set (:mod:`tests.faults.clocks`), as all of them.
"""

import functools
import hashlib
import os
import sys
from collections.abc import Callable

from revoker import __main__ as command
from revoker.store import lookups, refill, scripts
from revoker.store.consistency import data_set, new_server, repair
from revoker.store.mirror import follower
from revoker.store.wire.addresses import address_of
from tests.faults import clocks, edge_mutants

QUIET_S = 1.0
"""After this time a reload of an edge is no part of a storm: a campaign loses data every few seconds."""

REPLICA = "FAULTS_REPLICA"
"""The environment variable with the URL of the server that ``reads-replica`` reads."""


class AnyServer(str):
    """An id that passes for that of every server."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False


def reads_replica() -> None:
    """Lookups are batched as ever, and sent to a replica, which passes for a server that is trusted."""
    init = lookups.BatchedLookups.__init__

    def elsewhere(self, server, reader, **parts):
        init(self, address_of(os.environ[REPLICA], timeout=server.timeout), reader, **parts)

    lookups.BatchedLookups.__init__ = elsewhere
    lookups.BatchedLookups._check_server = lambda *_: None
    lookups.Batch.server = property(lambda _: AnyServer())


def ignores_epoch() -> None:
    """Whatever data set is read or written to counts as the known one."""
    data_set.DataSet.confirms = lambda self, before, *_: before is not None
    data_set.DataSet.record_write = lambda *_: True


def ignores_seq() -> None:
    """The epoch is compared, the numbers of revocations are not."""
    missing = data_set.DataSet._missing

    def confirms(self, before, stood, *_):
        return (
            before is not None
            and self.watermark is not None
            and before.epoch == stood == self.watermark.epoch
        )

    def record_write(self, before, written):
        return before is None or self.watermark is None or self.watermark.epoch == written.epoch

    def only_epoch(self, reading, found):
        return (
            None
            if self.watermark and self.watermark.epoch == reading.epoch
            else missing(self, reading, found)
        )

    data_set.DataSet.confirms, data_set.DataSet.record_write, data_set.DataSet._missing = (
        confirms,
        record_write,
        only_epoch,
    )


def vouches_blindly() -> None:
    """A process vouches for its revocations without having written them back."""

    async def write_nothing(*_):
        return None

    refill.Refill.write_back = write_nothing


def vouches_first() -> None:
    """A process vouches for its revocations, and writes them back afterwards."""
    write_back, contribute = refill.Refill.write_back, refill.Refill.contribute

    async def write_nothing_yet(*_):
        return None

    async def contribute_and_write_back(self, part, *contribution):
        progress = await contribute(self, part, *contribution)
        await write_back(self, part)
        return progress

    refill.Refill.write_back, refill.Refill.contribute = write_nothing_yet, contribute_and_write_back


def proves_by_total() -> None:
    """A loss counts as repaired if the store holds as many revocations as before, whoever made them."""
    repair.is_proven = lambda present, contributions: all(
        present.seq >= given.seq for given in contributions.values()
    )


def counts_in_a_loss() -> None:
    """The scripts count revocations that meet a loss of data, or its repair."""
    refusal = b"  if seq < expected_seq or share < expected_share or repairing then return seq, share end\n"
    for name, text in scripts.TEXTS.items():
        counting = text.replace(refusal, b"")
        assert counting != text  # else the script has changed
        scripts.TEXTS[name] = counting
        scripts.DIGESTS[name] = hashlib.sha1(counting).hexdigest()


def expects_raw_readings() -> None:
    """What was read is expected again, whether replicas have it or not."""
    data_set.DataSet._expect = lambda self, numbers, _: self._raise_watermark(numbers)


def trusts_new_servers() -> None:
    """Verdicts are given at a new server before the other processes have looked at it."""

    async def at_once(self, server, _):
        self.trusted = server
        return True

    new_server.NewServer.is_checked = at_once


MUTANTS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "reads-replica": reads_replica,
    "ignores-epoch": ignores_epoch,
    "ignores-seq": ignores_seq,
    "vouches-blindly": vouches_blindly,
    "vouches-first": vouches_first,
    "proves-by-total": proves_by_total,
    "counts-in-a-loss": counts_in_a_loss,
    "expects-raw-readings": expects_raw_readings,
    "trusts-new-servers": trusts_new_servers,
    **{name: functools.partial(mutant, setattr) for name, mutant in edge_mutants.MUTANTS.items()},
}


if __name__ == "__main__":
    MUTANTS[sys.argv.pop(1)]()
    follower.QUIET_S = QUIET_S
    if path := os.environ.get(clocks.STORE):
        clocks.follow_store_clock(path)
    if path := os.environ.get(clocks.WALL):
        clocks.follow_wall_clock(path)
    command.main()
