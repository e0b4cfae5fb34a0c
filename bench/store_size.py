"""What revoked tokens in the store cost: throughput, and memory of Valkey."""

import time
import uuid
from collections.abc import Iterator

import redis

from bench.bench import Bench
from bench.memory import used
from bench.report import Section, Target, figure, table
from bench.rounds import Subject, measure
from tests.rig.servers import Valkey

_CHUNK = 5_000
_LIFETIME_MS = 86_400_000

_REVOKE_ALL = """
for _, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[1], 'PXAT', ARGV[2])
end
"""
"""A script, like the service: Valkey encodes the values of a script differently from those of a client."""


def run(bench: Bench) -> Section:
    """Compares two equal services, one on an empty store and one on a full one."""
    workload = bench.material.claims_form()
    empty, full = bench.servers.store(), bench.servers.store()
    subjects = []
    for name, store in (("empty", empty), ("full", full)):
        revoker = bench.servers.revoker(store)
        bench.prove_active(revoker, workload)
        subjects.append(Subject(name, revoker.url, revoker.process, workload))
        if store is full:
            bench.revoke_one(revoker)
    cost = fill(full, bench.jtis)
    results = measure(
        subjects,
        bench.load,
        rounds=bench.rounds,
        seconds=bench.seconds,
        connections=bench.connections,
    )
    ratio = results.ratio("full", "empty")
    rows = [
        (
            words,
            figure(results.rate(name), "{:,.0f}"),
            figure(results.p99(name), "{:.2f}", 1e-3),
            figure(results.cpu(name), "{:.0f}"),
        )
        for name, words in (("empty", "none"), ("full", f"{bench.jtis:,}"))
    ]
    text = (
        "Claims form. Two services run in turn, each with its own store.\n\n"
        + table(("revoked tokens in the store", "requests/s", "p99 ms", "µs CPU a request"), rows)
        + f"\n\nOne revoked `jti` (a UUID, issuer `main`) takes {cost:.1f} bytes of Valkey's memory "
        f"(`used_memory`, average of {bench.jtis:,})."
    )
    targets = [
        Target(
            f"throughput with {bench.jtis:,} revoked tokens ÷ with none",
            "at least 0.97",
            figure(ratio, "{:.3f}"),
            ratio.median >= 0.97,
        ),
        Target("memory of one revoked jti in the store, bytes", "at most 125", f"{cost:.1f}", cost <= 125),
    ]
    return Section("Size of the store", text, targets)


def fill(store: Valkey, count: int) -> float:
    """Put revoked tokens in, in the form that ``POST /revoke`` gives them; bytes for each.

    Raises:
        RuntimeError: the one that the service itself has put in is of another form.
    """
    with store.client() as client:
        [made_by_service] = client.scan_iter(match="rv:jti:main:*")
        before = used(client)
        key = ""
        for keys in _chunks(count):
            now = time.time_ns() // 1_000_000
            client.eval(_REVOKE_ALL, len(keys), *keys, now, now + _LIFETIME_MS)
            key = keys[-1]
        after = used(client)
        made, filled = _form(client, made_by_service), _form(client, key)
        if made != filled:
            raise RuntimeError(f"POST /revoke writes {made}, and measured here is {filled}")
    return float(after - before) / count


def _chunks(count: int) -> Iterator[list[str]]:
    for start in range(0, count, _CHUNK):
        yield [f"rv:jti:main:{uuid.uuid4()}" for _ in range(min(_CHUNK, count - start))]


def _form(client: redis.Redis, key: str) -> tuple[object, ...]:
    return (
        len(key),
        client.strlen(key),
        client.object("encoding", key),
        client.memory_usage(key),
        client.pttl(key) > 0,
    )
