"""The recipes of docs/recipes, as they are on their pages, all of them in one configuration."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid

import aiohttp
import grpc
import pytest
import pytest_asyncio

from tests.gateways import recipes
from tests.gateways.conftest import until_asked, user_token
from tests.gateways.raw_http import ScriptedRevoker, answer, bearer, exchange, status_of
from tests.rig import forge
from tests.rig.gateways import CONFIGURATIONS, KINDS, patient, program_of, started
from tests.rig.servers import free_port
from tests.rig.service import HANGS_S, SECRETS

APP = "https://app.example.com"
OTHER = "https://evil.example.com"
COOKIE = "__Host-token"
IDENTITY = ("x-auth-subject", "x-auth-session", "x-auth-client", "x-auth-scope")
FORGED = dict.fromkeys((*IDENTITY, "X_Auth_Subject"), "forged")
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


def all_recipes(kind):
    """Puts all recipes into a configuration."""

    def edit(folder):
        for recipe in recipes.names():
            recipes.apply(recipe, folder, kind.folder)

    return edit


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(scope="module")
def http2_port(kind):
    """Where nginx speaks HTTP/2; the others do so on the port for everything."""
    return free_port()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(kind, site, http2_port, tmp_path_factory):
    """The URL of a gateway with all recipes, before a real Revoker."""
    folder = tmp_path_factory.mktemp("recipes") / "gateway"
    ports = {"revoker": site.revoker_port, "backend": site.backend_port}
    ports["further_ports"] = {"9001": site.grpc_port, "8002": http2_port}
    async with aiohttp.ClientSession() as client:
        key, edit = forge.rsa_key("main-1"), all_recipes(kind)
        async with started(kind, folder, client, key, **ports, changed=patient, edit=edit) as url:
            await until_asked(client, url, user_token())
            yield url


@pytest.fixture
async def http():
    jar, timeout = aiohttp.DummyCookieJar(), aiohttp.ClientTimeout(total=HANGS_S)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=jar) as client:
        yield client


def authorized(**claims):
    return {"Authorization": f"Bearer {user_token(**claims)}"}


def cookie(token):
    return {"Cookie": f"theme=dark; {COOKIE}={token}"}


CHECKS = {
    "nginx": (*KINDS["nginx"].arguments, "-t"),
    "envoy": (*KINDS["envoy"].arguments, "--mode", "validate"),
    "envoy-jwt": (*KINDS["envoy-jwt"].arguments, "--mode", "validate"),
    "caddy": ("validate", *KINDS["caddy"].arguments[1:]),
    "haproxy": (*KINDS["haproxy"].arguments, "-c"),
}
"""The arguments that make a gateway check its configuration; Traefik has none."""


@pytest.mark.parametrize("recipe", recipes.names())
@pytest.mark.parametrize("name", CHECKS)
def test_a_recipe_alone_is_a_configuration_that_the_gateway_accepts(name, recipe, tmp_path):
    kind, folder = KINDS[name], tmp_path / "gateway"
    shutil.copytree(CONFIGURATIONS / kind.folder, folder)
    recipes.apply(recipe, folder, kind.folder)
    (folder / "jwks.json").write_text(json.dumps(forge.jwks(forge.rsa_key("main-1"))))
    environ = os.environ | {"REVOKER_KEY": "key", "REVOKER_URL": "http://127.0.0.1:8080", "HOME": str(folder)}
    checked = subprocess.run([program_of(kind), *CHECKS[name]], cwd=folder, env=environ, capture_output=True)
    assert checked.returncode == 0, checked.stderr.decode() + checked.stdout.decode()


async def test_a_route_without_login_opens_and_nobody_can_say_who_they_are(gateway, http):
    for headers in ({}, FORGED, authorized() | FORGED, {"Authorization": "Bearer x.y.z"}):
        async with http.get(f"{gateway}/docs/1", headers=headers) as response:
            assert response.status == 200
            assert "forged" not in str(await response.json())


async def test_step_up_refuses_a_login_that_is_too_weak_or_too_old_by_a_challenge(gateway, http):
    now = int(time.time())
    strong = {"acr": "urn:example:mfa", "auth_time": now}
    async with http.get(f"{gateway}/account/1", headers=authorized(**strong)) as response:
        assert response.status == 200
    for weak in ({}, {"auth_time": now}, {**strong, "auth_time": now - 3000}, {**strong, "acr": "pwd"}):
        async with http.get(f"{gateway}/account/1", headers=authorized(**weak) | {"Origin": APP}) as response:
            assert response.status == 401
            challenge = response.headers["WWW-Authenticate"]
            assert 'error="insufficient_user_authentication"' in challenge
            assert 'acr_values="urn:example:mfa"' in challenge
            assert "max_age=300" in challenge
            assert response.headers["Access-Control-Allow-Origin"] == APP
            assert "www-authenticate" in response.headers["Access-Control-Expose-Headers"].lower()
    async with http.get(f"{gateway}/orders", headers=authorized()) as response:
        assert response.status == 200


async def test_a_token_in_a_cookie_is_taken_and_refused_after_logout(gateway, http, site):
    user = str(uuid.uuid4())
    token = user_token(sub=user)
    for headers in (cookie(token), {"Authorization": f"Bearer {token}"}, cookie(token) | {"Origin": APP}):
        for method in ("GET", "POST"):
            async with http.request(method, f"{gateway}/app/1", headers=headers | FORGED) as response:
                assert response.status == 200
                assert (await response.json())["cgi"]["HTTP_X_AUTH_SUBJECT"] == user
    async with http.ws_connect(f"{gateway}/app/1", headers=cookie(token) | {"Origin": APP}) as socket:
        await socket.send_str("by cookie")
        assert await socket.receive_str() == "by cookie"
    await site.revoke_user(user)
    for headers in (cookie(token), {"Authorization": f"Bearer {token}"}):
        async with http.get(f"{gateway}/app/1", headers=headers) as response:
            assert response.status == 401


async def test_a_cookie_is_no_token_elsewhere_and_its_name_is_the_gateways_alone(gateway, http):
    mine = {"X-Revoker-Cookie": "mine", "X_Revoker_Cookie": "mine"}
    token = user_token()
    for path, headers in (
        ("/orders", cookie(token)),
        ("/orders", cookie(token) | {"X-Revoker-Cookie": COOKIE}),
        ("/public-news/1", cookie(token) | {"X-Revoker-Cookie": COOKIE}),
        ("/app/1", {"Cookie": f"mine={token}"} | mine),
        ("/app/1", {"Cookie": "theme=dark"}),
        ("/app/1", {}),
    ):
        async with http.get(gateway + path, headers=headers) as response:
            assert response.status == 401, (path, headers)
    async with http.get(f"{gateway}/app/1", headers=cookie(token) | mine) as response:
        assert response.status == 200
        assert not any(
            name.startswith("HTTP_X_REVOKER") and value
            for name, value in (await response.json())["cgi"].items()
        )


async def test_another_origin_can_cause_no_request_with_the_cookie(gateway, http):
    token = user_token()
    for origin in (OTHER, "null", f"{APP}.evil.example.com", APP.replace("https", "http"), f"{APP}, {OTHER}"):
        headers = cookie(token) | {"Origin": origin}
        async with http.post(f"{gateway}/app/1", headers=headers) as response:
            assert response.status == 403, origin
            assert "X-Answered-By" not in response.headers
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{gateway}/app/1", headers=headers)
        assert refused.value.status == 403


@pytest.mark.parametrize("path", ["/orders", "/app/1", "/account/1", "/public-news/1", "/docs/1"])
async def test_a_preflight_is_answered_without_a_token(gateway, http, path):
    async with http.options(gateway + path, headers={"Origin": APP, **PREFLIGHT}) as response:
        assert response.status in {200, 204}
        assert response.headers.getall("Access-Control-Allow-Origin") == [APP]
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        assert "authorization" in response.headers["Access-Control-Allow-Headers"].lower()
        assert response.headers["Access-Control-Max-Age"] == "600"
        assert "X-Answered-By" not in response.headers


async def test_scripts_of_the_app_can_read_every_answer_and_others_none(gateway, http):
    requests = (
        (200, "/orders", authorized()),
        (401, "/orders", {}),
        (401, "/orders", {"Authorization": "Bearer x.y.z"}),
        (403, "/reports/1", authorized(scope="other")),
        (200, "/docs/1", {}),
        (200, "/app/1", cookie(user_token())),
    )
    for status, path, headers in requests:
        async with http.get(gateway + path, headers=headers | {"Origin": APP}) as response:
            assert response.status == status
            assert response.headers.getall("Access-Control-Allow-Origin") == [APP]
            assert response.headers.getall("Access-Control-Allow-Credentials") == ["true"]
            exposed = response.headers["Access-Control-Expose-Headers"].lower()
            assert "www-authenticate" in exposed and "retry-after" in exposed
        for origin in ({}, {"Origin": OTHER}, {"Origin": "null"}):
            async with http.get(gateway + path, headers=headers | origin) as response:
                assert "Access-Control-Allow-Origin" not in response.headers, (path, origin)


async def test_a_preflight_of_another_origin_permits_nothing(gateway, http):
    async with http.options(f"{gateway}/orders", headers={"Origin": OTHER, **PREFLIGHT}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "X-Answered-By" not in response.headers


async def test_an_options_request_that_is_no_preflight_needs_a_token(gateway, http):
    for headers in ({}, {"Origin": APP}, PREFLIGHT):
        async with http.options(f"{gateway}/orders", headers=headers) as response:
            assert response.status == 401, headers


async def test_a_client_beyond_the_limit_is_refused_and_others_are_not(gateway, kind):
    if kind.folder == "caddy":
        assert "```" not in recipes.sections("rate-limits")["caddy"]
        return
    crowd = aiohttp.TCPConnector(local_addr=("127.0.0.9", 0), limit=20)
    headers = authorized() | {"Origin": APP}
    async with aiohttp.ClientSession(connector=crowd) as http, asyncio.timeout(HANGS_S):
        refused = None
        while refused is None:
            for response in await asyncio.gather(
                *(http.get(f"{gateway}/orders", headers=headers) for _ in range(200))
            ):
                await response.read()
                if response.status == 429:
                    refused = response
                else:
                    assert response.status == 200
    assert refused.headers["Access-Control-Allow-Origin"] == APP
    async with aiohttp.request("GET", f"{gateway}/orders", headers=authorized()) as response:
        assert response.status == 200


@contextlib.asynccontextmanager
async def channel(gateway, kind, http2_port):
    target = f"127.0.0.1:{http2_port}" if kind.folder == "nginx" else gateway.removeprefix("http://")
    async with grpc.aio.insecure_channel(target) as opened:
        yield opened


async def test_grpc_calls_pass_with_a_token_and_messages_go_both_ways(gateway, kind, http2_port):
    metadata = [
        ("authorization", f"Bearer {user_token(sub='alice')}"),
        *((name, "forged") for name in IDENTITY),
    ]
    async with channel(gateway, kind, http2_port) as opened:
        call = opened.stream_stream("/shop.Orders/Watch")(metadata=metadata, timeout=HANGS_S)
        for message in (b"one", b"x" * 100_000, b"three"):
            await call.write(message)
            assert await call.read() == message
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        seen = json.loads(
            await opened.unary_unary("/shop.Orders/Seen")(b"", metadata=metadata, timeout=HANGS_S)
        )
    assert [value for name, value in seen if name == "x-auth-subject"] == ["alice"]
    assert "forged" not in str(seen)
    assert SECRETS["gateway"] not in str(seen)


async def test_grpc_calls_without_an_active_token_are_unauthenticated(gateway, kind, http2_port):
    async with channel(gateway, kind, http2_port) as opened:
        for metadata in ([], [("authorization", "Bearer x.y.z")]):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await opened.unary_unary("/shop.Orders/Get")(b"", metadata=metadata, timeout=HANGS_S)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
async def scripted(kind, site, tmp_path):
    """A gateway with all recipes before a Revoker that answers as a test says."""
    revoker = ScriptedRevoker()
    await revoker.open()
    revoker.answer = answer(200, *((name, "") for name in IDENTITY))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(revoker.close)
        client = await stack.enter_async_context(aiohttp.ClientSession())
        ports = {"revoker": revoker.port, "backend": site.backend_port}
        ports["further_ports"] = {"9001": site.grpc_port, "8002": free_port()}
        key, edit = forge.rsa_key("main-1"), all_recipes(kind)
        gateway = started(kind, tmp_path / "gateway", client, key, **ports, changed=patient, edit=edit)
        url = await stack.enter_async_context(gateway)
        await until_asked(client, url, user_token())
        revoker.questions.clear()
        yield url, revoker


async def test_revoker_is_asked_as_the_recipes_say(scripted):
    """No preflight reaches it, and no cookie but on the route whose token is in one."""
    url, revoker = scripted
    preflight = [("Origin", APP), *PREFLIGHT.items()]
    for path in ("/orders", "/app/1", "/account/1", "/public-news/1", "/status/1"):
        assert await status_of(url, path, preflight, method="OPTIONS") in {200, 204}
    assert not revoker.questions

    token = user_token()
    jar = [*cookie(token).items(), ("X-Revoker-Cookie", "mine"), ("Origin", APP)]
    for path in ("/orders", "/reports/1", "/public-news/1", "/status/1", "/account/1", "/app/1"):
        revoker.questions.clear()
        await status_of(url, path, [bearer(token), *jar])
        [question] = revoker.questions
        assert ("\r\ncookie: theme=dark" in question.lower()) == (path == "/app/1"), path
        assert (f"\r\nx-revoker-cookie: {COOKIE}\r\n".lower() in question.lower()) == (path == "/app/1"), path
        assert "mine" not in question

    revoker.answer = answer(503, ("Retry-After", "7"))
    for path in ("/orders", "/reports/1", "/account/1", "/app/1"):
        status, headers, _ = await exchange(url, path, [bearer(token), ("Origin", APP)])
        assert status == 503, path
        assert headers["retry-after"].isdigit()
        assert headers["access-control-allow-origin"] == APP
    for path in ("/public-news/1", "/status/1"):
        headers = [bearer(token), ("Origin", APP), *FORGED.items()]
        status, _, body = await exchange(url, path, headers)
        assert status == 200, path
        assert b"forged" not in body
    for status in (400, 401, 403, 429, 500):
        revoker.answer = answer(status, ("WWW-Authenticate", "Bearer"))
        assert await status_of(url, "/status/1", [bearer(token)]) not in {0, 200}, status


def test_a_snippet_without_a_place_or_with_two_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "PAGES", tmp_path)
    others = "".join(f"## {name}\n\n" for name in ("Envoy", "Traefik", "Caddy", "HAProxy"))
    (tmp_path / "page.md").write_text(f"## nginx\n\n`a.conf`, after `two`:\n\n```nginx\nnew\n```\n\n{others}")
    (tmp_path / "a.conf").write_text("  one\n  two\n")
    recipes.apply("page", tmp_path, "nginx")
    assert (tmp_path / "a.conf").read_text() == "  one\n  two\n  new\n"
    (tmp_path / "a.conf").write_text("two\ntwo\n")
    with pytest.raises(ValueError, match="2 lines"):
        recipes.apply("page", tmp_path, "nginx")
    (tmp_path / "page.md").write_text(f"## nginx\n\nPut this in:\n\n```nginx\nnew\n```\n\n{others}")
    with pytest.raises(ValueError, match="no place"):
        recipes.apply("page", tmp_path, "nginx")
