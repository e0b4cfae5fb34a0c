"""``GET /users/{sub}`` and ``GET /revocations``: support staff see what is revoked, by whom and why."""

import json
import urllib.parse

import aiohttp
import pytest

from tests.rig import forge
from tests.rig.service import OTHER_ISSUER, SECRETS


async def view(revoker, path, caller="admin", **query):
    """GET, as a caller."""
    headers = {"Authorization": aiohttp.encode_basic_auth(caller, SECRETS[caller])}
    text = urllib.parse.urlencode(query)
    return await revoker.ask("GET", f"{path}?{text}" if text else path, headers=headers)


async def everything(revoker, limit=10, caller="admin", **query):
    """All pages of a list."""
    listed, cursor, pages = [], None, 0
    while True:
        answer = await view(
            revoker, "/revocations", caller, limit=limit, **query, **({"cursor": cursor} if cursor else {})
        )
        assert answer.status == 200, answer.body
        assert len(answer.json["revocations"]) <= limit
        listed += answer.json["revocations"]
        cursor = answer.json["next"]
        pages += 1
        assert pages < 10_000
        if cursor is None:
            return listed


async def revoke(revoker, path, **body):
    answer = await revoker.post(path, body)
    assert answer.status == 200, answer.body
    return answer


async def test_all(revoker):
    for n in range(25):
        await revoke(revoker, "/revoke", iss=forge.ISSUER, jti=f"j{n}")
    await revoke(revoker, "/revoke-user", iss=forge.ISSUER, sub="alice/ü", reason="lost phone")
    await revoke(revoker, "/block-user", iss=forge.ISSUER, sub="alice/ü", reason="fraud")
    await revoke(revoker, "/revoke", iss=forge.ISSUER, jti="why", reason="because")
    await revoke(revoker, "/revoke-issuer", iss=OTHER_ISSUER)
    await revoke(revoker, "/revoke-key", iss=OTHER_ISSUER, kid="k 1")
    await revoke(revoker, "/revoke-claim", iss=OTHER_ISSUER, claim="grant_id", value=5)
    await revoke(revoker, "/revoke", iss=forge.ISSUER, jti="j1")
    found = await everything(revoker)
    print(json.dumps(found, indent=1))
    print((await view(revoker, "/users/" + urllib.parse.quote("alice/ü", safe=""), iss=forge.ISSUER)).json)
    assert 0
