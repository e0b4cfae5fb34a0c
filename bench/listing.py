"""How long pages of ``GET /revocations`` take, and what paging costs introspections."""

import contextlib
import itertools
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection

from bench.bench import Bench
from bench.material import ISSUER, SESSIONS_ISSUER
from bench.report import Section, Target, table
from bench.servers import Server
from bench.store_size import fill

_JOURNALED = 2_000
_PAGES = 1_000
"""Of each list, at most."""

_PERSON_S = 0.5
"""Between two pages that a person looks at: few look so briefly."""

_PAIRS = 25
_RUN_S = 1.0
"""Runs with and without paging take turns: how many of each, and how long one is."""

_ITEMS = re.compile(rb'\{"(?:kind|sid)":').findall
_NEXT = re.compile(rb'"next":"([^"]*)"\}\Z').search

_REVOCATIONS = (
    "/revocations?limit=100",
    "/revocations?kind=jti&limit=500",
    "/revocations?kind=user",
    f"/revocations?iss={urllib.parse.quote(ISSUER, '')}&limit=10",
)
_SUB = "user-1"
_SESSIONS = 10_000
_ISS_OF_SESSIONS = urllib.parse.quote(SESSIONS_ISSUER, "")
_OF_A_USER = (
    f"/users/{_SUB}?iss={_ISS_OF_SESSIONS}&limit=100",
    f"/users/{_SUB}?iss={_ISS_OF_SESSIONS}&limit=500",
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
    logged_in = bench.servers.revoker(bench.servers.store(), sessions="ES256")
    _begin_sessions(bench, logged_in)
    for server, path in (
        *((service, path) for path in _REVOCATIONS),
        *((logged_in, path) for path in _OF_A_USER),
    ):
        paged = _page(bench, server, path, ends=lambda: False)
        worst = max(worst, paged.percentile(99))
        rows.append(
            (
                f"`{path}`",
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
    heads = ("list", "pages", "revocations or sessions", "p50 ms", "p99 ms", "max ms", "CPU ms a page")
    text = (
        f"{bench.jtis:,} revocations, of which the journal has {_JOURNALED:,}, and "
        f"{_SESSIONS:,} sessions of one user at another service; one page after the other.\n\n"
        f"{table(heads, rows)}\n\nThe memory of the service has grown by {grown:.1f} MB meanwhile. While "
        f"somebody reads a page of 100 every {_PERSON_S:g} s, p99 of introspections on one connection is "
        f"{slower:.2f} times ({by_person[0]:.2f} to {by_person[-1]:.2f}) that without; while a program "
        f"pages without a pause, {ratios[len(ratios) // 2]:.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f}). "
        f"{_PAIRS} seconds of each take turns; a client in Python makes these requests, not the load "
        "generator."
    )
    targets = [
        Target("p99 of a page, ms", "at most 100", f"{worst:.1f}", worst <= 100),
        Target(
            "introspection p99 while somebody pages ÷ without",
            "at most 1.2",
            f"{slower:.2f}",
            slower <= 1.2,
            "a page is made in pieces of a tenth of a millisecond, with a pause after each. A request that "
            "meets one waits for it.",
        ),
    ]
    return Section("Lists", text, targets)


def _begin_sessions(bench: Bench, service: Server) -> None:
    parts = urllib.parse.urlsplit(service.url)
    login = json.dumps({"sub": _SUB, "client_id": "web", "device": "phone"})
    headers = {"Authorization": bench.material.authorization, "Content-Type": "application/json"}
    with contextlib.closing(HTTPConnection(parts.hostname or "", parts.port, timeout=10)) as connection:
        for _ in range(_SESSIONS):
            connection.request("POST", "/sessions", login, headers)
            response = connection.getresponse()
            text = response.read()
            assert response.status == 201, text


def _page(bench: Bench, service: Server, path: str, *, ends: Callable[[], bool]) -> _Paged:
    """Fetch a list on one connection, as a browser does.

    The pages are not parsed: the client shares a core with the store. ``ends`` is asked after every page.
    """
    headers = {"Authorization": bench.material.authorization}
    cursor, listed, cpu = None, 0, service.process.cpu_seconds()
    took: list[float] = []
    parts = urllib.parse.urlsplit(service.url)
    with contextlib.closing(HTTPConnection(parts.hostname or "", parts.port, timeout=10)) as connection:
        while len(took) < _PAGES:
            target = path if cursor is None else f"{path}&cursor={urllib.parse.quote(cursor, '')}"
            began = time.perf_counter()
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            text = response.read()
            took.append((time.perf_counter() - began) * 1000)
            assert response.status == 200, text
            listed += len(_ITEMS(text))
            found = _NEXT(text)
            cursor = found[1].decode() if found else None
            if cursor is None or ends():
                break
    cpu = (service.process.cpu_seconds() - cpu) * 1000 / len(took)
    return _Paged(sorted(took), listed, cpu)


def _slower(bench: Bench, service: Server, *, pause_s: float) -> float:
    """p99 of introspections while somebody pages, divided by that without.

    Runs take turns on one connection, because p99 of a shared machine doubles from one minute to another.
    This process makes the requests: by ``wrk``, which is started for each run, the ratio was a tenth higher.
    """
    took: dict[bool, list[float]] = {False: [], True: []}
    with (
        _somebody_paging(bench, service, pause_s) as pages,
        contextlib.closing(_Introspections(bench, service)) as introspections,
    ):
        introspections.run(_RUN_S)
        for number in range(_PAIRS):
            for paging in (False, True) if number % 2 else (True, False):
                pages.set() if paging else pages.clear()
                took[paging] += introspections.run(_RUN_S)
    undisturbed, disturbed = (sorted(took[paging])[len(took[paging]) * 99 // 100] for paging in (False, True))
    return disturbed / undisturbed


class _Introspections:
    """Introspections on one connection, one after the other, at the least cost for the client."""

    def __init__(self, bench: Bench, service: Server) -> None:
        parts = urllib.parse.urlsplit(service.url)
        claims = bench.material.claims_form()
        self._requests = itertools.cycle(
            (
                f"POST {claims.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(body)}\r\n"
                f"Content-Type: {claims.content_type}\r\nAuthorization: {claims.authorization}\r\n\r\n"
            ).encode()
            + body
            for body in claims.bodies.read_bytes().split(b"\n")
            if body
        )
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self, seconds: float) -> list[float]:
        """How long each took, in seconds."""
        took: list[float] = []
        clock, send, receive = time.perf_counter, self._socket.sendall, self._socket.recv
        end = clock() + seconds
        for request in self._requests:
            began = clock()
            send(request)
            answer = receive(4096)
            while not answer.endswith(b"}"):
                answer += receive(4096)
            now = clock()
            assert b'"active":true' in answer, answer
            took.append(now - began)
            if now > end:
                break
        return took

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def _somebody_paging(bench: Bench, service: Server, pause_s: float) -> Iterator[threading.Event]:
    """Go through a list again and again while the event is set."""
    pages, ended = threading.Event(), threading.Event()

    def ends() -> bool:
        ended.wait(pause_s)
        pages.wait()
        return ended.is_set()

    def page() -> None:
        while not ends():
            _page(bench, service, _REVOCATIONS[0], ends=ends)

    pager = threading.Thread(target=page)
    pager.start()
    try:
        yield pages
    finally:
        ended.set()
        pages.set()
        pager.join()
