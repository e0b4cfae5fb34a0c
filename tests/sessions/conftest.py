"""A service that keeps sessions."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from service.tokens.refresh import new_refresh_key_file

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

    async def refresh(self, token=None, **members):
        form = {"grant_type": "refresh_token", "refresh_token": token or self.refresh_token, **members}
        return await self.running.post("/token", form=form, caller=None)

    async def go_on(self):
        answer = await self.refresh()
        assert answer.status == 200, answer.body
        self.access = answer.json["access_token"]
        self.refresh_token = answer.json["refresh_token"]
        return answer

    async def active(self):
        return await self.running.active(self.access)


async def log_in(running, sub="alice", **members):
    answer = await running.post("/sessions", {"sub": sub, **members})
    assert answer.status == 201, answer.body
    return Browser(running, json.loads(answer.body))
