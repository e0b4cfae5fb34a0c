"""Standard output that nobody reads, or that is closed: the log suffers, and nothing else."""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import urllib.request

import aiohttp
import pytest

from tests.rig import forge
from tests.rig.probes import eventually
from tests.rig.processes import Process, init_store, until, write_configuration
from tests.rig.servers import free_port
from tests.rig.service import HANGS_S, SECRETS

LONG = "\x01" * 10_000
"""As a user's name: in the log some 60 kB."""


class Output:
    """A pipe as the standard output of a process, which is read only when the test says so."""

    def __init__(self, path):
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._read = b""

    def close(self):
        os.close(self._descriptor)

    def lines(self):
        """All events that were read by now."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._descriptor, 1 << 20):
                self._read += data
        whole = self._read.rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]

    def until(self, condition):
        """The events, once the condition holds for them."""
        return until(lambda: lines if condition(lines := self.lines()) else None)


class Service:
    """A service whose standard output is such a pipe."""

    def __init__(self, folder, store, **server):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        configuration = write_configuration(
            folder, store, server={"port": port, "drain_seconds": 0, **server}
        )
        init_store(folder, configuration)
        (folder / "out").unlink()
        self.output = Output(folder / "out")
        self.process = Process(folder, "-m", "revoker", "serve", "--config", configuration)

    async def __aenter__(self):
        self._http = aiohttp.ClientSession(
            headers={"Authorization": aiohttp.encode_basic_auth("admin", SECRETS["admin"])},
            timeout=aiohttp.ClientTimeout(HANGS_S),
        )
        self.process.start()
        try:
            await asyncio.to_thread(until, self._answers)
            while (await self.get("/readyz"))[0] != 200:
                await asyncio.sleep(0.02)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_):
        await self._http.close()
        self.process.__exit__()
        self.output.close()

    def _answers(self):
        assert self.process.process.poll() is None, self.process.err.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self.url.rpartition(":")[2]))) == 0

    async def get(self, path):
        async with self._http.get(self.url + path) as response:
            return response.status, await response.text()

    async def post(self, path, body):
        async with self._http.post(self.url + path, json=body) as response:
            return response.status, await response.text()

    async def revoke(self, name):
        status, body = await self.post("/revoke", {"iss": forge.ISSUER, "jti": name})
        assert status == 200, body

    async def revoke_user(self, sub):
        status, body = await self.post("/revoke-user", {"iss": forge.ISSUER, "sub": sub})
        assert status == 200, body

    async def dropped(self):
        """By kind, as the metric has it."""
        metrics = (await self.get("/metrics"))[1]
        found = re.findall(r'revoker_dropped_log_lines_total\{kind="(\w+)"\} (\S+)', metrics)
        return {kind: int(float(count)) for kind, count in found}


@pytest.mark.parametrize("workers", [1, 2])
async def test_output_that_nobody_reads_stops_nothing_and_what_was_logged_is_all_written_before_the_end(
    tmp_path, own_valkey, workers
):
    async with Service(tmp_path, own_valkey.url, workers=workers) as service:
        names = [f"token-{number:04}" for number in range(600)]  # with their requests some 250 kB
        for name in names:
            await service.revoke(name)
            assert (await service.get("/livez"))[0] == 200

        assert await service.dropped() == {"audit": 0, "other": 0}
        reading = (
            asyncio.get_running_loop().run_in_executor(  # first: at the end it waits for readers for 2 s
                None,
                service.output.until,
                lambda lines: [line["event"] for line in lines].count("closing") == workers,
            )
        )
        service.process.send_signal()
        lines = await reading
        assert sorted(audited(lines)) == names
        if workers == 1:
            assert audited(lines) == names
        assert await asyncio.to_thread(service.process.status) == 0


async def test_what_is_dropped_is_counted_and_reported_once_somebody_reads_and_the_end_waits_for_nobody(
    tmp_path, own_valkey
):
    async with Service(tmp_path, own_valkey.url) as service:
        sent = 0
        while (await service.dropped())["audit"] == 0:
            await service.revoke_user(LONG)
            assert (await service.get("/livez"))[0] == 200
            sent += 1
            assert sent < 200

        def complete(lines):
            written = sum(line["event"] == "user_revoked" for line in lines)
            return written + sum(reports(lines, "audit")) == sent

        lines = await asyncio.to_thread(service.output.until, complete)

        async def counted():  # the metric follows a moment later
            dropped = await service.dropped()
            return dropped["audit"] == sum(reports(lines, "audit"))

        await eventually(counted)
        assert (await service.dropped())["other"] >= sum(reports(lines, "other"))
        await service.revoke("afterwards")
        await asyncio.to_thread(service.output.until, lambda lines: audited(lines) == ["afterwards"])

        for _ in range(4):
            await service.revoke_user(LONG)
        service.process.send_signal()
        assert await asyncio.to_thread(service.process.status) == 0


async def test_output_whose_reader_has_gone_stops_nothing(tmp_path, own_valkey):
    async with Service(tmp_path, own_valkey.url) as service:
        service.output.close()
        service.output = Output(tmp_path / "unused")
        for number in range(20):
            await service.revoke(f"token-{number}")
        while (await service.dropped())["audit"] == 0:
            await asyncio.sleep(0.02)

        assert (await service.get("/readyz"))[0] == 200
        service.process.send_signal()
        assert await asyncio.to_thread(service.process.status) == 0


def test_a_service_without_standard_output_serves(tmp_path, own_valkey):
    port = free_port()
    configuration = write_configuration(tmp_path, own_valkey.url, server={"port": port, "drain_seconds": 0})
    service = Process(tmp_path, "-m", "revoker", "serve", "--config", configuration)
    shell = subprocess.Popen(
        ["sh", "-c", 'exec "$@" >&- <&-', "sh", *service.arguments], cwd=tmp_path, env=service.environ
    )
    try:

        def lives():
            assert shell.poll() is None
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10).status
            except OSError:
                return None

        assert until(lives) == 200
        shell.terminate()
        assert shell.wait(120) == 0
    finally:
        if shell.poll() is None:
            shell.kill()
            shell.wait()


def audited(lines):
    """The revoked tokens that the audit log names."""
    return [line["jti"] for line in lines if line["event"] == "token_revoked"]


def reports(lines, kind):
    return [line[kind] for line in lines if line["event"] == "log_lines_dropped"]
