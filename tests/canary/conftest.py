"""A service and an edge that know a canary, and gateways before a page."""

import contextlib
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from revoker.auth import digest
from revoker.canary import process
from revoker.config.canary import ISSUER, settle_canary
from tests.rig import forge
from tests.rig.edge import begin, edge_settings
from tests.rig.service import SECRETS, until_ready
from tests.rig.upstream import SECRET

CANARY_SECRET = "canary-secret"
GATEWAY_SECRET = "canary-gateway-secret"
KEY = forge.ec_key("canary-1")


def callers():
    """The canary, the gateway of its page, and two that know nothing of it."""
    return [
        {"name": name, "scopes": scopes, "secret_sha256": [digest(secret)], **terms}
        for name, scopes, secret, terms in (
            ("canary", ["introspect", "revoke"], CANARY_SECRET, {"issuers": ["canary"]}),
            ("canary-gateway", ["introspect"], GATEWAY_SECRET, {"issuers": ["canary"]}),
            ("gateway", ["introspect"], SECRETS["gateway"], {}),
            ("admin", ["introspect", "revoke", "revoke-all"], SECRETS["admin"], {}),
            ("edge", ["feed", "introspect"], SECRET, {}),
        )
    ]


def issuers(folder, key=KEY):
    """As `revoker canary init` prints them, and another."""
    (folder / "canary.jwks").write_text(json.dumps(forge.jwks(key)))
    (folder / "main.jwks").write_text(json.dumps(forge.jwks(forge.rsa_key("main-1"))))
    return [
        {
            "name": "canary",
            "issuer": ISSUER,
            "audiences": [ISSUER],
            "algorithms": ["ES256"],
            "jwks_file": str(folder / "canary.jwks"),
            "max_token_lifetime": 300,
            "restricted": True,
        },
        {
            "name": "main",
            "issuer": forge.ISSUER,
            "audiences": [forge.AUDIENCE],
            "jwks_file": str(folder / "main.jwks"),
        },
    ]


@pytest.fixture
async def service(start, valkey, tmp_path):
    return await start(valkey, callers=callers(), issuers=issuers(tmp_path))


@pytest.fixture
async def edge(service, tmp_path):
    running = await begin(
        edge_settings(tmp_path, service.url, callers=callers(), issuers=issuers(tmp_path)),
    )
    await until_ready(running)
    yield running
    await running.close()


@pytest.fixture
async def serve_page():
    """Serves a page; the handler is a gateway and what is behind it."""
    async with contextlib.AsyncExitStack() as stack:

        async def serve(handle):
            application = web.Application()
            application.router.add_get("/canary", handle)
            server = TestServer(application)
            await server.start_server()
            stack.push_async_callback(server.close)
            return str(server.make_url("/canary"))

        yield serve


def guarded_by(running):
    """A gateway that asks a service or an edge, as nginx does with auth_request."""

    async def handle(request):
        headers = {"X-Revoker-Key": GATEWAY_SECRET, "Authorization": request.headers["Authorization"]}
        async with running.http.get(f"{running.url}/forward-auth", headers=headers) as response:
            return web.Response(status=response.status, text="the page")

    return handle


@pytest.fixture
def configure(tmp_path):
    """Makes settings of a canary."""
    files = {
        "canary.secret": CANARY_SECRET,
        "wrong.secret": "another-secret",
        "canary.key": json.dumps(KEY.private_jwk()),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    def make(upstream, *targets, secret="canary.secret", **canary):
        values = {
            "server": {"port": 0},
            "upstream": {"url": upstream, "secret_file": str(tmp_path / secret)},
            "canary": {
                "key_file": str(tmp_path / "canary.key"),
                "every_seconds": 120.0,
                "timeout_seconds": 60.0,  # a busy machine does not exceed the third of it
                **canary,
            },
            "targets": list(targets),
        }
        return settle_canary(values, {})

    return make


@pytest.fixture
def run_round():
    """Runs one round."""

    async def run(settings):
        async with process.opened(settings) as rounds:
            return {outcome.target: outcome for outcome in await rounds.run()}

    return run
