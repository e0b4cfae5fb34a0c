"""``revoker edge`` as a process, and the check of its configuration."""

import contextlib
import functools
import os
import signal
import stat
import subprocess
import sys

import aiohttp
import pytest

from revoker.config.edge import settle_edge
from revoker.errors import ConfigError
from tests.edge.conftest import callers, claims, until
from tests.rig import forge
from tests.rig.edge import MAX_STALENESS_S, edge_process, stand_still, write_configuration


@pytest.fixture
def configured(tmp_path):
    """Writes a configuration."""
    return functools.partial(write_configuration, tmp_path)


def check(path):
    command = [sys.executable, "-m", "revoker", "config", "check", "--config", path.name]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REVOKER")}
    return subprocess.run(
        command, cwd=path.parent, env=environ, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_configuration_of_an_edge_is_checked(configured):
    done = check(configured())
    assert done.returncode == 0, done.stderr
    assert "an edge of 1 upstreams" in done.stdout
    done = check(configured(more='\n[redis]\nurl = "redis://valkey:6379"\n'))
    assert done.returncode == 2
    assert "redis: an edge has no store" in done.stderr


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"url": "http://revoker.example.com"}, "upstream.url: must be https"),
        ({"url": []}, "upstream.url: must not be empty"),
        ({"url": "ftp://revoker.example.com"}, "upstream.url"),
        ({"url": "https://user:secret@revoker.example.com"}, "must not hold a user name or password"),
        ({"secret_file": "nowhere"}, "upstream.secret_file: can't be read"),
        ({"secret_file": os.devnull}, "upstream.secret_file: is empty"),
        ({"max_staleness": 1.0}, "upstream.max_staleness: must be at least 2"),
        ({"beyond": "guess"}, "upstream.beyond: must be one of"),
        ({"name": "a b"}, "upstream.name"),
        ({"ca_file": os.devnull}, "upstream.ca_file"),
        ({"secret": "s"}, "upstream.secret: is not a setting"),
    ],
)
def test_what_is_wrong_with_an_upstream_is_said_by_its_name(tmp_path, change, problem):
    (tmp_path / "secret").write_text("s")
    upstream = {"url": "https://revoker.example.com", "secret_file": str(tmp_path / "secret"), **change}
    sessions = {"issuer": "https://sessions.example.com", "audiences": ["api://orders"]}
    with pytest.raises(ConfigError) as refused:
        settle_edge({"upstream": upstream, "sessions": sessions}, {})
    assert any(problem in found for found in refused.value.problems), refused.value.problems
    assert "secret@" not in str(refused.value)


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_command_follows_and_ends_in_order(feed, tmp_path, workers):
    staleness = {"max_staleness": MAX_STALENESS_S}
    async with edge_process(tmp_path, feed.url, workers=workers, **staleness) as (edge, process):
        token = edge.token(jti="1")
        await until(lambda: feed.streams == workers, "every process follows")
        assert len(feed.names) == workers
        assert await edge.active(token)
        feed.jti("1", issuer=forge.ISSUER)

        async def refused_by_all():
            found = []
            for _ in range(8):
                headers = {"X-Revoker-Key": "gateway-secret", "Authorization": f"Bearer {token}"}
                async with edge.http.get(
                    f"{edge.url}/forward-auth", headers={**headers, "Connection": "close"}
                ) as response:
                    found.append(response.status)
            return set(found) == {401}

        await until(refused_by_all, "it is revoked everywhere")
        if workers == 1:
            await is_the_same_on_the_unix_socket(tmp_path / "edge.sock", token)
        await edge.close()
        process.send_signal(signal.SIGTERM)
        assert process.status() == 0, process.output()
    assert not (tmp_path / "edge.sock").exists()


async def test_an_edge_that_stands_still_confirms_nothing(start, valkey, tmp_path):
    service = await start(valkey, callers=callers())

    async def revoke(sub, seconds):
        body = {"iss": forge.ISSUER, "sub": sub, "wait_edges": True, "wait_seconds": seconds}
        answer = await service.post("/revoke-user", body)
        assert answer.status == 200, answer.body
        return answer.json["edges"]

    async with edge_process(tmp_path, service.url) as (edge, process):
        assert await revoke("alice", 30) == {"reached": 1, "connected": 1}
        stand_still(process)
        assert await revoke("bob", 0.05) == {"reached": 0, "connected": 1}
        process.send_signal(signal.SIGCONT)
        assert await revoke("bob", 30) == {"reached": 1, "connected": 1}
        assert not await edge.active(claims(sub="bob"))


async def is_the_same_on_the_unix_socket(path, token):
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    connector = aiohttp.UnixConnector(path.name)  # the whole path may be too long for a socket
    with contextlib.chdir(path.parent):
        async with aiohttp.ClientSession(connector=connector) as http:
            headers = {"X-Revoker-Key": "gateway-secret", "Authorization": f"Bearer {token}"}
            async with http.get("http://edge/forward-auth", headers=headers) as response:
                assert response.status == 401
                assert int(response.headers["Revoker-As-Of"]) > 0
            async with http.get("http://edge/livez") as response:
                assert response.status == 200


def test_a_unix_socket_is_for_one_process(configured, tmp_path):
    path = configured()
    path.write_text(path.read_text().replace("workers = 1", "workers = 2"))
    done = check(path)
    assert done.returncode == 2
    assert "server.unix_socket: needs server.workers = 1" in done.stderr
