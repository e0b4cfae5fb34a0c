"""An OpenID Connect provider on 127.0.0.1, at which everybody is logged in already as the test says."""

import base64
import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.rig import forge

CLIENT = "revoker-console"


class OpenIdProvider:
    """Signs in whoever comes, with these claims.

    Attributes:
        claims: Of the ID token, over those that every one has.
        key: That signs it.
        answer: Members of the token response, over those that it has.
        refusal: The error with which it answers in place of a code; empty: none.
        asked: The parameters of every request for a code.
        exchanged: The forms of every request for tokens.
    """

    def __init__(self, **claims: Any) -> None:
        self.claims: dict[str, Any] = {"sub": "agent-1", "name": "Agent One", **claims}
        self.key = forge.rsa_key("main-1")
        self.answer: dict[str, Any] = {}
        self.refusal = ""
        self.asked: list[dict[str, str]] = []
        self.exchanged: list[dict[str, str]] = []
        self._codes: dict[str, dict[str, str]] = {}
        self.url = ""

    @property
    def settings(self) -> dict[str, Any]:
        """Of the section ``console``."""
        return {
            "enabled": True,
            "issuer": "main",
            "client_id": CLIENT,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "roles_claim": ["realm_access", "roles"],
        }

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["OpenIdProvider"]:
        application = web.Application()
        application.router.add_get("/authorize", self._authorize)
        application.router.add_post("/token", self._token)
        async with TestServer(application, host="127.0.0.1") as server:
            self.url = f"http://127.0.0.1:{server.port}"
            yield self

    def id_token(self, nonce: str | None, **changes: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": forge.ISSUER,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            "sid": "provider-session-1",
            **self.claims,
            **changes,
        }
        present = {name: value for name, value in claims.items() if value is not None}
        return forge.forge(self.key, {"alg": self.key.alg, "kid": self.key.kid}, present)

    async def _authorize(self, request: web.Request) -> web.Response:
        asked = dict(request.query)
        self.asked.append(asked)
        answer = {"state": asked["state"]}
        if self.refusal:
            answer["error"] = self.refusal
        else:
            answer["code"] = secrets.token_urlsafe(16)
            self._codes[answer["code"]] = asked
        return web.Response(status=302, headers={"Location": f"{asked['redirect_uri']}?{urlencode(answer)}"})

    async def _token(self, request: web.Request) -> web.StreamResponse:
        sent = {name: str(value) for name, value in (await request.post()).items()}
        self.exchanged.append(sent)
        asked = self._codes.pop(sent.get("code", ""), None)
        if asked is None or sent.get("redirect_uri") != asked["redirect_uri"]:
            return web.json_response({"error": "invalid_grant"}, status=400)
        digest = hashlib.sha256(sent.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if asked.get("code_challenge_method") != "S256" or challenge != asked["code_challenge"]:
            return web.json_response({"error": "invalid_grant"}, status=400)
        tokens = {
            "access_token": "opaque",
            "token_type": "Bearer",
            "id_token": self.id_token(asked.get("nonce")),
        }
        text = json.dumps({**tokens, **self.answer}).encode()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for start in range(0, len(text), 100):  # as a proxy may pass it on
            await response.write(text[start : start + 100])
        return response
