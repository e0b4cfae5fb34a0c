"""An edge never takes what it knows for younger than it is, whatever clocks and networks do."""

import heapq
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from revoker.errors import StoreUnavailable
from revoker.store.keys import Keys
from revoker.store.mirror.copy import Copy
from revoker.store.mirror.mirror import Mirror
from revoker.store.mirror.upstream_clock import DRIFT, SAMPLE_S, SAMPLE_VALID_MS
from tests.store.conftest import ISSUERS

MAX_S = 5.0
END_MS = 24_000

delays = st.integers(0, 9_000)
steps = st.integers(-60_000, 60_000)


class World:
    """Runs an edge whose messages come late, beside a store whose clock drifts and is set once."""

    def __init__(self, offset, drift, step, step_at):
        self.now = 0.0
        self._offset, self._drift, self._step, self._step_at = offset, drift, step, step_at
        self._queue, self._numbers = [], itertools.count()
        self.mirror = Mirror(
            Keys("edge"), ISSUERS, max_staleness=MAX_S, monotonic=self.seconds, wall=self.seconds
        )
        self.read_at = None  # when that was read which the mirror has confirmed last

    def seconds(self):
        return self.now / 1000

    def store_clock(self, at):
        stepped = self._step if at >= self._step_at else 0
        return 2 * 10**9 + int(self._offset + at * (1 + self._drift) + stepped)

    def later(self, delay, work):
        heapq.heappush(self._queue, (self.now + delay, next(self._numbers), work))

    def run(self, look):
        while self._queue and self._queue[0][0] < END_MS:
            at, _, work = heapq.heappop(self._queue)
            self.now = at
            look()
            work()
            look()

    def confirm(self, as_of, read_at):
        if self.mirror.copy is None:
            self.mirror.install(Copy(self.mirror.keys, ISSUERS), as_of)
        self.mirror.confirm(as_of)
        self.read_at = read_at

    def stream(self, waits):
        """Confirmations in order, one every half second, the delay of each as given."""
        arrives = 0.0
        for index, delay in zip(range(0, END_MS, 500), itertools.cycle(waits), strict=False):
            arrives = max(arrives, index + delay)
            as_of = self.store_clock(index)
            self.later(arrives, lambda as_of=as_of, at=index: self.confirm(as_of, at))

    def samples(self, waits):
        """Each reads the store after one delay, and is answered after another."""

        def send():
            there, back = next(pairs)
            sent = self.now

            def read():
                as_of = self.store_clock(self.now)
                self.later(back, lambda: self.mirror.sample(as_of, sent))

            self.later(there, read)
            self.later(SAMPLE_S * 1000, send)

        pairs = itertools.cycle(waits)
        self.later(0, send)


@given(
    offset=st.integers(-(10**9), 10**9),
    drift=st.floats(-DRIFT * 0.9, DRIFT * 0.9),
    step=st.just(0) | steps,
    step_at=st.integers(0, END_MS),
    waits=st.tuples(
        st.lists(delays, min_size=1, max_size=12),
        st.lists(st.tuples(delays, delays), min_size=1, max_size=5),
    ),
)
@example(offset=0, drift=0.0, step=30_000, step_at=9_001, waits=([4_000], [(0, 0)]))
@example(offset=0, drift=0.0, step=-30_000, step_at=9_001, waits=([9_000, 0], [(0, 0)]))
def test_no_answer_is_older_than_allowed(offset, drift, step, step_at, waits):
    """Without a step of the clock never; with one by no more than the step, and only for a while."""
    world = World(offset, drift, step, step_at)
    beyond = min(step, SAMPLE_VALID_MS) if step > 0 else -step
    allowed = MAX_S * 1000 + beyond + 2  # clocks show whole milliseconds

    def look():
        if world.mirror.fresh:
            assert world.now - world.read_at <= allowed
        elif world.mirror.copy is not None:
            assert world.mirror.staleness > MAX_S - 0.001

    world.stream(waits[0])
    world.samples(waits[1])
    world.run(look)


@given(offset=st.integers(-(10**9), 10**9), drift=st.floats(-DRIFT * 0.9, DRIFT * 0.9), step=steps)
def test_a_step_of_the_clock_is_forgotten_with_the_next_sample(offset, drift, step):
    world = World(offset, drift, step, 8_000)
    seen = []
    world.stream([20])
    world.samples([(20, 20)])
    world.run(lambda: seen.append((world.now, world.mirror.fresh)))
    assert all(fresh for now, fresh in seen if 1_000 < now < 8_000 or now > 9_000 + 1000 * SAMPLE_S)


@given(offset=st.integers(-(10**9), 10**9), step=steps, waits=st.lists(delays, min_size=1, max_size=6))
def test_the_time_for_the_dates_of_tokens_is_the_stores_or_less(offset, step, waits):
    world = World(offset, 0.0, 0, 0)

    def look():
        if world.mirror.fresh:
            assert world.mirror.now <= world.store_clock(world.now)

    world.stream(waits)
    world.samples([(10, 10)])
    world.run(look)


async def test_without_a_copy_there_is_no_answer():
    mirror = Mirror(Keys("edge"), ISSUERS, max_staleness=5)
    with pytest.raises(StoreUnavailable, match="not loaded"):
        await mirror.find((None,) * 6)
