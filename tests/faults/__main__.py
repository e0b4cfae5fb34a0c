"""Break the store under load for as long as one likes, and check that every acknowledged revocation holds.

    python -m tests.faults --topology sentinel --nemesis failover --count 20
    python -m tests.faults --topology replicated --seconds 600 --seed 7

Ends with status 1 where a rule was broken; then the history and all logs stay in the folder that is printed.
Prints a row for the table of docs/reliability.md for every kind of fault.
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import edge_nemesis, history, nemesis, table  # noqa: F401  # faults enter a table
from tests.faults.campaign import RECOVERY_S, Campaign, Plan
from tests.faults.clients import Rates
from tests.faults.edge_history import check_edges
from tests.faults.history import Fault, Introspected, Record, Revoked, Violation, outage
from tests.faults.instances import MAX_STALENESS_S
from tests.rig.network import Network

PUT_BACK_S = 2.0
"""An instance notices a loss within a second, and writes back what it remembers within another."""

ALL_SLOTS_S = 48.0
"""As long as ``revoker store accept`` waits in a cluster: in this time an instance has read all slots."""

HEAD = (
    "| topology | fault | `wait_replicas` | `data_loss` | times | acknowledged | violations "
    "| no verdicts, median (max) | after the promotion | no acknowledgements, median (max) | cut off |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


async def carry_out(
    run: Campaign, deeds: list[str], *, seconds: float = 0.0, count: int = 0, quiet: bool = False
) -> list[Violation]:
    """Cause faults under load, ``count`` of each kind or random ones for ``seconds``; returns violations."""
    began = time.monotonic()
    async with run.clients as clients:
        run.edge_clients.start()
        await clients.recovered({instance.name for instance in run.instances}, began, RECOVERY_S)
        await run.edge_clients.recovered(began, RECOVERY_S)
        await asyncio.sleep(0.3)
        chosen = iter([name for _ in range(count) for name in deeds])
        while name := next(chosen, None) if count else run.rng.choice(deeds):
            if not quiet:
                print(f"{time.monotonic() - began:7.1f} s  {name}", flush=True)
            await nemesis.commit(run, name)
            await asyncio.sleep(run.rng.uniform(0.2, 0.8))
            if not count and time.monotonic() - began > seconds:
                break
        await clients.stop()
        await clients.introspect_all()
        await _ask_edges(run)
    run.compare_clocks()
    run.note_cutoffs()
    put_back_s = PUT_BACK_S if run.plan.data_loss == "ignore" else None
    found_late_s = ALL_SLOTS_S + run.plan.repair_seconds if run.plan.topology == "cluster" else 0.0
    found = history.check(run.history, put_back_s=put_back_s, found_late_s=found_late_s)
    found += check_edges(run.history, run.edge_history, max_staleness=MAX_STALENESS_S)
    return [*found, *_never_recovered(run.history), *_failed(run)]


async def _ask_edges(run: Campaign) -> None:
    """Ask every edge for everything, once it has everything."""
    stopped = time.monotonic()
    await run.edge_clients.recovered(stopped, RECOVERY_S, as_of=int(time.time() * 1000))
    await run.edge_clients.stop()
    await run.edge_clients.introspect_all()
    if run.edges:
        await run.note_losses()


def _never_recovered(records: list[Record]) -> list[Violation]:
    return [
        Violation("did not recover", (record,))
        for record in records
        if isinstance(record, Fault) and record.recovered == float("inf")
    ]


def _failed(run: Campaign) -> list[Violation]:
    """Output on the standard error, and events of failures in the log."""
    texts = [instance.errors() for instance in (*run.instances, *run.edges)]
    texts += [
        str(line)
        for instance in run.instances
        for line in instance.lines()
        if "failed" in str(line.get("event"))
    ]
    return [Violation(f"an instance failed: {output[-2000:]}", ()) for output in texts if output]


def rows(run: Campaign, violations: list[Violation]) -> list[str]:
    """A row of the table for each kind of fault; every row has the number of all violations."""
    plan, records = run.plan, run.history
    acknowledged = sum(isinstance(record, Revoked) and record.status == 200 for record in records)
    cutoffs = [
        record for record in records if isinstance(record, history.Cutoff) and record.finding == "cutoff"
    ]
    texts = []
    faults = [record for record in records if isinstance(record, Fault)]
    for name in dict.fromkeys(fault.name for fault in faults):
        these = [fault for fault in faults if fault.name == name]
        silent = [outage(records, Introspected, fault.start, fault.recovered) for fault in these]
        deaf = [outage(records, Revoked, fault.start, fault.recovered) for fault in these]
        late = [history.after_promotion(records, fault) for fault in these if fault.promoted is not None]
        cut = sum(
            any(fault.start <= cutoff.found <= fault.recovered for cutoff in cutoffs) for fault in these
        )
        texts.append(
            f"| {plan.topology} | {name} | {plan.wait_replicas} of {plan.replicas} | {plan.data_loss} "
            f"| {len(these)} | {acknowledged} | {len(violations)} | {_spread(silent)} "
            f"| {_spread(late) if late else '–'} | {_spread(deaf)} | {cut} |"
        )
    return texts


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({max(seconds):.2f} s)"


def argument_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults:\n"
        + "\n".join(
            f"  {name:17} {deed.says}\n{'':20}({', '.join(sorted(deed.topologies))})"
            for name, deed in nemesis.DEEDS.items()
        ),
    )
    parser.add_argument("--topology", choices=nemesis.ALL, default="single")
    parser.add_argument("--nemesis", help="faults, separated by commas (default: all that can happen there)")
    parser.add_argument("--seconds", type=float, default=60, help="for which to go on (default 60)")
    parser.add_argument(
        "--count", type=int, default=0, help="commit each fault so often, instead of --seconds"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of all that is chosen at random")
    parser.add_argument("--replicas", type=int, default=1, help="of each primary (default 1)")
    parser.add_argument("--wait-replicas", type=int, help="the setting (default: 1 where there are replicas)")
    parser.add_argument("--data-loss", choices=("cutoff", "refuse", "ignore"), default="cutoff")
    parser.add_argument("--repair-seconds", type=float, default=3, help="the setting (default 3)")
    parser.add_argument("--instances", type=int, default=2, help="of the service (default 2)")
    parser.add_argument("--edges", type=int, default=0, help="that follow the service (default 0)")
    parser.add_argument("--mutant", default="", help="break the service so (tests/faults/mutants.py)")
    parser.add_argument(
        "--table",
        action="store_true",
        help="cause what operators plan for under load, --count times each, and print it",
    )
    parser.add_argument(
        "--load",
        default="500,2000",
        help="of --table: revocations and introspections a second (default 500,2000)",
    )
    parser.add_argument("--rows", default="", help="of --table: their numbers from 0 on, separated by commas")
    return parser


def main() -> int:
    parser = argument_parser()
    asked = parser.parse_args()
    if asked.table:
        chosen = [int(row) for row in asked.rows.split(",") if row]
        rates = Rates(*map(int, asked.load.split(",")))
        return table.measure(asked.count or 3, asked.seed, chosen, rates, carry_out)
    possible = nemesis.possible(asked.topology, edges=asked.edges > 0)
    deeds = asked.nemesis.split(",") if asked.nemesis else possible
    if unknown := set(deeds) - set(possible):
        parser.error(f"--nemesis: not on a {asked.topology} topology: {', '.join(sorted(unknown))}")
    alone = asked.topology == "single"
    plan = Plan(
        topology=asked.topology,
        replicas=0 if alone else asked.replicas,
        wait_replicas=(0 if alone else 1) if asked.wait_replicas is None else asked.wait_replicas,
        data_loss=asked.data_loss,
        repair_seconds=asked.repair_seconds,
        instances=asked.instances,
        seed=asked.seed,
        mutant=asked.mutant,
        edges=asked.edges,
    )
    print(f"seed {plan.seed}")
    folder = Path(tempfile.mkdtemp(prefix="revoker-faults-"))
    with Network() as network:
        run = Campaign(plan, network, folder)
        try:
            run.start()
            violations = asyncio.run(carry_out(run, deeds, seconds=asked.seconds, count=asked.count))
        finally:
            run.stop()
    print(HEAD, *rows(run, violations), sep="\n")
    for violation in violations[:10]:
        print(violation)
    if violations:
        history.write(run.history, folder / "history.ndjson")
        history.write(run.edge_history, folder / "edges.ndjson")
        print(f"{len(violations)} violations; seed {plan.seed}; all files are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
