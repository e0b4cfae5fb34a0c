"""A service with a console, an identity provider, and people who sign in."""

import contextlib

import pytest

from revoker.store.journal import shared_consumers
from tests.console.person import Person
from tests.rig.openid import OpenIdProvider
from tests.rig.servers import free_port

ROLES = {"viewer": "revoker-viewer", "support": "revoker-support", "admin": "revoker-admin"}


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """How many edges there are is known at once; otherwise every page after an action would wait for that."""
    monkeypatch.setattr(shared_consumers, "SETTLED_S", 0)


@pytest.fixture
async def provider():
    async with OpenIdProvider().serving() as openid:
        yield openid


@pytest.fixture
async def people():
    """New people, whose browsers are closed with the test."""
    async with contextlib.AsyncExitStack() as stack:

        def somebody(service):
            person = Person(service.url)
            stack.push_async_callback(person.close)
            return person

        yield somebody


@pytest.fixture
def consoles(start, valkey, provider):
    """Start services whose console signs in by the provider."""

    async def begin(*, console=None, **changes):
        port = free_port()
        settings = {**provider.settings, "url": f"http://127.0.0.1:{port}", **(console or {})}
        return await start(valkey, port=port, console=settings, **changes)

    return begin


@pytest.fixture
async def service(consoles):
    return await consoles()


async def sign_in(person, provider, role, **claims):
    """Sign in with a role at the provider; returns the page to which that leads."""
    roles = [ROLES[role]] if role else []
    provider.claims = {
        "sub": f"{role}-1", "name": f"The {role}", "realm_access": {"roles": roles}, **claims
    }  # fmt: skip
    return await person.open("/console/sign-in/begin")


@pytest.fixture
def signed_in(service, provider, people):
    """Somebody who is signed in with a role."""

    async def enter(role, **claims):
        person = people(service)
        page = await sign_in(person, provider, role, **claims)
        assert page.status == 200, page.words
        assert page.url.endswith("/console"), page.words
        return person

    return enter
