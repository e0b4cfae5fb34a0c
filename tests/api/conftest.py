"""What tests over HTTP need beside a client that speaks it well."""

import asyncio
import contextlib
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from revoker.tokens.key_fetching import JwksByUrl
from tests.rig import forge
from tests.rig.service import HANGS_S


class Wire:
    """Sends bytes as they are, one connection each time."""

    def __init__(self, url):
        self._address = urlsplit(url).hostname, urlsplit(url).port

    async def send(self, data, *, then_close=False, seconds=120.0):
        """What comes back until the other side closes or has nothing more to say."""
        reader, writer = await asyncio.open_connection(*self._address)
        writer.write(data)
        if then_close:
            writer.write_eof()
        try:
            return await asyncio.wait_for(answer_of(reader, bodiless=data.startswith(b"HEAD ")), seconds)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def answer_of(reader, *, bodiless=False):
    """One response as bytes; of a connection that is closed at once, nothing."""
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if bodiless:
        return head
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + (await reader.readexactly(int(length[0][15:])) if length else b"")


class IdentityProvider:
    """Serves the keys of the issuer ``main`` by URL.

    Attributes:
        fetched: Set once the keys were asked for.
        gate: Cleared: answers are held back until it is set.
        terms: The settings of an issuer whose keys these are.
    """

    def __init__(self):
        self.keys = forge.jwks(forge.rsa_key("main-1"))
        self.fetches = 0
        self.fetched = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def serve(self, request):
        self.fetches += 1
        self.fetched.set()
        await self.gate.wait()
        return web.json_response(self.keys)


@pytest.fixture
async def idp(monkeypatch):
    """Its keys are waited for as long as a test takes."""
    monkeypatch.setitem(JwksByUrl.__init__.__kwdefaults__, "timeout_s", HANGS_S)
    provider = IdentityProvider()
    application = web.Application()
    application.router.add_get("/jwks", provider.serve)
    async with TestServer(application) as server:
        provider.terms = {"jwks_file": "", "jwks_uri": str(server.make_url("/jwks")), "jwks_insecure": True}
        yield provider
        provider.gate.set()


@pytest.fixture
def wire(revoker):
    return Wire(revoker.url)
