"""Asks as Envoy does over gRPC."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from revoker.server.grpc_listener import GrpcListener
from tests.rig.service import Running

METHOD = "/envoy.service.auth.v3.Authorization/Check"
KEY = ("x-revoker-key", "gateway-secret")


class Answer:
    """One answer.

    Attributes:
        status: As HTTP: what the user gets, or 200.
        headers: By lower-case name.
        body: Of a refusal; else empty.
    """

    def __init__(self, response: Any) -> None:
        self.response = response
        kind = response.WhichOneof("http_response")
        http = getattr(response, kind)
        self.status = 200 if kind == "ok_response" else http.status.code
        self.headers = {option.header.key: option.header.value for option in http.headers}
        self.body = "" if kind == "ok_response" else http.body

    @property
    def challenge(self) -> str | None:
        return self.headers.get("www-authenticate")


def question(
    headers: Mapping[str, str] | None = None,
    *,
    raw_headers: Sequence[tuple[str, str]] = (),
    extensions: Mapping[str, str] | None = None,
) -> bytes:
    """What Envoy sends about a request of a user."""
    request: Any = CheckRequest()
    request.attributes.request.http.method = "GET"
    request.attributes.request.http.headers.update({":path": "/orders", **(headers or {})})
    for name, value in raw_headers:
        request.attributes.request.http.header_map.headers.add(key=name, raw_value=value.encode())
    request.attributes.context_extensions.update(extensions or {})
    message: bytes = request.SerializeToString()
    return message


class Asker:
    """A channel to the port; ``url`` of it as host and port."""

    def __init__(
        self, address: str, credentials: Any = None, options: Sequence[tuple[str, Any]] = ()
    ) -> None:
        self.channel = (
            grpc.aio.insecure_channel(address, options=options)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options=options)
        )
        self._call = self.channel.unary_unary(METHOD, response_deserializer=CheckResponse.FromString)

    async def send(self, message: bytes, metadata: Sequence[tuple[str, str]] = (KEY,)) -> Answer:
        """Raises ``grpc.aio.AioRpcError`` where the call fails."""
        return Answer(await self._call(message, metadata=tuple(metadata), timeout=60))

    async def ask(
        self, authorization: str | None = None, *, metadata: Sequence[tuple[str, str]] = (KEY,), **parts: Any
    ) -> Answer:
        """Ask about a request with this header, and others."""
        headers = dict(parts.pop("headers", {}))
        if authorization is not None:
            headers["authorization"] = authorization
        return await self.send(question(headers, **parts), metadata)


@contextlib.asynccontextmanager
async def listening(running: Running) -> AsyncIterator[GrpcListener]:
    """Serve on the port of the settings, ready."""
    service = running.service
    assert service.ext_authz is not None
    listener = GrpcListener(service.ext_authz, service._settings.server)  # noqa: SLF001
    await listener.start()
    await listener.report_ready()
    try:
        yield listener
    finally:
        await listener.stop(1)
