"""Dex with its storage in memory, users in its password database, and a machine that logs in by a password.

It has no grant for machines, knows no logout, and makes new keys at its own times.
"""

import json
from types import MappingProxyType

from tests.real_providers.installation import INSTALLATIONS
from tests.real_providers.provider import AUDIENCE, CALLBACK, MACHINE, WEB, Provider
from tests.rig.probes import eventually

PASSWORD = "password"
PASSWORD_HASH = "$2a$10$2b2cU8CPhOTaGrs1HRQuAueS7JTT5ZHsHSzYiFPm1leZck7Mc8T4W"
"""Of the same, as in Dex's own example (config.dev.yaml)."""

ROTATION = "45s"
"""Dex looks every 30 s whether its key is older, so it makes one each minute. A service fetches the key set
for a new `kid` at most every 30 s."""

_LONGEST_S = 120


class Dex(Provider):
    name = "dex"
    logs_out = False
    names_tokens = False
    marks_kinds = False  # its access tokens have all that its ID tokens have, `at_hash` included
    asks_for_api = MappingProxyType(
        {"scope": f"openid audience:server:client_id:{AUDIENCE}", "connector_id": "local"}
    )

    @property
    def issuer(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self):
        return {"accept_id_tokens": True, "require_jti": False}

    def __enter__(self):
        (self.folder / "config.json").write_text(json.dumps(self._configuration()))
        program = INSTALLATIONS[self.name].folder / "dex"
        self.start("serve", "config.json", program=str(program))
        return self

    def __exit__(self, *_):
        self.process.stop()

    def _configuration(self):
        clients = [
            {"id": name, "name": name, "secret": f"{name}-secret", "redirectURIs": [CALLBACK]}
            for name in (WEB, MACHINE)
        ]
        api = {"id": AUDIENCE, "name": "API", "secret": "unused", "trustedPeers": [WEB, MACHINE]}
        return {
            "issuer": self.issuer,
            "storage": {"type": "memory"},
            "web": {"http": f"127.0.0.1:{self.port}"},
            "expiry": {"signingKeys": ROTATION},
            "oauth2": {"skipApprovalScreen": True, "passwordConnector": MACHINE},
            "connectors": [
                {
                    "type": "mockPassword",
                    "id": MACHINE,
                    "name": MACHINE,
                    "config": {"username": MACHINE, "password": PASSWORD},
                }
            ],
            "enablePasswordDB": True,
            "staticPasswords": [
                {"email": f"{user}@example.com", "hash": PASSWORD_HASH, "username": user, "userID": user}
                for user in ("alice", "bob")
            ],
            "staticClients": [*clients, {**api, "redirectURIs": [CALLBACK]}],
        }

    async def walk(self, browser, link, user, *, until):
        answers = {"login": f"{user}@example.com", "password": PASSWORD}
        return await browser.walk(link, answers, until=until)

    async def machine_token(self, http):
        answer = await self.token(
            http,
            MACHINE,
            grant_type="password",
            username=MACHINE,
            password=PASSWORD,
            scope=self.asks_for_api["scope"],
        )
        return answer["access_token"]

    async def rotate(self, http):
        """Wait for the next key."""
        before = await self._signing_kid(http)

        async def has_rotated():
            return await self._signing_kid(http) != before

        await eventually(has_rotated, _LONGEST_S, "a new key of Dex")

    async def _signing_kid(self, http):
        async with http.get(self.metadata["jwks_uri"]) as response:
            return (await response.json())["keys"][0]["kid"]
