"""What attackers send so that a gateway lets them through, and what Revoker may answer to it."""

import asyncio
import contextlib
import dataclasses
import itertools
import re
import shlex
import urllib.parse
from itertools import product

import pytest

from tests.gateways.raw_http import RecordingBackend, ScriptedRevoker, answer, bearer, folded, status_of
from tests.rig import forge
from tests.rig.ext_authz import listening
from tests.rig.gateways import ENVOY_GRPC, KINDS, patient, program_of, started
from tests.rig.listener import connected
from tests.rig.servers import free_port
from tests.rig.service import HANGS_S

CLOSED, SCOPED, OPEN, NO_LOGIN = "/orders", "/reports/1", "/public-news/1", "/public/1"
"""A route of each kind: it needs a token, a token with a scope, opens without a verdict, needs no login."""

IDENTITY = {
    "HTTP_X_AUTH_SUBJECT": "alice",
    "HTTP_X_AUTH_SESSION": "session-1",
    "HTTP_X_AUTH_CLIENT": "web",
    "HTTP_X_AUTH_SCOPE": "a b",
}


@contextlib.asynccontextmanager
async def gateway(kind, folder, http, key, revoker_port, *, changed=patient, further_ports=None):
    """A gateway before a backend that records; the value is the gateway's URL and the backend."""
    backend = RecordingBackend()
    await backend.open()
    try:
        ports = {"revoker": revoker_port, "backend": backend.port, "further_ports": further_ports or {}}
        async with started(kind, folder, http, key, **ports, changed=changed) as url:
            yield url, backend
    finally:
        await backend.close()


@pytest.fixture(params=(*KINDS.values(), ENVOY_GRPC), ids=lambda kind: kind.name)
def attacked_kind(request):
    """Every gateway, for tests with a real Revoker.

    Tests that script Revoker's answers take ``kind`` instead. Their answers are HTTP, and most are about a
    route that opens without a verdict. ``envoy-grpc.yaml`` has none: ``OPEN`` needs a token there.
    ``test_envoy_grpc.py`` has what it makes of a call that fails.
    """
    return request.param


@pytest.fixture
def grpc_port():
    return free_port()


@pytest.fixture
async def revoker(start, valkey, grpc_port):
    return await start(valkey, server={"grpc_port": grpc_port})


@pytest.fixture
async def attacked(attacked_kind, revoker, grpc_port, tmp_path):
    """A gateway before a real Revoker, and its backend; Revoker is found by health checks."""
    port = int(revoker.url.rsplit(":", 1)[1])
    running = gateway(
        attacked_kind,
        tmp_path / "gateway",
        revoker.http,
        revoker.key,
        port,
        further_ports={"9191": grpc_port},
    )
    async with listening(revoker), running as (url, backend):
        while await status_of(url, CLOSED, [bearer(revoker.token())]) != 200:
            await asyncio.sleep(0.05)
        backend.requests.clear()
        yield url, backend


GARBAGE = bearer("x.y.z")

ANSWERS = {
    **{str(status): answer(status) for status in (400, 404, 408, 413, 429, 431, 500, 501, 502, 504, 505)},
    "302": answer(302, ("Location", "/elsewhere")),
    "a close without an answer": b"",
    "garbage": b"garbage\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nX-Auth-Sub",
    "a status that is no number": b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
    "a status of 0": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
}


async def test_whatever_is_not_a_verdict_is_a_refusal(kind, revoker, tmp_path):
    """Also where a route opens without a verdict: for 503 alone, which only Revoker itself decides."""
    scripted = ScriptedRevoker()
    await scripted.open()
    token = bearer(revoker.token(scope="reports:read"))
    try:
        async with gateway(kind, tmp_path / "gateway", revoker.http, revoker.key, scripted.port) as running:
            url, backend = running
            scripted.answer = answer(200, *((name, "") for name in IDENTITY))
            while await status_of(url, CLOSED, [token]) != 200:
                await asyncio.sleep(0.05)
            backend.requests.clear()
            for (name, scripted.answer), path in product(ANSWERS.items(), (CLOSED, SCOPED, OPEN)):
                scripted.questions.clear()
                status = await status_of(url, path, [token])
                assert scripted.questions, (name, path)
                assert not 200 <= status < 300, (name, path, status)
                assert not backend.requests, (name, path)

            scripted.answer = answer(503, ("Retry-After", "1"))
            assert await status_of(url, CLOSED, [token]) == 503
            assert await status_of(url, SCOPED, [token]) == 503
            assert not backend.requests
            assert await status_of(url, OPEN, [token]) == 200
            for status in (401, 403):
                scripted.answer = answer(status, ("WWW-Authenticate", "Bearer"))
                for path in (CLOSED, SCOPED, OPEN):
                    assert await status_of(url, path, [token]) == status
    finally:
        await scripted.close()


async def test_no_answer_in_time_is_a_refusal(kind, revoker, tmp_path):
    """With the time-outs of the configuration: what is late for another reason is refused, too."""
    scripted = ScriptedRevoker()
    await scripted.open()
    token = bearer(revoker.token(scope="reports:read"))
    running = gateway(kind, tmp_path / "gateway", revoker.http, revoker.key, scripted.port, changed=str)
    try:
        async with running as (url, backend):
            scripted.answer = answer(200, *((name, "") for name in IDENTITY))
            while await status_of(url, CLOSED, [token]) != 200:
                await asyncio.sleep(0.05)
            backend.requests.clear()
            scripted.answer = None
            for path in (CLOSED, SCOPED, OPEN):
                scripted.questions.clear()
                status = await status_of(url, path, [token])
                assert scripted.questions, path
                assert not 200 <= status < 300, (path, status)
            assert not backend.requests
    finally:
        await scripted.close()


@pytest.mark.parametrize(
    ("name", "status", "closed_status"),
    [("envoy", 401, 401), ("envoy-jwt", 401, 401), ("traefik", 200, 503), ("caddy", 200, 503)],
)
async def test_where_no_instance_passes_its_health_check_a_gateway_opens_or_asks_all_the_same(
    name, status, closed_status, revoker, tmp_path
):
    scripted = ScriptedRevoker()
    await scripted.open()
    scripted.ready = False
    scripted.answer = answer(401, ("WWW-Authenticate", "Bearer"))
    token = bearer(revoker.token())
    try:
        async with gateway(
            KINDS[name], tmp_path / "gateway", revoker.http, revoker.key, scripted.port
        ) as running:
            url, backend = running
            while await status_of(url, OPEN, [token]) != status:
                await asyncio.sleep(0.05)
            backend.requests.clear()
            assert await status_of(url, CLOSED, [token]) == closed_status
            assert not backend.requests
    finally:
        await scripted.close()


@contextlib.asynccontextmanager
async def scripted_gateway(kind, folder, revoker, changed):
    """A gateway whose Revoker answers 401 at first: its URL, the backend, that Revoker, and a token."""
    scripted = ScriptedRevoker()
    await scripted.open()
    try:
        scripted.answer = answer(401)
        async with gateway(kind, folder, revoker.http, revoker.key, scripted.port, changed=changed) as (
            url,
            backend,
        ):
            token = bearer(revoker.token())
            while await status_of(url, OPEN, [token]) != 401:
                await asyncio.sleep(0.05)
            backend.requests.clear()
            scripted.questions.clear()
            yield url, backend, scripted, token
    finally:
        await scripted.close()


CROWD = 10
"""Requests at once, for gateways that let at most two be under way to Revoker."""

NGINX_SERVER = "server 127.0.0.1:8080 max_fails=0"
ENVOY_CLUSTERS = {
    "revoker": "    - name: revoker\n      type: STRICT_DNS\n",
    "ask-revoker-open": "    - name: ask-revoker-open\n      connect_timeout: 0.25s\n",
}
LIMITS = {
    "nginx-max_conns": ("nginx", NGINX_SERVER, " max_conns=1"),
    **{
        f"{name}-{cluster}-{limits.split(':')[0]}": (
            name,
            head,
            f"      circuit_breakers: {{thresholds: [{{{limits}}}]}}\n",
        )
        for name, (cluster, head), limits in product(
            ("envoy", "envoy-jwt"),
            ENVOY_CLUSTERS.items(),
            ("max_requests: 1", "max_connections: 1, max_pending_requests: 1"),
        )
    },
}
"""Which gateway, and what its configuration gets after which text."""


@pytest.mark.parametrize("limit", LIMITS)
async def test_more_questions_than_the_gateway_sends_at_a_time_open_no_route(limit, revoker, tmp_path):
    """Anybody can send so many. The gateway answers them itself, as where it can't reach Revoker."""
    name, place, added = LIMITS[limit]

    def limited(text):
        return patient(text.replace(place, place + added), 60)

    async with scripted_gateway(KINDS[name], tmp_path / "gateway", revoker, limited) as running:
        url, backend, scripted, token = running
        scripted.answer = None
        crowd = [asyncio.create_task(status_of(url, OPEN, [token], seconds=HANGS_S)) for _ in range(CROWD)]
        try:
            for refused in itertools.islice(asyncio.as_completed(crowd), CROWD - 2):
                assert await refused == 503
        finally:
            for request in crowd:
                request.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)
        assert not backend.requests


async def test_a_question_that_one_revoker_breaks_off_opens_nothing_where_the_next_one_is_down(
    revoker, tmp_path
):
    """Only nginx repeats a question that was broken off."""
    another = f"server 127.0.0.1:{free_port()} max_fails=0;"

    def with_another(text):
        return patient(text.replace(NGINX_SERVER, f"{another} {NGINX_SERVER}"), 60)

    async with scripted_gateway(KINDS["nginx"], tmp_path / "gateway", revoker, with_another) as running:
        url, backend, scripted, token = running
        assert another in (tmp_path / "gateway" / "nginx.conf").read_text()
        scripted.answer = b""
        for _ in range(4):  # nginx begins with the one and the other in turn
            assert await status_of(url, OPEN, [token]) == 503
        assert not backend.requests
        await scripted.close()
        assert await status_of(url, OPEN, [token]) == 200  # none can be reached


FILES = 64


def with_few_files(kind):
    """The same gateway, which the system lets open no more than ``FILES`` files."""
    command = f"ulimit -n {FILES} && exec {program_of(kind)} {shlex.join(kind.arguments)}"
    return dataclasses.replace(kind, program="sh", arguments=("-c", command))


@pytest.mark.parametrize("name", ["nginx", "envoy", "envoy-jwt", "caddy"])
async def test_a_client_that_takes_all_files_of_a_gateway_opens_no_route(name, revoker, tmp_path):
    """The gateway can open no connection to Revoker then, but has one to the backend.

    Without HAProxy, which does not start with fewer files than its ``maxconn`` may need, and without Traefik,
    where a health check that finds no file opens the route.
    """

    def changed(text):
        # A health check would find no file either.
        text = re.sub(r"(interval:? )2s", r"\g<1>3600s", patient(text, 60))
        # nginx ends a connection after a thousand requests.
        text = text.replace("server_tokens off;", "server_tokens off; keepalive_requests 1000000;")
        return text.replace("worker_processes auto", "worker_processes 1").replace("16384", str(FILES))

    async with contextlib.AsyncExitStack() as stack:
        running = scripted_gateway(with_few_files(KINDS[name]), tmp_path / "gateway", revoker, changed)
        url, backend, scripted, token = await stack.enter_async_context(running)
        await scripted.close()
        assert await status_of(url, OPEN, [token]) == 200
        await scripted.open()
        port = int(url.rpartition(":")[2])
        reader, writer = await stack.enter_async_context(connected(port))

        async def attack():
            writer.write(f"GET {OPEN} HTTP/1.1\r\nHost: gateway\r\n{': '.join(token)}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = re.search(r"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            return int(head.split(" ")[1])

        assert await attack() == 401
        backend.requests.clear()
        for _ in range(FILES):
            await stack.enter_async_context(connected(port))
        async with asyncio.timeout(HANGS_S):
            while (status := await attack()) == 401:
                pass
        assert status == 503
        assert not backend.requests


HEADS = {
    "a token of 33 kB": [bearer("a" * 33_000)],
    "a token of 60 kB": [bearer("a" * 60_000)],
    "a token of 750 kB": [bearer("a" * 750_000)],
    "750 kB of headers": [GARBAGE, *((f"X-{number}", "a" * 7_500) for number in range(100))],
    "40 kB of cookies": [GARBAGE, *(("Cookie", "a" * 4_000) for _ in range(10))],
    "200 headers": [GARBAGE, *((f"X-{number}", "a") for number in range(200))],
    "two tokens": [GARBAGE, GARBAGE],
    "a demand": [GARBAGE, ("X-Revoker-Require", "x" * 33_000)],
    "a key": [GARBAGE, ("X-Revoker-Key", "mine")],
    "the key taken away": [GARBAGE, ("Connection", "X-Revoker-Key")],
    "the key taken away when it closes": [GARBAGE, ("Connection", "close, X-Revoker-Key, Host")],
    "the token taken away": [GARBAGE, ("Connection", "close, Authorization")],
    "the demand taken away": [GARBAGE, ("Connection", "close, X-Revoker-Require")],
    "an expectation": [GARBAGE, ("Expect", "coffee")],
    "an expectation that is no text": [GARBAGE, ("Expect", "\xff")],
    "a token that is no text": [bearer("\xff\xfe")],
    "an expectation that can be met": [GARBAGE, ("Content-Length", "0"), ("Expect", "100-continue")],
    "an upgrade": [GARBAGE, ("Connection", "Upgrade"), ("Upgrade", "websocket")],
    "an upgrade to HTTP/2": [GARBAGE, ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")],
    "a condition": [GARBAGE, ("If-None-Match", "*"), ("Range", "bytes=0-0")],
    "a compressed body": [GARBAGE, ("Content-Encoding", "gzip"), ("Accept-Encoding", "\xff")],
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_no_head_makes_a_refusal_look_like_no_verdict(attacked, method):
    url, backend = attacked
    targets = (CLOSED, SCOPED, OPEN)
    for (name, headers), target in product(HEADS.items(), targets):
        for _ in range(5):
            status = await status_of(url, target, headers, method=method)
            assert not 200 <= status < 300, (name, target, status)
    for target in targets:
        long = f"{target}?{'a' * 33_000}"
        assert not 200 <= await status_of(url, long, [GARBAGE], method=method) < 300
        long = target + "a" * 33_000
        assert not 200 <= await status_of(url, long, [GARBAGE], method=method) < 300
    assert not backend.requests


@pytest.mark.parametrize("protocols", [("h2c",), ("websocket", "h2c"), ("h2c", "websocket")])
async def test_of_the_protocols_to_change_to_the_backend_sees_the_websocket_or_none(attacked, protocols):
    """After a change to HTTP/2 the gateway would pass requests for any path."""
    url, backend = attacked
    headers = [("Connection", "Upgrade, HTTP2-Settings"), ("HTTP2-Settings", "AAMAAABkAAQAoAAA")]
    headers += [("Upgrade", protocol) for protocol in protocols]
    await status_of(url, NO_LOGIN, headers)
    seen = [pair for request in backend.requests for pair in request["headers"]]
    assert {value for name, value in seen if name == "upgrade"} <= {"websocket"}


async def test_the_gateway_itself_refuses_a_token_that_is_longer_than_its_heads(attacked, attacked_kind):
    url, _ = attacked
    assert await status_of(url, CLOSED, [bearer("a" * 20_000)]) == 401
    assert await status_of(url, CLOSED, [bearer("a" * 40_000)]) == (
        400 if attacked_kind.name == "nginx" else 431
    )


async def test_a_garbage_token_never_gets_through_an_open_route(attacked):
    """Many at once, some of which make Revoker close their connections."""
    url, backend = attacked

    async def attack(number):
        headers = ([GARBAGE], HEADS["750 kB of headers"], HEADS["a token of 60 kB"], [])[number % 4]
        return await status_of(url, OPEN, headers)

    for _ in range(20):
        statuses = await asyncio.gather(*(attack(number) for number in range(20)))
        assert not [status for status in statuses if 200 <= status < 300]
    assert not backend.requests


async def test_many_small_headers_and_cookies_do_not_lock_a_user_out(attacked, revoker):
    """Revoker is sent what it needs alone, whatever else a browser sends."""
    url, backend = attacked
    token = bearer(revoker.token(scope="reports:read"))
    cookies = [("Cookie", "a" * 2_000) for _ in range(10)]
    many = [(f"X-{number}", "a") for number in range(80)]
    for target, headers in product((CLOSED, SCOPED, OPEN), (cookies, many)):
        assert await status_of(url, target, [token, *headers]) == 200
    assert await status_of(url, f"{CLOSED}?{'a' * 20_000}", [token]) == 200
    assert len(backend.requests) == 7


async def test_of_a_users_request_revoker_is_sent_the_authorization_alone(kind, revoker, tmp_path):
    scripted = ScriptedRevoker()
    await scripted.open()
    scripted.answer = answer(200, *((name, "") for name in IDENTITY))
    token = bearer(revoker.token(scope="reports:read"))
    others = ("Cookie", "Range", "If-None-Match", "Referer", "Accept-Language", "X-Odd", "Content-Type")
    try:
        async with gateway(kind, tmp_path / "gateway", revoker.http, revoker.key, scripted.port) as (url, _):
            while await status_of(url, CLOSED, [token]) != 200:
                await asyncio.sleep(0.05)
            for target in (CLOSED, SCOPED, OPEN):
                scripted.questions.clear()
                path = f"{target}/canary?canary"
                assert await status_of(url, path, [token, *((name, "canary") for name in others)]) == 200
                assert len(scripted.questions) == 1
                assert "canary" not in scripted.questions[0].lower()
                assert f"\r\nauthorization: {token[1]}\r\n".lower() in scripted.questions[0].lower()
    finally:
        await scripted.close()


INTO = ("orders", "reports/1")
PATHS = [
    template.format(start=start, target=target)
    for start, target in product(("public", "public-news"), INTO)
    for template in (
        "/{start}/../{target}",
        "/{start}/x/../../{target}",
        "/{start}/%2e%2e/{target}",
        "/{start}/%2E%2e/{target}",
        "/{start}/.%2e/{target}",
        "/{start}%2f..%2f{target}",
        "/{start}%2F..%2F{target}",
        "/{start}/..%2f{target}",
        "/{start}/%2e%2e%2f{target}",
        "/{start}/..;/{target}",
        "/{start}/..;a=b/{target}",
        "/{start}/%2e%2e;/{target}",
        "/{start}/;/../{target}",
        "/{start}/..\\{target}",
        "/{start}\\..\\{target}",
        "/{start}/..%5c{target}",
        "/{start}%5C..%5C{target}",
        "/{start}/../{target}%00",
        "/{start}/%00/../../{target}",
        "/{start}/..%00/{target}",
        "/{start}/.././{target}",
        "/{start}//../{target}",
        "/{start}/../{target}/.",
        "/{start}/#/../../{target}",
        "/{start}/..#/{target}",
        "/{start}/../{target}?x=/{start}/",
        "http://gateway/{start}/../{target}",
        "http://gateway/{start}/%2e%2e/{target}",
        "//{start}/../{target}",
    )
]
STRICTER = (
    "//reports/1",
    "/./reports/1",
    "/.//reports/1",
    "/%72eports/1",
    "/%52eports/1".lower(),
    "/r%65p%6Frts/1",
    "/reports%2f1",
    "/reports%2F1",
    "/reports%5c1",
    "/reports\\1",
    "\\reports\\1",
    "/reports;/1",
    "/reports;a=b/1",
    "/;/reports/1",
    "/.;/reports/1",
    "/reports//1",
    "/x/../reports/1",
    "/x/%2e%2e/reports/1",
    "/%2e/reports/1",
    "/reports/./1",
    "/reports/%2e/1",
    "/reports/x/../1",
    "/reports",
    "/reports/",
    "/reports%00/1",
    "/reports/1%00",
    "http://gateway/reports/1",
    "http://gateway//reports/1",
    "HTTP://gateway/%72eports/1",
    "/%2freports/1",
    "//gateway/reports/1",
    "/%252e/reports/1",
)


def meant(target):
    """What a backend may take a target for: decoded once, without dots, doubled slashes and parameters."""
    path = re.sub(r"(?i)^https?://[^/]*", "", target)
    found = set()
    for cut in (re.split(r"[?#]", path)[0], path.split("?")[0]):
        for decoded in (urllib.parse.unquote(cut), urllib.parse.unquote(re.sub(r";[^/]*", "", cut))):
            segments = []
            for segment in re.split(r"[/\\]+", decoded.replace("\0", "")):
                name = segment.split(";")[0]
                if name == "..":
                    del segments[-1:]
                elif name not in {"", "."}:
                    segments.append(name)
            found.add("/" + "/".join(segments))
    return found


def lies_under(target, *prefixes):
    return any((path + "/").startswith(prefix + "/") for path in meant(target) for prefix in prefixes)


async def test_without_a_token_no_spelling_of_a_path_reaches_a_route_that_needs_one(attacked):
    url, backend = attacked
    assert await status_of(url, NO_LOGIN) == 200
    backend.requests.clear()
    for path, headers in product((*PATHS, *STRICTER), ([], [GARBAGE])):
        await status_of(url, path, headers)
        reached = [request["target"] for request in backend.requests]
        assert not [found for found in reached if not lies_under(found, "/public")], (path, reached)
        assert not [found for found in reached if lies_under(found, "/orders", "/reports")], (path, reached)
        backend.requests.clear()


async def test_without_a_verdict_no_spelling_of_a_path_reaches_a_closed_route(kind, revoker, tmp_path):
    scripted = ScriptedRevoker()
    await scripted.open()
    scripted.answer = answer(503, ("Retry-After", "1"))
    try:
        async with gateway(kind, tmp_path / "gateway", revoker.http, revoker.key, scripted.port) as running:
            url, backend = running
            token = bearer(revoker.token(scope="reports:read"))
            while await status_of(url, OPEN, [token]) != 200:
                await asyncio.sleep(0.05)
            backend.requests.clear()
            for path, headers in product((*PATHS, *STRICTER), ([], [GARBAGE], [token])):
                await status_of(url, path, headers)
                reached = [request["target"] for request in backend.requests]
                assert all(lies_under(found, "/public", "/public-news") for found in reached), (path, reached)
                closed = [found for found in reached if lies_under(found, "/orders", "/reports")]
                assert not closed, (path, reached)
                backend.requests.clear()
    finally:
        await scripted.close()


async def test_without_its_scope_no_spelling_of_a_path_reaches_a_stricter_route(attacked, revoker):
    url, backend = attacked
    token = bearer(revoker.token(scope="other"))
    for path in (*PATHS, *STRICTER):
        await status_of(url, path, [token])
        reached = [request["target"] for request in backend.requests]
        assert not [found for found in reached if lies_under(found, "/reports")], (path, reached)
        backend.requests.clear()


NORMALISING = ("envoy", "traefik")
DOTS_AND_EMPTY = ("/a/../reports/1", "/reports/./1", "//reports/1", "/reports//1", "/a/%2e%2e/reports/1")
AMBIGUOUS = (
    *(f"/reports{encoded}1" for encoded in ("%2f", "%5c", "%3b", "%00", "%")),
    *(f"/reports{character}/1" for character in ";#\x01"),
)


async def test_other_spellings_of_a_path_are_answered_as_the_page_of_gateways_says(
    attacked, attacked_kind, revoker
):
    url, backend = attacked
    token = bearer(revoker.token(scope="reports:read"))
    for path in AMBIGUOUS:
        assert await status_of(url, path, [token]) == 400, path
    assert not backend.requests
    normalised = attacked_kind.folder in NORMALISING
    for path in DOTS_AND_EMPTY:
        assert await status_of(url, path, [token]) == (200 if normalised else 400), path
    reached = [request["target"] for request in backend.requests]
    assert reached == (["/reports/1"] * len(DOTS_AND_EMPTY) if normalised else [])


async def test_ordinary_paths_reach_the_backend_as_they_are(attacked, revoker):
    url, backend = attacked
    token = bearer(revoker.token(scope="reports:read"))
    paths = [
        "/orders/a.b-c_d~e",
        "/orders/..a/b..",
        "/orders/%20%C3%A4?x=%2e%2e/../y//",
        "/reports/1?next=http://x/",
        "/public-news/a%20b",
        "/public/a,b:c@d",
    ]
    for path in paths:
        assert await status_of(url, path, [token]) == 200, path
    assert [request["target"] for request in backend.requests] == paths


NAMES = ("X-Auth-Subject", "X-Auth-Session", "X-Auth-Client", "X-Auth-Scope")
FORGED = {
    "the names": [(name, "forged") for name in NAMES],
    "the names twice": [(name, "forged") for name in NAMES * 2],
    "upper case": [(name.upper(), "forged") for name in NAMES],
    "underscores": [(name.replace("-", "_"), "forged") for name in NAMES],
    "an underscore first": [(name.replace("-", "_", 1), "forged") for name in NAMES],
    "an underscore last": [("_".join(name.rsplit("-", 1)), "forged") for name in NAMES],
    "upper case and underscores": [(name.upper().replace("-", "_"), "forged") for name in NAMES],
    "lower case and underscores": [(name.lower().replace("-", "_"), "forged") for name in NAMES],
    "an empty one": [(name, "") for name in NAMES],
}
CONNECTIONS = {
    "nothing": [],
    "close and the names": [("Connection", ", ".join(("close", *NAMES)))],
    "close and the names in lower case": [("Connection", ",".join(("close", *NAMES)).lower())],
    "the names": [("Connection", ", ".join(NAMES))],
    "the names in lines": [("Connection", name) for name in NAMES],
    "the names, and others": [("Connection", ", ".join(("keep-alive", *NAMES, "Te")))],
    "an upgrade and the names": [
        ("Connection", ", ".join(("Upgrade", *NAMES))),
        ("Upgrade", "websocket"),
    ],
    "names with underscores": [("Connection", ", ".join(name.replace("-", "_") for name in NAMES))],
    "keep-alive": [("Keep-Alive", ", ".join(NAMES)), ("Proxy-Connection", ", ".join(NAMES))],
}


async def test_the_identity_is_revokers_alone_whatever_a_client_sends(attacked, revoker):
    url, backend = attacked
    token = bearer(revoker.token(sub="alice", scope="a b"))
    let_through = 0
    for (shape, forged), (named, connection) in product(FORGED.items(), CONNECTIONS.items()):
        for target in (CLOSED, OPEN):
            status = await status_of(url, target, [*forged, token, *connection])
            assert status in {200, 400, 403}, (shape, named, target, status)
            for request in backend.requests:
                names = [
                    name for name, _ in request["headers"] if name.replace("_", "-").startswith("x-auth-")
                ]
                assert sorted(names) == sorted(name.lower() for name in NAMES), (shape, named, target)
                environment = folded(request["headers"])
                assert {name: environment[name] for name in IDENTITY} == IDENTITY, (shape, named, target)
            assert len(backend.requests) == (status == 200), (shape, named, target, status)
            let_through += len(backend.requests)
            backend.requests.clear()
    assert let_through


async def test_where_no_login_is_needed_nobody_can_say_who_they_are(attacked, revoker):
    url, backend = attacked
    token = bearer(revoker.token(sub="alice"))
    for (shape, forged), (named, connection) in product(FORGED.items(), CONNECTIONS.items()):
        for credentials in ([], [token]):
            status = await status_of(url, NO_LOGIN, [*forged, *credentials, *connection])
            assert status in {200, 400, 403}, (shape, named, status)
            for request in backend.requests:
                environment = folded(request["headers"])
                claimed = {name: environment.get(name, "") for name in IDENTITY}
                assert set(claimed.values()) == {""}, (shape, named, claimed)
            backend.requests.clear()
    assert await status_of(url, NO_LOGIN) == 200


async def test_without_a_verdict_nobody_can_say_who_they_are(kind, revoker, tmp_path):
    scripted = ScriptedRevoker()
    await scripted.open()
    scripted.answer = answer(503, ("Retry-After", "1"))
    try:
        async with gateway(kind, tmp_path / "gateway", revoker.http, revoker.key, scripted.port) as running:
            url, backend = running
            token = bearer(forge.token(revoker.key))
            while await status_of(url, OPEN, [token]) != 200:
                await asyncio.sleep(0.05)
            backend.requests.clear()
            for (shape, forged), (named, connection) in product(FORGED.items(), CONNECTIONS.items()):
                status = await status_of(url, OPEN, [*forged, token, *connection])
                for request in backend.requests:
                    environment = folded(request["headers"])
                    claimed = {name: environment.get(name, "") for name in IDENTITY}
                    assert set(claimed.values()) == {""}, (shape, named, status, claimed)
                backend.requests.clear()
    finally:
        await scripted.close()


async def test_the_gateways_key_never_reaches_the_backend(attacked, revoker):
    url, backend = attacked
    token = bearer(revoker.token())
    names = ("X-Revoker-Key", "X-Revoker-Require", "X-Revoker-Cookie")
    connection = [("Connection", ", ".join(("close", *names)))]
    for target, headers in product(
        (CLOSED, OPEN, NO_LOGIN), (connection, [(name, "mine") for name in names])
    ):
        assert await status_of(url, target, [token, *headers]) in {200, 401, 503}
    assert backend.requests
    for request in backend.requests:
        environment = folded(request["headers"])
        assert not environment.get("HTTP_X_REVOKER_KEY")
        assert not environment.get("HTTP_X_REVOKER_REQUIRE")
        assert not environment.get("HTTP_X_REVOKER_COOKIE")
