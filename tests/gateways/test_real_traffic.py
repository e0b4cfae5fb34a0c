"""What browsers, apps and their proxies send beyond a plain request, through each gateway."""

import asyncio
import contextlib
import io
import json

import aiohttp
import pytest
import pytest_asyncio

from tests.gateways.conftest import until_asked, user_token
from tests.gateways.raw_http import ScriptedRevoker, answer, bearer, exchange, status_of
from tests.rig import forge
from tests.rig.gateways import KINDS, patient, started
from tests.rig.service import HANGS_S

CLOSED, SCOPED, OPEN, NO_LOGIN = "/orders", "/reports/1", "/public-news/1", "/public/1"
IDENTITY = ("x-auth-subject", "x-auth-session", "x-auth-client", "x-auth-scope")


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(kind, site, tmp_path_factory):
    """The URL of a gateway that all tests share."""
    folder = tmp_path_factory.mktemp("traffic") / "gateway"
    ports = {"revoker": site.revoker_port, "backend": site.backend_port}
    async with aiohttp.ClientSession() as client:
        key = forge.rsa_key("main-1")
        async with started(kind, folder, client, key, **ports, changed=patient) as url:
            await until_asked(client, url, user_token())
            yield url


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HANGS_S)) as client:
        yield client


def authorized(**claims):
    return {"Authorization": f"Bearer {user_token(**claims)}"}


FORGED_NAMES = [
    "X_Auth_Subject",
    "X-Auth_Subject",
    "x_auth-subject",
    "X_Auth_Scope",
    "X_Auth_Session",
    "X_Auth_Client",
]


@pytest.mark.parametrize("path", [CLOSED, OPEN, NO_LOGIN])
async def test_a_name_with_an_underscore_is_no_identity_to_a_cgi_program(gateway, http, path):
    """As CGI, WSGI and PHP fold names, ``X_Auth_Subject`` is ``X-Auth-Subject``."""
    headers = authorized(sub="alice", scope="a b") | dict.fromkeys(FORGED_NAMES, "admin")
    async with http.get(gateway + path, headers=headers) as response:
        assert response.status == 200
        seen = await response.json()
    assert "admin" not in str(seen)
    expected = "" if path == NO_LOGIN else "alice"
    assert seen["cgi"].get("HTTP_X_AUTH_SUBJECT", "") == expected


async def test_a_websocket_opens_with_a_good_token_and_carries_messages_both_ways(gateway, http):
    for path in (CLOSED, OPEN):
        async with http.ws_connect(gateway + path, headers=authorized(), max_msg_size=0) as socket:
            for text in ("one", "two"):
                await socket.send_str(text)
                assert await socket.receive_str() == text
            await socket.send_bytes(b"x" * 1_000_000)
            assert len(await socket.receive_bytes()) == 1_000_000
    async with http.ws_connect(gateway + NO_LOGIN) as socket:
        await socket.send_str("no login")
        assert await socket.receive_str() == "no login"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (CLOSED, {}, 401),
        (OPEN, {}, 401),
        (CLOSED, {"Authorization": "Bearer x.y.z"}, 401),
        (SCOPED, {"scope": "other"}, 403),
    ],
)
async def test_a_websocket_without_a_good_token_is_refused_as_a_request_is(
    gateway, http, path, headers, status
):
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect(
            gateway + path, headers=authorized(**headers) if "scope" in headers else headers
        )
    assert refused.value.status == status


@pytest.mark.parametrize("path", [CLOSED, NO_LOGIN])
@pytest.mark.parametrize("protocol", ["h2c", "websocket, h2c", "h2c, websocket", "TLS/1.0", "anything"])
async def test_a_connection_changes_to_no_other_protocol(gateway, http, path, protocol):
    """What is sent after such a change would pass the gateway unseen, for any path."""
    upgrade = {
        "Upgrade": protocol,
        "Connection": "Upgrade, HTTP2-Settings",
        "HTTP2-Settings": "AAMAAABkAAQAoAAA",
    }
    headers = [*(authorized() | upgrade).items()]
    status, _, body = await exchange(gateway, path, headers)
    assert status in {200, 400, 403}
    if status == 200:
        assert "upgrade" not in dict(json.loads(body)["headers"])


async def test_events_arrive_one_by_one_while_the_answer_is_open(gateway, http, site):
    async with http.get(f"{gateway}{CLOSED}/events", headers=authorized()) as response:
        assert response.status == 200
        assert await response.content.readuntil(b"\n\n") == b": opened\n\n"
        for number in range(3):
            async with http.post(f"{site.backend}/publish", data=str(number)) as published:
                assert published.status == 200
            assert await response.content.readuntil(b"\n\n") == b"data: %d\n\n" % number
        async with http.post(f"{site.backend}/publish", data="end"):
            assert await response.read() == b""
    async with http.get(f"{gateway}{CLOSED}/events") as response:
        assert response.status == 401


async def test_an_upload_reaches_the_backend_while_it_is_being_sent(gateway, http, site, request):
    upload = request.node.name

    async def body():
        yield b"x" * 70_000
        while True:
            async with http.get(f"{site.backend}/received", params={"id": upload}) as response:
                if await response.json() == 70_000:
                    break
            await asyncio.sleep(0.02)
        yield b"x" * 30_000

    async with http.post(
        gateway + CLOSED, params={"id": upload}, data=body(), headers=authorized()
    ) as response:
        assert response.status == 200
        assert (await response.json())["length"] == 100_000


TWO_MEGABYTES = b"x" * 2_000_000


async def chunks():
    for _ in range(20):
        yield TWO_MEGABYTES[:100_000]


@pytest.mark.parametrize("path", [CLOSED, OPEN, NO_LOGIN])
async def test_the_backend_alone_decides_how_large_an_upload_may_be(gateway, http, path):
    options = (
        {"data": io.BytesIO(TWO_MEGABYTES)},
        {"data": chunks()},
        {"data": io.BytesIO(TWO_MEGABYTES), "expect100": True},
    )
    for upload in options:
        async with http.post(gateway + path, headers=authorized(), **upload) as response:
            assert response.status == 200, upload.keys()
            assert (await response.json())["length"] == 2_000_000
    refused = f"{gateway}{path}?limit=1000"
    async with http.post(refused, data=b"x" * 2_000, headers=authorized()) as response:
        assert response.status == 413
        assert response.headers["X-Refused-By"] == "backend"


async def test_a_refused_upload_is_answered_and_reaches_no_backend(gateway, site, http, request):
    upload = request.node.name
    target, length = f"{CLOSED}?id={upload}", ("Content-Length", str(len(TWO_MEGABYTES)))
    status, head, _ = await exchange(gateway, target, [length], method="POST", body=TWO_MEGABYTES)
    assert status == 401
    assert "www-authenticate" in head
    async with http.get(f"{site.backend}/received", params={"id": upload}) as response:
        assert await response.json() == 0


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
async def test_the_scheme_of_a_token_is_read_in_any_case(gateway, http, scheme):
    for path in (CLOSED, OPEN):
        headers = {"Authorization": f"{scheme} {user_token(sub='alice')}"}
        async with http.get(gateway + path, headers=headers) as response:
            assert response.status == 200
            assert (await response.json())["cgi"]["HTTP_X_AUTH_SUBJECT"] == "alice"
    async with http.get(gateway + CLOSED, headers={"Authorization": f"{scheme} x.y.z"}) as response:
        assert response.status == 401


def wide(text):
    """A configuration whose gateway itself accepts longer heads: 128 KiB."""
    longer = {
        "large_client_header_buffers 4 24k": "large_client_header_buffers 8 128k",
        "max_request_headers_kb: 32": "max_request_headers_kb: 128",
        "max_header_size 32KiB": "max_header_size 128KiB",
        "maxHeaderBytes: 32768": "maxHeaderBytes: 131072",
        "req.hdrs,length gt 32768": "req.hdrs,length gt 131072",
        "tune.bufsize 65536": "tune.bufsize 262144",
    }
    for before, after in longer.items():
        text = text.replace(before, after)
    return text


LONG = {
    "40 kB of cookies": ("", [("Cookie", "a=" + "a" * 40_000)]),
    "40 kB of cookies in lines": ("", [("Cookie", f"a{number}=" + "a" * 4_000) for number in range(10)]),
    "a URL of 33 kB": ("?" + "a" * 33_000, []),
    "a path of 33 kB": ("/" + "a" * 33_000, []),
    "a header of 40 kB": ("", [("X-Odd", "a" * 40_000)]),
    "a hundred headers": ("", [(f"X-{number}", "a") for number in range(80)]),
}


async def test_what_the_gateway_accepts_revoker_does_not_refuse(kind, site, tmp_path):
    async with aiohttp.ClientSession() as client:
        ports = {"revoker": site.revoker_port, "backend": site.backend_port}
        changed = {"changed": lambda text: patient(wide(text))}
        async with started(
            kind, tmp_path / "gateway", client, forge.rsa_key("main-1"), **ports, **changed
        ) as url:
            await until_asked(client, url, user_token())
            token = bearer(user_token(scope="reports:read"))
            for name, (rest, headers) in LONG.items():
                for path in (CLOSED, SCOPED, OPEN):
                    assert await status_of(url, path + rest, [token, *headers]) == 200, (name, path)


ALLOWED = {
    "host",
    "authorization",
    "x-revoker-key",
    "x-revoker-require",
    "connection",
    "content-length",
    "user-agent",
    "accept",
    "accept-encoding",
    "x-request-id",
    "x-real-ip",
    "x-replaced-path",
}
"""What Revoker may be sent, beside ``X-Forwarded-*`` and ``X-Envoy-*``; gateways set all of it themselves."""


async def test_revoker_is_sent_the_authorization_and_what_the_gateway_itself_sets(kind, tmp_path):
    """Nothing that a client sends is in a question, whatever the header's name."""
    names = [
        *("Cookie", "Range", "If-None-Match", "Referer", "Origin", "Content-Type", "Accept", "User-Agent"),
        *("X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Forwarded", "X-Original-URL", "X-Odd", "Via"),
        *("X-Revoker-Key", "X-Revoker-Require", "X-Revoker-Cookie", "X-Revoker-Other", "Proxy-Authorization"),
        *(
            "X-Envoy-Original-Path",
            "X-Request-Id",
            "DPoP",
            "Sec-WebSocket-Protocol",
            "Access-Control-Request-Method",
        ),
    ]
    scripted = ScriptedRevoker()
    await scripted.open()
    scripted.answer = answer(200, *((name, "") for name in IDENTITY))
    token = bearer(user_token(scope="reports:read"))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(scripted.close)
        client = await stack.enter_async_context(aiohttp.ClientSession())
        ports = {"revoker": scripted.port, "backend": scripted.port}
        key = forge.rsa_key("main-1")
        gateway = started(kind, tmp_path / "gateway", client, key, **ports, changed=patient)
        url = await stack.enter_async_context(gateway)
        while not scripted.questions:
            await status_of(url, OPEN, [token])
        for path in (CLOSED, SCOPED, OPEN):
            scripted.questions.clear()
            await status_of(url, f"{path}/canary?canary", [token, *((name, "canary") for name in names)])
            question = scripted.questions[0].lower()
            assert "canary" not in question
            assert f"\r\nauthorization: {token[1]}\r\n".lower() in question
            sent = {line.split(":")[0] for line in question.split("\r\n")[1:] if line}
            assert {
                name for name in sent - ALLOWED if not name.startswith(("x-forwarded-", "x-envoy-"))
            } == set()
