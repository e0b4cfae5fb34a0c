"""Calls of Envoy's ext_authz with spans; the module needs the extras ``grpc`` and ``otel``."""

from collections.abc import Sequence
from typing import Any, Final

import grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from revoker.api.ext_authz import ENDPOINT, ExtAuthz
from revoker.tracing.spans import Spans, fail

_NAME: Final = ENDPOINT.removeprefix("/")
_STATUS: Final = "rpc.response.status_code"
_ATTRIBUTES: Final = {"rpc.system.name": "grpc", "rpc.method": _NAME}


class _Metadata:
    """The metadata of a call, as headers."""

    def __init__(self, members: Sequence[tuple[str, str | bytes]]) -> None:
        self._members = members

    def __contains__(self, key: object) -> bool:
        return any(name == key for name, _ in self._members)

    def getall(self, key: str, default: Sequence[str]) -> Sequence[str]:
        return [value for name, value in self._members if name == key and isinstance(value, str)] or default


class TracedExtAuthz(ExtAuthz):
    """As :class:`ExtAuthz`, with a span for every call."""

    def __init__(self, *, spans: Spans, **parts: Any) -> None:
        super().__init__(**parts)
        self._spans = spans

    async def check(self, message: bytes, context: Any) -> CheckResponse:
        """Answer one call in a span, which continues the trace of the gateway's metadata."""
        metadata = _Metadata(context.invocation_metadata() or ())
        with self._spans.serving(_NAME, metadata, _ATTRIBUTES) as span:
            try:
                response = await super().check(message, context)
            except grpc.aio.AbortError:
                code = context.code().name
                span.set_attribute(_STATUS, code)
                fail(span, code)
                raise
            span.set_attribute(_STATUS, grpc.StatusCode.OK.name)
            if (status := response.denied_response.status.code) >= 500:
                fail(span, str(status))
            return response
