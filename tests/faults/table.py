"""The table of what planned and unplanned failovers cost, measured under load."""

import asyncio
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.campaign import Campaign, Plan
from tests.faults.clients import Rates
from tests.faults.history import Cutoff, Fault, Introspected, Revoked, Violation, after_promotion, outage
from tests.rig.network import Network

HEAD = (
    "| store | `wait_replicas` | event | runs | logged out | acknowledged revocations active again "
    "| no verdicts, median (longest) | verdicts back, median (longest) | revocations/s | introspections/s |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Row:
    """Events on one topology, which is started once for all of them."""

    topology: str
    wait_replicas: int
    deeds: tuple[str, ...]


ROWS = (
    Row("sentinel", 1, ("failover", "hand-over", "hand-over-coordinated")),
    Row("sentinel", 0, ("failover", "hand-over", "hand-over-coordinated")),
    Row("replicated", 1, ("hand-over",)),
    Row("replicated", 0, ("hand-over",)),
    Row("cluster", 1, ("failover", "hand-over")),
    Row("cluster", 0, ("failover", "hand-over")),
    Row("single", 0, ("cut-tail", "cut-tail-at-once", "flush", "writer-and-tail")),
    Row("cluster", 1, ("flush",)),
    Row("sentinel", 1, ("rolling-restart",)),
    Row("cluster", 1, ("rolling-restart",)),
)

CarryOut = Callable[..., Awaitable[list[Violation]]]


def measure(count: int, seed: int, chosen: list[int], rates: Rates, carry_out: CarryOut) -> int:
    """Print the rows, all or those with these numbers; 1 where a rule was broken."""
    failed = False
    print(HEAD, flush=True)
    for row in [ROWS[number] for number in chosen] or ROWS:
        plan = Plan(
            topology=row.topology,
            replicas=0 if row.topology == "single" else 1,
            wait_replicas=row.wait_replicas,
            seed=seed,
            rates=rates,
        )
        with tempfile.TemporaryDirectory(prefix="revoker-table-") as folder, Network() as network:
            run = Campaign(plan, network, Path(folder))
            try:
                run.start()
                for deed in row.deeds:
                    found = asyncio.run(carry_out(run, [deed], count=count, quiet=True))
                    print(_text(run, row, deed, found), *found[:5], sep="\n", flush=True)
            finally:
                run.stop()
        failed = failed or bool(found)
    return 1 if failed else 0


def _text(run: Campaign, row: Row, name: str, violations: list[Violation]) -> str:
    these = [record for record in run.history if isinstance(record, Fault) and record.name == name]
    cutoffs = {
        record.at: record.found
        for record in run.history
        if isinstance(record, Cutoff) and record.finding == "cutoff"
    }.values()
    active = [
        record.start
        for violation in violations
        if violation.rule == "revoked and active"
        for record in violation.records
        if isinstance(record, Introspected)
    ]
    silent = [outage(run.history, Introspected, fault.start, fault.recovered) for fault in these]
    late = [after_promotion(run.history, fault) for fault in these]
    first, last = these[0].start, these[-1].recovered
    return (
        f"| {row.topology} | {row.wait_replicas} of {run.plan.replicas} | {name} | {len(these)} "
        f"| {sum(any(fault.start <= at <= fault.recovered for at in cutoffs) for fault in these)} "
        f"| {sum(first <= at <= last + 1 for at in active)} "
        f"| {statistics.median(silent):.2f} s ({max(silent):.2f} s) "
        f"| {statistics.median(late):.2f} s ({max(late):.2f} s) "
        f"| {_rate(run, Revoked, first, last):.0f} | {_rate(run, Introspected, first, last):.0f} |"
    )


def _rate(run: Campaign, kind: type[Revoked | Introspected], first: float, last: float) -> float:
    """Answers of 200 a second, of the seconds in which there were some."""
    seconds = [
        int(record.end)
        for record in run.history
        if isinstance(record, kind) and record.status == 200 and first <= record.end <= last
    ]
    return len(seconds) / len(set(seconds)) if seconds else 0.0
