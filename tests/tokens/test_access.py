"""Access tokens that are signed together stay everybody's own."""

import asyncio

import jwt
import pytest

from revoker.models import Session
from revoker.tokens.access_tokens import SIGN_BATCH, Minter
from revoker.tokens.private_keys import SigningKey
from tests.tokens.test_signing import KEYS

KEY = SigningKey(KEYS["ES256"])


class _Broken:
    def unsigned(self, claims):
        return "e30.e30"

    def signed(self, unsigned):
        raise ValueError(unsigned)


class _Keys:
    def __init__(self):
        self.keys = [KEY]

    def signer(self, now, revoked):
        return self.keys[0]


@pytest.fixture
def minter():
    return Minter(
        iss="https://sessions.example", audiences=["api"], lifetime=300, keys=_Keys(), revoked=frozenset
    )


def session(number):
    return Session(
        sid=f"sid-{number}",
        sub=f"user-{number}",
        client_id="web",
        start=0,
        used=0,
        ends=10**15,
        auth_time=0,
        generation=1,
    )


async def test_every_one_of_many_gets_the_token_of_its_own_session(minter):
    count = 3 * SIGN_BATCH + 1
    minted = await asyncio.gather(*(minter.mint(session(n), 5_000, "") for n in range(count)))
    read = [
        jwt.decode(
            token, KEYS["ES256"].public_key(), ["ES256"], options={"verify_exp": False}, audience="api"
        )
        for token, _ in minted
    ]
    assert [claims["sub"] for claims in read] == [f"user-{n}" for n in range(count)]
    assert [claims["sid"] for claims in read] == [f"sid-{n}" for n in range(count)]
    assert len({claims["jti"] for claims in read}) == count


async def test_who_goes_away_or_has_a_broken_key_spoils_nobody_elses(minter):
    gone = asyncio.ensure_future(minter.mint(session(0), 5_000, ""))
    minter._keys.keys = [_Broken()]
    failing = asyncio.ensure_future(minter.mint(session(1), 5_000, ""))
    await asyncio.sleep(0)
    minter._keys.keys = [KEY]
    last = asyncio.ensure_future(minter.mint(session(2), 5_000, ""))
    gone.cancel()
    done = await asyncio.gather(gone, failing, last, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert isinstance(done[1], ValueError)
    assert jwt.decode(done[2][0], options={"verify_signature": False})["sub"] == "user-2"
