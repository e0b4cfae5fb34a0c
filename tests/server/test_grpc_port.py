"""The port of gRPC of the whole program: start, several processes, SIGTERM."""

import asyncio
import signal
import socket
import uuid

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.rig import forge
from tests.rig.ext_authz import Asker
from tests.rig.processes import Process, init_store, write_configuration
from tests.rig.servers import free_port
from tests.rig.service import HANGS_S

SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.ServingStatus.Value(n) for n in ("SERVING", "NOT_SERVING")
)


@pytest.fixture
def program(tmp_path, own_valkey):
    """A process with these settings, not started yet, and where its port for gRPC is."""

    def make(**server):
        server = {"port": free_port(), "grpc_port": free_port(), "drain_seconds": 6, **server}
        configuration = write_configuration(tmp_path, own_valkey.url, server=server)
        init_store(tmp_path, configuration)
        process = Process(tmp_path, "-m", "revoker", "serve", "--config", configuration)
        return process, f"127.0.0.1:{server['grpc_port']}"

    return make


def token():
    return f"Bearer {forge.token(forge.rsa_key('main-1'), jti=str(uuid.uuid4()))}"


async def until_serving(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    async with asyncio.timeout(HANGS_S):
        while True:
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)
            else:
                if answer.status == SERVING:
                    return stub
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 2])
async def test_after_sigterm_it_drains_answers_what_still_comes_and_ends_with_status_0(program, workers):
    process, address = program(workers=workers)
    with process:
        asker = Asker(address)
        stub = await until_serving(asker.channel)
        assert (await asker.ask(token())).status == 200
        watching = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == SERVING
        process.send_signal(signal.SIGTERM)
        assert (await watching.read()).status == NOT_SERVING
        assert (await asker.ask(token())).status == 200
        watching.cancel()
        await asker.channel.close()
        assert await asyncio.to_thread(process.status) == 0, process.output()


async def test_several_processes_share_the_port_and_the_metrics(program):
    process, address = program(workers=2)
    with process:
        url = process.url()
        askers = [
            Asker(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(24)
        ]  # a connection each, which the kernel spreads
        for asker in askers:
            await until_serving(asker.channel)
            assert (await asker.ask(token())).status == 200
            await asker.channel.close()
        import aiohttp

        series = (
            'revoker_http_requests_total{endpoint="/envoy.service.auth.v3.Authorization/Check",status="200"}'
        )
        async with aiohttp.ClientSession() as http, asyncio.timeout(HANGS_S):
            while True:
                async with http.get(url + "/metrics") as response:
                    if f"{series} 24.0" in await response.text():
                        break
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken_is_reported_as_a_setting(program, workers):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process, _ = program(workers=workers, grpc_port=taken.getsockname()[1])
        with process:
            assert process.status() != 0
            assert "server.grpc_port: can't listen on 127.0.0.1 port" in process.output()
            assert "Traceback" not in process.output()


def test_without_the_port_nothing_of_grpc_is_imported(tmp_path):
    imports = "import sys, revoker.app, revoker.server.workers"
    unused = "sys.exit(not sys.modules.keys().isdisjoint({'grpc', 'grpc_health', 'envoy'}))"
    with Process(tmp_path, "-c", f"{imports}; {unused}") as process:
        assert process.status() == 0, process.output()
