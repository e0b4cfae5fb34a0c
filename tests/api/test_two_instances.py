"""Two instances on one store: what one acknowledges, the other's next answer knows."""

import asyncio
import base64
import json
from urllib.parse import urlsplit

import pytest

from tests.rig import forge
from tests.rig.service import SECRETS

row = pytest.mark.row

REVOCATIONS = 10_000
CONNECTIONS = 24


class Client:
    """One connection kept open, cheap enough to ask 20,000 times."""

    def __init__(self, url):
        self._address = urlsplit(url).hostname, urlsplit(url).port
        secret = base64.b64encode(f"admin:{SECRETS['admin']}".encode()).decode()
        self._head = f"Host: x\r\nAuthorization: Basic {secret}\r\nContent-Type: application/json\r\n"

    async def __aenter__(self):
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(self, *_):
        self._writer.close()
        await self._writer.wait_closed()

    async def post(self, path, body):
        raw = json.dumps(body).encode()
        self._writer.write(
            f"POST {path} HTTP/1.1\r\n{self._head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        return int(head[9:12]), await self._reader.readexactly(int(length))


def how_to_revoke(number, claims):
    """Each kind in turn."""
    iss = {"iss": claims["iss"]}
    return [
        ("/revoke", {**iss, "jti": claims["jti"], "exp": claims["exp"]}),
        ("/revoke-user", {**iss, "sub": claims["sub"]}),
        ("/revoke-session", {**iss, "sid": claims["sid"]}),
        ("/block-user", {**iss, "sub": claims["sub"]}),
    ][number % 4]


@row("7662-17", "7009-06", "ATK-03")
async def test_the_other_instance_knows_of_a_revocation_as_soon_as_it_is_acknowledged(start, valkey, events):
    one = await start(valkey, prefix="two-instances")
    other = await start(valkey, prefix="two-instances", new=False)
    numbers = iter(range(REVOCATIONS))
    seen = 0

    async def worker():
        nonlocal seen
        async with Client(one.url) as revoking, Client(other.url) as asking:
            for number in numbers:
                own = {name: f"{name}-{number}" for name in ("jti", "sub", "sid")}
                claims = forge.claims(iss=forge.ISSUER, client_id=forge.ABSENT, **own)
                if number % 100 < 4:
                    assert await asking.post("/introspect", claims) == (200, b'{"active":true}')
                path, body = how_to_revoke(number, claims)
                status, answer = await revoking.post(path, body)
                assert status == 200, answer
                assert await asking.post("/introspect", claims) == (200, b'{"active":false}'), (number, path)
                seen += 1

    await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))

    assert seen == REVOCATIONS
