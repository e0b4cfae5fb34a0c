"""OpenID Connect Back-Channel Logout 1.0: a logout token becomes a cutoff."""

import dataclasses
import json
import time
import urllib.parse

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from revoker.tokens.key_fetching import COOL_DOWN_S
from tests.rig import forge
from tests.rig.forge import ABSENT
from tests.rig.service import OTHER_ISSUER

row = pytest.mark.row

PATH = "/backchannel-logout"
CLIENT = "revoker-at-idp"
EVENT = "http://schemas.openid.net/event/backchannel-logout"
KEY = forge.rsa_key("main-1")


def issuers(folder, **main):
    """Two issuers that may log out, and one that may not."""
    terms = {"audiences": [forge.AUDIENCE], "algorithms": ["RS256"]}
    listed = []
    for name, iss in (
        ("main", forge.ISSUER),
        ("other", OTHER_ISSUER),
        ("quiet", "https://quiet.example.com"),
    ):
        path = folder / f"{name}.jwks"
        path.write_text(json.dumps(forge.jwks(forge.rsa_key(f"{name}-1"))))
        listed.append({**terms, "name": name, "issuer": iss, "jwks_file": str(path)})
    listed[0] |= {"backchannel_audience": CLIENT, **main}
    listed[1]["backchannel_audience"] = CLIENT
    return listed


@pytest.fixture
def begin(start, valkey, tmp_path):
    async def begin(on=valkey, main=None, **changes):
        return await start(on, issuers=issuers(tmp_path, **(main or {})), **changes)

    return begin


@pytest.fixture
async def revoker(begin):
    return await begin()


def logout_claims(**changes):
    now = int(time.time())
    ordinary = {
        "iss": forge.ISSUER,
        "sub": "alice",
        "aud": CLIENT,
        "iat": now,
        "exp": now + 120,
        "jti": "logout-1",
        "events": {EVENT: {}},
    }
    return {name: value for name, value in (ordinary | changes).items() if value is not ABSENT}


def logout_token(key=KEY, header=None, **changes):
    head = {"alg": key.alg, "kid": key.kid, "typ": "logout+jwt", **(header or {})}
    head = {name: value for name, value in head.items() if value is not ABSENT}
    return forge.forge(key, head, logout_claims(**changes))


async def send(revoker, token):
    return await revoker.post(PATH, form={"logout_token": token}, caller=None)


async def refused(revoker, token):
    """Whether it is answered as invalid, and nothing of alice's is touched."""
    answer = await send(revoker, token)
    assert await revoker.active(revoker.token(sub="alice", sid="s1"))
    assert answer.headers["Cache-Control"] == "no-store"
    return (answer.status, answer.json["error"]) == (400, "invalid_request")


def old(seconds=10, **changes):
    """An access token that was issued a while ago."""
    now = int(time.time())
    return forge.token(
        KEY, jti=f"at-{now}-{changes}", iat=now - seconds, exp=now + 300, **{"sub": "alice", **changes}
    )


@row("BCL-02", "BCL-12")
async def test_without_a_session_every_session_of_the_user_is_logged_out(revoker):
    first, second, bob = old(sid="s1"), old(sid="s2"), old(sub="bob")

    answer = await send(revoker, logout_token())

    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Cache-Control"] == "no-store"
    assert [await revoker.active(token) for token in (first, second, bob)] == [False, False, True]


@row("BCL-12")
async def test_with_a_session_that_session_alone_is_logged_out(revoker):
    first, second = old(sid="s1"), old(sid="s2")

    assert (await send(revoker, logout_token(sid="s1"))).status == 200

    assert [await revoker.active(token) for token in (first, second)] == [False, True]


@row("BCL-06", "BCL-12")
async def test_a_session_is_enough_to_say_who(revoker):
    first, second = old(sid="s1"), old(sid="s2")

    assert (await send(revoker, logout_token(sub=ABSENT, sid="s1"))).status == 200

    assert [await revoker.active(token) for token in (first, second)] == [False, True]


@row("BCL-14")
async def test_the_same_session_and_user_of_another_issuer_are_untouched(revoker):
    theirs = forge.token(
        forge.rsa_key("other-1"), iss=OTHER_ISSUER, sub="alice", sid="s1", iat=int(time.time()) - 9
    )

    assert (await send(revoker, logout_token())).status == 200
    assert (await send(revoker, logout_token(sid="s1"))).status == 200

    assert await revoker.active(theirs)


async def test_the_cutoff_is_at_the_time_that_the_token_says(revoker):
    issued_at = int(time.time()) - 100
    before, after = old(150), old(50)

    assert (await send(revoker, logout_token(iat=issued_at))).status == 200

    assert [await revoker.active(token) for token in (before, after)] == [False, True]


@pytest.mark.parametrize(("clock_skew", "seconds"), [(2, 50), (120, 110)])
async def test_a_time_ahead_is_taken_as_now(begin, clock_skew, seconds):
    revoker = await begin(main={"clock_skew": clock_skew})
    ahead = int(time.time()) + seconds

    assert (await send(revoker, logout_token(iat=ahead, exp=ahead + 60))).status == 200

    explained = await revoker.post("/explain", {"token": old()})
    (cutoff,) = explained.json["standing"]
    assert (cutoff["kind"], cutoff["why"]) == ("user_cutoff", "backchannel logout")
    assert cutoff["since"] <= time.time() + 0.01


@row("BCL-11", "BCL-13")
async def test_a_token_that_is_sent_again_is_answered_alike_and_changes_nothing(revoker):
    token = logout_token(iat=int(time.time()) - 60)
    assert (await send(revoker, token)).status == 200
    logged_in_again = old(30)

    assert (await send(revoker, token)).status == 200

    assert await revoker.active(logged_in_again)
    assert (await send(revoker, logout_token(sub="nobody", sid="unknown"))).status == 200


@row("BCL-01")
async def test_other_parameters_and_json_are_fine(revoker):
    for body in (
        {"form": {"logout_token": logout_token(sub="bob"), "state": "x", "client_id": "idp"}},
        {"body": {"logout_token": logout_token(sub="bob"), "state": ["x"]}},
    ):
        assert (await revoker.post(PATH, caller=None, **body)).status == 200


@row("BCL-01")
@pytest.mark.parametrize(
    "sent",
    [
        {"form": {}},
        {"form": {"logout_token": ""}},
        {"form": {"token": "x"}},
        {"form": {"logout_token": "not.a.token"}},
        {"body": {}},
        {"body": {"logout_token": ["x"]}},
    ],
)
async def test_without_a_logout_token_the_request_is_invalid(revoker, sent):
    answer = await revoker.post(PATH, caller=None, **sent)

    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


@row("BCL-01")
async def test_a_duplicate_parameter_is_refused(revoker):
    token = logout_token()
    twice = urllib.parse.urlencode([("logout_token", token), ("logout_token", token)])
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    answer = await revoker.post(PATH, twice.encode(), caller=None, headers=form)

    assert (answer.status, answer.json["error"]) == (400, "invalid_request")
    assert await revoker.active(old())


@row("BCL-01")
async def test_it_is_a_post_without_a_query(revoker):
    async with revoker.http.get(f"{revoker.url}{PATH}") as response:
        assert response.status == 405
    async with revoker.http.post(
        f"{revoker.url}{PATH}?logout_token={logout_token()}", data={"a": "b"}
    ) as response:
        assert response.status == 400
    assert await revoker.active(old())


@row("BCL-03")
@pytest.mark.parametrize(
    "forged",
    [
        lambda: logout_token(dataclasses.replace(forge.rsa_key("stranger"), kid="main-1")),
        lambda: forge.compact({"alg": "none", "typ": "logout+jwt"}, logout_claims(), lambda _: b""),
        lambda: logout_token(KEY, {"alg": "RS384"}),
        lambda: forge.forge(KEY, {"alg": "PS256", "kid": "main-1"}, logout_claims(), alg="PS256"),
        lambda: forge.compact(
            {"alg": "HS256", "kid": "main-1", "typ": "logout+jwt"},
            logout_claims(),
            forge.mac(KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)),
        ),
        lambda: logout_token()[:-4] + "AAAA",
        lambda: logout_token() + ".AAAA.AAAA",
    ],
    ids=["other key", "none", "wrong alg", "not allowed alg", "public key as secret", "broken", "encrypted"],
)
async def test_a_token_that_the_issuer_did_not_sign_is_refused(revoker, forged):
    assert await refused(revoker, forged())


@row("BCL-04")
@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://idp.example.com/"},
        {"iss": "https://stranger.example.com"},
        {"iss": OTHER_ISSUER, "header": {"kid": "other-1"}},
        {"iss": ABSENT},
        {"iss": [forge.ISSUER]},
        {"aud": "another-client"},
        {"aud": forge.AUDIENCE},
        {"aud": [CLIENT, "stranger"]},
        {"aud": []},
        {"aud": ABSENT},
        {"aud": {CLIENT: 1}},
        {"aud": CLIENT.upper()},
    ],
    ids=str,
)
async def test_issuer_and_audience_must_be_exactly_the_configured_ones(revoker, changes):
    assert await refused(revoker, logout_token(**changes))


@row("BCL-04")
async def test_the_audience_may_stand_in_an_array_of_its_own(revoker):
    assert (await send(revoker, logout_token(aud=[CLIENT]))).status == 200


async def test_an_issuer_without_backchannel_audience_can_log_nobody_out(revoker):
    token = logout_token(forge.rsa_key("quiet-1"), iss="https://quiet.example.com", aud="")

    assert await refused(revoker, token)


async def test_where_no_issuer_may_log_out_there_is_no_such_endpoint(start, valkey):
    revoker = await start(valkey)

    assert (await send(revoker, logout_token())).status == 404


@row("BCL-05")
@pytest.mark.parametrize(
    "changes",
    [
        *({"iat": value} for value in (ABSENT, None, "", True, [])),
        *({"exp": value} for value in ("", True, [])),
        {"iat": "1700000000"},
        {"iat": -1},
    ],
    ids=str,
)
async def test_the_times_must_be_sound(revoker, changes):
    assert await refused(revoker, logout_token(**changes))


@row("BCL-05")
@pytest.mark.parametrize(
    "offsets",
    [{"iat": 3600, "exp": 7200}, {"iat": -86_500}, {"iat": -300, "exp": -100}],
    ids=str,
)
async def test_a_token_of_another_time_is_refused(revoker, offsets):
    now = int(time.time())

    assert await refused(revoker, logout_token(**{name: now + offset for name, offset in offsets.items()}))


@row("BCL-05")
@pytest.mark.parametrize("offset", [-29, 0, 29])
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"iat": -100, "exp": -5}, 200),
        ({"iat": -100, "exp": -30}, 400),
        ({"iat": 55}, 200),
        ({"iat": 90}, 400),
        ({"iat": -275, "exp": ABSENT}, 200),
        ({"iat": -300, "exp": ABSENT}, 400),
        ({"iat": -275, "exp": None}, 200),
        ({"iat": -86_300}, 200),
        ({"iat": -86_400}, 400),
    ],
    ids=str,
)
async def test_the_stores_clock_judges_the_times_whatever_the_services_says(begin, changes, status, offset):
    revoker = await begin(clock=lambda: time.time() + offset)
    now = int(time.time())

    dates = {name: now + at if isinstance(at, int) else at for name, at in changes.items()}
    answer = await send(revoker, logout_token(**dates))

    assert answer.status == status, answer.body


@row("BCL-05")
@pytest.mark.parametrize(
    ("changes", "expires"),
    [
        ({"exp": 970.5}, 1000.5),
        ({"exp": 970}, 1000),
        ({"iat": 1000.5, "exp": 1100.5}, 1130.5),
        ({"iat": 1000, "exp": 100_000}, 87_400),
    ],
    ids=str,
)
def test_a_token_expires_with_its_exp_and_the_leeway_or_a_day_after_its_iat(changes, expires):
    from revoker.models import Claims, Issuer
    from revoker.tokens.logout_tokens import logout_token as read
    from revoker.tokens.verifying import GenuineToken

    payload = logout_claims(**{"iat": 1000, "exp": 1100, **changes})
    genuine = GenuineToken(
        claims=Claims(), issuer=Issuer(name="main", iss=forge.ISSUER), typ="logout+jwt", payload=payload
    )

    assert read(genuine, CLIENT).expires == expires


@row("BCL-06")
@pytest.mark.parametrize(
    "changes",
    [
        {"sub": ABSENT},
        {"sub": ""},
        {"sub": 7},
        {"sub": None},
        {"sub": 7, "sid": 7},
    ],
    ids=str,
)
async def test_whom_it_is_about_must_be_given_in_strings(revoker, changes):
    assert await refused(revoker, logout_token(**changes))


@row("BCL-06")
@pytest.mark.parametrize("sid", ["", 7, ["s1"], None], ids=repr)
async def test_a_session_that_cannot_be_read_ends_the_user(revoker, sid):
    first, bob = old(sid="s1"), old(sub="bob")

    assert (await send(revoker, logout_token(sid=sid))).status == 200

    assert [await revoker.active(token) for token in (first, bob)] == [False, True]


@pytest.mark.parametrize("sub", ["", 7, None], ids=repr)
async def test_a_user_that_cannot_be_read_ends_the_session(revoker, sub):
    first, second = old(sid="s1"), old(sid="s2")

    assert (await send(revoker, logout_token(sub=sub, sid="s1"))).status == 200

    assert [await revoker.active(token) for token in (first, second)] == [False, True]


@pytest.mark.parametrize("jti", [ABSENT, None, 7], ids=repr)
async def test_an_id_is_not_needed_since_a_replay_changes_nothing(revoker, jti):
    assert (await send(revoker, logout_token(jti=jti))).status == 200


async def test_a_logout_token_ends_the_user_where_access_tokens_name_no_session(begin):
    revoker = await begin(main={"backchannel_ends": "user"})
    first, other, bob = old(sid=ABSENT), old(sid="s2"), old(sub="bob")

    assert (await send(revoker, logout_token(sid="s1"))).status == 200

    assert [await revoker.active(token) for token in (first, other, bob)] == [False, False, True]


async def test_a_logout_token_without_a_user_ends_its_session_and_the_log_says_what_it_leaves(begin, events):
    revoker = await begin(main={"backchannel_ends": "user"})
    named, unnamed, other = old(sub="bob", sid="s3"), old(sub="bob", sid=ABSENT), old(sub="bob", sid="s4")

    assert (await send(revoker, logout_token(sub=ABSENT, sid="s3"))).status == 200

    assert [await revoker.active(token) for token in (named, unnamed, other)] == [False, True, True]
    [done] = [event for event in events if event["event"] == "logged_out_by_provider"]
    assert (done["ends"], done["sid"], done["sub"]) == ("session", "s3", None)
    [warned] = [event for event in events if event["event"] == "logout_names_no_user"]
    assert (warned["log_level"], warned["iss"], warned["sid"]) == ("warning", forge.ISSUER, "s3")


@pytest.mark.parametrize(
    ("setting", "token", "ends"),
    [
        ("session", {"sid": "s1"}, "session"),
        ("session", {}, "user"),
        ("session", {"sub": ABSENT, "sid": "s1"}, "session"),
        ("user", {"sid": "s1"}, "user"),
        ("user", {}, "user"),
    ],
    ids=str,
)
async def test_the_log_says_what_a_logout_token_has_ended(begin, events, setting, token, ends):
    revoker = await begin(main={"backchannel_ends": setting})

    assert (await send(revoker, logout_token(**token))).status == 200

    named = {event["event"]: event.get("ends") for event in events if event["event"].startswith("log")}
    assert named == {"logged_out_by_provider": ends}


async def test_a_logout_token_names_users_and_sessions_as_access_tokens_do(begin):
    revoker = await begin(main={"claims": {"sub": ["oid", "sub"], "sid": ["session_id", "sid"]}})
    user, session = old(oid="o-1"), old(sub="bob", session_id="s-1")

    assert (await send(revoker, logout_token(oid="o-1", sub="other"))).status == 200
    assert (await send(revoker, logout_token(sub="bob", session_id="s-1", sid="x"))).status == 200

    assert [await revoker.active(token) for token in (user, session)] == [False, False]
    assert await revoker.active(old(sub="other", sid="x"))


async def test_the_client_of_a_logout_token_is_no_user(begin):
    revoker = await begin(main={"claims": {"sub": ["sub", "client_id"]}})

    assert await refused(revoker, logout_token(sub=ABSENT, client_id=CLIENT))


async def test_an_alias_of_the_issuer_logs_out_its_users(begin):
    revoker = await begin(main={"issuer_aliases": ["https://sts.example.com/"]})

    assert (await send(revoker, logout_token(iss="https://sts.example.com/"))).status == 200

    assert not await revoker.active(old())


async def test_a_logout_that_is_dated_back_reaches_what_was_issued_before_it(begin):
    """Logout and access tokens of the issuer are dated 300 s back; the token was issued 100 s ago."""
    revoker = await begin(main={"iat_backdated": 300})
    before, after = old(400), old(200)

    assert (await send(revoker, logout_token(iat=int(time.time()) - 350))).status == 200

    assert [await revoker.active(token) for token in (before, after)] == [False, True]


@row("BCL-07")
@pytest.mark.parametrize(
    "events",
    [
        ABSENT,
        None,
        {},
        [EVENT],
        EVENT,
        {EVENT: None},
        {EVENT: ""},
        {EVENT: []},
        {EVENT: True},
        {EVENT.replace("http:", "https:"): {}},
        {EVENT.upper(): {}},
        {"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {}},
    ],
    ids=str,
)
async def test_the_event_must_be_the_logout(revoker, events):
    assert await refused(revoker, logout_token(events=events))


@row("BCL-07", "BCL-10")
async def test_other_events_members_of_the_event_and_unknown_claims_are_ignored(revoker):
    events = {EVENT: {"why": "closed"}, "https://example.com/other": 1}

    assert (await send(revoker, logout_token(events=events, ignored_claim={"a": [1]}))).status == 200


@row("BCL-08")
@pytest.mark.parametrize("nonce", ["n-0S6", "", None])
async def test_a_nonce_of_any_kind_is_refused(revoker, nonce):
    assert await refused(revoker, logout_token(nonce=nonce))


@row("BCL-09")
@pytest.mark.parametrize(
    "typ", [ABSENT, "logout+jwt", "Logout+JWT", "application/logout+jwt", "JWT", "jwt", "application/jwt"]
)
async def test_the_type_is_a_logout_token_or_says_little(revoker, typ):
    assert (await send(revoker, logout_token(header={"typ": typ}))).status == 200


@row("BCL-09", "KIND-02")
@pytest.mark.parametrize("typ", ["at+jwt", "secevent+jwt", "", "id_token+jwt"])
async def test_a_token_of_another_type_is_refused(revoker, typ):
    assert await refused(revoker, logout_token(header={"typ": typ}))


@row("KIND-02")
async def test_access_and_id_tokens_log_nobody_out(revoker):
    for token in (
        forge.token(KEY, sub="alice"),
        forge.token(KEY, {"typ": ABSENT}, sub="alice", aud=CLIENT),
        forge.token(KEY, {"typ": "JWT"}, sub="alice", aud=CLIENT, nonce="n", at_hash="h"),
    ):
        assert await refused(revoker, token)


@row("KIND-01")
async def test_a_logout_token_is_no_access_token(revoker):
    for typ in ("logout+jwt", ABSENT):
        assert not await revoker.active(logout_token(header={"typ": typ}, aud=forge.AUDIENCE))


@row("BCL-15")
async def test_while_the_store_is_away_the_provider_is_asked_to_try_again(begin, own_valkey):
    revoker = await begin(own_valkey)
    own_valkey.kill()

    answer = await send(revoker, logout_token())

    assert (answer.status, answer.json["error"]) == (503, "temporarily_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Cache-Control"] == "no-store"


class Provider:
    """An identity provider whose keys are fetched; counts how often."""

    def __init__(self):
        self.fetches = 0
        self.up = True
        self.key = KEY

    async def keys(self, request):
        self.fetches += 1
        return web.json_response(forge.jwks(self.key)) if self.up else web.Response(status=500)


@pytest.fixture
async def provider():
    provider = Provider()
    application = web.Application()
    application.router.add_get("/jwks", provider.keys)
    async with TestServer(application) as server:
        provider.terms = {"jwks_file": "", "jwks_uri": str(server.make_url("/jwks")), "jwks_insecure": True}
        yield provider


@row("BCL-18")
async def test_no_keys_are_fetched_for_an_issuer_that_may_not_log_out(begin, provider):
    revoker = await begin(main={**provider.terms, "backchannel_audience": ""})
    await revoker.service._sources["main"].look_again()
    revoker.service._sources["main"]._cool_at = 0
    before = provider.fetches

    for iss in (forge.ISSUER, "https://stranger.example.com"):
        assert (await send(revoker, logout_token(header={"kid": "unknown"}, iss=iss))).status == 400

    assert provider.fetches == before


@row("BCL-15")
async def test_while_the_issuers_keys_cannot_be_had_the_provider_is_asked_to_try_again(begin, provider):
    provider.up = False
    revoker = await begin(main=provider.terms, ready=False)

    answer = await send(revoker, logout_token())

    assert (answer.status, answer.json["error"]) == (503, "temporarily_unavailable")
    assert "Retry-After" in answer.headers


@row("BCL-15")
async def test_a_logout_token_whose_kid_is_in_no_key_set_is_to_be_sent_again(begin, provider):
    revoker = await begin(main=provider.terms)
    text = logout_token(forge.rsa_key("next"))
    for _ in range(2):
        answer = await send(revoker, text)
        assert (answer.status, answer.json["error"]) == (503, "temporarily_unavailable")
        assert int(answer.headers["Retry-After"]) > 0


@row("BCL-15")
async def test_a_logout_token_of_a_key_that_was_replaced_logs_out(begin, provider):
    now = 0.0
    revoker = await begin(main=provider.terms, monotonic=lambda: now)
    replaced, thief = (
        forge.SigningKey(forge.rsa_key(name).private, "RS256", KEY.kid) for name in ("successor", "thief")
    )
    assert await refused(revoker, logout_token(thief))
    provider.key = replaced

    now += COOL_DOWN_S
    assert (await send(revoker, logout_token(replaced, sid="s1"))).status == 200

    iat = int(time.time()) - 10
    tokens = [forge.token(replaced, sub="alice", sid=sid, iat=iat) for sid in ("s1", "s2")]
    assert [await revoker.active(token) for token in tokens] == [False, True]


@pytest.mark.parametrize("setting", ["EdDSA", "Ed25519"])
async def test_a_logout_token_may_name_its_curve_as_its_algorithm(begin, tmp_path, setting):
    key, other = forge.ed_key("ed"), forge.ed_key("ed448", "Ed448")
    path = tmp_path / "ed.jwks"
    path.write_text(json.dumps(forge.jwks(key.jwk(alg="Ed25519"), other.jwk(alg="Ed448"))))
    revoker = await begin(main={"jwks_file": str(path), "algorithms": [setting]})
    token = forge.token(key, {"alg": "Ed25519"}, sub="alice", iat=int(time.time()) - 10)
    assert await revoker.active(token)

    assert (await send(revoker, logout_token(other, {"alg": "Ed25519", "kid": "ed"}))).status == 400
    assert await revoker.active(token)
    assert (await send(revoker, logout_token(key, {"alg": "Ed25519"}))).status == 200
    assert not await revoker.active(token)


@row("BCL-18")
async def test_a_body_beyond_any_token_is_refused(revoker):
    answer = await send(revoker, "a" * 70_000)

    assert answer.status == 413


async def test_a_revoked_key_logs_nobody_out(begin):
    revoker = await begin()
    assert (await revoker.post("/revoke-key", {"kid": "main-1", "iss": forge.ISSUER})).status == 200

    assert (await send(revoker, logout_token())).status == 400

    revoker = await begin(main={"revoked_kids": ["main-1"]})
    assert (await send(revoker, logout_token())).status == 400


async def test_own_sessions_are_not_ended_by_a_logout_token(begin, tmp_path):
    from revoker.tokens.keystore import generate
    from revoker.tokens.refresh_tokens import new_refresh_key_file

    iss = "https://sessions.example.com"
    generate(tmp_path / "keys", "ES256", time.time() - 60)
    new_refresh_key_file(tmp_path / "refresh.key")
    revoker = await begin(
        sessions={
            "issuer": iss,
            "audiences": [CLIENT],
            "signing_keys_dir": str(tmp_path / "keys"),
            "refresh_key_file": str(tmp_path / "refresh.key"),
        }
    )
    token = (await revoker.post("/sessions", {"sub": "alice"})).json["access_token"]
    signer = revoker.service._services.sessions.signing_keys.signer(time.time(), ())

    assert (await send(revoker, signer.sign(logout_claims(iss=iss)))).status == 400

    assert await revoker.active(token)


async def test_what_was_done_and_what_was_refused_is_audited_without_the_token(revoker, events):
    good, bad = logout_token(sid="s1"), logout_token(nonce="n")
    await send(revoker, good)
    await send(revoker, bad)

    (done,) = [event for event in events if event["event"] == "logged_out_by_provider"]
    assert {name: done[name] for name in ("iss", "sub", "sid", "jti")} == {
        "iss": forge.ISSUER,
        "sub": "alice",
        "sid": "s1",
        "jti": "logout-1",
    }
    (refusal,) = [event for event in events if event["event"] == "logout_refused"]
    assert "nonce" in refusal["why"]
    assert good not in repr(events) and bad not in repr(events)
