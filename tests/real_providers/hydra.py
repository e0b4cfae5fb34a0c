"""Ory Hydra with its database in memory, and the decisions on login, consent and logout that it asks for."""

import json
import urllib.request
from types import MappingProxyType
from urllib.parse import parse_qs, urlsplit

from tests.real_providers.installation import INSTALLATIONS
from tests.real_providers.provider import AUDIENCE, CALLBACK, GOODBYE, MACHINE, WEB, Provider
from tests.rig.servers import free_port

PAGES = "http://127.0.0.1:9/hydra/"
"""Where it sends a browser for ``login``, ``consent`` and ``logout``. Nothing is there."""


class Hydra(Provider):
    name = "hydra"
    names_sessions = True
    confuses_keys = True  # it reads its keys twice for a token: for `kid`, and to sign
    asks_for_api = MappingProxyType({"audience": AUDIENCE})

    @property
    def issuer(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self):
        return {}

    def __enter__(self):
        admin = free_port()
        self._admin = f"http://127.0.0.1:{admin}/admin"
        self.start(
            "serve",
            "all",
            "--dev",
            program=str(INSTALLATIONS[self.name].folder / "hydra"),
            DSN="memory",
            SECRETS_SYSTEM="for-tests-and-nothing-else",
            STRATEGIES_ACCESS_TOKEN="jwt",
            OAUTH2_ALLOWED_TOP_LEVEL_CLAIMS="sid",
            SERVE_PUBLIC_HOST="127.0.0.1",
            SERVE_PUBLIC_PORT=str(self.port),
            SERVE_ADMIN_HOST="127.0.0.1",
            SERVE_ADMIN_PORT=str(admin),
            URLS_SELF_ISSUER=self.issuer,
            **{f"URLS_{page.upper()}": PAGES + page for page in ("login", "consent", "logout")},
            SQA_OPT_OUT="true",
        )
        self._add_client(
            WEB,
            grant_types=["authorization_code"],
            response_types=["code"],
            scope="openid",
            redirect_uris=[CALLBACK],
            post_logout_redirect_uris=[GOODBYE],
            backchannel_logout_uri=self.logout_uri,
            backchannel_logout_session_required=True,
        )
        self._add_client(MACHINE, grant_types=["client_credentials"])
        return self

    def __exit__(self, *_):
        self.process.stop()

    def _add_client(self, name, **more):
        client = {
            "client_id": name,
            "client_secret": f"{name}-secret",
            "audience": [AUDIENCE],
            "token_endpoint_auth_method": "client_secret_post",
            **more,
        }
        request = urllib.request.Request(
            f"{self._admin}/clients",
            json.dumps(client).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=60).close()

    async def walk(self, browser, link, user, *, until):
        reached = await browser.walk(link, {}, until=(until, PAGES))
        while reached.startswith(PAGES):
            link = await self._accept(browser.http, reached, user)
            reached = await browser.walk(link, {}, until=(until, PAGES))
        return reached

    async def _accept(self, http, page, user):
        """Agree to what a page asks; the result is where the browser continues."""
        what = urlsplit(page).path.rpartition("/")[2]
        [challenge] = parse_qs(urlsplit(page).query)[f"{what}_challenge"]
        request = f"{self._admin}/oauth2/auth/requests/{what}"
        named = {f"{what}_challenge": challenge}
        if what == "login":
            decision = {"subject": user, "remember": True}
        elif what == "consent":
            async with http.get(request, params=named) as response:
                assert response.status == 200, await response.text()
                sid = (await response.json())["login_session_id"]
            decision = {
                "grant_scope": ["openid"],
                "grant_access_token_audience": [AUDIENCE],
                # A logout token names the session and not the user, so access tokens have to name it.
                "session": {"access_token": {"sid": sid}},
            }
        else:
            decision = {}
        async with http.put(f"{request}/accept", params=named, json=decision) as response:
            assert response.status == 200, await response.text()
            return (await response.json())["redirect_to"]

    async def rotate(self, http):
        """Add a key to both sets: that of access tokens, and that of ID tokens and logout tokens."""
        for name in ("hydra.jwt.access-token", "hydra.openid.id-token"):
            key = {"alg": "RS256", "use": "sig", "kid": ""}
            async with http.post(f"{self._admin}/keys/{name}", json=key) as response:
                assert response.status == 201, await response.text()
