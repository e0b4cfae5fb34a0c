"""Failovers and restarts that must log nobody out, and the loss that must."""

import asyncio

import pytest

from tests.faults.__main__ import carry_out
from tests.faults.campaign import Campaign, Plan
from tests.faults.history import Cutoff, Fault, Introspected
from tests.rig.network import Network
from tests.rig.topologies import Cluster, Sentinels

SEED = 1


def committed(folder, *deeds, repair_seconds=60, wait_replicas=1, **plan):
    """The history of some faults, in which no rule is broken; a busy machine may take long for a repair."""
    alone = plan["topology"] == "single"
    with Network() as network:
        run = Campaign(
            Plan(
                seed=SEED,
                replicas=0 if alone else 1,
                wait_replicas=0 if alone else wait_replicas,
                repair_seconds=repair_seconds,
                **plan,
            ),
            network,
            folder,
        )
        try:
            run.start()
            found = asyncio.run(carry_out(run, list(deeds), count=1, quiet=True))
        finally:
            run.stop()
    assert not found, "\n".join(map(str, found[:10]))
    return run.history


def cut_off(history):
    return [record for record in history if isinstance(record, Cutoff) and record.finding == "cutoff"]


@pytest.mark.parametrize(("topology", "deed"), [("single", "cut-tail"), ("sentinel", "rolling-restart")])
def test_nobody_is_logged_out(tmp_path, topology, deed):
    assert not cut_off(committed(tmp_path, deed, topology=topology))


@pytest.mark.parametrize(
    ("topology", "wait_replicas", "deeds"),
    [
        ("replicated", 0, ["hand-over"]),
        ("replicated", 1, ["hand-over"]),
        ("sentinel", 0, ["hand-over", "hand-over-coordinated"]),
        ("sentinel", 1, ["hand-over-coordinated"]),
        ("cluster", 0, ["hand-over"]),
        ("cluster", 1, ["hand-over", "rolling-restart"]),
    ],
)
def test_a_planned_failover_logs_nobody_out(tmp_path, topology, wait_replicas, deeds, monkeypatch):
    if (
        not wait_replicas
    ):  # a primary that stands still must not be replaced: what it acknowledged would be lost
        monkeypatch.setattr(Sentinels, "DOWN_AFTER_MS", 60_000)
        monkeypatch.setattr(Cluster, "NODE_TIMEOUT_MS", 15_000)
    history = committed(tmp_path, *deeds, topology=topology, wait_replicas=wait_replicas)
    assert {record.name for record in history if isinstance(record, Fault)} == set(deeds)
    assert not cut_off(history)


def test_what_a_process_wrote_that_has_ended_is_cut_off_if_it_is_lost(tmp_path):
    assert cut_off(committed(tmp_path, "writer-and-tail", topology="single", repair_seconds=1))


def test_a_new_primary_gives_verdicts_before_it_has_a_replica(tmp_path):
    history = committed(tmp_path, "hand-over", topology="sentinel")
    [fault] = [record for record in history if isinstance(record, Fault)]
    early = [
        record
        for record in history
        if isinstance(record, Introspected)
        and record.status == 200
        and fault.promoted < record.start < record.end < fault.healed
    ]
    assert {record.instance for record in early} == {"a", "b"}
    assert not cut_off(history)
