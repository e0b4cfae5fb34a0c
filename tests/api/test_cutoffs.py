"""``/revoke-user`` and its siblings, blocks, revoked keys: what stands, for whom, and since when."""

import time

import pytest

from tests.rig import forge
from tests.rig.forge import ABSENT
from tests.rig.service import OTHER_ISSUER

row = pytest.mark.row

ISS = {"iss": forge.ISSUER}


def claims(**changes):
    """Of a token that is a minute old: whatever is cut off now covers it, however long the test takes."""
    return forge.claims(now=time.time() - 60, **{"sub": "alice", **changes})


async def cut(revoker, path="/revoke-user", **body):
    answer = await revoker.post(path, {**ISS, **body})
    assert answer.status == 200, answer.body
    return answer.json


# Users


@row("RU-01", "7662-05")
async def test_it_needs_a_scope_of_its_own(revoker):
    body = {**ISS, "sub": "alice"}

    assert (await revoker.post("/revoke-user", body, caller="gateway")).error == (403, "insufficient_scope")
    assert (await revoker.post("/revoke-user", body, caller=None)).error == (401, "invalid_client")
    assert await revoker.active(claims())


@row("RU-02", "RU-05")
async def test_whatever_the_user_held_is_inactive_and_what_is_issued_after_the_margin_is_active(revoker):
    now = time.time()
    answer = await cut(revoker, sub="alice")

    assert answer["iss"] == forge.ISSUER and answer["sub"] == "alice"
    assert now - 0.01 <= answer["cutoff"] <= time.time() + 0.01
    assert answer["iat_after"] == pytest.approx(answer["cutoff"] + 2)
    for session in ("session-1", "session-2", ABSENT):
        assert not await revoker.active(claims(sid=session))
    assert not await revoker.active(claims(iat=int(now) - 3600))
    assert await revoker.active(claims(sub="bob"))
    assert await revoker.active(claims(iss=OTHER_ISSUER))


@row("RU-02")
async def test_the_margin_of_the_issuers_clock_is_to_the_millisecond(revoker):
    answer = await cut(revoker, sub="alice", before=time.time() - 100)
    edge = answer["iat_after"]

    assert not await revoker.active(claims(iat=int(edge)))
    assert not await revoker.active(claims(iat=edge))
    assert await revoker.active(claims(iat=edge + 0.001))
    assert await revoker.active(claims(iat=int(edge) + 1))


@row("RU-03", "RU-04")
@pytest.mark.parametrize("iat", [ABSENT, 4_000_000_000], ids=["absent", "far ahead"])
async def test_no_iat_dodges_a_cutoff(revoker, iat):
    await cut(revoker, sub="alice")

    assert not await revoker.active(revoker.token(sub="alice", iat=iat, exp=4_000_000_100))


@row("RU-06")
async def test_a_cutoff_never_moves_back(revoker):
    now = time.time()
    first = await cut(revoker, sub="alice", before=now - 60)
    earlier = await cut(revoker, sub="alice", before=now - 600)
    again = await cut(revoker, sub="alice", before=now - 60)

    assert first["cutoff"] == earlier["cutoff"] == again["cutoff"] == pytest.approx(now - 60, abs=0.001)
    assert not await revoker.active(claims(iat=now - 300))
    assert await revoker.active(claims(iat=now - 30))


async def test_a_cutoff_a_little_ahead_is_taken_as_now_and_one_further_ahead_is_malformed(revoker):
    answer = await cut(revoker, sub="alice", before=time.time() + 4)

    assert answer["cutoff"] <= time.time() + 0.01
    answer = await revoker.post("/revoke-user", {**ISS, "sub": "bob", "before": time.time() + 60})
    assert answer.error == (400, "invalid_request")
    assert await revoker.active(claims(sub="bob"))


@pytest.mark.parametrize("before", [-1, 1e300, "yesterday", True, [], 2**80])
async def test_a_date_that_is_none_is_malformed(revoker, before):
    answer = await revoker.post("/revoke-user", {**ISS, "sub": "alice", "before": before})

    assert answer.error == (400, "invalid_request")


@row("RU-07")
async def test_users_are_distinguished_to_the_letter(revoker):
    await cut(revoker, sub="\u00dcn\u00ef")
    await cut(revoker, sub="alice")

    assert not await revoker.active(claims(sub="\u00dcn\u00ef"))
    for other in ("U\u0308ni\u0308", "\u00fcn\u00ef", "Alice", "alice ", " alice", "alice\0"):
        assert await revoker.active(claims(sub=other)), other


@row("9068-06")
async def test_a_user_and_a_client_of_the_same_name_are_two_things(revoker):
    await cut(revoker, "/revoke-client", client_id="orders")

    assert await revoker.active(claims(sub="orders", client_id="web"))
    assert not await revoker.active(claims(sub="alice", client_id="orders"))


@row("ATK-07")
async def test_parts_of_a_key_never_run_together(start, valkey):
    revoker = await start(valkey, main={"issuer": "https://a"}, other={"issuer": "https://a:x"})
    for path, member in (
        ("/revoke-user", "sub"),
        ("/revoke-session", "sid"),
        ("/revoke-client", "client_id"),
    ):
        await revoker.post(path, {"iss": "https://a", member: "x:y"})
    await revoker.post("/revoke", {"iss": "https://a", "jti": "x:y"})

    y = {"iss": "https://a:x", "sub": "y", "jti": "y", "sid": "y", "client_id": "y"}
    assert await revoker.active(forge.claims(**y))
    for member in ("sub", "jti", "sid", "client_id"):
        mine = {"iss": "https://a", "sub": "u", "jti": "j", "sid": "s", "client_id": "c"}
        assert not await revoker.active(forge.claims(**mine | {member: "x:y"}))
        assert await revoker.active(forge.claims(**mine))


# The excepted session


async def test_my_other_devices_are_logged_out_and_this_one_is_not(revoker):
    await cut(revoker, sub="alice", except_sid="here")

    assert await revoker.active(claims(sid="here"))
    assert not await revoker.active(claims(sid="there"))
    assert not await revoker.active(claims(sid=ABSENT))


async def test_an_exception_does_not_give_back_what_was_revoked_before(revoker):
    await cut(revoker, sub="alice")
    await cut(revoker, sub="alice", except_sid="here")

    assert not await revoker.active(claims(sid="here"))


async def test_the_sum_of_all_exceptions_holds_in_whatever_order_they_were_made(revoker):
    """Each call covers everything up to its time but its own excepted session."""
    now = int(time.time()) - 1000
    calls = [
        (now + 100, "a"),
        (now + 50, "b"),
        (now + 200, "b"),
        (now + 150, "b"),
        (now + 10, None),
        (now + 300, "c"),
    ]
    for count, (before, excepted) in enumerate(calls, 1):
        body = {"sub": "alice", "before": before, **({"except_sid": excepted} if excepted else {})}
        await cut(revoker, **body)
        for sid in ("a", "b", "c", "d"):
            for iat in range(now - 5, now + 400, 45):
                covered = any(iat - 2 <= at and sid != spared for at, spared in calls[:count])
                assert await revoker.active(claims(sid=sid, iat=iat)) is not covered, (count, sid, iat - now)


async def test_an_empty_exception_is_malformed_and_not_taken_for_none(revoker):
    answer = await revoker.post("/revoke-user", {**ISS, "sub": "alice", "except_sid": ""})

    assert answer.error == (400, "invalid_request")
    assert await revoker.active(claims())


# Sessions, clients, issuers


@pytest.mark.parametrize(
    ("path", "named", "hit", "spared"),
    [
        ("/revoke-session", {"sid": "s1"}, {"sid": "s1"}, {"sid": "s2"}),
        ("/revoke-client", {"client_id": "c1"}, {"client_id": "c1"}, {"client_id": "c2"}),
        (
            "/revoke-client",
            {"client_id": "c1"},
            {"client_id": ABSENT, "azp": "c1"},
            {"client_id": "c2", "azp": "c1"},
        ),
        ("/revoke-issuer", {}, {}, {"iss": OTHER_ISSUER}),
    ],
    ids=["session", "client", "client by azp", "issuer"],
)
async def test_a_cutoff_covers_what_it_names_and_nothing_else(revoker, path, named, hit, spared):
    before = time.time() - 50
    answer = await cut(revoker, path, **named, before=before)

    assert answer["cutoff"] == pytest.approx(before, abs=0.001)
    assert answer["iat_after"] == pytest.approx(before + 2, abs=0.001)
    assert {name: answer[name] for name in named} == named
    assert not await revoker.active(claims(**hit, iat=int(before)))
    assert await revoker.active(claims(**hit, iat=int(before) + 4))
    assert await revoker.active(claims(**spared, iat=int(before)))
    later = await cut(revoker, path, **named, before=before - 100)
    assert later["cutoff"] == answer["cutoff"]


async def test_what_logs_out_the_world_needs_the_issuer_named_and_a_scope_of_its_own(revoker):
    for path, body in (("/revoke-issuer", {}), ("/revoke-key", {"kid": "k"})):
        assert (await revoker.post(path, body)).error == (400, "invalid_request")
        answer = await revoker.post(path, {**ISS, **body}, caller="one-issuer")
        assert answer.error == (403, "insufficient_scope")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/revoke-user", {"sub": "s"}),
        ("/revoke-session", {"sid": "s"}),
        ("/revoke-client", {"client_id": "s"}),
        ("/revoke-claim", {"claim": "grant_id", "value": "s"}),
        ("/block-user", {"sub": "s"}),
        ("/unblock-user", {"sub": "s"}),
    ],
)
async def test_the_issuer_may_be_left_out_only_where_one_is_meant(revoker, path, body):
    assert (await revoker.post(path, body)).error == (400, "invalid_request")
    answer = await revoker.post(path, body, caller="one-issuer")
    assert answer.json["iss"] == OTHER_ISSUER
    assert (await revoker.post(path, {**body, "iss": "https://x"})).error == (400, "invalid_request")


@pytest.mark.parametrize(
    ("path", "member"),
    [
        ("/revoke-user", "sub"),
        ("/revoke-session", "sid"),
        ("/revoke-client", "client_id"),
        ("/revoke-issuer", "iss"),
        ("/revoke-key", "kid"),
        ("/block-user", "sub"),
        ("/unblock-user", "sub"),
    ],
)
@pytest.mark.parametrize(
    "value", ["", 1, None, [], {}, "x" * 16385, ABSENT], ids=lambda value: repr(value)[:9]
)
async def test_what_is_to_be_revoked_is_named_by_a_string_of_sane_length(revoker, path, member, value):
    body = {**ISS, "kid": "k", "sub": "s", "sid": "s", "client_id": "c"} | {member: value}
    body = {name: item for name, item in body.items() if item is not ABSENT}

    assert (await revoker.post(path, body)).error == (400, "invalid_request")


@pytest.mark.parametrize("reason", ["x" * 513, 1, []])
async def test_a_reason_is_a_string_of_sane_length(revoker, reason):
    answer = await revoker.post("/revoke-user", {**ISS, "sub": "alice", "reason": reason})

    assert answer.error == (400, "invalid_request")


@row("7009-15")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/revoke-user", {"sub": "s"}),
        ("/revoke-session", {"sid": "s"}),
        ("/revoke-claim", {"claim": "grant_id", "value": "s", "iss": OTHER_ISSUER}),
        ("/revoke-issuer", {}),
    ],
)
async def test_a_cutoff_is_stored_until_nothing_that_it_covers_can_be_active(revoker, valkey, path, body):
    await cut(revoker, path, **body)
    prefix = revoker.service._settings.redis.key_prefix
    with valkey.client() as client:
        keys = [key for key in client.scan_iter(f"{prefix}:*") if "cutoff" in key or key.endswith(":user")]
        lasting = {key for key in keys if client.pttl(key) > (86400 + 2 + 30 + 30) * 1000}
        assert lasting == set(keys)
        assert len(lasting) == 2  # who made it, too


async def test_the_login_may_be_what_cutoffs_are_compared_with(start, valkey):
    now = int(time.time())
    revoker = await start(valkey, main={"cutoff_claim": "auth_time", "max_session_lifetime": 7200})
    assert await revoker.active(claims(auth_time=now - 1000))
    assert await revoker.active(claims())
    assert not await revoker.active(claims(auth_time=now - 7200))

    await cut(revoker, sub="alice", before=now - 500)

    assert not await revoker.active(claims(auth_time=now - 1000))
    assert await revoker.active(claims(auth_time=now - 400))
    assert not await revoker.active(claims())
    assert await revoker.active(claims(sub="service"))


# Blocks


async def test_nothing_of_a_blocked_user_is_active_whatever_is_issued_meanwhile(revoker):
    answer = (await revoker.post("/block-user", {**ISS, "sub": "alice", "reason": "fraud"})).json
    assert answer == {**ISS, "sub": "alice", "blocked": True, "until": None}
    assert not await revoker.active(claims())
    assert not await revoker.active(claims(iat=int(time.time()) + 1))
    assert await revoker.active(claims(sub="bob"))

    answer = (await revoker.post("/unblock-user", {**ISS, "sub": "alice"})).json

    assert answer == {**ISS, "sub": "alice", "blocked": False, "until": None}
    assert await revoker.active(claims())


async def test_a_block_never_gets_shorter_until_it_is_ended(revoker):
    now = int(time.time())
    first = (await revoker.post("/block-user", {**ISS, "sub": "alice", "until": now + 900})).json
    second = (await revoker.post("/block-user", {**ISS, "sub": "alice", "until": now + 60})).json
    assert first["until"] == second["until"] == now + 900

    await revoker.post("/unblock-user", {**ISS, "sub": "alice"})
    third = (await revoker.post("/block-user", {**ISS, "sub": "alice", "until": now + 60})).json

    assert third["until"] == now + 60


async def test_cutoffs_stay_when_a_block_ends(revoker):
    await cut(revoker, sub="alice", before=time.time() - 200)
    await revoker.post("/block-user", {**ISS, "sub": "alice"})
    await revoker.post("/unblock-user", {**ISS, "sub": "alice"})

    assert not await revoker.active(claims(iat=int(time.time()) - 210))
    assert await revoker.active(claims())


async def test_a_block_ends_though_its_record_was_to_live_longer(start, valkey):
    """A service whose ``max_token_lifetime`` has been lowered since must be able to end it too."""
    long = await start(valkey, prefix="lowered", revocation={"max_token_lifetime": 86400})
    await long.post("/block-user", {**ISS, "sub": "alice", "until": int(time.time()) + 100})
    short = await start(valkey, prefix="lowered", new=False, revocation={"max_token_lifetime": 3600})
    assert not await short.active(claims())

    await short.post("/unblock-user", {**ISS, "sub": "alice"})

    assert await short.active(claims())


@pytest.mark.parametrize("until", [0, -5, "x", 1e300, True])
async def test_a_block_has_an_end_ahead_or_none(revoker, until):
    answer = await revoker.post("/block-user", {**ISS, "sub": "alice", "until": until})

    assert answer.error == (400, "invalid_request")
    assert await revoker.active(claims())


async def test_ending_a_block_that_there_is_not_is_no_error(revoker):
    assert (await revoker.post("/unblock-user", {**ISS, "sub": "nobody"})).status == 200


# Keys


async def test_nothing_under_a_revoked_key_is_active_whatever_its_dates(revoker):
    old, new = revoker.token(), revoker.token(iat=int(time.time()) + 1)
    assert await revoker.active(old)

    answer = (await revoker.post("/revoke-key", {**ISS, "kid": "main-1", "reason": "stolen"})).json
    again = (await revoker.post("/revoke-key", {**ISS, "kid": "main-1"})).json

    assert answer == again == {**ISS, "kid": "main-1", "revoked_at": answer["revoked_at"]}
    for token in (old, new, revoker.token()):
        assert not await revoker.active(token)
    assert not await revoker.active(forge.envelope(claims(), "main-1"))
    assert not await revoker.active(claims()), "without kid it can't be told from one of that key"
    assert await revoker.active(forge.envelope(claims(), "main-2"))
    assert await revoker.active(forge.envelope(claims(iss=OTHER_ISSUER), "main-1"))


@pytest.mark.parametrize("kid", ["main-2", None, 7, "main-1"])
async def test_a_thief_names_no_other_key_by_a_claim_of_the_payload(revoker, kid):
    stolen = claims(kid=kid)
    assert await revoker.active(stolen)
    await cut(revoker, "/revoke-key", kid="main-1")

    assert not await revoker.active(stolen)
    assert not await revoker.active(forge.envelope(stolen, "main-1"))
    assert await revoker.active(forge.envelope(stolen, "main-2")), "the header's alone counts"
    batch = {"tokens": [stolen, forge.envelope(stolen, "main-1"), forge.envelope(stolen, "main-2")]}
    verdicts = (await revoker.post("/introspect/batch", batch)).json["results"]
    assert verdicts == [{"active": active} for active in (False, False, True)]
    for asked, reason in ((stolen, "key_revoked"), (forge.envelope(stolen, "main-2"), "active")):
        assert (await revoker.post("/explain", asked)).json["reason"] == reason


async def test_a_key_is_revoked_for_good(revoker):
    for before in (0, int(time.time())):
        answer = await revoker.post("/revoke-key", {**ISS, "kid": "k", "before": before})
        assert answer.error == (400, "invalid_request")


async def test_a_key_may_be_revoked_by_configuration(start, valkey):
    revoker = await start(valkey, main={"revoked_kids": ["main-1"]})

    assert not await revoker.active(revoker.token())
    answer = (await revoker.post("/explain", claims())).json
    assert answer["reason"] == "key_revoked"
    assert [item["kind"] for item in answer["standing"]] == ["key"]


# What decides


async def explained(revoker, asked, caller="admin"):
    answer = await revoker.post(
        "/explain", {"token": asked} if isinstance(asked, str) else asked, caller=caller
    )
    assert answer.status == 200, answer.body
    return answer.json


async def test_support_staff_see_all_that_is_in_force_and_what_decides(revoker, events):
    now = time.time()
    token = revoker.token(sub="alice", client_id="web", sid="s1", jti="j1")
    assert await explained(revoker, token) == {"active": True, "reason": "active", "standing": []}

    await cut(revoker, "/revoke-client", client_id="web", reason="leaked secret")
    assert (await explained(revoker, token))["reason"] == "client_cutoff"
    await cut(revoker, "/revoke-session", sid="s1")
    assert (await explained(revoker, token))["reason"] == "session_cutoff"
    await cut(revoker, sub="alice", before=now - 500, reason="old")
    await cut(revoker, sub="alice", except_sid="s2", reason="new password")
    assert (await explained(revoker, token))["reason"] == "user_cutoff"
    await revoker.post("/block-user", {**ISS, "sub": "alice", "until": int(now) + 900, "reason": "fraud"})
    assert (await explained(revoker, token))["reason"] == "user_blocked"
    await revoker.post("/revoke", {"token": token})
    answer = await explained(revoker, token)

    assert (answer["active"], answer["reason"]) == (False, "token_revoked")
    standing = {(item["kind"], item.get("except_sid")): item for item in answer["standing"]}
    assert set(standing) == {
        ("user_block", None),
        ("user_cutoff", None),
        ("user_cutoff", "s2"),
        ("token", None),
        ("session_cutoff", None),
        ("client_cutoff", None),
    }
    assert standing["user_block", None] == {"kind": "user_block", "until": int(now) + 900, "why": "fraud"}
    assert standing["client_cutoff", None]["why"] == "leaked secret"
    assert standing["user_cutoff", "s2"]["why"] == "new password"
    assert standing["user_cutoff", None]["since"] == pytest.approx(now - 500, abs=0.01)
    assert standing["token", None]["since"] == pytest.approx(now, abs=60)
    audited = [event for event in events if event["event"] == "token_explained"]
    assert len(audited) == 6
    assert {audited[-1][name] for name in ("caller", "verdict", "sub", "jti")} == {
        "admin",
        "token_revoked",
        "alice",
        "j1",
    }


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda r: "garbage", "invalid"),
        (lambda r: r.token(aud="api://billing"), "invalid"),
        (lambda r: claims(iss="https://nobody"), "foreign"),
        (lambda r: claims(iat=1, exp=2), "expired"),
        (lambda r: claims(lifetime=90000), "lives_too_long"),
        (lambda r: claims(iat=int(time.time()) + 60), "issued_in_future"),
        (lambda r: claims(nbf=int(time.time()) + 60), "not_yet_valid"),
    ],
    ids=["garbage", "audience", "issuer", "exp", "life", "iat", "nbf"],
)
async def test_a_token_that_fails_by_itself_is_explained_by_that(revoker, make, reason):
    answer = await explained(revoker, make(revoker))

    assert (answer["active"], answer["reason"]) == (False, reason)


async def test_nothing_is_revealed_of_a_token_that_is_none_of_the_callers_business(revoker):
    await cut(revoker, sub="alice", reason="private")

    for caller in ("billing", "one-issuer"):
        answer = await explained(revoker, claims(), caller=caller)
        assert answer == {"active": False, "reason": "foreign", "standing": []}
    assert (await revoker.post("/explain", claims(), caller="gateway")).error == (403, "insufficient_scope")


# Who, what, when, why, from where


async def test_every_change_leaves_one_line_for_the_auditor(revoker, events):
    token = revoker.token(jti="j1")
    why = {"reason": "asked for by the user"}
    await revoker.post("/revoke", {"token": token})
    await cut(revoker, sub="alice", except_sid="s", **why)
    await cut(revoker, "/revoke-session", sid="s", **why)
    await cut(revoker, "/revoke-client", client_id="c", **why)
    await cut(revoker, "/revoke-issuer", **why)
    await cut(revoker, "/revoke-key", kid="k", **why)
    await cut(revoker, "/block-user", sub="alice", **why)
    await cut(revoker, "/unblock-user", sub="alice", **why)

    lines = [event for event in events if event["event"] != "request" and "caller" in event]
    logged = [event["event"] for event in lines]
    assert logged == [
        *("token_revoked", "user_revoked", "session_revoked", "client_revoked", "issuer_revoked"),
        *("key_revoked", "user_blocked", "user_unblocked"),
    ]
    assert all(
        line["caller"] == "admin" and line["peer"] == "127.0.0.1" and line["iss"] == forge.ISSUER
        for line in lines
    )
    assert all(line["reason"] == why["reason"] for line in lines[1:])
    assert token not in repr(events)
