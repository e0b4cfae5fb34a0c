"""``/forward-auth`` by HTTP and Envoy's ext_authz by gRPC, asked by clients in Python."""

import json
import subprocess
import sys
from typing import Final
from urllib.parse import urlsplit

from bench.bench import Bench
from bench.load import Run
from bench.report import Section, figure, table
from bench.rounds import Results, Sample
from tests.rig.cpu import inherited_affinity
from tests.rig.processes import REPOSITORY
from tests.rig.servers import free_port

_CALLS: Final = (1, 64)
_WORDS: Final = {"http": "`/forward-auth` by HTTP", "grpc": "ext_authz by gRPC"}


def run(bench: Bench) -> Section:
    """The same process answers both, in turn; tokens were verified before."""
    grpc_port = free_port()
    server = bench.servers.revoker(bench.servers.store(), grpc_port=grpc_port)
    addresses = {"http": urlsplit(server.url).netloc, "grpc": f"127.0.0.1:{grpc_port}"}
    bodies = bench.material.warm_tokens().bodies

    def asked(protocol: str, calls: int, seconds: float) -> Sample:
        command = [sys.executable, "-m", "bench.gateway_client", protocol, addresses[protocol]]
        command += [str(calls), str(seconds), bench.material.secret, str(bodies)]
        before = server.process.cpu_seconds()
        with inherited_affinity(bench.servers.cores.others):
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
        seen = json.loads(done.stdout)
        if seen["failed"]:
            raise RuntimeError(f"{seen['failed']} of {seen['requests']} calls by {protocol} were refused")
        cpu = (server.process.cpu_seconds() - before) * 1e6 / seen["requests"]
        return Sample(Run(seen["requests"], seen["microseconds"] / 1e6, seen["p50"], seen["p99"], 0), cpu, 1)

    rows, slower = [], []
    for calls in _CALLS:
        for protocol in addresses:
            asked(protocol, calls, 1)
        samples: dict[str, list[Sample]] = {protocol: [] for protocol in addresses}
        for number in range(1, bench.rounds + 1):
            for protocol, found in samples.items():
                found.append(asked(protocol, calls, bench.seconds))
                print(f"round {number:2} of {bench.rounds}  {protocol} {calls:3}  {found[-1]}", flush=True)
        results = Results(samples)
        rows += [
            (
                f"{_WORDS[protocol]}, {calls} at once",
                figure(results.rate(protocol), "{:,.0f}"),
                figure(results.p50(protocol), "{:.2f}", 1e-3),
                figure(results.p99(protocol), "{:.2f}", 1e-3),
                figure(results.cpu(protocol), "{:.0f}"),
            )
            for protocol in results.names
        ]
        slower.append(f"{figure(results.cpu_ratio('grpc', 'http'), '{:.1f}')} with {calls} at once")
    text = (
        "The clients are programs in Python and take more CPU than the server, so the rates are theirs. The "
        f"CPU of the server for a call by gRPC ÷ by HTTP is {' and '.join(slower)}.\n\n"
        + table(("", "requests/s", "p50 ms", "p99 ms", "µs CPU a request"), rows)
    )
    return Section("Gateways: HTTP and gRPC", text)
