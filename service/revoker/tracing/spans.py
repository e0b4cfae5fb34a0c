"""The spans of one process: requests, round trips to the store and fetches of keys.

No attribute holds what a client sent, except for a method of HTTP: no path, query, header, token, subject or
address. Errors are named by their type, because a message may quote what was sent.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final, Protocol

import aiohttp
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagators.textmap import Getter
from opentelemetry.semconv.attributes import (
    error_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
)
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    StatusCode,
    TracerProvider,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from revoker import __version__

ERROR_TYPE: Final = error_attributes.ERROR_TYPE
METHOD: Final = http_attributes.HTTP_REQUEST_METHOD
ROUTE: Final = http_attributes.HTTP_ROUTE
STATUS: Final = http_attributes.HTTP_RESPONSE_STATUS_CODE
SCHEME: Final = url_attributes.URL_SCHEME

_SCHEMA: Final = "https://opentelemetry.io/schemas/1.40.0"
_STORE: Final = "db.system.name"
_OPERATION: Final = "db.operation.name"
_EMPTY: Final = Context()
_W3C: Final = TraceContextTextMapPropagator()
_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
_LONGEST: Final = 512
"""Characters of a ``traceparent`` or ``tracestate`` that is read."""


class Headers(Protocol):
    """The headers of a request."""

    def getall(self, key: str, default: Sequence[str]) -> Sequence[str]: ...


class _TraceHeaders(Getter[Headers]):
    """Reads headers; a ``traceparent`` that was sent twice is invalid (W3C Trace Context §3.2)."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        values = list(carrier.getall(key, ()))
        if key == "traceparent" and len(values) > 1:
            return None
        if sum(len(value) + 1 for value in values) - 1 > _LONGEST:
            return None
        return values or None

    def keys(self, carrier: Headers) -> list[str]:  # noqa: ARG002  # the propagator names what it reads
        return []


_HEADERS: Final = _TraceHeaders()


class Closing(Protocol):
    """Exports the spans."""

    async def close(self) -> None: ...


class Spans:
    """Makes the spans; whether one is recorded is decided by the sampler."""

    def __init__(self, provider: TracerProvider, export: Closing) -> None:
        self._export: Final = export
        self._tracer: Final = provider.get_tracer("revoker", __version__, schema_url=_SCHEMA)

    @staticmethod
    def log_members() -> dict[str, str]:
        """What a line of the log names of the current span, if there is one."""
        context = get_current_span().get_span_context()
        if not context.is_valid:
            return {}
        return {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}

    async def close(self) -> None:
        """Export what is left, in bounded time."""
        await self._export.close()

    @contextlib.contextmanager
    def serving(self, name: str, headers: Headers, attributes: Mapping[str, Any]) -> Iterator[Span]:
        """The current span of a request, which continues the trace of a valid ``traceparent``."""
        context = _W3C.extract(headers, _EMPTY, _HEADERS) if "traceparent" in headers else _EMPTY  # type: ignore[operator]
        span = self._tracer.start_span(name, context, SpanKind.SERVER, attributes)
        token = attach(set_span_in_context(span, _EMPTY))
        try:
            yield span
        except BaseException as error:
            fail(span, type_of(error))
            raise
        finally:
            detach(token)
            span.end()

    def round_trip(self, askers: Sequence[Span], operation: str, attributes: Mapping[str, Any]) -> Span:
        """A round trip to the store for one or more requests whose spans are recorded.

        It belongs to the trace of the first. It links to the spans of the others, and these link to it.
        """
        first, *others = askers
        links = [Link(other.get_span_context()) for other in others]
        described = {_STORE: "redis", _OPERATION: operation, **attributes}
        parent = set_span_in_context(first, _EMPTY)
        span = self._tracer.start_span(operation, parent, SpanKind.CLIENT, described, links)
        for other in others:
            other.add_link(span.get_span_context())
        return span

    def of_fetches(self) -> aiohttp.TraceConfig:
        """Makes a span of every request of a client session."""

        async def begin(_: Any, context: SimpleNamespace, start: aiohttp.TraceRequestStartParams) -> None:
            url = start.url.with_user(None).with_query(None).with_fragment(None)
            attributes: dict[str, Any] = {
                METHOD: start.method,
                server_attributes.SERVER_ADDRESS: url.host or "",
                server_attributes.SERVER_PORT: url.port or 0,
                url_attributes.URL_FULL: str(url),
            }
            context.span = self._tracer.start_span(start.method, kind=SpanKind.CLIENT, attributes=attributes)

        async def end(_: Any, context: SimpleNamespace, end: aiohttp.TraceRequestEndParams) -> None:
            context.span.set_attribute(STATUS, end.response.status)
            if end.response.status >= 400:
                fail(context.span, str(end.response.status))
            context.span.end()

        async def fault(_: Any, context: SimpleNamespace, end: aiohttp.TraceRequestExceptionParams) -> None:
            fail(context.span, type_of(end.exception))
            context.span.end()

        config = aiohttp.TraceConfig()
        config.on_request_start.append(begin)
        config.on_request_end.append(end)
        config.on_request_exception.append(fault)
        return config


def method_attribute(method: str) -> str:
    """A method as an attribute holds it: one that is not known is the client's invention."""
    return method if method in _METHODS else "_OTHER"


def type_of(error: BaseException) -> str:
    """The name of an error's type, with its module."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def fail(span: Span, error: str) -> None:
    """Mark a span as failed with this type of error; the first one counts."""
    if span.is_recording() and ERROR_TYPE not in (getattr(span, "attributes", None) or ()):
        span.set_attribute(ERROR_TYPE, error)
        span.set_status(StatusCode.ERROR)


def recorded() -> Span | None:
    """The current span, if it is recorded."""
    span = get_current_span()
    return span if span.is_recording() else None
