"""A machine that was suspended, or a virtual one that was paused, does not answer from what is old."""

import time

import pytest

from revoker.elapsed_time import PAUSE_S
from revoker.errors import StoreUnavailable
from revoker.store.keys import Keys
from revoker.store.mirror.copy import Copy
from revoker.store.mirror.mirror import Mirror
from tests.edge.conftest import claims, until
from tests.rig.edge import begin, edge_settings
from tests.rig.service import until_ready
from tests.store.conftest import ISSUERS

PAUSED_S = 3600.0
NO_KEYS = (None,) * 6


class Machine:
    """Its clocks: a pause moves the wall clock, and the store's, but not the other."""

    def __init__(self):
        self.elapsed_s = 1000.0
        self.wall_s = 1_700_000_000.0

    def wall(self):
        return self.wall_s

    def elapsed(self):
        return self.elapsed_s

    @property
    def store_ms(self):
        return int(self.wall_s * 1000) + 7

    def run(self, seconds):
        self.elapsed_s += seconds
        self.wall_s += seconds

    def pause(self, seconds=PAUSED_S):
        self.wall_s += seconds

    def sample(self, mirror):
        mirror.sample(self.store_ms, self.elapsed_s * 1000)


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def mirror(machine):
    made = Mirror(Keys("edge"), ISSUERS, max_staleness=5, monotonic=machine.elapsed, wall=machine.wall)
    made.install(Copy(made.keys, ISSUERS), machine.store_ms)
    machine.sample(made)
    made.confirm(machine.store_ms)
    assert made.fresh
    return made


async def test_after_a_pause_there_is_no_answer(machine, mirror):
    machine.pause()
    assert not mirror.fresh
    assert mirror.staleness > 5
    with pytest.raises(StoreUnavailable):
        await mirror.find(NO_KEYS)
    with pytest.raises(StoreUnavailable):
        await mirror.find_all([NO_KEYS])


def test_what_was_under_way_during_a_pause_confirms_nothing(machine, mirror):
    sent, before = machine.elapsed_s * 1000, machine.store_ms
    machine.run(0.1)
    machine.pause()
    machine.run(0.1)
    mirror.confirm(before)
    assert not mirror.fresh
    assert mirror.must_sample
    mirror.sample(before, sent)
    mirror.confirm(before)
    assert not mirror.fresh


def test_the_next_sample_ends_it(machine, mirror):
    machine.pause()
    mirror.confirm(machine.store_ms)
    machine.run(0.1)
    machine.sample(mirror)
    mirror.confirm(machine.store_ms - int(PAUSED_S * 1000))  # this was held back meanwhile
    assert not mirror.fresh
    mirror.confirm(machine.store_ms)
    assert mirror.fresh
    assert abs(mirror.now - machine.store_ms) < 10


def test_a_wall_clock_that_is_set_a_little_or_back_is_no_pause(machine, mirror):
    for step in (PAUSE_S / 2, -PAUSED_S):
        machine.wall_s += step
        assert mirror.fresh
    mirror.confirm(machine.store_ms + int(PAUSED_S * 1000) - int(PAUSE_S * 500))
    machine.pause()
    assert not mirror.fresh


async def test_an_edge_that_was_paused_samples_and_answers_again(feed, tmp_path):
    paused = 0.0
    edge = None
    settings = edge_settings(tmp_path, feed.url)
    edge = await begin(settings, clock=lambda: time.time() + paused)
    try:
        await until_ready(edge)
        feed.reads = False
        paused = PAUSED_S
        answer = await edge.post("/introspect", claims(), caller="gateway")
        assert answer.status == 503
        feed.ahead += int(PAUSED_S * 1000)
        feed.reads = True
        await until(lambda: edge.service.mirror.fresh, "it has sampled")
    finally:
        await edge.close()
