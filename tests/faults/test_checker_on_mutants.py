"""The checker finds what it is made to find: each way of breaking the service leads to violations."""

import asyncio
import contextlib
import itertools

import pytest

from tests.faults import scenarios
from tests.faults.__main__ import carry_out
from tests.faults.campaign import Campaign, Plan
from tests.rig.network import Network

SEED = 1


@contextlib.contextmanager
def running(folder, **plan):
    with Network() as network:
        run = Campaign(Plan(**plan), network, folder)
        try:
            run.start()
            yield run
        finally:
            run.stop()


def violations(folder, deeds, *, count=1, seed=SEED, **plan):
    print(f"seed {seed}")
    with running(folder, seed=seed, **plan) as run:
        return asyncio.run(carry_out(run, deeds, count=count, quiet=True))


@pytest.mark.parametrize(
    ("deeds", "plan"),
    [
        (["lag"], {"topology": "replicated", "wait_replicas": 0, "mutant": "reads-replica"}),
        (["flush"], {"topology": "single", "wait_replicas": 0, "mutant": "ignores-epoch"}),
        (["snapshot"], {"topology": "single", "wait_replicas": 0, "mutant": "ignores-seq"}),
        (["blackout"], {"topology": "replicated", "wait_replicas": 0}),
        (["flush"], {"topology": "single", "wait_replicas": 0, "mutant": "vouches-blindly"}),
    ],
    ids=[
        "a replica is read",
        "the epoch is ignored",
        "the numbers are ignored",
        "no replica confirms",
        "a process vouches for what it has not written back",
    ],
)
def test_what_lets_revoked_tokens_through_is_found(tmp_path, deeds, plan):
    finds(tmp_path, deeds, "revoked and active", plan)


def finds(tmp_path, deeds, rule, plan):
    """It shows where a client asks at the right moment: on a busy machine not each time."""
    found_at_last(
        tmp_path, rule, lambda folder, attempt: violations(folder, deeds, seed=SEED + attempt, **plan)
    )


def found_at_last(tmp_path, rule, attempt):
    for number in itertools.count():
        folder = tmp_path / str(number)
        folder.mkdir()
        if rule in {violation.rule for violation in attempt(folder, number)}:
            return


NOT_REPAIRED = {"topology": "replicated", "wait_replicas": 1, "repair_seconds": 0}
"""A repair would hide that nothing was lost."""


def test_what_logs_users_out_without_cause_is_found(tmp_path):
    plan = NOT_REPAIRED | {"mutant": "expects-raw-readings"}
    finds(tmp_path, ["kill-instance", "failover"], "a loss where nothing was lost", plan)


@pytest.mark.parametrize(
    ("deeds", "plan"),
    [
        (["lag", "blackout"], {"topology": "replicated", "wait_replicas": 1}),
        (["flush", "snapshot"], {"topology": "single", "wait_replicas": 0, "repair_seconds": 60}),
        (["failover"], NOT_REPAIRED),
    ],
    ids=["replicas confirm", "lost data is noticed", "only what replicas have is expected"],
)
def test_nothing_is_found_in_the_same_where_nothing_is_broken(tmp_path, deeds, plan):
    found = violations(tmp_path, deeds, **plan)
    assert not found, "\n".join(map(str, found[:10]))


PROOFS = [
    ("vouches-first", scenarios.vouched_before_written_back, {"topology": "single", "repair_seconds": 60}),
    ("counts-in-a-loss", scenarios.counted_in_a_loss, {"topology": "cluster", "repair_seconds": 60}),
    (
        "proves-by-total",
        scenarios.replaced_in_the_total,
        {"topology": "cluster", "repair_seconds": 1, "instances": 3},
    ),
]
"""Ways of proving a repair that prove nothing, and the orders of events in which they lose something."""

WAYS = [
    "a process vouches before it has written back",
    "revocations that meet a loss are counted",
    "the total alone proves a repair",
]


def played(folder, scenario, **plan):
    with running(folder, replicas=0, wait_replicas=0, clients=0, **plan) as run:
        return asyncio.run(scenarios.play(run, scenario))


@pytest.mark.parametrize(("mutant", "scenario", "plan"), PROOFS, ids=WAYS)
def test_a_proof_of_a_repair_that_proves_nothing_is_found(tmp_path, mutant, scenario, plan):
    def attempt(folder, _):  # an instance that reads the data set too early, as it may, spoils one
        return played(folder, scenario, mutant=mutant, **plan)

    found_at_last(tmp_path, "revoked and active", attempt)


@pytest.mark.parametrize(("mutant", "scenario", "plan"), PROOFS, ids=WAYS)
def test_the_proof_of_the_service_holds_in_the_same_order_of_events(tmp_path, mutant, scenario, plan):
    found = played(tmp_path, scenario, **plan)
    assert not found, "\n".join(map(str, found[:10]))
