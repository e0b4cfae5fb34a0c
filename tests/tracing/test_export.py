"""The export of spans by the whole program, as the standard variables ask for it."""

import asyncio
import concurrent.futures
import logging
import os
import signal
import subprocess
import sys

import aiohttp
import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from revoker import app
from revoker.config import schema
from revoker.errors import ConfigError
from revoker.tracing import environment
from revoker.tracing.export import ReportingExporter
from tests.rig import forge
from tests.rig.ext_authz import Asker
from tests.rig.listener import listening
from tests.rig.processes import REPOSITORY, Process, write_configuration
from tests.rig.servers import free_port
from tests.rig.service import SECRETS

HTTP_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
FEW_TRIES = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}


@pytest.fixture
def program(tmp_path, valkey):
    """The service as a process with these variables, not started yet."""

    def make(environ, **server):
        server = {"port": free_port(), "drain_seconds": 0, **server}
        configuration = write_configuration(tmp_path, f"{valkey.url}", server=server)
        text = configuration.read_text().replace("[redis]", f'[redis]\nkey_prefix = "t{server["port"]}"')
        configuration.write_text(text)
        with concurrent.futures.ThreadPoolExecutor(1) as other_loop:
            other_loop.submit(asyncio.run, init(configuration)).result()
        return Process(tmp_path, "-m", "revoker", "serve", "--config", configuration, **environ)

    return make


async def init(configuration):
    """As ``revoker store init``, which would be one more process."""
    store = app.Service(schema.load(configuration, {})).store
    await store.init()
    await store.close()


async def post(url, path, body, caller, **headers):
    headers["Authorization"] = aiohttp.encode_basic_auth(caller, SECRETS[caller])
    async with (
        aiohttp.ClientSession() as http,  # a connection of its own, which the kernel gives to any process
        http.post(url + path, json=body, headers=headers) as response,
    ):
        return response.status, await response.json()


async def until_ready(url):
    while (await post(url, "/introspect", {"token": token()}, "gateway"))[0] != 200:
        await asyncio.sleep(0.05)


def ready_instances(receiver):
    """The processes that have answered 200, by the spans that they have exported."""
    return {
        about["service.instance.id"]
        for span, about in receiver.spans()
        for member in span.attributes
        if (member.key, member.value.int_value) == ("http.response.status_code", 200)
    }


def token():
    return forge.token(forge.rsa_key("main-1"))


async def ends(process):
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.status) == 0, process.output()


async def test_every_worker_exports_and_the_logs_name_the_trace(program, receiver):
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_SERVICE_NAME": "logout",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    grpc_port = free_port()
    with program(variables, workers=2, grpc_port=grpc_port) as process:
        url = await asyncio.to_thread(process.url)
        while len(ready_instances(receiver)) < 2:
            await post(url, "/introspect", {"token": token()}, "gateway")
        status, _ = await post(url, "/revoke-user", {"sub": "alice"}, "admin", traceparent=SAMPLED)
        assert status == 200
        asker = Asker(f"127.0.0.1:{grpc_port}")
        assert (await asker.ask(f"Bearer {token()}")).status == 200
        await asker.channel.close()
        await ends(process)
        spans = receiver.spans()  # all of them: the end of a process exports what is left
        lines = process.lines()

    names = {span.name for span, _ in spans}
    assert {"POST /introspect", "POST /revoke-user", "MGET", "EVALSHA"} <= names
    assert "envoy.service.auth.v3.Authorization/Check" in names
    [change] = [span for span, _ in spans if span.name == "POST /revoke-user"]
    assert (change.trace_id.hex(), change.parent_span_id.hex()) == (TRACE, PARENT)
    for _, about in spans:
        assert about["service.name"] == "logout"
        assert about["deployment.environment.name"] == "test"
        assert about["service.version"]
    [audited] = [line for line in lines if line["logger"] == "audit"]
    assert (audited["trace_id"], audited["span_id"]) == (TRACE, change.span_id.hex())
    started = [line for line in lines if line["event"] == "listening"]
    assert "trace_id" not in started[0]


async def test_what_is_not_exported_yet_is_exported_at_the_end(program, receiver):
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    with program(variables) as process:
        await until_ready(await asyncio.to_thread(process.url))
        assert not receiver.spans()
        await ends(process)

    assert any(span.name == "POST /introspect" for span, _ in receiver.spans())


async def test_an_unreachable_receiver_delays_nothing_and_is_reported_once(program):
    endpoint = f"http://127.0.0.1:{free_port()}"
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **FEW_TRIES,
        "OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
    }  # fmt: skip
    with program(variables) as process:
        url = await asyncio.to_thread(process.url)
        await until_ready(url)
        await asyncio.to_thread(process.logged, "traces_not_exported")
        for _ in range(50):
            assert (await post(url, "/introspect", {"token": token()}, "gateway"))[0] == 200
        await ends(process)
        lines = process.lines()

    assert sum(line["event"] == "traces_not_exported" for line in lines) == 1
    assert [line for line in lines if line["logger"].startswith(("opentelemetry", "urllib3"))] == []


async def test_a_receiver_that_does_not_answer_does_not_hold_up_the_end(program):
    connected = asyncio.Event()

    async def hang(reader, _):
        await reader.read(1)
        connected.set()
        await asyncio.Event().wait()

    async with listening(hang) as port:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "3600",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        with program(variables) as process:
            url = await asyncio.to_thread(process.url)
            await until_ready(url)
            await connected.wait()
            assert (await post(url, "/introspect", {"token": token()}, "gateway"))[0] == 200
            await ends(process)  # long before the exporter's own limit


def test_without_an_exporter_the_service_imports_nothing_of_opentelemetry(tmp_path):
    configuration = write_configuration(tmp_path, "redis://127.0.0.1:1", server={"port": 1})
    environs = [
        {},
        {"OTEL_SERVICE_NAME": "revoker"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"},
    ]
    program = f"""
import sys
from pathlib import Path
import redis.asyncio.connection  # imports the SDK's metrics where they are installed
before = set(sys.modules)
from revoker.cli import serve
from revoker.config import schema
from revoker.tracing import environment
for environ in {environs!r}:
    environment.check(environ)
    assert environment.spans_for(environ) is None
service = serve._build(schema.load(Path({str(configuration)!r}), {{}}))
from revoker.api.envelope import Dispatcher
from revoker.store.lookups import BatchedLookups
assert type(service.main) is Dispatcher
assert type(service.store.lookups) is BatchedLookups
print([name for name in set(sys.modules) - before if name.startswith("opentelemetry")])
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**clean, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_start_fails_with_one_line_where_the_libraries_are_missing(program, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{HTTP_EXPORTER!r}] = None")
    path = f"{tmp_path}{os.pathsep}{REPOSITORY}"
    with program({"PYTHONPATH": path, "OTEL_TRACES_EXPORTER": "otlp"}, workers=2) as process:
        assert process.status() == 2, process.output()
        assert process.lines() == []
        expected = "OTEL_TRACES_EXPORTER: exporting traces needs the extra otel (pip install 'revoker[otel]')"
        assert expected in process.output()


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: must be otlp or none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
         "OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf or grpc"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
         ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: exporting traces needs the package "
          "opentelemetry-exporter-otlp-proto-grpc beside the extra otel")),
    ],
)  # fmt: skip
def test_variables_that_are_not_supported_are_refused(environ, problem):
    with pytest.raises(ConfigError) as refused:
        environment.check(environ)
    assert refused.value.problems == [problem]


def test_a_value_that_the_sdk_refuses_is_refused_at_the_start(monkeypatch, sdk_log):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(ConfigError, match=r"OTEL_.*max_queue_size must be a positive integer"):
        environment.check({"OTEL_TRACES_EXPORTER": "otlp"})


async def test_the_log_says_when_the_export_begins_to_fail_and_when_it_works_again(events, sdk_log):
    class Exporter(SpanExporter):
        results = iter([False, False, True, False])

        def export(self, spans):
            if next(self.results):
                return SpanExportResult.SUCCESS
            logging.getLogger("opentelemetry.exporter").error("no route to %s", "collector")
            return SpanExportResult.FAILURE

    exporter = ReportingExporter(Exporter())
    exporter.replace_log_of_sdk()
    for _ in range(4):
        exporter.export([None, None])
    failed = {"event": "traces_not_exported", "log_level": "warning", "problem": "no route to collector"}
    again = {"event": "traces_exported_again", "log_level": "info", "lost": 4}
    assert events == [failed, again, failed]
