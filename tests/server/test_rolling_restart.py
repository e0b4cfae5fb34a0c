"""Instances are replaced one after the other under load: no request fails, none is answered wrongly."""

import asyncio
import contextlib
import itertools
import json
import uuid

import aiohttp
import pytest

from tests.rig import forge
from tests.rig.processes import Process, init_store, write_configuration
from tests.rig.servers import free_port
from tests.rig.service import SECRETS

CLIENTS = 8
RESTARTS = 3
DRAIN_SECONDS = 6


class Instances:
    """Two instances, and a balancer that asks both again and again whether they are ready."""

    def __init__(self, folder, store):
        self.processes = {}
        self.ready = set()
        for _ in range(2):
            port = free_port()
            place = folder / str(port)
            place.mkdir()
            server = {"port": port, "drain_seconds": DRAIN_SECONDS}
            configuration = write_configuration(place, store, server=server)
            self.processes[f"http://127.0.0.1:{port}"] = Process(
                place, "-m", "revoker", "serve", "--config", configuration
            )
        init_store(place, configuration)
        self._turn = itertools.count()

    def choose(self):
        """The next instance's URL."""
        ready = sorted(self.ready)
        return ready[next(self._turn) % len(ready)]

    async def look(self, http):
        """Keep ``ready`` as it is."""
        while True:
            for url in self.processes:
                status = 0
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(url + "/readyz") as answer:
                        status = answer.status
                (self.ready.add if status == 200 else self.ready.discard)(url)
            await asyncio.sleep(0.02)

    async def until(self, condition):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
def instances(tmp_path, own_valkey):
    instances = Instances(tmp_path, own_valkey.url)
    with contextlib.ExitStack() as stack:
        for process in instances.processes.values():
            stack.enter_context(process)
        yield instances


class Client:
    """Asks about a token of its own, revokes it, asks again; with the next one from the beginning."""

    def __init__(self, instances, http):
        self.instances = instances
        self.http = http
        self.rounds = 0

    async def ask(self, path, body, caller):
        headers = {"Authorization": aiohttp.encode_basic_auth(caller, SECRETS[caller])}
        url = self.instances.choose() + path
        async with self.http.post(url, json=body, headers=headers) as answer:
            text = await answer.text()
            assert answer.status == 200, (url, answer.status, text)
            return json.loads(text) if text else None

    async def work(self, end):
        while not end.is_set():
            token = forge.token(forge.rsa_key("main-1"), jti=str(uuid.uuid4()))
            for _ in range(5):
                assert (await self.ask("/introspect", {"token": token}, "gateway"))["active"] is True
            await self.ask("/revoke", {"token": token}, "admin")
            for _ in range(5):
                assert await self.ask("/introspect", {"token": token}, "gateway") == {"active": False}
            self.rounds += 1


async def test_instances_are_replaced_under_load_and_nobody_notices(instances):
    end = asyncio.Event()
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        looking = group.create_task(instances.look(http))
        await instances.until(lambda: len(instances.ready) == 2)
        clients = [Client(instances, http) for _ in range(CLIENTS)]
        for client in clients:
            group.create_task(client.work(end))
        for url, process in itertools.islice(itertools.cycle(instances.processes.items()), RESTARTS):
            done = sum(client.rounds for client in clients)
            process.send_signal()
            await instances.until(lambda process=process: process.process.poll() is not None)
            assert process.status() == 0
            assert url not in instances.ready
            process.start()
            await instances.until(lambda: len(instances.ready) == 2)
            await instances.until(lambda done=done: sum(client.rounds for client in clients) > done)
        end.set()
        looking.cancel()
