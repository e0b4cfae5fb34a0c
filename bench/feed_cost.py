"""What consumers of the feed cost introspections, while many tokens are revoked."""

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from bench.bench import Bench
from bench.load import Run
from bench.material import Workload
from bench.report import Section, Target, figure, table
from bench.rounds import Spread
from bench.servers import Server

_CONSUMERS = 20
_RATE = 500
"""Revocations a second."""

_CONNECTIONS = 16
"""By which tokens are revoked."""


def run(bench: Bench) -> Section:
    """Compares two services; one of them has consumers all the time."""
    plain = bench.servers.revoker(bench.servers.store())
    followed = bench.servers.revoker(bench.servers.store())
    claims, revocations = bench.material.claims_form(), bench.material.revocations()
    for server in (plain, followed):
        bench.revoke_one(server)
        bench.prove_active(server, claims)
    alone, revoked_tokens = list[Run](), 0
    revoking: dict[str, list[tuple[Run, Run]]] = {"none": [], f"{_CONSUMERS}": []}
    with _consumers(bench, followed) as changes:
        for number in range(bench.rounds + 1):
            only = bench.load.run(plain.url, claims, connections=bench.connections, seconds=bench.seconds)
            order = (plain, followed) if number % 2 else (followed, plain)
            runs = {server: _beside_revocations(bench, server, claims, revocations) for server in order}
            both = [runs[plain], runs[followed]]
            revoked_tokens += runs[followed][1].requests
            for consumers, (introspections, revoked) in zip(revoking, both, strict=True):
                print(
                    f"consumers: {consumers:<5} {introspections.rate:9,.0f} introspections/s"
                    f"  {revoked.rate:5,.0f} revocations/s  alone {only.rate:9,.0f}",
                    flush=True,
                )
            if number:  # the first round warms up
                alone.append(only)
                for pairs, pair in zip(revoking.values(), both, strict=True):
                    pairs.append(pair)
    if len(changes) != _CONSUMERS or min(changes) < revoked_tokens:
        raise RuntimeError(f"{revoked_tokens} tokens were revoked, the consumers got {changes}")
    return _section(alone, revoking)


def _section(alone: list[Run], revoking: dict[str, list[tuple[Run, Run]]]) -> Section:
    rows = [("-", figure(Spread.of([run.rate for run in alone]), "{:,.0f}"), _p99(alone), "0")]
    for consumers, pairs in revoking.items():
        introspections, revocations = ([pair[number] for pair in pairs] for number in (0, 1))
        rows.append(
            (
                consumers,
                figure(Spread.of([run.rate for run in introspections]), "{:,.0f}"),
                _p99(introspections),
                figure(Spread.of([run.rate for run in revocations]), "{:.0f}"),
            )
        )
    without, followed = ([run.rate for run, _ in pairs] for pairs in revoking.values())
    ratio = Spread.of([with_feed / base for with_feed, base in zip(followed, without, strict=True)])
    cost = Spread.of(
        [
            (base - with_feed) / run.rate * 100
            for with_feed, base, run in zip(followed, without, alone, strict=True)
        ]
    )
    text = (
        f"Introspections in the claims form, as many as are answered, beside {_RATE} revocations a second, "
        f"of which each goes to every consumer.\n\n"
        + table(("consumers", "introspections/s", "p99 ms", "revocations/s"), rows)
        + f"\n\nWith {_CONSUMERS} consumers ÷ with none, both beside revocations: {figure(ratio, '{:.3f}')}."
    )
    target = Target(
        f"what {_CONSUMERS} consumers cost at {_RATE} revocations/s, in percent of introspections/s alone",
        "at most 5",
        figure(cost, "{:.1f}"),
        cost.median <= 5,
    )
    return Section("What the feed costs", text, [target])


def _p99(runs: list[Run]) -> str:
    return figure(Spread.of([run.p99 for run in runs]), "{:.2f}", 1e-3)


def _beside_revocations(
    bench: Bench, server: Server, claims: Workload, revocations: Workload
) -> tuple[Run, Run]:
    """Introspections and revocations at the same time."""
    with ThreadPoolExecutor(1) as pool:
        revoking = pool.submit(
            bench.load.run,
            server.url,
            revocations,
            connections=_CONNECTIONS,
            seconds=bench.seconds,
            rate=_RATE,
        )
        introspections = bench.load.run(
            server.url, claims, connections=bench.connections, seconds=bench.seconds
        )
        return introspections, revoking.result()


@contextmanager
def _consumers(bench: Bench, server: Server) -> Iterator[list[int]]:
    """Consumers in a process of their own; how many changes each has got is in the list afterwards."""
    changes: list[int] = []
    request = urllib.request.Request(
        f"{server.url}/feed/snapshot", headers={"Authorization": bench.material.authorization}
    )
    with urllib.request.urlopen(request, timeout=10) as snapshot:
        cursor = json.loads(snapshot.readline())["cursor"]
    with bench.servers.consumers(server, cursor, _CONSUMERS) as process:
        yield changes
        process.stop()
    if process.process.returncode:
        raise RuntimeError(process.output())
    changes += map(int, process.out.read_text().split())
