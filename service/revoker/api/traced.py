"""The entries of a service whose requests have spans: HTTP, and Envoy's ext_authz over gRPC.

They are subclasses, chosen at the start, so that a service without traces has nothing to check.
"""

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from aiohttp import web
from aiohttp.http import RawRequestMessage

from revoker.api.envelope import Dispatcher
from revoker.api.prebuilt import Handler, Response
from revoker.api.served_paths import FastPath, Port, ServedPath
from revoker.tracing.spans import (
    METHOD,
    ROUTE,
    SCHEME,
    STATUS,
    Spans,
    fail,
    method_attribute,
    recorded,
    type_of,
)


class TracedDispatcher(Dispatcher):
    """As :class:`Dispatcher`, with a span for every request.

    Those of probes, metrics and documentation have none.
    """

    def __init__(self, paths: Iterable[ServedPath], *, spans: Spans, **parts: Any) -> None:
        served = list(paths)
        super().__init__(served, **parts)
        self._spans = spans
        self._without_span: Final = frozenset(path.path for path in served if path.port is Port.OPS)

    def entry(self, route: Callable[[Any], Awaitable[web.StreamResponse]]) -> Handler:
        return functools.partial(self._respond_in_span, route)

    async def _respond_in_span(self, route: Handler, request: web.Request) -> Response:
        if request.raw_path.partition("?")[0] in self._without_span:
            return await self.respond(route, request)
        method = method_attribute(request.method)
        attributes: dict[str, Any] = {METHOD: method, SCHEME: request.scheme}
        name = "HTTP" if method == "_OTHER" else method
        fast = self._fast_path(request)
        if fast is not None:
            attributes[ROUTE] = fast.path
            name = f"{name} {fast.path}"
        with self._spans.serving(name, request.headers, attributes) as span:
            response = await self.respond(route, request)
            if span.is_recording():
                if fast is None and (path := self._routed_path(request)) is not None:
                    span.update_name(f"{name} {path.path}")
                    span.set_attribute(ROUTE, path.path)
                status = response.status
                span.set_attribute(STATUS, status)
                if status >= 500:
                    fail(span, str(status))
            return response

    def at_once(self, message: RawRequestMessage) -> None:
        """None: a span is a context variable."""

    def _response_to(self, error: Exception, fast: FastPath | None) -> web.Response:
        response = super()._response_to(error, fast)
        if response.status >= 500 and (span := recorded()) is not None:
            fail(span, type_of(error))
        return response
