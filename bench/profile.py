"""Where the time of a request goes, step by step, in µs and in instructions."""

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
    "parse": "HTTP: aiohttp's parser, in C",
    "caller": "caller: the header that was seen before",
    "decode": "decode: JSON to claims, no member twice, issuer",
    "keys": "keys: what is to be read",
    "lookup": "share of the lookup: 64 leave as one command, and one read brings what is answered",
    "rules": "rules: the verdict",
    "metrics": "metrics: verdict and duration",
    "answer": "answer: prepared bytes",
}
_OF_BARE = ("parse", "answer")
_BATCH_STEPS = {
    "batch read": "read: JSON to a hundred claims, no member twice",
    "batch issuers": "issuers: whose token each is",
    "batch keys": "keys: what is to be read",
    "batch lookup": "lookup: all as one command, and what it answers",
    "batch rules": "rules: the verdicts",
    "batch answer": "answer: put together",
}
_COLD_STEPS = {
    "parse token": "parse: three parts of base64url, two strict JSON objects",
    "verify": "verify: the RS256 signature, with the prepared key",
    "claims of token": "claims: kind, types, audience, and the answer to be given",
    "remember": "remember: until the cache has no more room",
}
_REFRESH_STEPS = {
    "form": "form: strictly read, and turned into what is asked",
    "refresh token": "refresh token: taken apart, its MAC checked",
    "refresh": "script and lookup: 64 asked together, packed, sent, and what they answer read",
    "mint": "mint: claims as JSON, signed with ES256",
    "successor": "successor: the next refresh token, with its MAC",
}
_OTHERWISE = "decode otherwise"
STEPS = (*_STEPS, _OTHERWISE, *_BATCH_STEPS, *_COLD_STEPS, *_REFRESH_STEPS)
_TIMES = dict.fromkeys((*_STEPS, _OTHERWISE), 20_000) | dict.fromkeys(_BATCH_STEPS, 200)
_COUNTS = dict.fromkeys((*_STEPS, _OTHERWISE), (3_000, 6_400)) | dict.fromkeys(_BATCH_STEPS, (4, 32))
"""So often before the counting, and so often while it lasts."""

_TEXT = (
    "Each step by itself, with the real parts and 2,000 users' claims in turn; µs are those of the CPU, "
    "instructions are counted by callgrind. The *bare server* is Revoker's own way in (its connections, past "
    "router and middleware, an answer of prepared bytes) with nothing from reading the body to answering; "
    "what it costs beyond parsing and answering is aiohttp's connection and request, uvloop and the kernel "
    "(which callgrind does not see). What is left over is what steps cost each other: caches that are cold, "
    "coroutines and futures between them. There is no log line on this path."
)

_ORDER_TEXT = (
    "The claims come as Revoker would write them: the members in the order of the contract, with nothing "
    "between them. In another order and with spaces decoding takes {:.1f} µs more."
)
_BATCH_TEXT = (
    "One token in a batch of a hundred claims takes, beside a hundredth of what the bare server does with so "
    "long a body:"
)
_COLD_TEXT = "A token that was not seen before takes, beyond a warm one:"
_REFRESH_TEXT = (
    "A refresh takes, beside what the bare server does. Signing is nearly all of *mint*, and OpenSSL's own; "
    "under callgrind it runs without the processor's extensions for it."
)
_HEADS = ("step", "µs", "instructions")


def run(bench: Bench) -> Section:
    """Servers as a whole, under load for µs and under callgrind; the steps in a process of their own."""
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
        abreast = Abreast(stack, at, [bodies] * ABREAST, begin)
        whole[name] = server.count(abreast.rounds, 140, 40) / ABREAST
    return by_step, whole
