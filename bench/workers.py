"""What a second process costs: CPU for each request with two workers and with one."""

from bench.bench import Bench
from bench.report import Section, Target, figure, table
from bench.rounds import Subject, measure

_COUNTS = (1, 2)


def run(bench: Bench) -> Section:
    """Both on the same cores, with the load generator beside them."""
    claims = bench.material.claims_form()
    store = bench.servers.store()
    cores = bench.servers.cores.server | bench.servers.cores.others
    subjects = []
    for count in _COUNTS:
        revoker = bench.servers.revoker(store, workers=count, cores=cores)
        bench.prove_active(revoker, claims)
        subjects.append(Subject(f"{count} workers", revoker.url, revoker.process, claims))
    results = measure(
        subjects,
        bench.load,
        rounds=bench.rounds,
        seconds=bench.seconds,
        connections=bench.connections,
    )
    one, two = (subject.name for subject in subjects)
    ratio = results.cpu_ratio(two, one)
    rows = [
        (str(count), figure(results.rate(name), "{:,.0f}"), figure(results.cpu(name), "{:.0f}"))
        for count, name in zip(_COUNTS, (one, two), strict=True)
    ]
    text = (
        f"Claims form, one store, all {len(cores)} cores for service, store and load generator together: "
        "compared is the CPU of the service.\n\n" + table(("workers", "requests/s", "µs CPU a request"), rows)
    )
    target = Target(
        "CPU a request with 2 workers ÷ with 1", "at most 1.15", figure(ratio, "{:.2f}"), ratio.median <= 1.15
    )
    return Section("Workers", text, [target])
