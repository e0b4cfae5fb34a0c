"""A quarter of a minute of faults on each topology; ``python -m tests.faults`` goes on for longer."""

import asyncio

import pytest

from tests.faults import nemesis
from tests.faults.__main__ import carry_out
from tests.faults.campaign import Campaign, Plan
from tests.faults.history import surroundings
from tests.rig.network import Network

SECONDS = 15

SEED = 1
"""``python -m tests.faults`` takes any other."""


@pytest.mark.parametrize("topology", ["single", "replicated", "sentinel", "cluster"])
def test_every_acknowledged_revocation_holds_through_faults(tmp_path, topology):
    alone = topology == "single"
    plan = Plan(
        topology=topology,
        replicas=0 if alone else 1,
        wait_replicas=0 if alone else 1,
        repair_seconds=20,  # a busy machine may take longer than the default
        seed=SEED,
        edges=1 if topology == "sentinel" else 0,  # on one topology, as each takes half a minute more
    )
    print(
        f"python -m tests.faults --topology {topology} --edges {plan.edges} --seconds {SECONDS}"
        f" --repair-seconds {plan.repair_seconds} --seed {plan.seed}"
    )
    with Network() as network:
        run = Campaign(plan, network, tmp_path)
        try:
            run.start()
            deeds = nemesis.possible(topology, edges=plan.edges > 0)
            violations = asyncio.run(carry_out(run, deeds, seconds=SECONDS))
        finally:
            run.stop()
    assert not violations, "\n".join(map(str, [*violations[:10], *surroundings(run.history, violations)]))
