"""Keycloak in development mode, with its database in memory."""

import json
import shutil

from tests.real_providers.installation import INSTALLATIONS
from tests.real_providers.provider import AUDIENCE, CALLBACK, CONSOLE, GOODBYE, MACHINE, WEB, Provider

REALM = "shop"
ADMIN, ADMIN_PASSWORD = "admin", "admin-password"
PASSWORD = "user-password"
ROLES = {"alice": ["revoker-support"], "bob": ["revoker-viewer"], "carol": []}


class Keycloak(Provider):
    name = "keycloak"
    names_sessions = True
    signs_in_to_console = True

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
        self.start(
            "start-dev",
            "--import-realm",
            "--db=dev-mem",
            "--http-host=127.0.0.1",
            f"--http-port={self.port}",
            # For logout tokens. It sends them once, and a busy machine exceeds the default of 5 s.
            "--spi-connections-http-client--default--socket-timeout-millis=60000",
            program=str(home / "bin" / "kc.sh"),
            JAVA_OPTS_APPEND="-XX:TieredStopAtLevel=1",
            KC_BOOTSTRAP_ADMIN_USERNAME=ADMIN,
            KC_BOOTSTRAP_ADMIN_PASSWORD=ADMIN_PASSWORD,
        )
        return self

    def __exit__(self, *_):
        self.process.stop(60)

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
        console_roles = {
            "name": "roles of the console",
            "protocol": "openid-connect",
            "protocolMapper": "oidc-usermodel-realm-role-mapper",
            "config": {
                "claim.name": "roles",
                "jsonType.label": "String",
                "multivalued": "true",
                "id.token.claim": "true",
            },
        }
        return {
            "realm": REALM,
            "enabled": True,
            "roles": {"realm": [{"name": role} for roles in ROLES.values() for role in roles]},
            "users": [
                {
                    "username": user,
                    "enabled": True,
                    "email": f"{user}@example.com",
                    "emailVerified": True,
                    "firstName": user,
                    "lastName": "Example",
                    "credentials": [{"type": "password", "value": PASSWORD}],
                    "realmRoles": roles,
                }
                for user, roles in ROLES.items()
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
                {
                    "clientId": CONSOLE,
                    "secret": f"{CONSOLE}-secret",
                    "directAccessGrantsEnabled": False,
                    "frontchannelLogout": False,  # with True it sends no logout token
                    "redirectUris": [f"{self.console_url}/console/callback"],
                    "attributes": {
                        "pkce.code.challenge.method": "S256",
                        "backchannel.logout.url": self.logout_uri,
                        "backchannel.logout.session.required": "true",
                    },
                    "protocolMappers": [console_roles],
                },
            ],
        }

    async def walk(self, browser, link, user, *, until):
        return await browser.walk(link, {"username": user, "password": PASSWORD}, until=until)

    async def rotate(self, http):
        """Add a key of a higher priority, as an administrator does."""
        self._rotations += 1
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
        await self._administer(http, "POST", "components", json=key)

    async def end_sessions(self, http, user):
        """End all sessions of a user, one by one, as an administrator does: *Sign out* of a session."""
        for session in await self._administer(http, "GET", f"{await self._path_of(http, user)}/sessions"):
            await self._administer(http, "DELETE", f"sessions/{session['id']}")

    async def log_out_user(self, http, user):
        """*Logout all sessions* of a user: each client gets one logout token, for one of the sessions.

        https://github.com/keycloak/keycloak/issues/27359
        """
        await self._administer(http, "POST", f"{await self._path_of(http, user)}/logout")

    async def _path_of(self, http, user):
        [found] = await self._administer(http, "GET", "users", params={"username": user, "exact": "true"})
        return f"users/{found['id']}"

    async def _administer(self, http, method, path, **request):
        """The answer of the realm's administration."""
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
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{self._url}/admin/realms/{REALM}/{path}"
        async with http.request(method, url, headers=headers, **request) as response:
            text = await response.text()
            assert response.status in {200, 201, 204}, text
        return json.loads(text) if text else None
