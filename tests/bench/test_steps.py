"""Each step of a request that ``make bench`` times can be run."""

import subprocess
import sys
from contextlib import ExitStack

from bench.material import Material
from bench.profile import STEPS
from bench.servers import Servers
from tests.rig.cpu import Cores
from tests.rig.processes import REPOSITORY


def test_every_step_of_the_profile_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.material.COLD_TOKENS", 500)  # signing as many as for a measurement takes long
    with ExitStack() as stack:
        material = Material(tmp_path)
        servers = Servers(stack, tmp_path, Cores.of_this_machine(), material)
        config = servers.write_configuration(servers.store(), sessions="ES256", timeout=10)
        arguments = (config, material.claims_form().bodies, material.cold_tokens().bodies)
        steps = subprocess.run(
            [sys.executable, "-m", "bench.steps", *map(str, arguments), material.authorization],
            input="".join(f"{name} 64\n" for name in STEPS),
            capture_output=True,
            text=True,
            check=True,
            cwd=REPOSITORY,
            timeout=120,
        )
    lines = steps.stdout.splitlines()
    micros = [float(line) for line in lines[lines.index("ready") + 1 :] if not line.startswith("{")]
    assert len(micros) == len(STEPS)
    assert min(micros) > 0
