"""What tests do with any identity provider: log in and out, get tokens for a machine, rotate the keys."""

import abc
import dataclasses
import http.client
import json
import urllib.request
from types import MappingProxyType
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.real_providers.browser import Browser
from tests.rig import forge
from tests.rig.processes import Process, until
from tests.rig.servers import free_port

CALLBACK = "http://127.0.0.1:9/callback"
"""Of the client ``web``. Nothing is there; a browser that gets there has its code."""

GOODBYE = "http://127.0.0.1:9/goodbye"
AUDIENCE = "api://orders"

WEB, MACHINE = "web", "machine"
"""The clients of every provider. The secret of each is its name with ``-secret``."""

START_S = 600
"""After this time a provider has not started. Keycloak alone takes 20 s, and 60 s on a busy machine."""

CONSOLE = "revoker-console"
"""The client of the console, likewise, where the provider has it."""


@dataclasses.dataclass(frozen=True)
class Login:
    """A user who is logged in, and what the client ``web`` has of it."""

    user: str
    browser: Browser
    access_token: str
    id_token: str


class Provider(abc.ABC):
    """One server on 127.0.0.1, for all tests; it ends with the ``with`` block.

    Args:
        folder: For its data, and the output of its programs.
        logout_uri: Where it sends logout tokens for the client ``web``.
        console_url: Where browsers find the service whose console signs in by it.
    """

    name: str
    process: Process
    logs_out = True
    """Whether it sends logout tokens."""

    names_sessions = False
    """Whether its access tokens name their session."""

    names_tokens = True
    """Whether its access tokens have an id."""

    marks_kinds = True
    """Whether an access token can be distinguished from an ID token."""

    confuses_keys = False
    """Whether tokens that it makes during a rotation can name one key and have the signature of another."""

    signs_in_to_console = False
    """Whether it has a client for the console, and users with roles there: ``alice`` has support, ``bob``
    viewer, and ``carol`` none."""

    asks_for_api = MappingProxyType({})
    """Parameters of a request for a token that is for the API, where the client alone does not decide."""

    def __init__(self, folder, logout_uri, console_url):
        self.folder = folder
        self.logout_uri = logout_uri
        self.console_url = console_url
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    @abc.abstractmethod
    def issuer(self):
        """Its ``iss``."""

    @property
    @abc.abstractmethod
    def settings(self):
        """Values of ``[[issuers]]`` beside those that are the same for all."""

    @abc.abstractmethod
    def __enter__(self): ...

    @abc.abstractmethod
    def __exit__(self, *_): ...

    @abc.abstractmethod
    async def walk(self, browser, link, user, *, until):
        """What a user does from a link of the client ``web`` up to an address of it, which is the result."""

    @abc.abstractmethod
    async def rotate(self, http):
        """Sign with a new key once this returns; the old ones stay in the key set."""

    def table(self):
        """``[[issuers]]`` of a service that trusts it.

        The audience of ID tokens is accepted: what refuses them must be that they are ID tokens.
        """
        return {
            "name": "main",
            "issuer": self.issuer,
            "audiences": [AUDIENCE, WEB],
            "jwks_uri": self.metadata["jwks_uri"],
            "jwks_insecure": True,
            **({"backchannel_audience": WEB} if self.logs_out else {}),
            **self.settings,
        }

    def start(self, *arguments, **options):
        """Start its process, and read its metadata once it answers. It ends where it does not."""
        self.process = Process(self.folder, *arguments, **options).start()
        metadata = f"{self.issuer}/.well-known/openid-configuration"

        def answer():
            assert self.process.process.poll() is None, f"{self.name} has ended"
            with urllib.request.urlopen(metadata, timeout=60) as response:
                return json.load(response)

        try:
            self.metadata = until(
                answer, f"the start of {self.name}", START_S, ignored=(OSError, http.client.HTTPException)
            )
        except BaseException as fault:
            fault.add_note(self.output())
            self.process.stop()
            raise

    def output(self):
        """The end of what it has printed."""
        return self.process.output()[-8000:]

    async def login(self, browser, user):
        """A user logs in, and the client ``web`` redeems the code."""
        query = {
            "client_id": WEB,
            "response_type": "code",
            "redirect_uri": CALLBACK,
            "scope": "openid",
            "state": "state-of-the-client",
            "nonce": "nonce-of-the-client",
            **self.asks_for_api,
        }
        link = f"{self.metadata['authorization_endpoint']}?{urlencode(query)}"
        reached = await self.walk(browser, link, user, until=CALLBACK)
        got = parse_qs(urlsplit(reached).query)
        assert "code" in got, reached
        answer = await self.token(
            browser.http, WEB, grant_type="authorization_code", code=got["code"][0], redirect_uri=CALLBACK
        )
        return Login(user, browser, answer["access_token"], answer["id_token"])

    async def machine_token(self, http):
        """An access token of the client ``machine``."""
        answer = await self.token(http, MACHINE, grant_type="client_credentials", **self.asks_for_api)
        return answer["access_token"]

    async def token(self, http, client, **form):
        """The answer of the token endpoint."""
        credentials = {"client_id": client, "client_secret": f"{client}-secret"}
        async with http.post(self.metadata["token_endpoint"], data=form | credentials) as response:
            text = await response.text()
        assert response.status == 200, text
        return json.loads(text)

    async def logout(self, login):
        """A user logs out, as the client ``web`` asks for."""
        query = {"id_token_hint": login.id_token, "post_logout_redirect_uri": GOODBYE, "client_id": WEB}
        link = f"{self.metadata['end_session_endpoint']}?{urlencode(query)}"
        await self.walk(login.browser, link, login.user, until=GOODBYE)


def kid_of(token):
    """Of the key that signed it."""
    return json.loads(forge.parts(token)[0])["kid"]


def claims_of(token):
    """Of a token that nobody has verified."""
    return json.loads(forge.parts(token)[1])
