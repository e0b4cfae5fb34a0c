"""What tests of traces need: spans in memory, and a receiver of OTLP."""

import asyncio
import logging

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from revoker import logs
from revoker.tracing.export import provider_of
from revoker.tracing.spans import Spans
from tests.rig import forge
from tests.rig.service import HANGS_S


class Memory:
    """Spans that are in memory as soon as they have ended.

    Attributes:
        spans: To be given to a service.
    """

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        self.spans = Spans(provider_of(SimpleSpanProcessor(self._exporter)), self)

    async def close(self):
        """Nothing is left to be exported."""

    def ended(self, name=None):
        return [span for span in self._exporter.get_finished_spans() if name in {None, span.name}]

    def only(self, name):
        [span] = self.ended(name)
        return span

    def clear(self):
        self._exporter.clear()


@pytest.fixture
def memory():
    yield Memory()
    logs.name_traces(dict)


class Receiver:
    """A receiver of OTLP over HTTP.

    Attributes:
        url: What ``OTEL_EXPORTER_OTLP_ENDPOINT`` must be.
    """

    def __init__(self):
        self.requests = []
        self._came = asyncio.Event()

    async def receive(self, request):
        self.requests.append(ExportTraceServiceRequest.FromString(await request.read()))
        self._came.set()
        return web.Response(content_type="application/x-protobuf")

    def spans(self):
        """All spans with the attributes of their resource."""
        return [
            (
                span,
                {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes},
            )
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    async def until(self, condition):
        """Wait until the spans meet a condition; returns them."""
        async with asyncio.timeout(HANGS_S):
            while not condition(self.spans()):
                self._came.clear()
                await self._came.wait()
        return self.spans()


@pytest.fixture
async def receiver():
    collector = Receiver()
    application = web.Application()
    application.router.add_post("/v1/traces", collector.receive)
    async with TestServer(application) as server:
        collector.url = str(server.make_url("")).rstrip("/")
        yield collector


@pytest.fixture
def sdk_log():
    """What the SDK logs goes, after the test, where it went before."""
    sdk = logging.getLogger("opentelemetry")
    before = list(sdk.handlers), sdk.propagate
    yield sdk
    sdk.handlers[:], sdk.propagate = before


@pytest.fixture
async def idp():
    """Settings of an issuer whose keys a server has."""

    async def serve(_):
        return web.json_response(forge.jwks(forge.rsa_key("main-1")))

    application = web.Application()
    application.router.add_get("/jwks", serve)
    async with TestServer(application) as server:
        yield {"jwks_file": "", "jwks_uri": str(server.make_url("/jwks")), "jwks_insecure": True}
