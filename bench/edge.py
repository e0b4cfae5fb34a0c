"""An edge: throughput and latency without a store, memory, and how a large snapshot is loaded."""

import json
import time

from bench.bench import Bench
from bench.report import Section, Target, figure, table
from bench.rounds import Subject, measure
from bench.servers import Server
from bench.store_size import fill

FLOOR, CLAIMS, WARM, BATCH, FULL = "floor", "edge claims", "edge warm", "edge batch", "edge full"
_BATCH_CONNECTIONS = 8
_LOADING_SHARE = 0.5
_MAX_STALENESS_S = 120
"""Longer than a snapshot is loaded: until then the old one answers."""

_WORDS = {
    FLOOR: "floor",
    CLAIMS: "claims form",
    WARM: "token form, verified before",
    BATCH: f"batch of 100 claims, {_BATCH_CONNECTIONS} connections",
}


def run(bench: Bench) -> Section:
    """Two services with an edge each: one without revocations, one with many."""
    claims, warm, batch = (
        bench.material.claims_form(),
        bench.material.warm_tokens(),
        bench.material.batch_form(),
    )
    stores = [bench.servers.store(), bench.servers.store()]
    others = bench.servers.cores.others
    services = [bench.servers.revoker(store, cores=others) for store in stores]
    bench.revoke_one(services[1])
    fill(stores[1], bench.jtis)
    empty, full = (bench.servers.edge(service, max_staleness=_MAX_STALENESS_S) for service in services)
    memory = (full.process.resident_bytes() - empty.process.resident_bytes()) / bench.jtis
    floor = bench.servers.floor()
    for server in (empty, full):
        bench.prove_active(server, claims)
    bench.prove_active(empty, warm)
    bench.prove_active(empty, batch)
    subjects = [
        Subject(FLOOR, floor.url, floor.process, claims),
        Subject(CLAIMS, empty.url, empty.process, claims),
        Subject(WARM, empty.url, empty.process, warm),
        Subject(BATCH, empty.url, empty.process, batch, _BATCH_CONNECTIONS),
        Subject(FULL, full.url, full.process, claims),
    ]
    terms = {"rounds": bench.rounds, "seconds": bench.seconds}
    results = measure(subjects, bench.load, connections=bench.connections, **terms)  # type: ignore[arg-type]
    one = measure(subjects[:2], bench.load, connections=1, **terms)  # type: ignore[arg-type]
    rate = _LOADING_SHARE * results.rate(FULL).median
    calm = bench.load.run(full.url, claims, connections=bench.connections, seconds=10, rate=rate)
    with stores[1].client() as client:  # the feed cannot continue, so the edge loads a snapshot
        client.delete("rv:journal")
    loading = bench.load.run(full.url, claims, connections=bench.connections, seconds=20, rate=rate)
    seconds = _loading_seconds(full)
    words = {**_WORDS, FULL: f"claims form, {bench.jtis:,} revoked tokens"}
    rows = [
        (
            words[name],
            figure(results.rate(name), "{:,.0f}"),
            figure(results.ratio(name, FLOOR), "{:.2f}"),
            figure(results.p50(name), "{:.2f}", 1e-3),
            figure(results.p99(name), "{:.2f}", 1e-3),
            figure(results.cpu(name), "{:.0f}"),
        )
        for name in results.names
    ]
    heads = ("", "tokens/s", "÷ floor", "p50 ms", "p99 ms", "µs CPU a request")
    alone = one.p50(CLAIMS).median / one.p50(FLOOR).median
    slower = loading.p99 / calm.p99
    text = (
        f"{bench.connections} connections. The edges have a core of their own; their services and stores "
        f"share another with the load generator.\n\n{table(heads, rows)}\n\n"
        f"With one connection the median latency is {alone:.2f} times that of the floor. A revoked `jti` "
        f"takes {memory:.0f} bytes of the edge's memory (resident, average of {bench.jtis:,}). At "
        f"{rate:,.0f} requests a second, p99 is {calm.p99 / 1000:.2f} ms, and {loading.p99 / 1000:.2f} ms in "
        f"the 20 seconds in which a snapshot of {bench.jtis:,} is loaded. That takes {seconds:.1f} s."
    )
    ratios = {name: results.ratio(name, FLOOR).median for name in (CLAIMS, WARM)}
    against_empty = results.ratio(FULL, CLAIMS).median
    in_batch = results.ratio(BATCH, CLAIMS).median
    targets = [
        Target("edge, claims form ÷ floor", "at least 1.1", f"{ratios[CLAIMS]:.2f}", ratios[CLAIMS] >= 1.1),
        Target("edge, token form, warm ÷ floor", "at least 1", f"{ratios[WARM]:.2f}", ratios[WARM] >= 1),
        Target("edge, one connection: median latency ÷ floor", "at most 1.1", f"{alone:.2f}", alone <= 1.1),
        Target(
            "edge, batch of 100 ÷ single",
            "at least 8",
            f"{in_batch:.1f}",
            in_batch >= 8,
            "a batch saves the connection, the head and the answer of 99 requests. These became cheaper for "
            "single requests; keys and rules cost a token the same in both.",
        ),
        Target(
            f"edge with {bench.jtis:,} ÷ with none",
            "at least 0.97",
            f"{against_empty:.3f}",
            against_empty >= 0.97,
            "an edge without revocations looks for none. A look takes 0.3 µs while it is in the caches, "
            "and between requests it is not.",
        ),
        Target("memory of one revoked jti at an edge, bytes", "at most 120", f"{memory:.0f}", memory <= 120),
        Target("snapshot loaded, seconds", "at most 15", f"{seconds:.1f}", seconds <= 15),
        Target("p99 while loading ÷ undisturbed", "at most 3", f"{slower:.1f}", slower <= 3),
    ]
    return Section("An edge", text, targets)


def _loading_seconds(server: Server) -> float:
    """How long the latest snapshot took; waits for it."""
    deadline = time.monotonic() + 60
    while True:
        output = server.process.output().splitlines()
        lines = [json.loads(line) for line in output if "snapshot_loaded" in line]
        if len(lines) > 1:
            return float(lines[-1]["seconds"])
        assert time.monotonic() < deadline, server.process.output()[-2000:]
        time.sleep(0.2)
