"""Who may call, and for what, over HTTP."""

import asyncio
import base64
import urllib.parse

import aiohttp
import pytest

from revoker.auth import digest
from tests.rig import forge
from tests.rig.certificates import Authority
from tests.rig.service import OTHER_ISSUER, SECRETS

row = pytest.mark.row


def basic(name, secret, scheme="Basic"):
    encoded = base64.b64encode(f"{name}:{secret}".encode()).decode()
    return {"Authorization": f"{scheme} {encoded}"}


async def asking(revoker, headers, path="/introspect"):
    return await revoker.post(path, {"token": "x"}, caller=None, headers=headers)


async def is_refused(revoker, headers, path="/introspect"):
    answer = await asking(revoker, headers, path)
    assert answer.error == (401, "invalid_client")
    return True


@row("7662-04", "HTTP-01")
@pytest.mark.parametrize(
    "path", ["/introspect", "/introspect/batch", "/revoke", "/revoke-user", "/revoke-key", "/explain"]
)
async def test_nobody_gets_in_without_a_credential(revoker, path):
    assert await is_refused(revoker, {}, path)


@row("7662-04", "7662-07", "ATK-10")
@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"gateway:\xff\xfe").decode(),
        "Basic " + base64.b64encode(b"gateway:").decode(),
        "Basic " + base64.b64encode(b":gateway-secret").decode(),
        "Basic " + base64.b64encode(b"gateway:wrong").decode(),
        "Basic " + base64.b64encode(b"nobody:gateway-secret").decode(),
        "Basic " + base64.b64encode(b"admin:gateway-secret").decode(),
        "Basic " + base64.b64encode(b"Gateway:gateway-secret").decode(),
        "Basic " + base64.b64encode(b"gateway:gateway-secret\0").decode(),
        "Basic " + base64.b64encode(b"gateway:" + b"x" * 20_000).decode(),
        "Basic " + base64.b64encode(b"gateway:%zz%").decode(),
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer " + digest("gateway-secret"),
        "Digest gateway-secret",
        "gateway-secret",
    ],
)
async def test_a_wrong_credential_is_refused_whatever_it_looks_like(start, valkey, authorization):
    revoker = await start(valkey)

    assert await is_refused(revoker, {"Authorization": authorization})


@row("ATK-10")
async def test_bytes_that_are_no_text_are_a_wrong_credential(wire):
    answer = await wire.send(
        b"POST /introspect HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\x80\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )

    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_every_way_of_showing_a_secret_works(revoker):
    token = revoker.token()
    secret = SECRETS["gateway"]
    for headers in (
        basic("gateway", secret),
        basic("gateway", secret, "bAsIc"),
        {"Authorization": f"bEaReR {secret}"},
    ):
        for body in ({"body": {"token": token}}, {"form": {"token": token}}):
            answer = await revoker.post("/introspect", **body, caller=None, headers=headers)
            assert answer.json["active"] is True
    fields = {"token": token, "client_id": "gateway", "client_secret": secret}
    assert (await revoker.post("/introspect", form=fields, caller=None)).json["active"] is True


async def test_a_secret_is_taken_as_sent_and_as_rfc_6749_encodes_it(start, valkey):
    odd = "a+b%c:d é/%41"
    revoker = await start(
        valkey, callers=[{"name": "odd.name~1", "secret_sha256": [digest(odd)], "scopes": ["introspect"]}]
    )

    for name, secret in (
        ("odd.name~1", odd),
        ("odd.name~1", urllib.parse.quote_plus(odd)),
        (urllib.parse.quote("odd.name~1", safe="").replace(".", "%2E"), urllib.parse.quote(odd, safe="")),
    ):
        assert (await asking(revoker, basic(name, secret))).status == 200
    fields = {"token": "x", "client_id": "odd.name~1", "client_secret": odd}
    assert (await revoker.post("/introspect", form=fields, caller=None)).status == 200


@row("7662-06")
async def test_a_name_alone_is_no_credential(revoker):
    answer = await revoker.post("/introspect", form={"token": "x", "client_id": "gateway"}, caller=None)

    assert answer.error == (401, "invalid_client")


async def test_two_credentials_at_once_are_malformed_even_if_both_are_right(revoker):
    right = {"client_id": "gateway", "client_secret": SECRETS["gateway"]}

    for headers in (basic("gateway", SECRETS["gateway"]), {"Authorization": f"Bearer {SECRETS['gateway']}"}):
        answer = await revoker.post("/introspect", form={"token": "x", **right}, caller=None, headers=headers)
        assert answer.error == (400, "invalid_request")


@pytest.mark.parametrize("seen_before", [False, True])
async def test_two_headers_at_once_are_malformed(revoker, wire, seen_before):
    right = basic("gateway", SECRETS["gateway"])["Authorization"]
    if seen_before:
        assert (await asking(revoker, {"Authorization": right})).status == 200

    answer = await wire.send(
        f"POST /introspect HTTP/1.1\r\nHost: x\r\nAuthorization: {right}\r\nAuthorization: Bearer wrong\r\n"
        'Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{"token":"x"}'.encode()
    )

    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_secret_without_a_name_is_malformed(revoker):
    answer = await revoker.post("/introspect", form={"token": "x", "client_secret": "s"}, caller=None)

    assert answer.error == (400, "invalid_request")


@row("7662-05", "7662-07")
async def test_a_caller_does_only_what_its_scopes_say(start, valkey):
    callers = [
        {"name": scope, "secret_sha256": [digest(scope)], "scopes": [scope]}
        for scope in ("introspect", "revoke", "revoke-all", "sessions")
    ]
    revoker = await start(valkey, callers=callers)
    needs = {
        "/introspect": ("introspect", {"token": "x"}),
        "/introspect/batch": ("introspect", {"tokens": []}),
        "/revoke": ("revoke", {"token": "x"}),
        "/revoke-user": ("revoke", {"sub": "s", "iss": forge.ISSUER}),
        "/revoke-session": ("revoke", {"sid": "s", "iss": forge.ISSUER}),
        "/revoke-client": ("revoke", {"client_id": "s", "iss": forge.ISSUER}),
        "/revoke-claim": ("revoke", {"claim": "grant_id", "value": "g", "iss": OTHER_ISSUER}),
        "/block-user": ("revoke", {"sub": "s", "iss": forge.ISSUER}),
        "/unblock-user": ("revoke", {"sub": "s", "iss": forge.ISSUER}),
        "/explain": ("revoke", {"token": "x"}),
        "/revoke-issuer": ("revoke-all", {"iss": forge.ISSUER}),
        "/revoke-key": ("revoke-all", {"kid": "k", "iss": forge.ISSUER}),
    }
    for path, (needed, body) in needs.items():
        for caller in callers:
            scope = caller["scopes"][0]
            answer = await revoker.post(path, body, caller=None, headers=basic(scope, scope))
            if scope == needed:
                assert answer.status == 200, (path, scope)
            else:
                assert answer.error == (403, "insufficient_scope"), (path, scope)


@row("7662-05")
async def test_a_scope_is_looked_at_even_where_the_caller_was_seen_before(start, valkey):
    secret = digest("s")
    revoker = await start(valkey, callers=[{"name": "c", "secret_sha256": [secret], "scopes": ["revoke"]}])
    assert (await asking(revoker, basic("c", "s"), "/revoke")).status == 200

    assert (await asking(revoker, basic("c", "s"))).error == (403, "insufficient_scope")


@row("7662-19", "7009-12", "HTTP-03", "HTTP-04")
async def test_guessing_is_throttled_and_a_right_secret_never_is(revoker):
    guesses = 0
    while (answer := await asking(revoker, basic("gateway", f"guess-{guesses}"))).status == 401:
        guesses += 1
    assert guesses > 0
    assert answer.error == (429, "slow_down")
    assert (await asking(revoker, basic("gateway", SECRETS["gateway"]))).status == 200
    assert (await asking(revoker, basic("admin", SECRETS["admin"]))).status == 200


@row("K8S-07", "CA-03")
async def test_two_secrets_live_side_by_side_while_one_is_replaced(start, valkey):
    def callers(*secrets, scope="introspect"):
        return [{"name": "c", "secret_sha256": [digest(secret) for secret in secrets], "scopes": [scope]}]

    revoker = await start(valkey, callers=callers("old", "new"))
    later = (await start(valkey, callers=callers("new"))).service._settings
    for secret in ("old", "new", "old"):
        assert (await asking(revoker, basic("c", secret))).status == 200

    revoker.service.reload(later)

    assert (await asking(revoker, basic("c", "new"))).status == 200
    assert await is_refused(revoker, basic("c", "old")), "though it was remembered"


async def test_a_reload_takes_over_scopes_and_bounds(start, valkey):
    def callers(**terms):
        return [{"name": "c", "secret_sha256": [digest("s")], "scopes": ["introspect"], **terms}]

    revoker = await start(valkey, callers=callers())
    later = (await start(valkey, callers=callers(audiences=["api://billing"]))).service._settings
    last = (await start(valkey, callers=callers(scopes=["revoke"]))).service._settings
    token = {"token": revoker.token()}
    assert (await revoker.post("/introspect", token, caller=None, headers=basic("c", "s"))).json[
        "active"
    ] is True

    revoker.service.reload(later)
    assert (await revoker.post("/introspect", token, caller=None, headers=basic("c", "s"))).json == {
        "active": False
    }
    revoker.service.reload(last)
    assert (await asking(revoker, basic("c", "s"))).error == (403, "insufficient_scope")


async def test_a_client_certificate_is_a_credential(start, valkey, tmp_path):
    authority = Authority(tmp_path / "authority")
    callers = [{"name": "edge", "secret_sha256": [digest("s")], "scopes": ["introspect"]}]
    revoker = await start(valkey, server=authority.server_settings(), callers=callers, ready=False)
    while not revoker.service.store.reached:
        await asyncio.sleep(0.01)

    async def status_for(certificate, headers=None):
        body = {"json": {"token": "x"}, "headers": headers or {}}
        async with aiohttp.ClientSession() as fresh:  # a connection of its own for each certificate
            answer = await fresh.post(f"{revoker.url}/introspect", ssl=certificate, **body)
            return answer.status

    assert await status_for(authority.client("edge")) == 200
    assert await status_for(authority.client("other", dns="edge")) == 200
    assert await status_for(authority.client("other")) == 401
    assert await status_for(authority.client(None)) == 401
    assert await status_for(authority.client(None), basic("edge", "s")) == 200
    assert await status_for(authority.client("edge"), basic("edge", "wrong")) == 401
    thief = Authority(tmp_path / "thief").client("edge")
    thief.load_verify_locations(authority.certificate)
    with pytest.raises((aiohttp.ClientError, OSError)):
        await status_for(thief)


@pytest.fixture
async def limited(start, valkey):
    """A service where the caller `gateway` has one request, and none to come soon."""
    secret = {name: [digest(SECRETS[name])] for name in ("gateway", "admin")}
    return await start(
        valkey,
        callers=[
            {
                "name": "gateway",
                "secret_sha256": secret["gateway"],
                "scopes": ["introspect"],
                "rate_limit": 0.001,
            },
            {"name": "admin", "secret_sha256": secret["admin"], "scopes": ["introspect"]},
        ],
    )


async def test_a_caller_that_asks_too_often_is_told_to_slow_down_and_others_are_not(limited):
    token = limited.token()
    assert await limited.active(token)
    for _ in range(3):
        answer = await limited.post("/introspect", {"token": token}, caller="gateway")
        assert answer.error == (429, "slow_down")
        assert answer.headers["Retry-After"] == "1"
        assert (await limited.post("/introspect", form={"token": token}, caller="gateway")).status == 429
        assert (await limited.post("/introspect/batch", {"tokens": []}, caller="gateway")).status == 429
        assert await limited.active(token, caller="admin")
    assert 'reason="rate_limited"} 9.0' in (await limited.ask("GET", "/metrics")).body.decode()


async def test_a_gateway_that_asks_too_often_has_no_verdict_for_its_users(limited):
    headers = {"X-Revoker-Key": SECRETS["gateway"], "Authorization": f"Bearer {limited.token()}"}
    assert (await limited.ask("GET", "/forward-auth", headers=headers)).status == 200
    assert (await limited.ask("GET", "/forward-auth", headers=headers)).status == 503


async def test_wrong_credentials_spend_nothing_of_a_callers_share(limited):
    for _ in range(3):
        assert await is_refused(limited, basic("gateway", "wrong"))
    assert await limited.active(limited.token())


@pytest.mark.parametrize("body", [{"tokens": []}, {"tokens": 1}, {}])
async def test_a_batch_without_tokens_counts_like_any_request(limited, body):
    statuses = [(await limited.post("/introspect/batch", body, caller="gateway")).status for _ in range(3)]

    assert statuses[0] in {200, 400}
    assert statuses[1:] == [429, 429]


async def test_every_token_of_a_batch_counts(start, valkey):
    revoker = await start(
        valkey,
        callers=[
            {
                "name": "gateway",
                "secret_sha256": [digest(SECRETS["gateway"])],
                "scopes": ["introspect"],
                "rate_limit": 1,
            }
        ],
    )
    tokens = {"tokens": [{"token": "x"}] * 1000}
    assert (await revoker.post("/introspect/batch", tokens, caller="gateway")).status == 200
    assert (await revoker.post("/introspect/batch", tokens, caller="gateway")).status == 429
