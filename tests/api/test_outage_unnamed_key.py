"""``store_outage = "allow"`` and a revoked key that is in the key set without a ``kid``."""

import pytest

from revoker.tokens.jwk import thumbprint
from tests.rig import forge

UNNAMED = forge.SigningKey(forge.rsa_key("main-1").private, "RS256")
ISS = {"iss": forge.ISSUER}


@pytest.fixture
async def revoker(start, own_valkey, idp):
    """Its issuer ``main`` publishes one key without a name; every key may still be revoked by thumbprint."""
    idp.keys = forge.jwks(UNNAMED)
    return await start(own_valkey, main=idp.terms, revocation={"store_outage": "allow"})


async def verdicts(revoker, kid):
    """Of a token signed by the unnamed key, whose header has this ``kid``; in all forms."""
    claims = forge.claims()
    token = forge.forge(UNNAMED, forge.header_of(UNNAMED, kid=kid), claims)
    asked = [{"token": token}, {"claims": claims, "header": forge.header_of(UNNAMED, kid=kid)}]
    alone = [(await revoker.post("/introspect", body, caller="gateway")).json["active"] for body in asked]
    batch = await revoker.post("/introspect/batch", {"tokens": asked}, caller="gateway")
    return alone, [result["active"] for result in batch.json["results"]]


@pytest.mark.parametrize("kid", ["any", "main-1"])
async def test_a_thief_gains_nothing_by_any_kid_while_the_store_is_away(revoker, own_valkey, kid):
    entry = UNNAMED.jwk()
    unnamed = thumbprint({name: entry[name] for name in ("e", "kty", "n")})
    assert (await revoker.post("/revoke-key", {**ISS, "kid": unnamed})).status == 200
    own_valkey.kill()

    assert await verdicts(revoker, kid) == ([False, False], [False, False])


@pytest.mark.parametrize("kid", ["any", "main-1"])
async def test_another_revoked_key_leaves_the_unnamed_one_usable_while_the_store_is_away(
    revoker, own_valkey, kid
):
    assert (await revoker.post("/revoke-key", {**ISS, "kid": "stolen"})).status == 200
    own_valkey.kill()

    assert await verdicts(revoker, kid) == ([True, True], [True, True])
