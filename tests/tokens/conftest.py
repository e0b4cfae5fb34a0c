import asyncio
import dataclasses
import json
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from revoker.config.issuers import IssuerSettings
from revoker.metrics import Metrics
from revoker.models import Issuer
from revoker.tokens.key_sources import key_source
from revoker.tokens.verifying import TrustedIssuer, Verifier
from tests.rig import forge


@pytest.fixture
def metrics():
    return Metrics(CollectorRegistry(), ["main"])


def issuer_settings(name="main", algorithms=("RS256",), **places):
    places = {place: str(value) if isinstance(value, Path) else value for place, value in places.items()}
    return IssuerSettings(
        name=name, issuer=forge.ISSUER, audiences=[forge.AUDIENCE], algorithms=list(algorithms), **places
    )


@pytest.fixture
def key_file(tmp_path, metrics):
    """Make a source of a JWK Set in a file, read once and not polled."""

    async def make(*keys, name="main", algorithms=("RS256",)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(forge.jwks(*keys)))
        source = key_source(issuer_settings(name, algorithms, jwks_file=path), metrics)
        assert await source.look_again()
        return source

    return make


@pytest.fixture
def verifier_of(key_file, metrics):
    """Make a verifier that trusts one issuer with these keys."""

    async def make(*keys, algorithms=("RS256",), audiences=(forge.AUDIENCE,), require_typ="", **terms):
        source = await key_file(*keys, algorithms=algorithms)
        return trusting(source, metrics, audiences=audiences, require_typ=require_typ, **terms)

    return make


def trusting(source, metrics, *, audiences=(forge.AUDIENCE,), require_typ="", cache_size=16, **terms):
    trusted = TrustedIssuer(
        issuer=Issuer(**({"name": "main", "iss": forge.ISSUER} | terms)),
        keys=source,
        audiences=frozenset(audiences),
        require_typ=require_typ,
    )
    return Verifier([trusted], metrics, cache_size=cache_size)


@pytest.fixture
async def two_issuers(key_file, metrics):
    """A verifier that trusts two issuers, and their keys, which bear the same name."""
    ours, theirs = forge.rsa_key("shared"), dataclasses.replace(forge.rsa_key("theirs"), kid="shared")
    trusted = [
        TrustedIssuer(
            issuer=Issuer(name=name, iss=iss),
            keys=await key_file(key, name=name),
            audiences=frozenset([forge.AUDIENCE]),
        )
        for name, iss, key in (("main", forge.ISSUER, ours), ("other", "https://other.example.com", theirs))
    ]
    return Verifier(trusted, metrics), ours, theirs


@pytest.fixture
def hmac_verifier(tmp_path, metrics):
    """Make a verifier that trusts an issuer with whom a secret is shared."""

    async def make(secret, algorithms):
        path = tmp_path / "secret"
        path.write_bytes(secret)
        source = key_source(issuer_settings(algorithms=algorithms, hmac_secret_file=path), metrics)
        assert await source.look_again()
        return trusting(source, metrics)

    return make


class Clock:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Naps:
    """Replaces asyncio.sleep: records the seconds, and returns when a test ends the nap."""

    def __init__(self):
        self.durations = []
        self._changed = asyncio.Condition()
        self._ends = asyncio.Semaphore(0)

    async def __call__(self, seconds):
        async with self._changed:
            self.durations.append(seconds)
            self._changed.notify_all()
        await self._ends.acquire()

    async def wait_for(self, count):
        """Wait until this many naps have started."""
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: len(self.durations) >= count), 120)

    async def end(self):
        """End the present nap and wait until the next has started."""
        count = len(self.durations)
        self._ends.release()
        await self.wait_for(count + 1)


class IdentityProvider:
    """A web server with a JWK Set; ``answer`` may be replaced by a handler that misbehaves."""

    def __init__(self):
        self.keys = forge.jwks(forge.rsa_key())
        self.fetches = 0
        self.answer = self.serve_keys
        self.url = ""

    async def serve_keys(self, request):
        return web.json_response(self.keys)

    async def handle(self, request):
        self.fetches += 1
        return await self.answer(request)


@pytest.fixture
async def idp():
    provider = IdentityProvider()
    application = web.Application()
    application.router.add_get("/{path:.*}", provider.handle)
    async with TestServer(application) as server:
        provider.url = str(server.make_url("/jwks.json"))
        yield provider
