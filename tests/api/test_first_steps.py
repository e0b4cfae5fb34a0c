"""The three calls that the README shows."""


async def test_a_token_is_active_until_its_user_is_logged_out(revoker):
    token = revoker.token(sub="alice")
    assert await revoker.active(token)

    answer = await revoker.post("/revoke-user", {"sub": "alice", "iss": "https://idp.example.com"})

    assert answer.status == 200
    assert not await revoker.active(token)
    assert await revoker.active(revoker.token(sub="bob"))


async def test_claims_are_enough_where_the_gateway_has_checked_the_signature(revoker):
    from tests.rig import forge

    claims = forge.claims()
    assert await revoker.active(claims)
    assert (await revoker.post("/revoke", {"iss": claims["iss"], "jti": claims["jti"]})).status == 200
    assert not await revoker.active(claims)
