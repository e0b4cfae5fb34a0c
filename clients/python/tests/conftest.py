"""A Revoker with its development setup: a real process on its embedded store."""

import inspect
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from revoker_client import RevokerClient, SyncRevokerClient

PATIENT_S = 120


@dataclass(frozen=True)
class Revoker:
    url: str
    admin: str
    gateway: str


def until_answers(url, process):
    deadline = time.monotonic() + PATIENT_S
    while True:
        assert process.poll() is None, f"{process.args} ended with status {process.returncode}"
        try:
            return httpx.get(url, timeout=PATIENT_S)
        except httpx.TransportError:
            assert time.monotonic() < deadline, url
            time.sleep(0.05)


def stop(process):
    process.terminate()
    process.wait(PATIENT_S)


@pytest.fixture(scope="session")
def revoker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("revoker")
    environ = {
        "REVOKER_SERVER__PORT": "0",
        "REVOKER_SERVER__DRAIN_SECONDS": "0",
        "REVOKER_REDIS__TIMEOUT": "10",
    }
    out = folder / "out"
    with out.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "revoker", "serve"], cwd=folder, env=os.environ | environ, stdout=sink
        )
    try:
        deadline, settings = time.monotonic() + PATIENT_S, folder / ".revoker" / "dev.env"
        while "curl " not in out.read_text():
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        words = dict(
            line.removeprefix("export ").split("=", 1)
            for line in settings.read_text().splitlines()
            if "=" in line
        )
        yield Revoker(words["REVOKER_URL"], words["REVOKER_ADMIN_SECRET"], words["REVOKER_GATEWAY_SECRET"])
    finally:
        stop(process)


class EitherClient:
    """Calls a client of either kind in the same way."""

    def __init__(self, client):
        self._client = client

    def __getattr__(self, name):
        method = getattr(self._client, name)

        async def call(*args, **kwargs):
            result = method(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return call


@pytest.fixture(params=[RevokerClient, SyncRevokerClient], ids=["async", "sync"])
def kind(request):
    return request.param


@pytest.fixture
async def make(kind):
    """Make a client of either kind; it is closed at the end of the test."""
    made = []

    def make(url, secret="secret", **options):
        made.append(EitherClient(kind(url, secret, **options)))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.fixture
def admin(revoker, make):
    return make(revoker.url, revoker.admin, timeout=PATIENT_S)


@pytest.fixture(scope="session")
def examples():
    return Path(__file__).parent.parent / "examples"
