"""What ``make bench`` asks about is active: a refusal costs less, so that its figures would be too good."""

from contextlib import ExitStack

from bench.bench import Bench
from bench.load import Load
from bench.material import Material
from bench.servers import Servers
from tests.rig.cpu import Cores


def test_the_tokens_of_all_workloads_are_active(tmp_path):
    cores = Cores.of_this_machine()
    material = Material(tmp_path)
    with ExitStack() as stack:
        servers = Servers(stack, tmp_path, cores, material)
        bench = Bench(servers, material, Load(cores.others), rounds=1, seconds=1, connections=1, jtis=0)
        revoker = servers.revoker(servers.store())
        for workload in (
            material.claims_form(),
            material.envelopes(),
            material.mapped_claims(),
            material.mapped_envelopes(),
            material.batch_form(),
            material.mapped_batch(),
            material.warm_tokens(),
        ):
            bench.prove_active(revoker, workload)
