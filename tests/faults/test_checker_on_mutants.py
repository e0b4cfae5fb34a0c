"""The checker finds what it is made to find: each way of breaking the service leads to violations."""

import asyncio
import itertools

import pytest

from tests.faults.__main__ import carry_out
from tests.faults.campaign import Campaign, Plan
from tests.rig.network import Network

SEED = 1

pytestmark = pytest.mark.timeout(900)


def violations(folder, deeds, *, count=1, seed=SEED, **plan):
    print(f"seed {seed}")
    with Network() as network:
        run = Campaign(Plan(seed=seed, **plan), network, folder)
        try:
            run.start()
            return asyncio.run(carry_out(run, deeds, count=count, quiet=True))
        finally:
            run.stop()


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
    for seed in itertools.count(SEED):
        folder = tmp_path / str(seed)
        folder.mkdir()
        if rule in {violation.rule for violation in violations(folder, deeds, seed=seed, **plan)}:
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
        (["flush", "snapshot"], {"topology": "single", "wait_replicas": 0}),
        (["failover"], NOT_REPAIRED),
    ],
    ids=["replicas confirm", "lost data is noticed", "only what replicas have is expected"],
)
def test_nothing_is_found_in_the_same_where_nothing_is_broken(tmp_path, deeds, plan):
    found = violations(tmp_path, deeds, **plan)
    assert not found, "\n".join(map(str, found[:10]))
