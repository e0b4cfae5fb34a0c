"""``POST /revoke``: RFC 7009 to the letter, and revocation by ``jti``."""

import base64
import json
import time
import uuid

import aiohttp
import pytest

from tests.rig import forge
from tests.rig.forge import ABSENT
from tests.rig.service import HANGS_S, OTHER_ISSUER, SECRETS

row = pytest.mark.row


def stored_keys(revoker, valkey):
    """All that the store holds for this service, but for the heartbeats of its processes."""
    prefix = revoker.service._settings.redis.key_prefix
    with valkey.client() as client:
        heartbeats = (f"{prefix}:seq:", f"{prefix}:instances")
        keys = [key for key in client.scan_iter(f"{prefix}:*") if not key.startswith(heartbeats)]
        read = {"hash": client.hgetall, "stream": client.xrange, "string": client.get}
        return {key: read[client.type(key)](key) for key in keys}


@row("7009-01", "7009-02", "7009-06", "7009-16")
@pytest.mark.parametrize("as_form", [True, False], ids=["form", "JSON"])
async def test_a_revoked_token_is_inactive_though_it_was_never_seen_before(revoker, as_form):
    token = revoker.token()

    answer = await (
        revoker.post("/revoke", form={"token": token})
        if as_form
        else revoker.post("/revoke", {"token": token})
    )

    assert (answer.status, answer.body) == (200, b"")
    assert not await revoker.active(token)


@row("7009-01")
@pytest.mark.parametrize("fields", [{"other": "x"}, {"token": ""}, {"token_type_hint": "access_token"}])
async def test_without_a_token_it_is_malformed(revoker, fields):
    assert (await revoker.post("/revoke", form=fields)).error == (400, "invalid_request")


@row("7009-03")
@pytest.mark.parametrize(
    "make",
    [
        lambda r: "garbage",
        lambda r: "a.b.c",
        lambda r: "x" * 17_000,
        lambda r: r.token(iat=int(time.time()) - 1000, exp=int(time.time()) - 900),
        lambda r: forge.token(forge.rsa_key("thief"), {"kid": "main-1"}),
        lambda r: r.token(iss="https://evil.example.com"),
        lambda r: str(uuid.uuid4()),
    ],
    ids=["garbage", "dots", "huge", "expired", "forged", "other issuer", "refresh token of another service"],
)
async def test_a_token_that_means_nothing_here_is_answered_as_if_revoked(revoker, make):
    answer = await revoker.post("/revoke", form={"token": make(revoker)})

    assert (answer.status, answer.body) == (200, b"")


@row("7009-03")
async def test_revoking_twice_is_the_same_as_once(revoker, valkey):
    token = revoker.token()
    first = await revoker.post("/revoke", form={"token": token})
    before = stored_keys(revoker, valkey)

    second = await revoker.post("/revoke", form={"token": token})

    assert (second.status, second.body) == (first.status, first.body)
    changed = {key for key, value in stored_keys(revoker, valkey).items() if before.get(key) != value}
    assert {key.rpartition(":")[2] for key in changed} == {"seq", "writers", "journal"}


@row("7009-09", "7009-12")
@pytest.mark.parametrize("hint", ["refresh_token", "access_token", "foo", "x" * 1000])
async def test_a_hint_never_changes_what_is_revoked(revoker, hint):
    token = revoker.token()

    assert (await revoker.post("/revoke", form={"token": token, "token_type_hint": hint})).status == 200
    assert not await revoker.active(token)


@row("7009-13", "HTTP-01")
async def test_a_get_revokes_nothing(revoker):
    token = revoker.token()

    answer = await revoker.ask("GET", f"/revoke?token={token}&callback=f")

    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert await revoker.active(token)


@row("7009-14")
async def test_no_browser_of_another_origin_is_let_in(revoker):
    headers = {"Origin": "https://spa.example.com", "Access-Control-Request-Method": "POST"}

    preflight = await revoker.ask("OPTIONS", "/revoke", headers=headers)
    answer = await revoker.post("/revoke", form={"token": "x"}, headers=headers)

    assert preflight.status == 405
    assert not any(name.startswith("Access-Control") for name in {**preflight.headers, **answer.headers})


@row("7009-04", "ATK-12")
async def test_a_caller_bound_to_a_client_revokes_that_clients_tokens_alone(revoker, valkey):
    own, azp = revoker.token(client_id="web"), revoker.token(client_id=ABSENT, azp="web")
    others = revoker.token(client_id="mobile")
    nobodys = revoker.token(client_id=ABSENT)
    before = stored_keys(revoker, valkey)

    for token in (others, nobodys):
        assert (await revoker.post("/revoke", form={"token": token}, caller="bound")).error == (
            403,
            "access_denied",
        )
        assert await revoker.active(token)
    assert stored_keys(revoker, valkey) == before

    for token in (own, azp):
        assert (await revoker.post("/revoke", form={"token": token}, caller="bound")).status == 200
        assert not await revoker.active(token)


async def test_a_caller_bound_to_a_client_does_nothing_wider(revoker):
    now = {"iss": forge.ISSUER}
    refused = {
        "/revoke": {"jti": "j", **now},
        "/revoke-user": {"sub": "u", **now},
        "/revoke-session": {"sid": "s", **now},
        "/revoke-client": {"client_id": "mobile", **now},
        "/revoke-claim": {"claim": "grant_id", "value": "g", "iss": OTHER_ISSUER},
        "/block-user": {"sub": "u", **now},
        "/unblock-user": {"sub": "u", **now},
        "/explain": forge.claims(),
    }

    for path, body in refused.items():
        assert (await revoker.post(path, body, caller="bound")).error == (403, "access_denied"), path
    assert (await revoker.post("/revoke-client", {"client_id": "web", **now}, caller="bound")).status == 200
    assert not await revoker.active(revoker.token(client_id="web"))


@row("7009-04", "ATK-07")
async def test_a_caller_bound_to_an_issuer_revokes_nothing_of_another(revoker):
    token = revoker.token()

    assert (await revoker.post("/revoke", {"token": token}, caller="one-issuer")).error == (
        403,
        "access_denied",
    )
    for path, body in {
        "/revoke": {"jti": "j"},
        "/revoke-user": {"sub": "user-1"},
        "/revoke-session": {"sid": "session-1"},
        "/revoke-client": {"client_id": "web"},
        "/revoke-claim": {"claim": "grant_id", "value": "g"},
        "/block-user": {"sub": "user-1"},
    }.items():
        answer = await revoker.post(path, {**body, "iss": forge.ISSUER}, caller="one-issuer")
        assert answer.error == (400, "invalid_request"), path
    assert await revoker.active(token)


@row("7009-05", "ATK-12")
async def test_the_caller_is_looked_at_before_the_token(revoker, valkey):
    token = revoker.token()
    before = stored_keys(revoker, valkey)
    wrong = {"Authorization": aiohttp.encode_basic_auth("admin", "wrong")}

    answers = [
        await revoker.post("/revoke", form={"token": text}, caller=None, headers=wrong)
        for text in (token, "garbage", forge.token(forge.rsa_key("thief")))
    ]

    assert {answer.error for answer in answers} == {(401, "invalid_client")}
    assert len({answer.body for answer in answers}) == 1
    assert stored_keys(revoker, valkey) == before
    assert await revoker.active(token)


@row("7009-10", "7009-18", "ATK-01")
async def test_a_genuine_token_without_jti_is_of_a_kind_that_can_t_be_revoked(revoker):
    answer = await revoker.post("/revoke", form={"token": revoker.token(jti=ABSENT)})

    assert answer.error == (400, "unsupported_token_type")


@row("7009-10")
async def test_only_signature_and_issuer_of_what_is_revoked_are_looked_at(revoker, valkey):
    odd = {"jti": "odd", "aud": "api://elsewhere", "exp": "never", "nonce": "n", "events": {}}
    token = forge.forge(revoker.key, forge.header_of(revoker.key, typ="logout+jwt"), forge.claims(**odd))

    assert (await revoker.post("/revoke", form={"token": token})).status == 200
    assert not await revoker.active(forge.claims(jti="odd"))


@row("7009-17", "JWT-09", "ATK-12")
async def test_a_forged_token_revokes_nothing(revoker, valkey):
    token = revoker.token(jti="victim")
    before = stored_keys(revoker, valkey)
    forged = [
        forge.token(forge.rsa_key("thief", bits=2048), {"kid": "main-1"}, jti="victim"),
        forge.compact({"alg": "none"}, forge.claims(jti="victim"), lambda _: b""),
        token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB"),
    ]

    for text in forged:
        assert (await revoker.post("/revoke", form={"token": text})).status == 200

    assert stored_keys(revoker, valkey) == before
    assert await revoker.active(token)


@row("7009-18", "ATK-07")
async def test_a_jti_belongs_to_its_issuer(revoker):
    ours = revoker.token(jti="shared")
    theirs = forge.token(forge.rsa_key("other-1"), iss=OTHER_ISSUER, jti="shared")

    await revoker.post("/revoke", {"iss": OTHER_ISSUER, "jti": "shared"})

    assert await revoker.active(ours)
    assert not await revoker.active(theirs)


@row("7009-15")
async def test_the_entry_of_a_revoked_token_outlives_it_and_its_leeway(revoker, valkey):
    exp = int(time.time()) + 300
    token = revoker.token(jti="long", exp=exp)

    await revoker.post("/revoke", {"token": token})

    prefix = revoker.service._settings.redis.key_prefix
    with valkey.client() as client:
        assert client.pexpiretime(f"{prefix}:jti:main:long") >= (exp + 30 + 60) * 1000


@row("7009-15", "ATK-02")
async def test_a_jti_without_exp_is_stored_as_long_as_any_token_of_today_can_live(revoker, valkey):
    await revoker.post("/revoke", {"iss": forge.ISSUER, "jti": "unknown"})

    prefix = revoker.service._settings.redis.key_prefix
    with valkey.client() as client:
        assert client.pttl(f"{prefix}:jti:main:unknown") > (86400 + 2 + 30 + 30) * 1000


@row("7009-15")
async def test_a_shorter_second_revocation_does_not_shorten_the_first(revoker, valkey):
    now = int(time.time())
    for exp in (now + 3600, now + 10):
        assert (
            await revoker.post("/revoke", {"iss": forge.ISSUER, "jti": "twice", "exp": exp})
        ).status == 200

    prefix = revoker.service._settings.redis.key_prefix
    with valkey.client() as client:
        assert client.pttl(f"{prefix}:jti:main:twice") > 3600_000


@pytest.mark.parametrize("exp", [-1, "x", 1e20, 2**70, True, None])
async def test_an_exp_that_no_token_can_have_is_malformed(revoker, exp):
    body = {"iss": forge.ISSUER, "jti": "j", "exp": exp}
    answer = await revoker.post("/revoke", body)

    assert answer.status == 200 if exp is None else answer.error == (400, "invalid_request")


async def test_an_exp_further_ahead_than_any_token_may_live_is_malformed(revoker):
    body = {"iss": forge.ISSUER, "jti": "j", "exp": int(time.time()) + 86400 + 1000}

    assert (await revoker.post("/revoke", body)).error == (400, "invalid_request")


async def test_the_issuer_of_a_jti_may_be_left_out_only_where_one_is_meant(revoker):
    assert (await revoker.post("/revoke", {"jti": "j"})).error == (400, "invalid_request")
    assert (await revoker.post("/revoke", {"jti": "j"}, caller="one-issuer")).status == 200
    assert (await revoker.post("/revoke", {"jti": "j", "iss": "https://x"})).error == (400, "invalid_request")


@row("7009-11", "HTTP-03")
async def test_while_the_store_is_away_nothing_is_reported_as_revoked(start, own_valkey):
    revoker = await start(own_valkey)
    token = revoker.token()
    assert await revoker.active(token)
    own_valkey.kill()

    answers = [
        await revoker.post("/revoke", form={"token": token}),
        await revoker.post("/introspect", form={"token": token}),
        await revoker.post("/introspect/batch", {"tokens": [{"token": token}]}),
        await revoker.post("/revoke-user", {"sub": "user-1", "iss": forge.ISSUER}),
        await revoker.post("/explain", {"token": token}),
    ]

    assert {answer.error for answer in answers} == {(503, "temporarily_unavailable")}
    own_valkey.start()
    deadline = time.monotonic() + HANGS_S
    while (answer := await revoker.post("/introspect", form={"token": token})).status == 503:
        assert time.monotonic() < deadline
    assert answer.json["active"] is True


async def test_an_outage_may_let_tokens_pass_but_never_explains_or_revokes(start, own_valkey, events):
    revoker = await start(own_valkey, revocation={"store_outage": "allow"})
    token, claims = revoker.token(), forge.claims()
    assert await revoker.active(token)
    own_valkey.kill()

    assert await revoker.active(token)
    assert await revoker.active(claims)
    batch = await revoker.post("/introspect/batch", {"tokens": [claims, {"token": "x"}]}, caller="gateway")
    assert batch.json == {"results": [{"active": True}, {"active": False}]}
    assert not await revoker.active(revoker.token(iat=1, exp=2))
    assert sum(event["event"] == "answered_unchecked" for event in events) == 3
    for path, body in {"/explain": claims, "/revoke": {"token": token}}.items():
        assert (await revoker.post(path, body)).error == (503, "temporarily_unavailable"), path


def to_be_repeated(answer):
    assert answer.error == (503, "temporarily_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    return True


NEW_KEY = forge.rsa_key("main-2")


@row("7009-11")
async def test_a_token_whose_kid_is_in_no_key_set_yet_is_not_called_revoked(start, valkey, idp):
    revoker = await start(valkey, main=idp.terms)
    token = forge.token(NEW_KEY, jti="of the new key")
    before = stored_keys(revoker, valkey)

    assert all([to_be_repeated(await revoker.post("/revoke", form={"token": token})) for _ in range(3)])
    assert stored_keys(revoker, valkey) == before

    revoker = await start(valkey, main=idp.terms)
    idp.keys = forge.jwks(revoker.key, NEW_KEY)
    assert (await revoker.post("/revoke", form={"token": token})).status == 200
    assert not await revoker.active(token)


@row("7009-11")
async def test_a_token_whose_kid_is_not_in_the_file_of_keys_yet_is_not_called_revoked(
    start, valkey, tmp_path
):
    path = tmp_path / "given.jwks"
    path.write_text(json.dumps(forge.jwks(forge.rsa_key("main-1"))))
    revoker = await start(valkey, main={"jwks_file": str(path)})
    token = forge.token(NEW_KEY, jti="of the new key")

    assert to_be_repeated(await revoker.post("/revoke", form={"token": token}))
    path.write_text(json.dumps(forge.jwks(revoker.key, NEW_KEY)))

    assert (await revoker.post("/revoke", form={"token": token})).status == 200
    assert not await revoker.active(token)


@pytest.mark.parametrize(
    "unusable",
    [{"keys": []}, {"keys": [1, {}]}, {"keys": [NEW_KEY.jwk(use="enc")]}, [], {}],
    ids=["no keys", "junk", "for encryption", "array", "no set"],
)
async def test_an_answer_without_a_usable_key_is_not_a_key_set(start, valkey, idp, unusable):
    revoker = await start(valkey, main=idp.terms)
    old, token = revoker.token(), forge.token(NEW_KEY, jti="of the new key")
    assert await revoker.active(old)
    fetches, idp.keys = idp.fetches, unusable

    assert to_be_repeated(await revoker.post("/revoke", form={"token": token}))

    assert idp.fetches > fetches
    ready = await revoker.ask("GET", "/readyz")
    assert (ready.status, [problem["problem"] for problem in ready.json["problems"]]) == (200, ["keys_stale"])
    assert await revoker.active(old)
    assert (await revoker.post("/revoke", form={"token": old})).status == 200
    assert not await revoker.active(old)


async def test_an_issuer_that_never_had_a_usable_key_is_not_ready_at_first(start, valkey, idp):
    idp.keys = {"keys": []}
    revoker = await start(valkey, main=idp.terms, ready=False, monotonic=lambda: 0.0)
    await idp.fetched.wait()

    for path in ("/revoke", "/introspect"):
        assert to_be_repeated(await revoker.post(path, form={"token": revoker.token()}))
    ready = await revoker.ask("GET", "/readyz")
    assert ready.status == 503
    assert [problem["problem"] for problem in ready.json["problems"]] == ["keys_never_loaded"]


@row("7009-17")
async def test_forged_tokens_are_answered_as_if_revoked_however_many_there_are(start, valkey, idp):
    revoker = await start(valkey, main=idp.terms)
    before = stored_keys(revoker, valkey)
    thief = forge.rsa_key("thief")

    for kid in ("main-1", ABSENT):
        for number in range(4):
            forged = forge.token(thief, {"kid": kid}, jti=f"victim-{number}")
            assert (await revoker.post("/revoke", form={"token": forged})).status == 200

    assert stored_keys(revoker, valkey) == before


@row("7009-03")
async def test_a_token_that_expired_long_ago_is_answered_as_if_revoked_though_its_key_has_gone(
    start, valkey, idp
):
    revoker = await start(valkey, main=idp.terms)
    now = int(time.time())

    for exp, status in ((now - 1000, 200), (now - 60, 503), ("never", 503)):
        token = forge.forge(NEW_KEY, forge.header_of(NEW_KEY), forge.claims(iat=now - 2000, exp=exp))
        assert (await revoker.post("/revoke", form={"token": token})).status == status


@row("7009-11")
async def test_what_may_be_a_forgery_for_want_of_keys_is_not_called_revoked(start, valkey):
    issuer = {"name": "main", "issuer": forge.ISSUER, "audiences": [forge.AUDIENCE]}
    nowhere = {"jwks_uri": "http://127.0.0.1:9/jwks", "jwks_insecure": True}
    revoker = await start(valkey, issuers=[{**issuer, **nowhere}], callers=_admin(), ready=False)

    for path in ("/revoke", "/introspect"):
        answer = await revoker.post(path, {"token": forge.token(forge.rsa_key("main-1"))})
        assert answer.error == (503, "temporarily_unavailable"), path
    batch = await revoker.post(
        "/introspect/batch", {"tokens": [{"token": forge.token(forge.rsa_key("main-1"))}]}
    )
    assert batch.json == {"results": [{"error": "temporarily_unavailable"}]}


def _admin():
    from revoker.auth import digest

    secret = digest(SECRETS["admin"])
    return [{"name": "admin", "secret_sha256": [secret], "scopes": ["introspect", "revoke", "revoke-all"]}]


@row("7009-01", "7009-05")
async def test_credentials_in_the_form_are_those_of_rfc_6749(revoker):
    token = revoker.token()
    fields = {"token": token, "client_id": "admin"}

    assert (await revoker.post("/revoke", form=fields, caller=None)).error == (401, "invalid_client")
    wrong = await revoker.post("/revoke", form={**fields, "client_secret": "wrong"}, caller=None)
    assert wrong.error == (401, "invalid_client")
    assert await revoker.active(token)
    right = await revoker.post("/revoke", form={**fields, "client_secret": SECRETS["admin"]}, caller=None)
    assert right.status == 200
    assert not await revoker.active(token)


@row("JWT-24", "ATK-07")
@pytest.mark.parametrize(
    "jti",
    [
        "ключ",
        "🔑",
        "\0",
        "a:b:{c}",
        "x" * 4000,
        " ",
        "=",
        "=" + base64.urlsafe_b64encode(b"x" * 32).decode(),
        "\r\nFLUSHALL\r\n",
        "*",
    ],
    ids=range(10),
)
async def test_any_jti_is_revoked_and_no_other_with_it(revoker, jti):
    token = revoker.token(jti=jti)
    others = [revoker.token(jti=other) for other in (jti + "x", jti[:-1] + "y", f"{jti}:{jti}")]
    assert await revoker.active(token)

    assert (await revoker.post("/revoke", form={"token": token})).status == 200

    assert not await revoker.active(token)
    assert all([await revoker.active(other) for other in others])
