"""How fast ``revoker import`` revokes tokens, ``revoker export`` reads them back, and in how much memory."""

import json
import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from bench.bench import Bench
from bench.material import ISSUER
from bench.report import Section, Target, figure, table
from bench.rounds import Spread
from tests.rig.cpu import inherited_affinity
from tests.rig.processes import REPOSITORY

_FEW, _MANY = 10_000, 1_000_000


@dataclass(frozen=True)
class _Command:
    """One command that has ended; ``memory`` is its greatest, in MiB."""

    seconds: float
    cpu: float
    memory: float


def run(bench: Bench) -> Section:
    """Subtracts the time for few lines from that for many, to exclude the start of the program."""
    lines = min(bench.jtis, _MANY)
    few, many = (_tokens(bench.material.folder / f"{count}.ndjson", count) for count in (_FEW, lines))
    imports, exports, memory, cpu, of_store = [], [], [], [], []
    for turn in range(bench.rounds):
        store = bench.servers.store()
        config = bench.servers.write_configuration(store)
        less = _run(bench, config, "import", few)
        before = store.cpu_seconds()
        more = _run(bench, config, "import", many)
        of_store.append((store.cpu_seconds() - before) / lines * 1e6)
        imports.append((lines - _FEW) / (more.seconds - less.seconds))
        cpu.append((more.cpu - less.cpu) / (lines - _FEW) * 1e6)
        memory.append(more.memory - less.memory)
        began = _run(bench, config, "store", "check", fails=True)
        out = _run(bench, config, "export", "--output", bench.material.folder / f"out-{turn}")
        exports.append((lines + _FEW) / (out.seconds - began.seconds))
    rate, grown = Spread.of(imports), Spread.of(memory)
    rows = [
        ("`revoker import`, lines a second", figure(rate, "{:,.0f}")),
        ("`revoker import`, µs CPU of the command a line", figure(Spread.of(cpu), "{:.1f}")),
        ("`revoker import`, µs CPU of the store a line", figure(Spread.of(of_store), "{:.1f}")),
        (
            f"`revoker import`, memory with {lines:,} lines minus that with {_FEW:,}, MiB",
            figure(grown, "{:.1f}"),
        ),
        ("`revoker export`, lines a second", figure(Spread.of(exports), "{:,.0f}")),
    ]
    text = (
        f"Import of {lines:,} jtis into a separate Valkey with an append-only file, then export, "
        f"{bench.rounds} times. The command has a core of its own.\n\n" + table(("", ""), rows)
    )
    targets = [
        Target("import, jtis a second", "at least 50,000", figure(rate, "{:,.0f}"), rate.median >= 50_000),
        Target(
            "growth of the importing process, MiB", "at most 5", figure(grown, "{:.1f}"), grown.median <= 5
        ),
    ]
    return Section("Export and import", text, targets)


def _tokens(file: Path, count: int) -> Path:
    exp = int(time.time()) + 86_400
    with file.open("w") as output:
        for _ in range(count):
            line = {"kind": "jti", "iss": ISSUER, "jti": str(uuid.uuid4()), "exp": exp}
            output.write(f"{json.dumps(line)}\n")
    return file


def _run(bench: Bench, config: Path, *arguments: object, fails: bool = False) -> _Command:
    began = time.perf_counter()
    with inherited_affinity(bench.servers.cores.server):
        child = subprocess.Popen(
            [sys.executable, "-m", "revoker", *map(str, arguments), "--config", str(config)],
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    assert child.stderr is not None
    errors = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    if status and not fails:
        raise RuntimeError(errors.decode(errors="replace"))
    return _Command(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
