"""What a second process costs: CPU for each request with two workers and with one."""

from bench.bench import Bench
from bench.report import Section, Target, figure, table
from bench.rounds import Subject, measure
from tests.rig.processes import Process
from tests.rig.servers import free_port

_COUNTS = (1, 2)


class _Together:
    """Processes that count as one."""

    def __init__(self, *processes: Process) -> None:
        self._processes = processes

    def cpu_seconds(self) -> float:
        return sum(process.cpu_seconds() for process in self._processes)


def run(bench: Bench) -> Section:
    """Service and floor, all on the same cores, with the load generator beside them."""
    claims = bench.material.claims_form()
    store = bench.servers.store()
    cores = bench.servers.cores.server | bench.servers.cores.others
    subjects = []
    for count in _COUNTS:
        port = free_port()
        floors = [bench.servers.floor(port, cores) for _ in range(count)]
        process = _Together(*(floor.process for floor in floors))
        subjects.append(Subject(f"floor {count}", floors[0].url, process, claims))
        revoker = bench.servers.revoker(store, workers=count, cores=cores)
        bench.prove_active(revoker, claims)
        subjects.append(Subject(f"claims {count}", revoker.url, revoker.process, claims))
    results = measure(
        subjects,
        bench.load,
        rounds=bench.rounds,
        seconds=bench.seconds,
        connections=bench.connections,
    )
    ratio = results.cpu_ratio("claims 2", "claims 1")
    of_floor = results.cpu_ratio("floor 2", "floor 1")
    rows = [
        (words, str(count), figure(results.rate(name), "{:,.0f}"), figure(results.cpu(name), "{:.0f}"))
        for key, words in (("floor", "floor"), ("claims", "claims form"))
        for count in _COUNTS
        for name in [f"{key} {count}"]
    ]
    text = (
        f"One store. Service, store and load generator share all {len(cores)} cores; the table compares the "
        "CPU time of the service. Two processes of the floor share nothing but the processors. They need "
        f"{figure(of_floor, '{:.2f}')} times the CPU time a request of one process.\n\n"
        + table(("", "processes", "requests/s", "µs CPU a request"), rows)
    )
    target = Target(
        "CPU a request with 2 workers ÷ with 1",
        "at most 1.15",
        figure(ratio, "{:.2f}"),
        ratio.median <= 1.15,
        "two processes of the floor, which share nothing, also need more (see the table). Each of two "
        "workers sends half as many lookups in one command.",
    )
    return Section("Workers", text, [target])
