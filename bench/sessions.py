"""Sessions of Revoker: throughput of ``/token`` compared with the floor, signing alone, memory of Valkey."""

import asyncio
import json
import statistics
import time
import urllib.request
import uuid
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from bench.bench import Bench
from bench.material import AUDIENCE, SESSIONS_ISSUER, Workload, signing_key
from bench.report import Section, Target, figure, table
from bench.rounds import Spread, Subject, measure
from bench.servers import Server
from revoker.metrics import Metrics
from revoker.models import Issuer
from revoker.store.sessions import Lifetimes, Sessions
from revoker.store.store import Store
from revoker.tokens.private_keys import SigningKey
from tests.rig.servers import Valkey

ALGORITHMS = ("ES256", "EdDSA")
FLOOR = "floor"
REFRESHED_AT_ONCE = 512
MEASURED = 100_000

_SCRIPT = "refresh.lua"


def run(bench: Bench) -> Section:
    floor = bench.servers.floor()
    subjects = [Subject(FLOOR, floor.url, floor.process, bench.material.claims_form())]
    for algorithm in ALGORITHMS:
        server = bench.servers.revoker(bench.servers.store(), sessions=algorithm)
        workload = Workload(
            algorithm,
            "/token",
            bench.material.folder / f"{algorithm}.tokens",
            bench.material.authorization,
            script=_SCRIPT,
            prepare=_log_in(bench, server, algorithm),
        )
        subjects.append(Subject(algorithm, server.url, server.process, workload))
    results = measure(
        subjects, bench.load, rounds=bench.rounds, seconds=bench.seconds, connections=bench.connections
    )
    rows = []
    targets = []
    for algorithm in ALGORITHMS:
        ratio, cpu = results.ratio(algorithm, FLOOR), results.cpu(algorithm)
        signing = _signing(algorithm)
        rows.append(
            (
                algorithm,
                figure(results.rate(algorithm), "{:,.0f}"),
                figure(ratio, "{:.2f}"),
                figure(results.p99(algorithm), "{:.2f}", 1e-3),
                figure(cpu, "{:.0f}"),
                figure(signing, "{:.0f}"),
            )
        )
        targets.append(
            Target(
                f"/token, {algorithm} ÷ floor",
                "at least 0.35",
                figure(ratio, "{:.2f}"),
                ratio.median >= 0.35,
                f"signing alone takes {signing.median:.0f} µs. The other steps are in the last table of "
                "*Where the time goes*.",
            )
        )
    cost = _memory(bench.servers.store())
    targets.append(Target("memory of one session, bytes", "at most 700", f"{cost:.0f}", cost <= 700))
    text = (
        "Every request rotates a session; its refresh token comes from an earlier answer.\n\n"
        + table(
            ("signed with", "refreshes/s", "÷ floor", "p99 ms", "µs CPU a request", "µs signing alone"), rows
        )
        + f"\n\nOne session (`sub` of 36 bytes, user agent of 120, ip of 39, device of 32) takes {cost:.0f} "
        f"bytes of Valkey's memory, on average of {MEASURED:,} sessions of as many users."
    )
    return Section("Sessions", text, targets)


def _log_in(bench: Bench, server: Server, algorithm: str) -> Callable[[], None]:
    file = bench.material.folder / f"{algorithm}.tokens"

    def prepare() -> None:
        tokens = []
        for n in range(REFRESHED_AT_ONCE):
            login = {"sub": f"user-{n}", "client_id": "web", "scope": "orders:read", "amr": ["pwd"]}
            request = urllib.request.Request(
                f"{server.url}/sessions",
                json.dumps(login).encode(),
                {"Content-Type": "application/json", "Authorization": bench.material.authorization},
            )
            with urllib.request.urlopen(request, timeout=10) as response:
                tokens.append(json.loads(response.read())["refresh_token"])
        file.write_text("\n".join(tokens) + "\n")

    return prepare


def _signing(algorithm: str) -> Spread:
    """µs CPU of one access token."""
    key = SigningKey(signing_key(algorithm))
    claims = {
        "iss": SESSIONS_ISSUER, "sub": "user-1", "aud": AUDIENCE, "client_id": "web",
        "iat": 1_800_000_000, "exp": 1_800_000_900, "jti": "j" * 22, "sid": "s" * 38,
        "auth_time": 1_800_000_000, "scope": "orders:read", "amr": ["pwd"],
    }  # fmt: skip
    found = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(500):
            key.sign(claims)
        found.append((time.process_time() - began) * 2000)
    return Spread(statistics.median(found), min(found), max(found))


def _memory(store: Valkey) -> float:
    return asyncio.run(_bytes_a_session(store))


async def _bytes_a_session(valkey: Valkey) -> float:
    issuer = Issuer(name="sessions", iss=SESSIONS_ISSUER, own=True)
    store = Store(
        url=valkey.url,
        prefix="rv",
        timeout=10,
        wait_replicas=0,
        policy="cutoff",
        issuers={issuer.iss: issuer},
        metrics=Metrics(CollectorRegistry(), [issuer.name]),
        now=time.time,
    )
    sessions = store.sessions(issuer, Lifetimes(idle=1_209_600, absolute=7_776_000, grace=10, most=0))
    with valkey.client() as client:
        before = client.info("memory")["used_memory"]
        await asyncio.gather(*(_begin(sessions, MEASURED // 50) for _ in range(50)))
        after = client.info("memory")["used_memory"]
    await store.close()
    return float(after - before) / MEASURED


async def _begin(sessions: Sessions, count: int) -> None:
    for _ in range(count):
        await sessions.start(
            str(uuid.uuid4()),
            "web",
            scope="orders:read",
            amr=("pwd",),
            device="d" * 32,
            ip="2001:0db8:85a3:0000:0000:8a2e:0370:7334",
            user_agent="u" * 120,
        )
