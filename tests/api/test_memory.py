"""What a process remembers is bounded in bytes: what callers send may be long."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

GROWN = """
import asyncio
import sys
import tempfile
import uuid
from pathlib import Path

import aiohttp

from tests.rig import forge
from tests.rig.service import SECRETS, Running, serve, settings_for, until_ready
from revoker import app, logs

MIB = 1024 * 1024
LARGE = 16_000  # characters: near the longest that a member may have
FILLED = {filled} * MIB


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def main(url):
    logs.configure(stream=open("/dev/null", "w"))
    with tempfile.TemporaryDirectory() as folder:
        redis = dict(url=url, key_prefix="m" + uuid.uuid4().hex[:12], timeout=10)
        service = app.Service(settings_for(url, Path(folder), redis=redis))
        await service.store.init()
        running = await serve(service)
        await until_ready(running)
        before = resident()
        sent = 0
        while sent < FILLED:
            size, bodies = await {kind}(running, sent)
            sent += size
            for path, body, headers in bodies:
                answer = await running.post(path, body, headers=headers)
                assert answer.status == 200, answer.body
        print(round((resident() - before) / MIB))
        await running.close()


def unlike(number, size=LARGE):
    return str(number).rjust(12, "0") + "x" * (size - 12)


async def long_claims(running, number):
    usual = forge.claims(iss=forge.ISSUER, jti="one")
    long = [dict(usual, sub=unlike(number, 60_000)), dict(usual, client_id=unlike(number, 60_000))]
    return 120_000, [("/introspect", claims, None) for claims in long]


async def long_tokens(running, number):
    token = running.token(sub=unlike(number, 9_000))
    return len(token), [("/introspect", dict(token=token), None)]


asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("kind", "filled", "most"),
    [("long_claims", 300, 80), ("long_tokens", 120, 140)],
)
def test_a_process_does_not_grow_by_what_it_was_asked(valkey, kind, filled, most):
    program = GROWN.replace("{kind}", kind).replace("{filled}", str(filled))
    grown = subprocess.run(
        [sys.executable, "-c", program, valkey.url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert grown.returncode == 0, grown.stderr
    assert int(grown.stdout) < most, f"by {grown.stdout.strip()} MiB"
