"""What surrounds every handler: time, count, catch and log; fast paths past aiohttp's router included."""

import contextlib
import functools
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, cast

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.http import RawRequestMessage

from revoker import errors
from revoker.api.admission import OVERLOADED, Admission, Connection
from revoker.api.bodies import BATCH_LIMIT
from revoker.api.client_address import ClientAddresses
from revoker.api.error_responses import (
    NO_STORE,
    error_response,
    malformed_request,
    of_kind,
    response_to,
    response_to_http_error,
    server_error,
)
from revoker.api.prebuilt import Handler, PrebuiltResponse, Response
from revoker.api.served_paths import FastPath, LoadShedding, Logged, ServedPath
from revoker.metrics import Metrics

_log = structlog.get_logger("service")

COUNTED: Final = web.RequestKey("counted", bool)
"""Whether load shedding counts the request; absent: it came through aiohttp's router."""

_OTHER: Final = "other"

_ANY_PEER: Final = ClientAddresses()

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
_AUTHORITY: Final = re.compile(r"(?i)https?://[^/?#]*").match

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

_BY_HANDLER: Final = LoadShedding.BY_HANDLER


class Dispatcher:
    """Responds to the requests of one port.

    Attributes:
        as_of: Gives the time (ms by the store) as of which an edge answers (0: none yet); None: no edge.
    """

    as_of: Callable[[], int] | None = None

    def __init__(
        self,
        paths: Iterable[ServedPath],
        *,
        admission: Admission,
        metrics: Metrics,
        client_address: Callable[[web.Request], str] = _ANY_PEER.of,
    ) -> None:
        served = list(paths)
        fast = [path for path in served if isinstance(path, FastPath)]
        self._admission = admission
        self._metrics = metrics
        self._client_address = client_address
        self._fast: Final = {path.path: path for path in fast if not path.subtree}
        self._subtrees: Final = [path for path in fast if path.subtree]
        routed = [path for path in served if not (isinstance(path, FastPath) and path.subtree)]
        self._routed: Final = {(path.path, path.method): path for path in routed}
        self._at_once: Final = {
            path.path: (path.method, functools.partial(self._respond_fast, path))
            for path in self._fast.values()
            if path.begins_at_once
        }
        self._measures: Final = {_OTHER: Measures(_OTHER, metrics, buffered=False)}
        for path in served:
            self._measures[path.path] = Measures(path.path, metrics, buffered=isinstance(path, FastPath))
        self._start_at_zero(served)
        self.application: Final = web.Application(client_max_size=BATCH_LIMIT)
        self.application.add_routes(
            web.route(
                path.method, _pattern(path.path), cast("Any", path.handle), expect_handler=_send_continue
            )
            for path in routed
        )

    def _start_at_zero(self, served: Iterable[ServedPath]) -> None:
        """Make the series that a rate needs from their first value on."""
        metrics = self._metrics
        for path in served:
            metrics.requests.labels(path.path, "500")
            if isinstance(path, FastPath) and path.seconds is None:
                metrics.requests.labels(path.path, "200")
                metrics.request_seconds.labels(path.path)

    def entry(self, route: Callable[[Any], Awaitable[web.StreamResponse]]) -> Handler:
        """The handler of all requests; ``route`` is aiohttp's, for those that are not fast."""
        return functools.partial(self.respond, route)

    def at_once(self, message: RawRequestMessage) -> Handler | None:
        """The handler of a complete request that can begin without a task; None: that is :meth:`respond`."""
        responds = self._at_once.get(message.path)
        if responds is None or message.method != responds[0] or "Expect" in message.headers:
            return None
        return responds[1]

    async def respond(self, route: Handler, request: web.Request) -> Response:
        """Respond to one request; every error but a broken connection becomes a response."""
        fast = self._fast_path(request)
        if fast is not None:
            return await self._respond_fast(fast, request)
        began = time.perf_counter()
        if "Expect" in request.headers and not _can_be_met(request):
            return error_response(417, "invalid_request", "only 100-continue can be expected")
        self._metrics.requests_in_progress.inc()
        request_id = _bind_request_id(request)
        response: Response | None = None
        try:
            response = await route(request)
        except Exception as error:  # noqa: BLE001  # the boundary of the service
            response = self._response_to_failure(error, request, None)
        finally:
            self._metrics.requests_in_progress.dec()
            self._record(request, self._routed_path(request), response, time.perf_counter() - began)
        return _with_request_id(response, str(request_id))

    async def _respond_fast(self, fast: FastPath, request: web.Request) -> Response:
        began = time.perf_counter()
        admission = self._admission
        counted = False
        if fast.load_shedding is not None:
            if (admission.overloaded or admission.in_progress >= admission.limit) and admission.refuses(
                cast("Connection", request.protocol)
            ):
                return self._overloaded(fast)
            if fast.load_shedding is not _BY_HANDLER:
                counted = fast.load_shedding is LoadShedding.ALL or request.content.is_eof()
                request[COUNTED] = counted
        request_id = _bind_request_id(request) if fast.traced else None
        response: Response | None = None
        admission.in_progress += counted
        try:
            response = await fast.handle(request)
        except Exception as error:  # noqa: BLE001  # the boundary of the service
            response = self._response_to_failure(error, request, fast)
        finally:
            admission.in_progress -= counted
            seconds = time.perf_counter() - began
            if fast.seconds is None:
                self._record(request, fast, response, seconds)
            else:  # on such a path no other call is worth its time
                fast.seconds(seconds)
                if response is not None and response.status == 500:
                    self._measures[fast.path].count(500)
        if request_id is None or isinstance(response, PrebuiltResponse):
            return response
        return _with_request_id(response, str(request_id))

    def is_read_only(self, target: str) -> bool:
        """Whether a request for this target changes nothing, so that it may be cancelled."""
        path = self._find(target)
        return path is not None and path.read_only

    def malformed(self, target: str, status: int) -> web.Response:
        """The response to bytes that are no request, as far as a target could be read of them."""
        path = self._find(target)
        return malformed_request(status) if path is None else path.malformed(status)

    def _find(self, target: str) -> FastPath | None:
        target = _origin_form(target)
        return self._fast.get(target) or self._subtree(target)

    def _fast_path(self, request: web.Request) -> FastPath | None:
        target = _origin_form(request.raw_path)
        fast = self._fast.get(target)
        if fast is not None and request.method == fast.method and "Expect" not in request.headers:
            return fast
        return self._subtree(target)

    def _subtree(self, target: str) -> FastPath | None:
        for path in self._subtrees:
            if path.contains(target):
                return path
        return None

    def _overloaded(self, path: FastPath) -> PrebuiltResponse:
        self._metrics.no_verdicts.labels("overload").inc()
        self._measures[path.path].count(OVERLOADED.status)
        return OVERLOADED

    def _response_to_failure(
        self, error: Exception, request: web.Request, fast: FastPath | None
    ) -> web.Response:
        """The response to an error; raises it again where the client has gone."""
        if isinstance(error, ConnectionError) and has_gone(request):
            raise error
        return self._response_to(error, fast)

    def _response_to(self, error: Exception, fast: FastPath | None) -> web.Response:
        if isinstance(error, errors.RevokerError):
            count_error(error, self._metrics)
            return response_to(error) if fast is None else fast.render_error(error)
        if isinstance(error, web.HTTPException):
            return response_to_http_error(error)
        return server_error(error)

    def _record(
        self, request: web.Request, path: ServedPath | None, response: Response | None, seconds: float
    ) -> None:
        """Count and log a request; ``response`` is None where its client has gone."""
        if isinstance(path, FastPath) and path.seconds is not None:
            path.seconds(seconds)
        if response is None:
            return
        status = response.status
        name = _OTHER if path is None else path.path
        measures = self._measures[name]
        measures.count(status)
        measures.observe(seconds)
        logged = Logged.ALL if path is None else path.logged
        if logged is Logged.ALL or (logged is Logged.FAILURES and status >= 400):
            _log.info(
                "request",
                method="" if path is None else request.method,
                path=name,
                status=status,
                seconds=round(seconds, 6),
                peer=self._client_address(request),
            )

    def _routed_path(self, request: web.Request) -> ServedPath | None:
        try:
            route = request.match_info.route
        except (AssertionError, AttributeError):  # the router failed before it found a route
            return None
        resource = route.resource
        return None if resource is None else self._routed.get((resource.canonical, route.method))


def _pattern(path: str) -> str:
    """A path for aiohttp's router, by which a variable part must not have braces otherwise."""
    return path.replace("}", ":[^/]+}")


def _origin_form(target: str) -> str:
    """A request target without scheme and authority: a whole URL names the same path (RFC 9112 §3.2.2)."""
    if target.startswith("/") or not (authority := _AUTHORITY(target)):
        return target
    rest = target[authority.end() :]
    return rest if rest.startswith("/") else f"/{rest}"


def count_error(error: errors.RevokerError, metrics: Metrics) -> None:
    """Count why there was no verdict, or why a caller was refused."""
    if (cause := of_kind(_CAUSES, error)) is not None:
        metrics.no_verdicts.labels(cause).inc()
    elif (refusal := of_kind(_REFUSALS, error)) is not None:
        metrics.refused_callers.labels(refusal).inc()


class Measures:
    """Counts the responses at one path, and observes how long they took.

    Buffers are lost where the process ends at once; so only the counts of fast paths are buffered.
    """

    def __init__(self, path: str, metrics: Metrics, *, buffered: bool) -> None:
        self._path = path
        self._metrics = metrics
        self._buffered = buffered
        self._count_of_status: dict[int, Callable[[], object]] = {}
        self._observe: Callable[[float], None] | None = None

    def count(self, status: int) -> None:
        count = self._count_of_status.get(status)
        if count is None:
            counter = self._metrics.requests.labels(self._path, str(status))
            count = self._metrics.deferred.counting(counter) if self._buffered else counter.inc
            self._count_of_status[status] = count
        count()

    def observe(self, seconds: float) -> None:
        if self._observe is None:
            histogram = self._metrics.request_seconds.labels(self._path)
            deferred = self._metrics.deferred
            self._observe = deferred.observing(histogram) if self._buffered else histogram.observe
        self._observe(seconds)


class _RequestId:
    """The id of a request whose client gave none, made when it is first written: few are."""

    __slots__ = ("_text",)

    def __init__(self) -> None:
        self._text = ""

    def __str__(self) -> str:
        self._text = self._text or secrets.token_hex(16)
        return self._text


def _bind_request_id(request: web.Request) -> str | _RequestId:
    """Put the id of a request into every line that is logged by its task, which ends with it."""
    sent = request.headers.get("X-Request-Id")
    request_id = sent if sent and _REQUEST_ID(sent) else _RequestId()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    return request_id


def _with_request_id(response: Response, request_id: str) -> web.StreamResponse:
    if isinstance(response, PrebuiltResponse):
        response = web.Response(
            status=response.status, body=response.body, content_type="application/json", headers=NO_STORE
        )
    with contextlib.suppress(RuntimeError):  # the headers of a response that has begun are sent
        response.headers["X-Request-Id"] = request_id
    return response


def has_gone(request: web.Request) -> bool:
    """Whether the client of a request has closed the connection."""
    return request.transport is None or request.transport.is_closing()


def _can_be_met(request: web.Request) -> bool:
    return all(value.lower() in {"", "100-continue"} for value in request.headers.getall("Expect"))


async def _send_continue(request: web.Request) -> web.StreamResponse | None:
    """Ask for the body where a client waits for that (RFC 9110 §10.1.1)."""
    if request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the response itself is not sent yet
    return None
