"""Measures the steps of a request, in µs and in instructions."""

import shutil
import subprocess
import sys
from itertools import cycle

from bench.bench import Bench
from bench.callgrind import ABREAST, Abreast, Counted, head
from bench.material import BATCH
from bench.report import Section, table
from bench.rounds import Subject, measure
from tests.rig.processes import REPOSITORY
from tests.rig.servers import free_port

_STEPS = {
    "parse": "HTTP: a head that was parsed before",
    "caller": "caller: from the cache of headers",
    "decode": "decode: JSON to claims, duplicate members, issuer",
    "keys": "keys: names of the keys to read",
    "lookup": "share of the lookup: one command and one reply for 64 requests",
    "rules": "rules: the verdict",
    "metrics": "metrics: verdict and duration",
    "answer": "answer: prebuilt bytes",
}
_OF_BARE = ("parse", "answer")
_BATCH_STEPS = {
    "batch read": "read: JSON to a hundred claims, duplicate members",
    "batch issuers": "issuers: the issuer of every token",
    "batch keys": "keys: names of the keys to read",
    "batch lookup": "lookup: one command and its reply for all",
    "batch rules": "rules: the verdicts",
    "batch answer": "answer: joined",
}
_COLD_STEPS = {
    "parse token": "parse: three parts of base64url, two strict JSON objects",
    "verify": "verify: the RS256 signature, with the prepared key",
    "claims of token": "claims: kind, types, audience, and the answer",
    "remember": "remember: an entry in a full cache",
}
_REFRESH_STEPS = {
    "form": "form: strict parsing, and the request",
    "refresh token": "refresh token: parsing and MAC",
    "refresh": "share of script and lookup: 64 requests in one write",
    "mint": "mint: claims as JSON, signed with ES256",
    "successor": "successor: the next refresh token, with its MAC",
}
_OTHERWISE = "decode otherwise"
STEPS = (*_STEPS, _OTHERWISE, *_BATCH_STEPS, *_COLD_STEPS, *_REFRESH_STEPS)
_TIMES = dict.fromkeys((*_STEPS, _OTHERWISE), 20_000) | dict.fromkeys(_BATCH_STEPS, 200)
_COUNTS = dict.fromkeys((*_STEPS, _OTHERWISE), (3_000, 6_400)) | dict.fromkeys(_BATCH_STEPS, (4, 32))
"""Runs before the count, and runs that are counted."""

_TEXT = (
    "Each step runs alone, with the real parts and the claims of 2,000 users in turn. µs are CPU time; "
    "callgrind counts the instructions, without those of the kernel. The *bare server* has Revoker's "
    "connections and prebuilt answers, without router and middleware, and does nothing between body and "
    "answer. Its cost beyond parsing and answering is aiohttp's connection and request, uvloop and the "
    "kernel. *Left over* is the difference between a whole request and the sum of its steps: cold caches, "
    "and the coroutines and futures between steps. No log line is written on this path."
)

_ORDER_TEXT = (
    "The claims have their members in the order of the API, without spaces. With another order and with "
    "spaces, decoding takes {:.1f} µs more."
)
_BATCH_TEXT = (
    "The cost of one token in a batch of a hundred claims, without the share of the bare server's cost for "
    "so long a body:"
)
_COLD_TEXT = "The additional cost of a token that was not seen before:"
_REFRESH_TEXT = (
    "The cost of a refresh, without that of the bare server. Nearly all of *mint* is signing by OpenSSL. "
    "Under callgrind, OpenSSL runs without the processor's extensions for it."
)
_HEADS = ("step", "µs", "instructions")


def run(bench: Bench) -> Section:
    """Measures whole servers under load and under callgrind, and the steps in a separate process."""
    workload = bench.material.claims_form()
    store = bench.servers.store()
    servers = {
        "floor": bench.servers.floor(),
        "bare": bench.servers.bare(),
        "claims": bench.servers.revoker(store),
    }
    subjects = [Subject(name, server.url, server.process, workload) for name, server in servers.items()]
    load = {"rounds": bench.rounds, "seconds": bench.seconds, "connections": bench.connections}
    results = measure(subjects, bench.load, **load)  # type: ignore[arg-type]
    whole = {name: results.cpu(name).median for name in servers}
    config = bench.servers.write_configuration(store, timeout=30, sessions="ES256")
    tokens = bench.material.cold_tokens()
    arguments = (str(config), str(workload.bodies), str(tokens.bodies), workload.authorization)
    steps = _times(bench, arguments)
    counts: dict[str, float] = {}
    whole_counts: dict[str, float] = {}
    if shutil.which("valgrind"):
        counts, whole_counts = _counts(bench, arguments)
    rows = [(words, *_figures(steps[name], counts.get(name))) for name, words in _STEPS.items()]

    def rest(of: dict[str, float], whole: dict[str, float]) -> tuple[float | None, float | None]:
        if not of:
            return None, None
        around = whole["bare"] - sum(of[name] for name in _OF_BARE)
        return around, whole["claims"] - around - sum(of[name] for name in _STEPS)

    around, left = zip(rest(steps, whole), rest(counts, whole_counts), strict=True)
    rows.insert(
        1, ("the rest of the bare server: connection, request, event loop, sockets", *_figures(*around))
    )
    rows.append(("left over", *_figures(*left)))
    rows += [
        (f"**{words}**", *_figures(whole[name], whole_counts.get(name)))
        for name, words in (
            ("claims", "one claims-form request"),
            ("bare", "the bare server"),
            ("floor", "the floor"),
        )
    ]
    texts = [f"{_TEXT}\n\n{table(_HEADS, rows)}\n\n{_ORDER_TEXT.format(steps[_OTHERWISE] - steps['decode'])}"]
    for name in _BATCH_STEPS:
        for of in (steps, counts):
            if name in of:
                of[name] /= BATCH
    for text, names in (
        (_BATCH_TEXT, _BATCH_STEPS),
        (_COLD_TEXT, _COLD_STEPS),
        (_REFRESH_TEXT, _REFRESH_STEPS),
    ):
        rows = [(words, *_figures(steps[name], counts.get(name))) for name, words in names.items()]
        sums = (sum(of[name] for name in names) if of else None for of in (steps, counts))
        texts.append(f"{text}\n\n{table(_HEADS, [*rows, ('**together**', *_figures(*sums))])}")
    return Section("Where the time goes", "\n\n".join(texts))


def _figures(micros: float | None, instructions: float | None) -> tuple[str, str]:
    return (
        "" if micros is None else f"{micros:.1f}",
        "" if instructions is None else f"{instructions:,.0f}",
    )


def _times(bench: Bench, arguments: tuple[str, ...]) -> dict[str, float]:
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.steps", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    while (line := child.stdout.readline()) != "ready\n":
        if not line:
            raise RuntimeError("bench.steps has ended")
    found: dict[str, list[float]] = {name: [] for name in STEPS}
    for _ in range(max(3, bench.rounds)):
        for name, micros in found.items():
            child.stdin.write(f"{name} {_TIMES.get(name, 5_000)}\n")
            child.stdin.flush()
            micros.append(float(child.stdout.readline()))
    child.stdin.close()
    child.wait(30)
    return {name: min(micros) for name, micros in found.items()}


def _counts(bench: Bench, arguments: tuple[str, ...]) -> tuple[dict[str, float], dict[str, float]]:
    stack, folder = bench.servers.stack, bench.material.folder
    steps = Counted(stack, folder, "steps", "bench.steps", *arguments)
    while (line := steps.say("")) != "ready":
        if not line.startswith("{"):
            raise RuntimeError("bench.steps has ended")
    nothing = steps.count(lambda _: steps.say("caller 0"), 1, 1)
    by_step = {}
    for name in STEPS:
        times = lambda count, name=name: steps.say(f"{name} {count}")  # noqa: E731
        warm, counted = _COUNTS.get(name, (64, 640))
        by_step[name] = (steps.count(times, warm, counted) * counted - nothing) / counted
    port = free_port()
    config = bench.servers.write_configuration(bench.servers.store(), port=port, timeout=30)
    commands = {
        "floor": ["bench.floor", str(free_port())],
        "bare": ["bench.bare", str(free_port())],
        "claims": ["bench.quiet", "serve", "--config", str(config)],
    }
    whole = {}
    for name, command in commands.items():
        at = port if name == "claims" else int(command[1])
        server = Counted(stack, folder, name, *command)
        server.await_answer(f"http://127.0.0.1:{at}")
        workload = bench.material.claims_form()
        bodies = cycle(workload.bodies.read_bytes().split(b"\n"))
        begin = head(workload.path, "application/json", workload.authorization)
        abreast = Abreast(stack, server, at, [bodies] * ABREAST, begin)
        whole[name] = server.count(abreast.rounds, 140, 40) / ABREAST
    return by_step, whole
