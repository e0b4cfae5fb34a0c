"""``python -m bench``: measure, print, and write ``docs/performance.md``."""

import argparse
import shlex
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import (
    edge,
    ext_authz,
    feed_cost,
    importing,
    journal,
    latency,
    listing,
    overload,
    peers,
    profile,
    sessions,
    store_size,
    throughput,
    tracing,
    workers,
)
from bench.bench import Bench
from bench.load import Load
from bench.material import Material
from bench.report import Section, document
from bench.servers import Servers
from tests.rig.cpu import Cores
from tests.rig.processes import REPOSITORY

SECTIONS = {
    "latency": latency.run,
    "workers": workers.run,
    "overload": overload.run,
    "ext_authz": ext_authz.run,
    "tracing": tracing.run,
    "edge": edge.run,
    "profile": profile.run,
    "store-size": store_size.run,
    "sessions": sessions.run,
    "import": importing.run,
    "journal": journal.run,
    "feed": feed_cost.run,
    "listing": listing.run,
    "peers": peers.run,
}
CHOICES = (*throughput.SUBJECTS, *SECTIONS)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default 7)")
    parser.add_argument("--seconds", type=float, default=4, help="duration of each run (default 4)")
    parser.add_argument(
        "--connections", type=int, default=64, help="connections of the load generator (default 64)"
    )
    parser.add_argument(
        "--jtis", type=int, default=1_000_000, help="revoked tokens in the full store (default 1000000)"
    )
    parser.add_argument(
        "--only", help=f"some of: {', '.join(CHOICES)}; prints, and writes only with --output"
    )
    parser.add_argument("--output", type=Path, help="the file to write (default docs/performance.md)")
    chosen = parser.parse_args()
    present = set(CHOICES) if peers.installed() else set(CHOICES) - {"peers"}
    chosen.selected = set(chosen.only.split(",")) if chosen.only else present
    if unknown := chosen.selected - set(CHOICES):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}")
    return chosen


def main() -> None:
    options = arguments()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        cores = Cores.of_this_machine()
        material = Material(folder)
        bench = Bench(
            servers=Servers(stack, folder, cores, material),
            material=material,
            load=Load(cores.others),
            rounds=options.rounds,
            seconds=options.seconds,
            connections=options.connections,
            jtis=options.jtis,
        )
        sections = measured(bench, options.selected)
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    page = document(sections, command=command, generator=bench.load.generator)
    print(f"\n{page}")
    output = options.output or (None if options.only else REPOSITORY / "docs" / "performance.md")
    if output:
        output.write_text(page)


def measured(bench: Bench, selected: set[str]) -> list[Section]:
    sections = []
    if selected & set(throughput.SUBJECTS):
        sections.append(throughput.run(bench, selected))
    sections += [run(bench) for name, run in SECTIONS.items() if name in selected]
    return sections


if __name__ == "__main__":
    main()
