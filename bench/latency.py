"""Latency: at a fixed rate, with one connection, with eight, and with the store far away."""

import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from bench.bench import Bench
from bench.report import Section, Target, figure, table
from bench.rounds import Results, Spread, Subject, measure
from tests.rig.cpu import inherited_affinity
from tests.rig.network import Network
from tests.rig.processes import REPOSITORY
from tests.rig.servers import Valkey

_FLOOR, _CLAIMS, _FAR = "floor", "claims", "far"
_NAMES = {_FLOOR: "floor", _CLAIMS: "claims form"}
_FAR_NAMES = {_CLAIMS: "store on the same machine", _FAR: "store 1 ms away"}

_SHARE = 0.7
_FAR_SHARE = 0.25
"""A request that comes alone takes up to twice the CPU time of one among many. At a greater share, requests
wait for the processor, which hides the distance of the store.
"""
_FAR_S = 0.001
_PINGS = 1000


@dataclass(frozen=True)
class _Away:
    """A store behind a relay."""

    url: str


def run(bench: Bench) -> Section:
    """Uses the same servers for all comparisons; each comparison has its own rounds."""
    claims = bench.material.claims_form()
    store = bench.servers.store()
    with Network() as network:
        far, distance = _away(network, store)
        servers = {
            _FLOOR: bench.servers.floor(),
            _CLAIMS: bench.servers.revoker(store),
            _FAR: bench.servers.revoker(far),
        }
        bench.prove_active(servers[_FAR], claims)

        def measured(*names: str, connections: int = bench.connections, rate: float = 0) -> Results:
            return measure(
                [
                    Subject(name, servers[name].url, servers[name].process, claims, rate=rate)
                    for name in names
                ],
                bench.load,
                rounds=bench.rounds,
                seconds=bench.seconds,
                connections=connections,
            )

        flooded = measured(_FLOOR, _CLAIMS, _FAR)
        least = min(flooded.rate(name).median for name in (_FLOOR, _CLAIMS))
        paced = measured(_FLOOR, _CLAIMS, rate=_SHARE * least)
        eight = measured(_FLOOR, _CLAIMS, connections=8)
        one = measured(_FLOOR, _CLAIMS, connections=1)
        get = Spread.of([_one_get(bench, store) for _ in range(bench.rounds)])
        spared = _FAR_SHARE * min(flooded.rate(name).median for name in (_CLAIMS, _FAR))
        distant = measured(_CLAIMS, _FAR, rate=spared)
    alone = one.p50(_CLAIMS).median / (one.p50(_FLOOR).median + get.median)
    added = (distant.p50(_FAR).median - distant.p50(_CLAIMS).median) / 1000
    p99, of_eight = paced.p99_ratio(_CLAIMS, _FLOOR), eight.ratio(_CLAIMS, _FLOOR)
    slower = flooded.ratio(_FAR, _CLAIMS)
    rows = [
        _row(f"{words}: {name}", results, key)
        for words, results, names in (
            (
                f"at {_SHARE * least:,.0f} a second, {_SHARE:.0%} of the capacity of the slower one",
                paced,
                _NAMES,
            ),
            ("8 connections", eight, _NAMES),
            ("one connection", one, _NAMES),
            (f"at {spared:,.0f} a second", distant, _FAR_NAMES),
        )
        for key, name in names.items()
    ]
    text = (
        f"Claims form, {bench.connections} connections unless the row says otherwise. At a fixed rate, a "
        "request is sent when it is due, to the millisecond, as soon as a connection is free. One GET by the "
        f"service's own client, alone and one at a time, takes {figure(get, '{:.0f}')} µs (median). The far "
        f"store is behind a relay that makes a PING {distance * 1000:.2f} ms slower (median). Its rows "
        f"compare it with a store on the same machine, both at {_FAR_SHARE:.0%} of the capacity "
        "of the slower one.\n\n" + table(("", "requests/s", "p50 ms", "p99 ms", "µs CPU a request"), rows)
    )
    targets = [
        Target(
            f"p99 of claims form ÷ p99 of floor, both at {_SHARE:.0%} of the capacity of the slower one",
            "at most 1.3",
            figure(p99, "{:.2f}"),
            p99.median <= 1.3,
            "an answer waits for the store, and the store for the load generator. Both use one processor, "
            "and the generator sends all requests of a millisecond at once. The floor has no store.",
        ),
        Target(
            "one connection: median latency ÷ (floor + one GET)",
            "at most 1.15",
            f"{alone:.2f}",
            alone <= 1.15,
            "a single request pays for a whole reading of the store (clock, role, numbers), which concurrent "
            "requests share. Floor and GET are measured separately, with warm caches.",
        ),
        Target(
            "8 connections: claims form ÷ floor",
            "at least 0.6",
            figure(of_eight, "{:.2f}"),
            of_eight.median >= 0.6,
            "eight requests share a lookup instead of 64, so each pays eight times the share of it. All "
            "eight wait for its answer; the floor waits for nothing.",
        ),
        Target(
            "store 1 ms away: median latency added, ms",
            "at most 1.2",
            f"{added:.2f}",
            added <= 1.2,
            "the relay itself adds time under load: it delays by timers and shares the processors.",
        ),
        Target(
            "store 1 ms away: throughput ÷ with the store on the same machine",
            "at least 0.85",
            figure(slower, "{:.2f}"),
            slower.median >= 0.85,
            "the relay uses CPU time of the processors that the other programs need.",
        ),
    ]
    return Section("Latency, few connections, a store far away", text, targets)


def _away(network: Network, store: Valkey) -> tuple[_Away, float]:
    """The store behind a relay that makes a PING take 1 ms longer; and by how much it does, in seconds."""
    at_hand = _ping(store.port)
    delay = _FAR_S / 2
    attempts = 3
    while True:
        port = network.relay(store.port, delay=delay)
        distance = _ping(port) - at_hand
        attempts -= 1
        if abs(distance - _FAR_S) < _FAR_S / 50 or not attempts:
            return _Away(f"redis://127.0.0.1:{port}/0"), distance
        delay -= (distance - _FAR_S) / 2


def _ping(port: int) -> float:
    """Seconds that one takes, one after the other; the median."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        taken = []
        for _ in range(_PINGS):
            began = time.perf_counter()
            connection.sendall(b"PING\r\n")
            connection.recv(64)
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _row(words: str, results: Results, name: str) -> tuple[str, ...]:
    return (
        words,
        figure(results.rate(name), "{:,.0f}"),
        figure(results.p50(name), "{:.2f}", 1e-3),
        figure(results.p99(name), "{:.2f}", 1e-3),
        figure(results.cpu(name), "{:.0f}"),
    )


def _one_get(bench: Bench, store: Valkey) -> float:
    with inherited_affinity(bench.servers.cores.server):
        done = subprocess.run(
            [sys.executable, "-m", "bench.one_get", store.url],
            check=True,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
        )
    return float(done.stdout)
