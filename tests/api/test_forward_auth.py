"""``/forward-auth`` as gateways use it."""

import asyncio
import json
import time
import urllib.parse

import aiohttp
import pytest

from tests.api.conftest import Wire
from tests.rig import forge

IDENTITY = ("X-Auth-Subject", "X-Auth-Session", "X-Auth-Client", "X-Auth-Scope")


@pytest.fixture
def ask(revoker):
    """Ask as a gateway; ``authorization`` is the user's header, or several."""

    async def go(
        authorization=None, *, key="gateway-secret", method="GET", path="/forward-auth", require=(), **options
    ):
        headers = [("X-Revoker-Key", key)] if key is not None else []
        if isinstance(authorization, str):
            authorization = [authorization]
        headers += [("Authorization", value) for value in authorization or []]
        headers += [("X-Revoker-Require", value) for value in require]
        headers += options.pop("headers", [])
        async with revoker.http.request(method, revoker.url + path, headers=headers, **options) as response:
            return response.status, response.headers.copy(), await response.read()

    return go


@pytest.mark.row("FWD-09", "FWD-10")
async def test_an_active_token_is_let_through_with_who_it_is(revoker, ask):
    status, headers, body = await ask(f"Bearer {revoker.token(sub='Ünï %x', scope='a b', sid='s 1')}")
    assert (status, body) == (200, b"")
    assert headers["X-Auth-Subject"] == "%C3%9Cn%C3%AF%20%25x"
    assert headers["X-Auth-Session"] == "s%201"
    assert headers["X-Auth-Client"] == "web"
    assert headers["X-Auth-Scope"] == "a b"
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.row("FWD-09")
async def test_all_four_headers_are_there_even_when_empty_so_forged_ones_are_replaced(revoker, ask):
    token = revoker.token(sid=forge.ABSENT, client_id=forge.ABSENT, scope=forge.ABSENT)
    status, headers, _ = await ask(f"Bearer {token}", headers=[(name, "forged") for name in IDENTITY])
    assert status == 200
    assert [headers.get(name) for name in IDENTITY] == ["user-1", "", "", ""]


@pytest.mark.row("FWD-02", "FWD-06", "FWD-08")
@pytest.mark.parametrize("authorization", [None, "Basic dXNlcjpwYXNz", "Digest x", "Bearerish abc"])
async def test_without_a_bearer_token_the_challenge_has_no_error(revoker, ask, authorization):
    token = revoker.token()
    status, headers, _ = await ask(authorization, path=f"/forward-auth?access_token={token}")
    assert status == 401
    assert headers["WWW-Authenticate"] == 'Bearer realm="revoker"'


@pytest.mark.row("FWD-01")
@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "bEaReR"])
async def test_the_scheme_is_read_in_any_case(revoker, ask, scheme):
    assert (await ask(f"{scheme} {revoker.token()}"))[0] == 200


@pytest.mark.row("FWD-01", "FWD-05", "FWD-07")
@pytest.mark.parametrize(
    "shape", ["Bearer  {}", "Bearer\t{}", "Bearer", "Bearer {},{}", 'Bearer "{}"', "Bearer {} {}"]
)
async def test_a_malformed_header_is_401_since_gateways_turn_400_into_500(revoker, ask, shape):
    token = revoker.token()
    status, headers, _ = await ask(shape.format(token, token))
    assert status == 401
    assert 'error="invalid_request"' in headers["WWW-Authenticate"]
    assert token not in headers["WWW-Authenticate"]


@pytest.mark.row("FWD-05")
async def test_two_authorization_headers_are_malformed(revoker, ask):
    token = revoker.token()
    status, headers, _ = await ask([f"Bearer {token}", f"Bearer {token}"])
    assert status == 401
    assert 'error="invalid_request"' in headers["WWW-Authenticate"]


@pytest.mark.row("FWD-03", "9068-04")
async def test_what_is_not_active_is_an_invalid_token(revoker, ask):
    expired = revoker.token(now=1_000_000)
    revoked = revoker.token(jti="gone")
    await revoker.post("/revoke", {"token": revoked})
    for token in ("x", "a.b.c", expired, revoked, forge.token(forge.rsa_key("stranger"))):
        status, headers, _ = await ask(f"Bearer {token}")
        assert status == 401
        assert 'error="invalid_token"' in headers["WWW-Authenticate"]


@pytest.mark.row("FWD-04")
async def test_missing_scope_is_403_and_says_what_is_needed(revoker, ask):
    token = revoker.token(scope="a")
    status, headers, _ = await ask(f"Bearer {token}", require=['scope="a b"'])
    assert status == 403
    assert 'error="insufficient_scope", scope="a b"' in headers["WWW-Authenticate"]
    assert (await ask(f"Bearer {token}", require=["scope=a"]))[0] == 200


async def test_a_refusal_has_the_error_object_too(revoker, ask):
    weak = revoker.token(scope="a")
    for authorization, require, status, error in (
        (None, None, 401, "invalid_token"),
        ("Bearer x.y", None, 401, "invalid_token"),
        ("Bearer a b", None, 401, "invalid_request"),
        (f"Bearer {weak}", "scope=b", 403, "insufficient_scope"),
        (f"Bearer {weak}", "nonsense", 403, "insufficient_scope"),
        (f"Bearer {weak}", "acr=mfa", 401, "insufficient_user_authentication"),
    ):
        asked = {"require": [require] if require else ()}
        found, headers, body = await ask(authorization, **asked)
        refused = json.loads(body)
        assert (found, refused["error"], bool(refused["error_description"])) == (status, error, True)
        assert headers["Content-Type"].startswith("application/json")
        assert (await ask(authorization, method="HEAD", **asked))[::2] == (status, b"")


async def test_acr_and_max_age_ask_for_a_stronger_or_fresher_login(revoker, ask):
    now = int(time.time())
    fresh = f"Bearer {revoker.token(acr='mfa', auth_time=now - 10)}"
    old = f"Bearer {revoker.token(acr='mfa', auth_time=now - 1000)}"
    weak = f"Bearer {revoker.token(acr='pwd', auth_time=now - 10)}"
    undated = f"Bearer {revoker.token(acr='mfa')}"
    require = ["acr=mfa; max_age=300"]
    assert (await ask(fresh, require=require))[0] == 200
    for authorization in (old, weak, undated):
        status, headers, _ = await ask(authorization, require=require)
        assert status == 401
        challenge = headers["WWW-Authenticate"]
        assert 'error="insufficient_user_authentication"' in challenge
        assert 'acr_values="mfa"' in challenge and "max_age=300" in challenge


async def test_a_login_that_is_still_to_come_does_not_meet_max_age(revoker, ask):
    now = int(time.time())

    async def status(auth_time, require):
        token = revoker.token(auth_time=auth_time, exp=now + 3600)
        return (await ask(f"Bearer {token}", require=[require]))[0]

    assert await status(now + 3600, "max_age=300") == 401
    assert await status(now + 3600.5, "max_age=300") == 401
    assert await status(now + 1, "max_age=300") == 200, "within clock_skew"
    assert await status(now + 3600, "scope=orders:read") == 200, "the route asks for no age"


async def test_all_demands_apply_and_repeated_headers_add_up(revoker, ask):
    token = f"Bearer {revoker.token(scope='a b', acr='mfa')}"
    assert (await ask(token, require=["scope=a", "scope=b; acr=mfa"]))[0] == 200
    assert (await ask(token, require=["scope=a", "scope=c"]))[0] == 403
    assert (await ask(token, require=["acr=mfa", "acr=other"]))[0] == 401


@pytest.mark.parametrize(
    "demand",
    ["", "  ", "role=admin", "scope", 'scope=""', "scope=a;;", "max_age=-1", "max_age=x", 'scope="a'],
)
async def test_a_demand_that_cannot_be_understood_lets_nobody_through(revoker, ask, demand):
    assert (await ask(f"Bearer {revoker.token()}", require=["scope=orders:read", demand]))[0] == 403


@pytest.mark.parametrize("key", [None, "wrong", ""])
async def test_a_gateway_without_its_own_key_gets_503_which_no_user_is_asked_to_mend(revoker, ask, key):
    status, headers, body = await ask(f"Bearer {revoker.token()}", key=key)
    assert status == 503
    assert "WWW-Authenticate" not in headers
    assert json.loads(body)["error"] == "temporarily_unavailable"


async def test_the_user_cannot_be_the_gateway(revoker, ask):
    status, _, _ = await ask("Bearer gateway-secret", key=None)
    assert status == 503
    status, _, _ = await ask(aiohttp.encode_basic_auth("admin", "admin-secret"), key=None)
    assert status == 503


@pytest.mark.row("FWD-11")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["", "/", "/a/b?c=d", "?x=%zz"])
async def test_any_method_and_any_path_below_is_judged_alike(revoker, ask, method, path):
    path = f"/forward-auth{path}"
    good = await ask(f"Bearer {revoker.token()}", method=method, path=path)
    assert good[0] == 200
    assert (await ask(method=method, path=path))[0] == 401


async def test_a_neighbouring_path_is_not_forward_auth(revoker, ask):
    assert (await ask(f"Bearer {revoker.token()}", path="/forward-authx"))[0] == 404


@pytest.mark.row("FWD-12", "JWT-17")
@pytest.mark.parametrize(("size", "status"), [(12_000, 200), (16_000, 200), (17_000, 401)])
async def test_tokens_up_to_16_kib_pass_in_the_header(revoker, ask, size, status):
    token = revoker.token()
    padding = (size - len(token)) * 3 // 4
    token = revoker.token(padding="x" * padding)
    assert (await ask(f"Bearer {token}"))[0] == status


@pytest.mark.row("POP-04", "POP-07")
@pytest.mark.parametrize("cnf", [{"jkt": "abc"}, {"x5t#S256": "abc"}])
async def test_a_bound_token_is_never_taken_as_a_bearer_token(revoker, ask, cnf):
    status, headers, _ = await ask(f"Bearer {revoker.token(cnf=cnf)}")
    assert status == 401
    assert 'error="invalid_token"' in headers["WWW-Authenticate"]


async def test_a_lookup_that_gives_no_verdict_is_503(start, own_valkey):
    running = await start(own_valkey)
    own_valkey.kill()
    headers = {"X-Revoker-Key": "gateway-secret", "Authorization": f"Bearer {running.token()}"}
    async with running.http.get(running.url + "/forward-auth", headers=headers) as response:
        assert response.status == 503
        assert response.headers["Retry-After"]


@pytest.mark.row("FWD-04")
@pytest.mark.parametrize(
    "space",
    ["\u00a0", "\u2003", "\u3000", "\u2028", "\x85", "\x1f", "\x1c", "\x0b", "\x0c", "\t", "\n", "\r"],
)
async def test_a_space_alone_separates_the_values_of_a_scope(revoker, ask, space):
    scope = f"orders:admin{space}orders:read"
    authorization = f"Bearer {revoker.token(scope=scope)}"

    status, headers, _ = await ask(authorization)
    assert status == 200
    assert headers["X-Auth-Scope"] == urllib.parse.quote(scope, safe=":")
    for wanted in ("orders:admin", "orders:read", '"orders:admin orders:read"'):
        status, _, _ = await ask(authorization, require=[f"scope={wanted}"])
        assert status == 403, wanted


async def test_more_than_one_space_between_the_values_of_a_scope_separates_them_too(revoker, ask):
    authorization = f"Bearer {revoker.token(scope=' a   b ')}"

    status, headers, _ = await ask(authorization, require=['scope=" b  a "'])

    assert (status, headers["X-Auth-Scope"]) == (200, "a b")


@pytest.mark.parametrize("space", ["\u00a0", "\u2003", "\x1f", "\x0b", "\t"])
async def test_an_acr_with_other_white_space_is_one_value(revoker, ask, space):
    authorization = f"Bearer {revoker.token(acr=f'mfa{space}pwd')}"

    for wanted in ("mfa", "pwd", '"mfa pwd"'):
        assert (await ask(authorization, require=[f"acr={wanted}"]))[0] == 401


async def test_other_white_space_in_what_a_route_demands_is_not_understood(revoker):
    head = "GET /forward-auth HTTP/1.1\r\nHost: x\r\nX-Revoker-Key: gateway-secret\r\n"
    head += f"Authorization: Bearer {revoker.token(scope='a b', acr='mfa')}\r\n"
    for space in (b"\xa0", b"\xc2\xa0", b"\xe2\x80\x83", b"\t"):
        for demand in (b'scope="a%bb"' % space, b'acr="mfa%bpwd"' % space):
            data = head.encode() + b"X-Revoker-Require: " + demand + b"\r\n\r\n"
            answer = await Wire(revoker.url).send(data)
            assert answer.startswith(b"HTTP/1.1 403 "), (demand, answer)


async def test_a_target_in_absolute_form_is_the_same_question(revoker):
    """RFC 9112 §3.2.2: a server accepts it."""
    key, token = "gateway-secret", revoker.token()
    address = revoker.url.removeprefix("http://").split(":")
    for target in (f"{revoker.url}/forward-auth", "HTTP://other.example/forward-auth/orders?x=y"):
        reader, writer = await asyncio.open_connection(*address)
        head = f"GET {target} HTTP/1.1\r\nHost: x\r\nX-Revoker-Key: {key}\r\n"
        writer.write(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 "), target
        assert b"\r\nX-Auth-Subject: user-1\r\n" in answer
