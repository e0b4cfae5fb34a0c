"""Throughput and latency, compared with the floor and the naive service."""

from collections.abc import Collection

from bench.bench import Bench
from bench.report import Section, Target, figure, table
from bench.rounds import Results, Subject, measure

FLOOR, NAIVE, CLAIMS, WARM, COLD, BATCH = "floor", "naive", "claims", "warm", "cold", "batch"
ENVELOPE, MAPPED = "envelope", "mapped"
BATCH_CONNECTIONS = 8
SUBJECTS = (NAIVE, CLAIMS, ENVELOPE, MAPPED, WARM, COLD, BATCH)

_WORDS = {
    FLOOR: "floor: bare aiohttp on uvloop, reads the body, answers fixed JSON",
    NAIVE: "naive: aiohttp and one redis-py command (MGET) for each request",
    CLAIMS: "Revoker, claims form",
    ENVELOPE: "Revoker, claims form with the header of the token",
    MAPPED: "Revoker, claims form, four claims with other names and two that are revocable",
    WARM: "Revoker, token form, verified before",
    COLD: "Revoker, token form, RS256 to be verified",
    BATCH: f"Revoker, batch of 100 claims, {BATCH_CONNECTIONS} connections",
}

_STEPS = (
    "Revoker saves what the floor spends on router, response and headers. Reading, keys, lookup and rules "
    "(*Where the time goes*) cost more than that."
)


def run(bench: Bench, only: Collection[str]) -> Section:
    store = bench.servers.store()
    claims = bench.material.claims_form()
    floor = bench.servers.floor()
    subjects = [Subject(FLOOR, floor.url, floor.process, claims)]
    if NAIVE in only:
        naive = bench.servers.naive(bench.servers.store())
        subjects.append(Subject(NAIVE, naive.url, naive.process, claims))
    forms = {
        CLAIMS: lambda: claims,
        ENVELOPE: bench.material.envelopes,
        MAPPED: bench.material.mapped_claims,
        WARM: bench.material.warm_tokens,
        COLD: bench.material.cold_tokens,
        BATCH: bench.material.batch_form,
    }
    revoker = bench.servers.revoker(store)
    for name, form in forms.items():
        if name in only:
            workload = form()
            bench.prove_active(revoker, workload)
            opened = BATCH_CONNECTIONS if name == BATCH else None
            subjects.append(Subject(name, revoker.url, revoker.process, workload, opened))
    results = measure(
        subjects,
        bench.load,
        rounds=bench.rounds,
        seconds=bench.seconds,
        connections=bench.connections,
    )
    text = (
        f"{bench.connections} connections, {bench.rounds} interleaved rounds of {bench.seconds:g} s. The "
        "server has a core of its own; store and load generator share another. Requests have an "
        "`Authorization: Basic` header, and use the tokens of 2,000 users in turn. A claims body has "
        "`iss`, `jti`, `sub`, `iat`, `exp`, `sid` and `client_id`. Latencies are those of whole "
        "requests under full load.\n\n"
    )
    verification = bench.material.verification() if COLD in only else 0.0
    return Section("Throughput and latency", text + _table(results), _targets(results, verification))


def _table(results: Results) -> str:
    heads = ("", "tokens/s", "÷ floor", "p50 ms", "p99 ms", "µs CPU a request")
    rows = [
        (
            _WORDS[name],
            figure(results.rate(name), "{:,.0f}"),
            figure(results.ratio(name, FLOOR), "{:.2f}"),
            figure(results.p50(name), "{:.2f}", 1e-3),
            figure(results.p99(name), "{:.2f}", 1e-3),
            figure(results.cpu(name), "{:.0f}"),
        )
        for name in results.names
    ]
    failed = [f"{results.failed(name)} of {name}" for name in results.names if results.failed(name)]
    return table(heads, rows) + (f"\n\nNot answered 2xx: {', '.join(failed)}." if failed else "")


def _targets(results: Results, verification: float) -> list[Target]:
    found = []

    def at_least(what: str, name: str, base: str, least: float, why: str = "") -> None:
        if name in results and base in results:
            ratio = results.ratio(name, base)
            reached = figure(ratio, "{:.2f}")
            found.append(Target(what, f"at least {least:g}", reached, ratio.median >= least, why))

    at_least("claims form ÷ floor", CLAIMS, FLOOR, 0.9, _STEPS)
    at_least("token form, verified before ÷ floor", WARM, FLOOR, 0.85, _STEPS)
    at_least("claims form ÷ naive", CLAIMS, NAIVE, 2.5)
    why = (
        "two more keys are read from the store for each token, and two more members of the body. With more "
        "users than the cache of keys holds (4,096 for each issuer), the names of keys are made again."
    )
    at_least("claims form, mapped and revocable claims ÷ claims form", MAPPED, CLAIMS, 0.926, why)
    left = 1e6 / (12 * results.rate(CLAIMS).median) if CLAIMS in results else 0.0
    why = (
        f"twelve times the claims form allows {left:.1f} µs a token. The steps in the second table of *Where "
        "the time goes* take most of that, with warm caches. Cold caches and the reading of a long body add "
        "to it. A batch saves only the work around the steps."
    )
    at_least("batch of 100, tokens a second ÷ claims form", BATCH, CLAIMS, 12, why)
    if COLD in results:
        allowed = 1e6 / (1e6 / results.rate(FLOOR).median + verification)
        share = results.rate(COLD).median / allowed
        found.append(
            Target(
                f"token form, RS256 to be verified ÷ what the floor and {verification:.0f} µs for it allow",
                "at least 0.85",
                f"{share:.2f}",
                share >= 0.85,
                "a new token also needs strict parsing, a check of its claims, an answer and an entry in the "
                "cache (third table of *Where the time goes*).",
            )
        )
    return found
