"""Overload: five times the connections that a process can serve, each asking again at once."""

from bench.bench import Bench
from bench.load import Run
from bench.report import Section, Target, figure, table
from bench.rounds import Spread

TIMES = 5


def run(bench: Bench) -> Section:
    """Rounds at capacity and beyond, in turn, by the same generator."""
    claims = bench.material.claims_form()
    revoker = bench.servers.revoker(bench.servers.store())
    bench.prove_active(revoker, claims)

    def loaded(connections: int, seconds: float) -> Run:
        run = bench.load.run(revoker.url, claims, connections=connections, seconds=seconds, refusals=True)
        print(
            f"{connections:5} connections {run.rate:9,.0f} answered/s  p50 {run.p50 / 1000:7.2f} ms"
            f"  p99 {run.p99 / 1000:7.2f} ms  {run.failed / run.seconds:8,.0f} refused/s",
            flush=True,
        )
        return run

    least, most = bench.connections, TIMES * bench.connections
    for connections in (least, most):
        loaded(connections, 2)
    rounds = [(loaded(least, bench.seconds), loaded(most, bench.seconds)) for _ in range(bench.rounds)]
    goodput = Spread.of([beyond.rate / at.rate for at, beyond in rounds])
    late = Spread.of([beyond.p99 / at.p99 for at, beyond in rounds])
    rows = [
        (
            f"{runs[0]} connections",
            figure(Spread.of([sample.rate for sample in runs[1]]), "{:,.0f}"),
            figure(Spread.of([sample.failed / sample.seconds for sample in runs[1]]), "{:,.0f}"),
            figure(Spread.of([sample.p50 for sample in runs[1]]), "{:.2f}", 1e-3),
            figure(Spread.of([sample.p99 for sample in runs[1]]), "{:.2f}", 1e-3),
        )
        for runs in ((least, [at for at, _ in rounds]), (most, [beyond for _, beyond in rounds]))
    ]
    text = (
        f"Claims form. {least} connections measure capacity, {TIMES} times as many are overload. Each sends "
        "the next request as soon as it has an answer or a refusal, and ignores `Retry-After`. Latencies are "
        "those of 2xx answers.\n\n"
    )
    return Section(
        "Overload",
        text + table(("", "answered/s", "refused/s", "p50 ms", "p99 ms"), rows),
        [
            Target(
                "goodput ÷ capacity",
                "at least 0.8",
                figure(goodput, "{:.2f}"),
                goodput.median >= 0.8,
                "a refusal costs nearly as much as an answer. With five times the connections, the generator "
                "also needs more of the processor that it shares with the store.",
            ),
            Target(
                "p99 of answered ÷ p99 at capacity",
                "at most 3",
                figure(late, "{:.2f}"),
                late.median <= 3,
                f"of {most} connections, `max_in_progress` are admitted and wait for each other. A "
                "lower limit refuses more, and refusals cost CPU time too.",
            ),
        ],
    )
