"""Keycloak in development mode, with its database in memory."""

import json
import shutil

from tests.real_providers.installation import INSTALLATIONS
from tests.real_providers.provider import AUDIENCE, CALLBACK, GOODBYE, MACHINE, WEB, Provider
from tests.rig.processes import Process

REALM = "shop"
ADMIN, ADMIN_PASSWORD = "admin", "admin-password"
PASSWORD = "user-password"


class Keycloak(Provider):
    name = "keycloak"
    names_sessions = True

    @property
    def issuer(self):
        return f"{self._url}/realms/{REALM}"

    @property
    def settings(self):
        return {"profile": "keycloak"}

    @property
    def _url(self):
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self._rotations = 0
        home = self._home()
        realms = home / "data" / "import"
        realms.mkdir(parents=True)
        (realms / f"{REALM}-realm.json").write_text(json.dumps(self._realm()))
        self._process = Process(
            self.folder,
            "start-dev",
            "--import-realm",
            "--db=dev-mem",
            "--http-host=127.0.0.1",
            f"--http-port={self.port}",
            program=str(home / "bin" / "kc.sh"),
            JAVA_OPTS_APPEND="-XX:TieredStopAtLevel=1",
            KC_BOOTSTRAP_ADMIN_USERNAME=ADMIN,
            KC_BOOTSTRAP_ADMIN_PASSWORD=ADMIN_PASSWORD,
        ).start()
        self.await_start(self._process, 300)
        return self

    def __exit__(self, *_):
        self._process.stop(60)

    def _home(self):
        """A folder like that of the distribution, with data of its own."""
        [distribution] = INSTALLATIONS[self.name].folder.glob("keycloak-*/")
        home = self.folder / "home"
        shutil.copytree(distribution / "bin", home / "bin")
        for name in ("conf", "lib", "providers", "themes"):
            (home / name).symlink_to(distribution / name)
        return home

    def _realm(self):
        audience = {
            "name": "audience of the API",
            "protocol": "openid-connect",
            "protocolMapper": "oidc-audience-mapper",
            "config": {
                "included.custom.audience": AUDIENCE,
                "access.token.claim": "true",
                "id.token.claim": "false",
            },
        }
        return {
            "realm": REALM,
            "enabled": True,
            "users": [
                {
                    "username": user,
                    "enabled": True,
                    "email": f"{user}@example.com",
                    "emailVerified": True,
                    "firstName": user,
                    "lastName": "Example",
                    "credentials": [{"type": "password", "value": PASSWORD}],
                }
                for user in ("alice", "bob")
            ],
            "clients": [
                {
                    "clientId": WEB,
                    "secret": f"{WEB}-secret",
                    "redirectUris": [CALLBACK],
                    "attributes": {
                        "backchannel.logout.url": self.logout_uri,
                        "backchannel.logout.session.required": "true",
                        "post.logout.redirect.uris": GOODBYE,
                    },
                    "protocolMappers": [audience],
                },
                {
                    "clientId": MACHINE,
                    "secret": f"{MACHINE}-secret",
                    "serviceAccountsEnabled": True,
                    "standardFlowEnabled": False,
                    "protocolMappers": [audience],
                },
            ],
        }

    async def walk(self, browser, link, user, *, until):
        return await browser.walk(link, {"username": user, "password": PASSWORD}, until=until)

    async def rotate(self, http):
        """Add a key of a higher priority, as an administrator does."""
        self._rotations += 1
        form = {
            "grant_type": "password",
            "client_id": "admin-cli",
            "username": ADMIN,
            "password": ADMIN_PASSWORD,
        }
        async with http.post(
            f"{self._url}/realms/master/protocol/openid-connect/token", data=form
        ) as response:
            assert response.status == 200, await response.text()
            token = (await response.json())["access_token"]
        key = {
            "name": f"key-{self._rotations}",
            "providerId": "rsa-generated",
            "providerType": "org.keycloak.keys.KeyProvider",
            "config": {
                "priority": [str(1000 + self._rotations)],
                "algorithm": ["RS256"],
                "keySize": ["2048"],
            },
        }
        headers = {"Authorization": f"Bearer {token}"}
        async with http.post(
            f"{self._url}/admin/realms/{REALM}/components", json=key, headers=headers
        ) as response:
            assert response.status == 201, await response.text()
