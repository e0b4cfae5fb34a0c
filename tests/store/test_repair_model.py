"""Explores every order in which two writers, a loss, a crash and a repair can meet.

The steps of the model are atomic as the scripts and readings of the service are. It decides by the functions
of the service: :mod:`revoker.store.consistency.counts` and :mod:`revoker.store.consistency.repair`. In every
state that can be reached:

- an instance that would give a verdict finds all acknowledged revocations that it knows of in the store,
  unless a cutoff covers them;
- a data set that was declared repaired has all acknowledged revocations that a running instance knows of.

An instance knows of those that it made, and of those that the store had when it last read it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from revoker.store.consistency.counts import Counts, hold_all
from revoker.store.consistency.repair import Contribution, is_proven, not_heard

TWO_WRITERS = {"a": 2, "b": 1}
"""How many revocations each instance makes at most."""

WITH_A_READER = {"a": 1, "b": 0, "c": 1}

NOTHING: frozenset[str] = frozenset()


class Store(NamedTuple):
    """A data set.

    Attributes:
        held: The revocations that it has.
        counts: Its count for each writer.
        epoch: Numbered in the order in which they are set; 0: none.
        covered: The revocations that were made before its cutoff: no token that they are about is later.
        given: The contributions to its repair.
    """

    held: frozenset[str] = NOTHING
    counts: tuple[tuple[str, int], ...] = ()
    epoch: int = 1
    finding: str = "new"
    covered: frozenset[str] = NOTHING
    given: tuple[tuple[str, Contribution], ...] = ()

    @property
    def numbers(self) -> Counts:
        return Counts(
            sum(count for _, count in self.counts), "".join(f" {w} {n}" for w, n in self.counts).encode()
        )

    def count(self, writer: str) -> int:
        return dict(self.counts).get(writer, 0)

    def with_count(self, writer: str, count: int) -> "Store":
        return self._replace(counts=tuple(sorted((dict(self.counts) | {writer: count}).items())))


class Instance(NamedTuple):
    """A process.

    Attributes:
        step: Of a repair, or of a revocation whose reply it has not read; empty: it gives verdicts.
        writes: How many revocations it makes at most.
        made: How many it has tried to make.
        acknowledged: Those that were answered 200.
        known_of: Those that it must not take for active: its own, and those in its last reading.
        share: Its count in the last reply to a revocation of its own that was acknowledged.
        baseline: The counts in its last reading.
        reply: What it has not read yet: the store after its script, and whether that was counted.
    """

    name: str
    writes: int
    running: bool = True
    step: str = ""
    epoch: int = 1
    made: int = 0
    acknowledged: frozenset[str] = NOTHING
    numbers_of: frozenset[str] = NOTHING
    share: int = 0
    baseline: Counts = Counts(0, b"")
    reply: tuple[Store, bool] | None = None


class State(NamedTuple):
    """All of it; ``past`` are the states that a loss may bring back."""

    store: Store = Store()
    past: frozenset[Store] = frozenset()
    instances: tuple[Instance, ...] = ()
    lost: bool = False
    crashed: str = ""
    crash_is_old: bool = False


@dataclass(frozen=True)
class Rules:
    """What decides; mutants replace some of it."""

    intact: Callable[[Counts, Counts], bool] = hold_all
    proven: Callable[..., bool] = is_proven
    not_heard: Callable[..., set[str]] = not_heard
    refuses_to_count: bool = True
    vouches_before: bool = False


def changed(state: State, instance: Instance, store: Store | None = None) -> State:
    others = tuple(instance if other.name == instance.name else other for other in state.instances)
    past = state.past
    if store is not None and not state.lost:
        past |= {state.store}
    return state._replace(instances=others, store=store or state.store, past=past)


def finds_loss(store: Store, instance: Instance, rules: Rules) -> bool:
    return (
        store.epoch != instance.epoch
        or store.count(instance.name) < instance.share
        or not rules.intact(store.numbers, instance.baseline)
    )


def following(state: State, rules: Rules) -> Iterator[State]:
    for instance in state.instances:
        if instance.running:
            yield from actions(state, instance, rules)
            if not state.crashed:
                yield changed(state, instance._replace(running=False))._replace(crashed=instance.name)
    if not state.lost:
        for earlier in state.past | {Store(epoch=0)}:
            yield state._replace(store=earlier, past=frozenset(), lost=True)


def actions(state: State, instance: Instance, rules: Rules) -> Iterator[State]:
    store = state.store
    if instance.reply is not None:
        yield from read_reply(state, instance, rules)
    if not instance.step:
        if instance.made < instance.writes and instance.reply is None:
            yield revoke(state, instance, rules)
        if finds_loss(store, instance, rules):
            yield from settle(state, instance)
        elif instance.baseline != store.numbers or not state.crash_is_old:
            read = instance._replace(
                baseline=store.numbers, numbers_of=instance.acknowledged | (store.held & acknowledged(state))
            )
            yield changed(state, read)._replace(crash_is_old=bool(state.crashed))
    elif store.finding == "repairing" and store.epoch > instance.epoch:
        yield from repair(state, instance, rules)
    elif store.finding == "repaired" and store.epoch > instance.epoch:
        yield from join_late(state, instance, rules)
    else:  # a cutoff by another instance, or the store has lost data again
        yield from settle(state, instance)


def revoke(state: State, instance: Instance, rules: Rules) -> State:
    """The script runs; nobody has read its reply."""
    store, name = state.store, f"{instance.name}{instance.made}"
    store = store._replace(held=store.held | {name})
    lacks = store.numbers.seq < instance.baseline.seq or store.count(instance.name) < instance.share
    counted = not rules.refuses_to_count or not (lacks or store.finding == "repairing")
    if counted:
        store = store.with_count(instance.name, store.count(instance.name) + 1)
    return changed(state, instance._replace(made=instance.made + 1, reply=(store, counted)), store)


def read_reply(state: State, instance: Instance, rules: Rules) -> Iterator[State]:
    assert instance.reply is not None
    store, counted = instance.reply
    instance = instance._replace(reply=None)
    yield changed(state, instance)  # it is lost: the client gets a 503
    if (
        counted
        and not instance.step
        and store.epoch == instance.epoch
        and store.count(instance.name) > instance.share
        and rules.intact(store.numbers, instance.baseline)
    ):
        mine = instance.acknowledged | {f"{instance.name}{instance.made - 1}"}
        yield changed(
            state,
            instance._replace(
                acknowledged=mine,
                numbers_of=mine | (store.held & acknowledged(state)),
                share=store.count(instance.name),
                baseline=store.numbers,
            ),
        )


def settle(state: State, instance: Instance) -> Iterator[State]:
    """A loss was found: join what another has set, or begin a repair."""
    store = state.store
    if store.epoch > instance.epoch and store.finding == "cutoff":
        yield changed(state, adopting(state, instance, store))
    elif store.epoch > instance.epoch:
        yield changed(state, instance._replace(step="write back"))
    else:
        epoch = 1 + max(store.epoch, *(other.epoch for other in state.instances))
        started = store._replace(epoch=epoch, finding="repairing", given=())
        yield changed(state, instance._replace(step="write back"), started)


def adopting(state: State, instance: Instance, store: Store) -> Instance:
    return instance._replace(
        step="",
        epoch=store.epoch,
        numbers_of=instance.numbers_of | (store.held & acknowledged(state)),
        share=store.count(instance.name),
        baseline=store.numbers,
    )


def repair(state: State, instance: Instance, rules: Rules) -> Iterator[State]:
    store = state.store
    if instance.step == "write back" and not rules.vouches_before:
        yield changed(state, instance._replace(step="vouch"), with_written(store, instance))
    elif instance.step in {"write back", "vouch"}:
        yield changed(state, instance._replace(step="wait"), with_contribution(state, instance))
    else:
        given = dict(store.given)
        if rules.proven(store.numbers, given) and not rules.not_heard(given):
            ended = store._replace(finding="repaired")
            yield changed(state, adopting(state, instance, ended), ended)
        # the time may be over at any moment
        made = {f"{other.name}{number}" for other in state.instances for number in range(other.made)}
        cutoff = store._replace(finding="cutoff", covered=frozenset(made))
        yield changed(state, adopting(state, instance, cutoff), cutoff)


def join_late(state: State, instance: Instance, rules: Rules) -> Iterator[State]:
    """Another instance has declared it repaired: this one adopts that if it knows of nothing more."""
    store = state.store
    if instance.step == "write back":
        yield changed(state, instance._replace(step="vouch"), with_written(store, instance))
        return
    vouched = with_contribution(state, instance)
    if rules.proven(vouched.numbers, dict(vouched.given)):
        yield changed(state, adopting(state, instance, vouched), vouched)
    else:
        again = vouched._replace(epoch=vouched.epoch + 1, finding="repairing", given=())
        yield changed(state, instance._replace(step="write back"), again)


def with_written(store: Store, instance: Instance) -> Store:
    return store._replace(held=store.held | instance.acknowledged)


def with_contribution(state: State, instance: Instance) -> Store:
    """Instances that crashed before the others last read count as ended, others as running."""
    running = [
        other.name for other in state.instances if other.name != state.crashed or not state.crash_is_old
    ]
    writers = instance.baseline.writers.decode()
    given = Contribution("", True, instance.baseline.seq, writers, tuple(running))
    store = state.store._replace(
        given=tuple(sorted({**dict(state.store.given), instance.name: given}.items(), key=_name))
    )
    count = max(instance.share, store.count(instance.name))
    return store.with_count(instance.name, count) if count else store


def _name(item: tuple[str, Contribution]) -> str:
    return item[0]


def acknowledged(state: State) -> frozenset[str]:
    return NOTHING.union(*(instance.acknowledged for instance in state.instances))


def violation(state: State, rules: Rules) -> str:
    store = state.store
    lacking = acknowledged(state) - store.held - store.covered
    for instance in state.instances:
        if not instance.running:
            continue
        missing = lacking & instance.numbers_of
        if missing and not instance.step and not finds_loss(store, instance, rules):
            return f"{instance.name} says active"
        if missing and store.finding == "repaired" and store.epoch >= instance.epoch:
            return "repaired without all"
    return ""


def explore(rules: Rules, writes: dict[str, int]) -> tuple[int, str, set[str]]:
    """The number of states, the first violation (empty: none), and how repairs have ended."""
    start = State(instances=tuple(Instance(name, count) for name, count in writes.items()))
    reached, waiting, findings = {start}, [start], set()
    while waiting:
        state = waiting.pop()
        findings.add(state.store.finding)
        if found := violation(state, rules):
            return len(reached), f"{found}: {state}", findings
        for after in following(state, rules):
            if after not in reached:
                reached.add(after)
                waiting.append(after)
    return len(reached), "", findings


def test_no_order_of_events_lets_a_revocation_be_lost_that_an_instance_knows_of():
    states, found, findings = explore(Rules(), TWO_WRITERS)
    assert not found
    assert findings == {"new", "repairing", "repaired", "cutoff"}
    assert states > 100_000


def is_proven_by_total(present, contributions):
    return all(present.seq >= given.seq for given in contributions.values())


@pytest.mark.parametrize(
    ("mutant", "writes"),
    [
        pytest.param(
            Rules(proven=is_proven_by_total), WITH_A_READER, id="the total count alone declares it repaired"
        ),
        pytest.param(
            Rules(refuses_to_count=False), TWO_WRITERS, id="writes that meet a loss or a repair are counted"
        ),
        pytest.param(
            Rules(vouches_before=True), TWO_WRITERS, id="it vouches before it has written anything back"
        ),
        pytest.param(Rules(not_heard=lambda _: set()), TWO_WRITERS, id="it does not wait for the others"),
    ],
)
def test_every_way_of_breaking_the_rules_is_found(mutant, writes):
    _, found, _ = explore(mutant, writes)
    assert found
