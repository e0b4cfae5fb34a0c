"""People sign in to the console by a real identity provider, as docs/console.md sets it up."""

import dataclasses
import re
import tomllib
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import pytest

from tests.console.conftest import people, settled  # noqa: F401  # fixtures
from tests.console.person import Person
from tests.real_providers.browser import Browser
from tests.real_providers.logout_relay import LogoutRelay
from tests.real_providers.provider import AUDIENCE, CONSOLE
from tests.rig.probes import within
from tests.rig.service import HANGS_S

pytestmark = pytest.mark.providers_with("signs_in_to_console")

PAGE = Path(__file__).parents[2] / "docs/console.md"
ACT = "/console/act/revoke-user"


@pytest.fixture
def settings(provider, tmp_path):
    """The sections of the page, with the addresses and files of this machine."""
    secret = tmp_path / "client-secret"
    secret.write_text(f"{CONSOLE}-secret\n")
    [text] = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for documented, here in {
        "https://keycloak.example.com/realms/example": provider.issuer,
        "https://revoker-admin.example.com": provider.console_url,
        "/etc/revoker/console/client-secret": str(secret),
        "orders-api": AUDIENCE,
    }.items():
        assert documented in text
        text = text.replace(documented, here)
    return tomllib.loads(text)


@pytest.fixture
def backchannel_ends():
    """The setting of this name; a test may have another."""
    return "session"


@pytest.fixture
async def service(trust, settings, console_port, backchannel_ends):
    [issuer] = settings["issuers"]
    issuer |= {"jwks_insecure": True, "backchannel_ends": backchannel_ends}
    return await trust(issuer, console=settings["console"], port=console_port)


@pytest.fixture
def logouts(service, logout_port):
    """What passes the provider's logout tokens on to the console's service."""
    return LogoutRelay(logout_port, service)


@dataclasses.dataclass
class Employee:
    """Somebody at the console, whose browser has the cookies of the provider apart.

    Attributes:
        page: To which the latest sign-in has led.
    """

    user: str
    console: Person
    browser: Browser
    provider: object
    page: object = None

    async def link(self):
        """Where the console sends somebody who begins to sign in."""
        redirect = await self.console.open("/console/sign-in/begin", follow=False)
        return redirect.headers["Location"]

    async def sign_in(self):
        async with within(HANGS_S, f"a sign-in of {self.user}"):
            callback = f"{self.console.url}/console/callback"
            link = await self.link()
            reached = await self.provider.walk(self.browser, link, self.user, until=callback)
            self.page = await self.console.open(reached)

    async def is_signed_in(self):
        return (await self.console.open("/console")).url.endswith("/console")


@pytest.fixture
def employee(service, provider, people, browse):  # noqa: F811  # a fixture
    def begin(user):
        return Employee(user, people(service), browse(), provider)

    return begin


@pytest.fixture
def signed_in(employee):
    async def begin(user):
        somebody = employee(user)
        await somebody.sign_in()
        assert somebody.page.url.endswith("/console"), somebody.page.words
        return somebody

    return begin


def act_on(iss, sub):
    return f"{ACT}?{urlencode({'iss': iss, 'sub': sub})}"


async def test_a_role_of_the_provider_is_the_role_at_the_console(signed_in):
    alice, bob = await signed_in("alice"), await signed_in("bob")
    assert "alice Example , support" in alice.page.words
    assert "bob Example , viewer" in bob.page.words
    assert "/console/revoke" in alice.page.links
    assert "/console/revoke" not in bob.page.links


async def test_support_acts_and_a_viewer_cannot(service, provider, signed_in, browse, events):
    alice, bob = await signed_in("alice"), await signed_in("bob")
    async with within(HANGS_S, "a login of carol"):
        login = await provider.login(browse(), "carol")
    answer = await service.post("/introspect", {"token": login.access_token}, caller="gateway")
    assert answer.json["active"]
    target = {"iss": answer.json["iss"], "sub": answer.json["sub"]}
    preview = await alice.console.open(act_on(**target))
    assert preview.status == 200

    for page in (
        await bob.console.open(act_on(**target)),
        await bob.console.ask("POST", ACT, data=preview.form(ACT).fields),
    ):
        assert page.status == 403
        assert "This needs the role support; you have the role viewer." in page.words
    assert await service.active(login.access_token)

    done = await alice.console.send(preview, ACT, reason="laptop stolen")
    assert "The user is logged out everywhere." in done.words
    assert not await service.active(login.access_token)
    [audited] = [event for event in events if event["event"] == "user_revoked"]
    assert (audited["sub"], audited["reason"]) == (target["sub"], "laptop stolen")
    assert audited["caller"].startswith("console:")


async def test_who_has_no_role_gets_no_page(employee):
    carol = employee("carol")
    await carol.sign_in()
    assert carol.page.status == 403
    assert "gives you no role here" in carol.page.words
    assert not await carol.is_signed_in()


async def test_the_provider_wants_the_challenge_that_the_console_sends(provider, employee):
    alice = employee("alice")
    link = urlsplit(await alice.link())
    query = parse_qs(link.query)
    assert query.pop("code_challenge_method") == ["S256"]
    assert query.pop("code_challenge")
    without = urlunsplit(link._replace(query=urlencode(query, doseq=True)))

    reached = await provider.walk(
        alice.browser, without, "alice", until=f"{alice.console.url}/console/callback"
    )

    assert parse_qs(urlsplit(reached).query)["error"] == ["invalid_request"]
    page = await alice.console.open(reached)
    assert page.status == 403
    assert "The identity provider refused the sign-in: invalid_request." in page.words


async def _logs_out_of_another_application(provider, somebody, _):
    await provider.logout(await provider.login(somebody.browser, somebody.user))


async def _has_the_sessions_ended_by_an_administrator(provider, somebody, http):
    await provider.end_sessions(http, somebody.user)


@pytest.mark.parametrize(
    "end",
    [_logs_out_of_another_application, _has_the_sessions_ended_by_an_administrator],
    ids=lambda end: end.__name__.strip("_"),
)
async def test_the_end_of_a_login_at_the_provider_ends_the_sign_in(provider, logouts, signed_in, http, end):
    alice, bob = await signed_in("alice"), await signed_in("bob")
    assert await alice.is_signed_in()

    async with logouts as relay:
        async with within(HANGS_S, "a logout of alice"):
            await end(provider, alice, http)
        await relay.accepted()

    assert not await alice.is_signed_in()
    assert (await alice.console.open("/console/state")).url.endswith("/console/sign-in")
    assert await bob.is_signed_in()
    await alice.sign_in()
    assert await alice.is_signed_in(), alice.page.words


@pytest.mark.parametrize("backchannel_ends", ["user"])
async def test_one_logout_token_can_end_all_sign_ins_of_the_user(provider, logouts, signed_in, http):
    """Keycloak sends one where an administrator logs out a user who has several sessions."""
    first, second, bob = await signed_in("alice"), await signed_in("alice"), await signed_in("bob")

    async with logouts as relay:
        async with within(HANGS_S, "a logout of alice"):
            await provider.log_out_user(http, "alice")
        await relay.accepted()

    assert [await one.is_signed_in() for one in (first, second, bob)] == [False, False, True]
