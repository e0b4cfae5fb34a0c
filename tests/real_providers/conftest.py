"""Real identity providers, and a service that trusts one of them."""

import contextlib
import json
import os

import pytest

from tests.real_providers.browser import Browser, new_client
from tests.real_providers.dex import Dex
from tests.real_providers.hydra import Hydra
from tests.real_providers.installation import installed
from tests.real_providers.keycloak import Keycloak
from tests.real_providers.logout_relay import LogoutRelay
from tests.real_providers.node_oidc_provider import NodeOidcProvider
from tests.rig import forge
from tests.rig.servers import free_port
from tests.rig.service import OTHER_ISSUER

PROVIDERS = {kind.name: kind for kind in (NodeOidcProvider, Keycloak, Hydra, Dex)}


def pytest_configure(config):
    config.addinivalue_line("markers", "providers_with(what): only those of which the attribute is true")
    config.addinivalue_line("markers", "providers_without(what): only those of which it is false")


def pytest_generate_tests(metafunc):
    if "provider" in metafunc.fixturenames:
        wanted = {
            mark.args[0]: mark.name == "providers_with"
            for mark in metafunc.definition.iter_markers()
            if mark.name.startswith("providers_with")
        }
        named = [
            name
            for name in _chosen()
            if all(getattr(PROVIDERS[name], what) is wish for what, wish in wanted.items())
        ]
        metafunc.parametrize("provider", named, indirect=True, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Show what the provider has printed where a test fails: its own errors are only there."""
    report = yield
    if report.failed and "provider" in item.funcargs:
        running = item.funcargs["provider"]
        report.sections.append((f"Output of {running.name}", running.output()))
    return report


def _chosen():
    named = os.environ.get("PROVIDERS")
    chosen = named.split() if named is not None else [name for name in PROVIDERS if installed(name)]
    if not chosen:
        raise pytest.UsageError("no identity provider is installed: make test-providers installs them")
    return chosen


@pytest.fixture(scope="session")
def logout_port():
    return free_port()


@pytest.fixture(scope="session")
def console_port():
    return free_port()


@pytest.fixture(scope="session")
def provider(request, tmp_path_factory, logout_port, console_port):
    """One started provider, the same for all tests."""
    kind = PROVIDERS[request.param]
    logout_uri = f"http://127.0.0.1:{logout_port}/backchannel-logout"
    console_url = f"http://127.0.0.1:{console_port}"
    with kind(tmp_path_factory.mktemp(kind.name), logout_uri, console_url) as running:
        yield running


@pytest.fixture
def trust(start, valkey, tmp_path):
    """Start a service with a table of `[[issuers]]`, and another issuer as all callers expect it."""

    async def trust(issuer, **more):
        keys = tmp_path / "other-keys.json"
        keys.write_text(json.dumps(forge.jwks(forge.rsa_key("other-1"))))
        other = {"name": "other", "issuer": OTHER_ISSUER, "audiences": ["api"], "jwks_file": str(keys)}
        return await start(valkey, issuers=[issuer, other], **more)

    return trust


@pytest.fixture
async def revoker(trust, provider):
    """A service that knows the provider by its key set."""
    return await trust(provider.table())


@pytest.fixture
async def relay(revoker, logout_port):
    """What passes the provider's logout tokens on to the service."""
    async with LogoutRelay(logout_port, revoker) as relay:
        yield relay


@pytest.fixture
async def http():
    async with new_client() as http:
        yield http


@pytest.fixture
async def browse(provider):
    """Open browsers; all of them are closed with the test."""
    async with contextlib.AsyncExitStack() as stack:

        def browse():
            browser = Browser(f"http://127.0.0.1:{provider.port}")
            stack.push_async_callback(browser.close)
            return browser

        yield browse
