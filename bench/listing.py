"""How long pages of ``GET /revocations`` take, and what paging costs introspections."""

import contextlib
import re
import statistics
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from bench.bench import Bench
from bench.material import ISSUER
from bench.report import Section, Target, table
from bench.servers import Server
from bench.store_size import fill

_JOURNALED = 2_000
_PAGES = 1_000
"""Of each list, at most."""

_PERSON_S = 0.5
"""Between two pages that a person looks at: few look so briefly."""

_TURNS = 9
_TURN_S = 2.0
"""Runs with and without paging take turns: how often, and how long each is."""

_NEXT = re.compile(rb'"next":"([^"]*)"\}\Z').search

_LISTS: tuple[dict[str, Any], ...] = (
    {"limit": 100},
    {"kind": "jti", "limit": 500},
    {"kind": "user"},
    {"iss": ISSUER, "limit": 10},
)


@dataclass(frozen=True)
class _Paged:
    """Pages of one list that were fetched one after the other; times in ms, ascending; CPU of the service."""

    took: list[float]
    listed: int
    cpu: float

    def percentile(self, percent: int) -> float:
        return self.took[len(self.took) * percent // 100]


def run(bench: Bench) -> Section:
    """One service with a full store; its client is another process."""
    store = bench.servers.store()
    service = bench.servers.revoker(store)
    bench.revoke_one(service)
    fill(store, bench.jtis - _JOURNALED)
    for _ in range(_JOURNALED - 1):
        bench.revoke_one(service)
    before = service.process.resident_bytes()
    rows, worst = [], 0.0
    for query in _LISTS:
        paged = _page(bench, service, query, threading.Event())
        worst = max(worst, paged.percentile(99))
        rows.append(
            (
                f"`{urllib.parse.urlencode(query)}`",
                f"{len(paged.took):,}",
                f"{paged.listed:,}",
                *(
                    f"{ms:.1f}"
                    for ms in (paged.percentile(50), paged.percentile(99), paged.took[-1], paged.cpu)
                ),
            )
        )
    grown = (service.process.resident_bytes() - before) / 1e6
    ratios = sorted(_slower(bench, service, pause_s=0) for _ in range(bench.rounds))
    by_person = sorted(_slower(bench, service, pause_s=_PERSON_S) for _ in range(bench.rounds))
    slower = by_person[len(by_person) // 2]
    heads = ("list", "pages", "revocations", "p50 ms", "p99 ms", "max ms", "CPU ms a page")
    text = (
        f"{bench.jtis:,} revocations, of which the journal has {_JOURNALED:,}; one page after the other.\n\n"
        f"{table(heads, rows)}\n\nThe memory of the service has grown by {grown:.1f} MB meanwhile. While "
        f"somebody reads a page of 100 every {_PERSON_S:g} s, p99 of introspections on one connection is "
        f"{slower:.2f} times ({by_person[0]:.2f} to {by_person[-1]:.2f}) that of before; while a program "
        f"pages without a pause, {ratios[len(ratios) // 2]:.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})."
    )
    targets = [
        Target("p99 of a page, ms", "at most 100", f"{worst:.1f}", worst <= 100),
        Target(
            "introspection p99 while somebody pages ÷ before",
            "at most 1.2",
            f"{slower:.2f}",
            slower <= 1.2,
            "a page is made in pieces of a tenth of a millisecond, with a pause after each. A request that "
            "meets one waits for it.",
        ),
    ]
    return Section("Lists", text, targets)


def _page(
    bench: Bench, service: Server, query: dict[str, Any], ends: threading.Event, *, pause_s: float = 0
) -> _Paged:
    """Fetch a list on one connection, as a browser does.

    The pages are not parsed: the client shares a core with the store and the load generator.
    """
    headers = {"Authorization": bench.material.authorization}
    cursor, listed, cpu = None, 0, service.process.cpu_seconds()
    took: list[float] = []
    parts = urllib.parse.urlsplit(service.url)
    with contextlib.closing(HTTPConnection(parts.hostname or "", parts.port, timeout=10)) as connection:
        while len(took) < _PAGES and not ends.is_set():
            given = query if cursor is None else {**query, "cursor": cursor}
            began = time.perf_counter()
            connection.request("GET", f"/revocations?{urllib.parse.urlencode(given)}", headers=headers)
            response = connection.getresponse()
            text = response.read()
            took.append((time.perf_counter() - began) * 1000)
            assert response.status == 200, text
            listed += text.count(b'{"kind":')
            found = _NEXT(text)
            cursor = found[1].decode() if found else None
            if cursor is None or ends.wait(pause_s):
                break
    cpu = (service.process.cpu_seconds() - cpu) * 1000 / len(took)
    return _Paged(sorted(took), listed, cpu)


def _slower(bench: Bench, service: Server, *, pause_s: float) -> float:
    """p99 of introspections while somebody pages, divided by that without.

    Both are medians of short runs that take turns: on a shared machine, p99 of one run is half of that of
    another, with nothing else in between.
    """
    claims = bench.material.claims_form()
    found: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(_TURNS):
        for paging, p99s in found.items():
            with _somebody_paging(bench, service, pause_s) if paging else contextlib.nullcontext():
                run = bench.load.run(service.url, claims, connections=1, seconds=_TURN_S)
            p99s.append(run.p99)
    return statistics.median(found[True]) / statistics.median(found[False])


@contextlib.contextmanager
def _somebody_paging(bench: Bench, service: Server, pause_s: float) -> Iterator[None]:
    ends = threading.Event()

    def page() -> None:
        while not ends.is_set():
            _page(bench, service, _LISTS[0], ends, pause_s=pause_s)

    pager = threading.Thread(target=page)
    pager.start()
    try:
        yield
    finally:
        ends.set()
        pager.join()
