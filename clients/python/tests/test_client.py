"""The methods of both clients, against a real service."""

import inspect
import secrets

import httpx
import pytest

from revoker_client import (
    Edges,
    Introspection,
    RevokerClient,
    RevokerDenied,
    RevokerRejected,
    RevokerUnavailable,
    SyncRevokerClient,
)


@pytest.fixture
def user():
    return f"user-{secrets.token_hex(4)}"


def signature(function):
    return str(inspect.signature(function)), function.__doc__


def test_both_clients_have_the_same_methods():
    names = [name for name in vars(RevokerClient) if not name.startswith("_")]
    assert names == [name for name in vars(SyncRevokerClient) if not name.startswith("_")]
    for name in names:
        one, other = getattr(RevokerClient, name), getattr(SyncRevokerClient, name)
        assert signature(one) == signature(other)
        assert inspect.iscoroutinefunction(one)
        assert not inspect.iscoroutinefunction(other)


async def test_a_token_is_active_until_its_user_is_logged_out(admin, user):
    tokens = await admin.begin_session(user, scope="orders:read orders:write", client_id="shop")
    verdict = await admin.introspect(tokens.access_token)
    assert verdict.active
    assert (verdict.sub, verdict.sid, verdict.client_id) == (user, tokens.sid, "shop")
    assert verdict.scopes == ("orders:read", "orders:write")
    assert verdict.exp > verdict.members["iat"]
    cutoff = await admin.revoke_user(user, iss=verdict.iss, reason="laptop stolen")
    assert cutoff.iss == verdict.iss
    assert cutoff.iat_after >= cutoff.cutoff - 1
    assert await admin.introspect(tokens.access_token) == Introspection(False, {"active": False})


async def test_one_session_can_be_left(admin, user):
    left, ended = await admin.begin_session(user), await admin.begin_session(user)
    iss = (await admin.introspect(left.access_token)).iss
    await admin.revoke_user(user, iss=iss, except_sid=left.sid)
    results = await admin.introspect_batch([left.access_token, ended.access_token, {"sub": user}])
    assert [getattr(result, "active", None) for result in results] == [True, False, None]
    assert isinstance(results[2], RevokerRejected)


async def test_the_claims_form_is_sent_with_and_without_a_header(admin, user):
    tokens = await admin.begin_session(user)
    claims = {k: v for k, v in (await admin.introspect(tokens.access_token)).members.items() if k != "active"}
    assert (await admin.introspect_claims(claims, {"kid": "k"})).active
    await admin.revoke(jti=claims["jti"], iss=claims["iss"], exp=claims["exp"])
    assert not (await admin.introspect_claims(claims, {"kid": "k"})).active
    explained = await admin.explain(tokens.access_token)
    assert not explained.active
    assert explained.reason
    assert explained.standing


async def test_one_token_is_revoked_by_itself(admin, user):
    tokens = await admin.begin_session(user)
    await admin.revoke(tokens.access_token)
    assert not (await admin.introspect(tokens.access_token)).active
    with pytest.raises(ValueError, match="either"):
        await admin.revoke(tokens.access_token, jti="x")
    with pytest.raises(ValueError, match="either"):
        await admin.revoke()


async def test_more_tokens_than_one_request_takes_are_asked_in_several(admin, user):
    tokens = await admin.begin_session(user)
    results = await admin.introspect_batch(["x"] * 1500 + [tokens.access_token])
    assert [result.active for result in results] == [False] * 1500 + [True]
    assert await admin.introspect_batch([]) == []


async def test_a_block_holds_for_new_sessions_until_it_is_lifted(admin, user):
    iss = (await admin.introspect((await admin.begin_session(user)).access_token)).iss
    assert (await admin.block_user(user, iss=iss, reason="fired")).blocked
    with pytest.raises(RevokerDenied, match="access_denied"):
        await admin.begin_session(user)
    assert not (await admin.unblock_user(user, iss=iss)).blocked
    assert (await admin.begin_session(user)).sid


async def test_sessions_are_listed_page_by_page_refreshed_elevated_and_ended(admin, user):
    made = [await admin.begin_session(user, device=f"device {number}", amr=["pwd"]) for number in range(3)]
    page = await admin.sessions(user, limit=2, current=made[2].sid)
    rest = await admin.sessions(user, limit=2, cursor=page.next, current=made[2].sid)
    listed = [*page.sessions, *rest.sessions]
    assert {session.sid for session in listed} == {tokens.sid for tokens in made}
    assert {session.sid for session in listed if session.current} == {made[2].sid}
    assert {session.amr for session in listed} == {("pwd",)}
    assert rest.next is None
    fresh = await admin.refresh(made[0].refresh_token)
    assert fresh.refresh_token != made[0].refresh_token
    assert (await admin.elevate_session(made[0].sid, amr=["pwd", "otp"])).sid == made[0].sid
    await admin.end_session(made[0].sid)
    await admin.end_session(made[0].sid)
    with pytest.raises(RevokerRejected, match="invalid_grant"):
        await admin.refresh(fresh.refresh_token)


async def test_a_session_and_a_client_are_revoked(admin, user):
    client_id = f"client-{user}"
    one, other = [await admin.begin_session(user, client_id=client_id) for _ in range(2)]
    iss = (await admin.introspect(one.access_token)).iss
    await admin.revoke_session(one.sid, iss=iss)
    assert [r.active for r in await admin.introspect_batch([one.access_token, other.access_token])] == [
        False,
        True,
    ]
    await admin.revoke_client(client_id, iss=iss)
    assert not (await admin.introspect(other.access_token)).active


async def test_a_call_says_how_many_edges_have_the_change(admin, user):
    tokens = await admin.begin_session(user)
    iss = (await admin.introspect(tokens.access_token)).iss
    waits = {"wait_edges": True, "wait_seconds": 30}
    found = [
        await admin.revoke(tokens.access_token, **waits),
        (await admin.revoke_session(tokens.sid, iss=iss, **waits)).edges,
        (await admin.revoke_client(f"client-{user}", iss=iss, **waits)).edges,
        (await admin.revoke_user(user, iss=iss, **waits)).edges,
        (await admin.block_user(user, iss=iss, **waits)).edges,
        (await admin.unblock_user(user, iss=iss, **waits)).edges,
        (await admin.revoke_user(user, iss=iss, wait_edges=0)).edges,
    ]
    assert found == [Edges(0, 0)] * 7
    assert found[0].all_reached
    late = (await admin.revoke_user(user, iss=iss, wait_edges=2, wait_seconds=0)).edges
    assert (late.reached, late.connected) == (0, 0)
    assert not Edges(1, 2).all_reached
    assert not Edges(0, None).all_reached
    assert await admin.revoke(tokens.access_token) is None
    assert (await admin.revoke_user(user, iss=iss, wait_edges=False)).edges is None
    with pytest.raises(RevokerRejected):
        await admin.revoke_user(user, iss=iss, wait_edges=-1)


async def test_a_call_waits_for_its_answer_as_long_as_the_service_for_edges(kind):
    asked = []

    def answer(request):
        asked.append((request.extensions["timeout"]["read"], request.extensions["timeout"]["connect"]))
        return httpx.Response(200, json={"iss": "i", "cutoff": 1, "iat_after": 1, "edges": None})

    http = httpx.AsyncClient if kind is RevokerClient else httpx.Client
    client = kind("http://revoker", "s", http=http(transport=httpx.MockTransport(answer), timeout=0.5))
    for waits in ({}, {"wait_edges": True}, {"wait_edges": 3, "wait_seconds": 7.5}, {"wait_seconds": 7.5}):
        called = client.revoke_user("bob", **waits)
        assert (await called if inspect.isawaitable(called) else called).edges is None
    assert asked == [(0.5, 0.5), (2.5, 0.5), (8.0, 0.5), (0.5, 0.5)]
    asked.clear()
    for waits in ({}, {"wait_edges": True}):  # the first use of a claim takes the service 3 s
        called = client.revoke_claim("agent", "a7", **waits)
        assert (await called if inspect.isawaitable(called) else called).cutoff == 1
    assert asked == [(4.5, 0.5), (6.5, 0.5)]


async def test_a_claim_that_cannot_be_revoked_is_rejected(admin):
    with pytest.raises(RevokerRejected, match="revocable"):
        await admin.revoke_claim("tenant", "acme")


async def test_a_key_and_an_issuer_that_are_not_configured_are_rejected(admin):
    for call in (
        admin.revoke_issuer("https://nobody.example.com"),
        admin.revoke_key("k", iss="https://nobody.example.com"),
    ):
        with pytest.raises(RevokerRejected):
            await call


async def test_a_wrong_secret_and_a_missing_scope_are_denied(revoker, make, user):
    with pytest.raises(RevokerDenied) as denied:
        await make(revoker.url, "wrong" * 9).introspect("x")
    assert (denied.value.status, denied.value.error) == (401, "invalid_client")
    with pytest.raises(RevokerDenied) as denied:
        await make(revoker.url, revoker.gateway).revoke_user(user)
    assert (denied.value.status, denied.value.error) == (403, "insufficient_scope")


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("revoker:8080", "s"),
        ("ftp://revoker", "s"),
        ("http://user:pw@revoker", "s"),
        ("http://revoker?x=1", "s"),
        ("http://revoker", ""),
        ("http://revoker", "a b"),
        ("http://revoker", "a\nb"),
        ("http://revoker", "é"),
    ],
)
def test_a_wrong_address_or_secret_is_refused_at_the_start(kind, url, secret):
    with pytest.raises(ValueError, match="must be"):
        kind(url, secret)


async def test_a_client_of_ones_own_stays_open(kind, revoker):
    mine = httpx.AsyncClient() if kind is RevokerClient else httpx.Client()
    client = kind(revoker.url, revoker.gateway, http=mine)
    closing = client.close()
    if inspect.isawaitable(closing):
        await closing
    assert not mine.is_closed
    if isinstance(mine, httpx.AsyncClient):
        async with RevokerClient(revoker.url, revoker.gateway, http=mine) as again:
            assert not (await again.introspect("x")).active
        await mine.aclose()
    else:
        with SyncRevokerClient(revoker.url, revoker.gateway, http=mine) as again:
            assert not again.introspect("x").active
        mine.close()


async def test_a_path_before_the_api_is_part_of_the_address(make, revoker):
    with pytest.raises(RevokerRejected, match="404"):
        await make(revoker.url + "/prefix/", revoker.gateway).introspect("x")


async def test_nobody_at_the_address_is_no_verdict(make):
    with pytest.raises(RevokerUnavailable, match="Connect"):
        await make("http://127.0.0.1:9").introspect("x")
