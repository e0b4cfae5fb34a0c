"""Introspection without traces, and with them: all requests recorded, one in a hundred, none."""

from typing import Final

from bench.bench import Bench
from bench.report import Section, figure, table
from bench.rounds import Subject, measure
from tests.rig.servers import free_port

_OFF: Final = "off"
_SAMPLERS: Final = {
    "all recorded": {},
    "1 % recorded": {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
    "none recorded": {"OTEL_TRACES_SAMPLER": "always_off"},
}


def run(bench: Bench) -> Section:
    """Each in a process of its own, with a receiver that takes all that is exported and drops it."""
    port = free_port()
    bench.servers.start(port, "-m", "bench.otlp_sink", port, cores=bench.servers.cores.others)
    claims = bench.material.claims_form()
    subjects = []
    for name, sampler in {_OFF: None, **_SAMPLERS}.items():
        environ = {}
        if sampler is not None:
            environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", **sampler}
        server = bench.servers.revoker(bench.servers.store(), environ=environ)
        bench.prove_active(server, claims)
        subjects.append(Subject(name, server.url, server.process, claims))
    results = measure(
        subjects, bench.load, rounds=bench.rounds, seconds=bench.seconds, connections=bench.connections
    )
    rows = [
        (
            f"traces: {name}",
            figure(results.rate(name), "{:,.0f}"),
            figure(results.p99(name), "{:.2f}", 1e-3),
            figure(results.cpu(name), "{:.0f}"),
            figure(results.cpu_ratio(name, _OFF), "{:.2f}"),
        )
        for name in results.names
    ]
    heads = ("", "requests/s", "p99 ms", "µs CPU a request", "÷ off")
    return Section("Traces", f"Claims form, {bench.connections} connections.\n\n{table(heads, rows)}")
