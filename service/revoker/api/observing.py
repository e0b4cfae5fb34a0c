"""Around every endpoint but the introspection: request id, log line, metrics, errors → responses."""

import contextlib
import functools
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import Counter, Histogram

from revoker import errors
from revoker.api.errors import error_response, of_kind, response_to
from revoker.api.parts import Parts
from revoker.api.prebuilt import PrebuiltResponse

_log = structlog.get_logger("service")

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
_QUIET: Final = frozenset({"/livez", "/readyz", "/metrics"})
_COUNTED: Final = frozenset({"/token", "/introspect/batch"})
"""Successes are as frequent as access tokens are short-lived: counted, and not logged one by one."""

_REFUSALS: Final[dict[type[errors.RevokerError], str]] = {
    errors.InvalidClient: "wrong_credentials",
    errors.TooManyFailures: "throttled",
    errors.TooManyRequests: "rate_limited",
    errors.InsufficientScope: "insufficient_scope",
    errors.AccessDenied: "access_denied",
}
_CAUSES: Final[dict[type[errors.RevokerError], str]] = {
    errors.StoreUnavailable: "store_unavailable",
    errors.StoreRefused: "store_refused",
    errors.KeysUnavailable: "keys_unavailable",
}


def answered(parts: Parts, error: errors.RevokerError) -> web.Response:
    """The response to an error, counted where an operator looks for it."""
    if (cause := of_kind(_CAUSES, error)) is not None:
        parts.metrics.no_verdicts.labels(cause).inc()
    elif (refusal := of_kind(_REFUSALS, error)) is not None:
        parts.metrics.refused_callers.labels(refusal).inc()
    return response_to(error)


def failed() -> web.Response:
    """The response to what nobody foresaw; called where that is being handled."""
    _log.exception("request_failed")
    return error_response(500, "server_error", "the service failed")


def observed(parts: Parts, paths: frozenset[str]) -> Middleware:
    """The middleware; ``paths`` are the routes that may stand in a metric."""
    metrics = parts.metrics
    for path in paths:
        metrics.requests.labels(path, "500")  # an alert sees the first one only where it stands at 0

    @functools.lru_cache(4096)
    def counted(path: str, status: int) -> tuple[Counter, Histogram]:
        return metrics.requests.labels(path, str(status)), metrics.request_seconds.labels(path)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        request_id = _request_id(request)
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else ""
        path = path if path in paths else "other"
        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            metrics.requests_in_progress.track_inprogress(),
        ):
            response = await _respond(parts, request, handler)
            seconds = time.perf_counter() - began
            count, duration = counted(path, response.status)
            count.inc()
            duration.observe(seconds)
            if path not in _QUIET and not (path in _COUNTED and response.status < 400):
                _log_request(request, path, response.status, seconds)
        with contextlib.suppress(RuntimeError):  # a response that has begun keeps its headers
            response.headers["X-Request-Id"] = request_id
        return response

    return middleware


class _RequestId:
    """The id of a request whose client gave none: most are never asked for."""

    __slots__ = ("_text",)

    def __init__(self) -> None:
        self._text = ""

    def __str__(self) -> str:
        self._text = self._text or secrets.token_hex(16)
        return self._text


COUNTED: Final = web.RequestKey("counted", bool)
"""Whether a request counts among those under way."""

Answer = Callable[[web.Request], Awaitable[bytes | msgspec.Struct | None]]
"""Gives the body of a 200, or what is written there as JSON."""


class Straight:
    """Something that is asked all the time, reached past router and middleware.

    It counts as all do; what succeeds is not logged line by line.
    """

    def __init__(self, parts: Parts, path: str, answer: Answer) -> None:
        self._parts = parts
        self._answer = answer
        self.path: Final = path
        metrics = parts.metrics
        self._succeeded = metrics.deferred.counting(metrics.requests.labels(path, "200"))
        self._seconds = metrics.deferred.observing(metrics.request_seconds.labels(path))

    async def respond(self, request: web.Request) -> web.StreamResponse | PrebuiltResponse:
        """Answer one request."""
        began = time.perf_counter()
        shown = request.headers.get("X-Request-Id")
        request_id = shown if shown and _REQUEST_ID(shown) else _RequestId()
        structlog.contextvars.bind_contextvars(request_id=request_id)  # the task's own: it ends with it
        refusal: web.StreamResponse | None = None
        body = b""
        whole = request.content.is_eof()
        self._parts.admission.under_way += whole
        request[COUNTED] = whole
        try:
            given = await self._answer(request)
            body = given if isinstance(given, bytes) else msgspec.json.encode(given)
        except errors.RevokerError as error:
            refusal = answered(self._parts, error)
        except Exception:  # noqa: BLE001  # the boundary of the service
            refusal = failed()
        finally:
            self._parts.admission.under_way -= whole
        seconds = time.perf_counter() - began
        self._seconds(seconds)
        if refusal is None:
            self._succeeded()
            return PrebuiltResponse(body)
        self._parts.metrics.requests.labels(self.path, str(refusal.status)).inc()
        _log_request(request, self.path, refusal.status, seconds)
        refusal.headers["X-Request-Id"] = str(request_id)
        return refusal


def _request_id(request: web.Request) -> str:
    shown = request.headers.get("X-Request-Id", "")
    return shown if _REQUEST_ID(shown) else secrets.token_hex(16)


def _log_request(request: web.Request, path: str, status: int, seconds: float) -> None:
    _log.info(
        "request",
        method=request.method if path != "other" else "",
        path=path,
        status=status,
        seconds=round(seconds, 6),
        peer=request.remote,
    )


async def _respond(parts: Parts, request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except errors.RevokerError as error:
        return answered(parts, error)
    except web.HTTPMethodNotAllowed as error:
        return error_response(405, "invalid_request", "method not allowed", {"Allow": error.headers["Allow"]})
    except web.HTTPNotFound:
        return error_response(404, "invalid_request", "there is nothing at this path")
    except web.HTTPException as error:
        return error_response(error.status, "invalid_request", error.reason)
    except Exception:  # noqa: BLE001  # the boundary of the service
        return failed()
