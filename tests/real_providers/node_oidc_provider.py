"""oidc-provider, of npm: `oidc_provider/server.mjs`."""

import json
import shutil
import signal
from pathlib import Path

from tests.real_providers.installation import FOLDER
from tests.real_providers.provider import Provider
from tests.rig import forge

SERVER = Path(__file__).parent / "oidc_provider" / "server.mjs"


class NodeOidcProvider(Provider):
    name = "oidc-provider"

    @property
    def issuer(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self):
        return {"backchannel_ends": "user"}  # its access tokens do not name their session

    def __enter__(self):
        self._keys = []
        self._add_key()
        shutil.copy(SERVER, self.folder)
        (self.folder / "node_modules").symlink_to(FOLDER / self.name / "node_modules")
        self.start(SERVER.name, self.port, "keys.json", self.logout_uri, program="node")
        return self

    def __exit__(self, *_):
        self.process.stop()

    async def walk(self, browser, link, user, *, until):
        return await browser.walk(link, {"login": user, "password": "any", "logout": "yes"}, until=until)

    async def rotate(self, http):
        self._add_key()
        self.process.send_signal(signal.SIGHUP)

    def _add_key(self):
        key = forge.rsa_key(f"{self.name}-{len(self._keys) + 1}")
        self._keys.insert(0, key.private_jwk(key_ops=forge.ABSENT))  # it would publish them as they are
        written = self.folder / "keys.json.new"
        written.write_text(json.dumps({"keys": self._keys}))
        written.replace(self.folder / "keys.json")
