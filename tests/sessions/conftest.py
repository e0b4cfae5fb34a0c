"""A service that keeps sessions."""

import json
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from revoker.tokens.refresh_tokens import new_refresh_key_file

SESSIONS_ISSUER = "https://sessions.example.com"
SESSIONS_AUDIENCE = "api://orders"


@pytest.fixture
def sessions_section(tmp_path: Path):
    """The [sessions] section, with keys of its own; its members can be changed."""
    folder = tmp_path / "signing"
    folder.mkdir()
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    (folder / "first.pem").write_bytes(pem)
    refresh_key = tmp_path / "refresh.key"
    new_refresh_key_file(refresh_key)

    def section(**changes):
        return {
            "issuer": SESSIONS_ISSUER,
            "audiences": [SESSIONS_AUDIENCE],
            "signing_keys_dir": str(folder),
            "refresh_key_file": str(refresh_key),
            **changes,
        }

    return section


@pytest.fixture
async def keeper(start, valkey, sessions_section):
    """A running service that keeps sessions."""
    return await start(valkey, sessions=sessions_section())


class Browser:
    """One login and what came of it."""

    def __init__(self, running, tokens):
        self.running = running
        self.sid = tokens["sid"]
        self.access = tokens["access_token"]
        self.refresh_token = tokens["refresh_token"]

    async def refresh(self, token=None, caller=None, **members):
        form = {"grant_type": "refresh_token", "refresh_token": token or self.refresh_token, **members}
        return await self.running.post("/token", form=form, caller=caller)

    async def go_on(self, **request):
        answer = await self.refresh(**request)
        assert answer.status == 200, answer.body
        self.access = answer.json["access_token"]
        self.refresh_token = answer.json["refresh_token"]
        return answer

    async def active(self):
        return await self.running.active(self.access)

    async def claims(self):
        """What introspection says of the access token."""
        return (await self.running.post("/introspect", {"token": self.access})).json

    async def end(self):
        return await deleted(self.running, self.sid)

    async def elevate(self, **body):
        return await self.running.post(f"/sessions/{self.sid}/elevate", body)


async def log_in(running, sub="alice", caller="admin", **members):
    answer = await running.post("/sessions", {"sub": sub, **members}, caller=caller)
    assert answer.status == 201, answer.body
    return Browser(running, json.loads(answer.body))


ADMIN = {"Authorization": "Bearer admin-secret"}


async def deleted(running, sid, headers=None):
    return await running.ask("DELETE", f"/sessions/{sid}", headers=headers or ADMIN)


async def listed(running, sub="alice", headers=None, **query):
    """One page of a user's sessions."""
    return await running.ask("GET", "/sessions", params={"sub": sub, **query}, headers=headers or ADMIN)


async def sids(running, sub="alice"):
    """All of a user's sessions that are listed."""
    found, more = [], {}
    while True:
        page = (await listed(running, sub, **more)).json
        found += [session["sid"] for session in page["sessions"]]
        if page["next"] is None:
            return found
        more = {"cursor": page["next"]}


async def revoke_user(running, sub="alice", **members):
    answer = await running.post("/revoke-user", {"sub": sub, "iss": SESSIONS_ISSUER, **members})
    assert answer.status == 200, answer.body
    return answer.json


async def without_signing_key(running, access):
    """Revoke the key that signed an access token, the only one; returns what takes that back."""
    kid = jwt.get_unverified_header(access)["kid"]
    answer = await running.post("/revoke-key", {"kid": kid, "iss": SESSIONS_ISSUER})
    assert answer.status == 200, answer.body
    store = running.service.store
    return lambda: store.revocations.forget_key(store.issuers[SESSIONS_ISSUER], kid)
