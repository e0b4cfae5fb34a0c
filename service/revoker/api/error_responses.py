"""Errors → responses, in one table; a missing row is a failing test."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
import structlog
from aiohttp import web

from revoker import errors

_log = structlog.get_logger("service")

NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}

_UNPRINTABLE: Final = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")


@dataclass(frozen=True, slots=True)
class Reply:
    """How one error is answered."""

    status: int
    error: str
    headers: Mapping[str, str] = field(default_factory=dict)


Entry = TypeVar("Entry")

_LATER: Final = {"Retry-After": "1"}

REPLIES: Final[Mapping[type[errors.RevokerError], Reply]] = {
    errors.InvalidRequest: Reply(400, "invalid_request"),
    errors.UnsupportedMediaType: Reply(415, "invalid_request"),
    errors.RequestTooLarge: Reply(413, "invalid_request"),
    errors.RequestTooSlow: Reply(408, "invalid_request"),
    errors.InvalidClient: Reply(401, "invalid_client", {"WWW-Authenticate": 'Basic realm="revoker"'}),
    errors.TooManyFailures: Reply(429, "slow_down", {"Retry-After": "5"}),
    errors.TooManyRequests: Reply(429, "slow_down", _LATER),
    errors.InsufficientScope: Reply(403, "insufficient_scope"),
    errors.AccessDenied: Reply(403, "access_denied"),
    errors.UnsupportedTokenType: Reply(400, "unsupported_token_type"),
    errors.InvalidGrant: Reply(400, "invalid_grant"),
    errors.InvalidScope: Reply(400, "invalid_scope"),
    errors.UnsupportedGrantType: Reply(400, "unsupported_grant_type"),
    errors.StoreUnavailable: Reply(503, "temporarily_unavailable", _LATER),
    errors.StoreRefused: Reply(503, "temporarily_unavailable", _LATER),
    errors.KeysUnavailable: Reply(503, "temporarily_unavailable", _LATER),
}


class ErrorBody(msgspec.Struct, frozen=True):
    """The OAuth error object (RFC 6749 §5.2)."""

    error: str
    error_description: str


def error_response(
    status: int, error: str, description: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """An error as OAuth writes it; the description is cut down to the characters it allows."""
    return web.Response(
        status=status,
        body=error_body(error, description),
        content_type="application/json",
        headers={**NO_STORE, **(headers or {})},
    )


def error_body(error: str, description: str) -> bytes:
    """The body of :func:`error_response`."""
    return msgspec.json.encode(ErrorBody(error, _UNPRINTABLE.sub("", description)[:300]))


def of_kind(table: Mapping[type[errors.RevokerError], Entry], error: errors.RevokerError) -> Entry | None:
    """What a table has for an error: for its class, or else for the next one above that it has."""
    return next((table[kind] for kind in type(error).__mro__ if kind in table), None)


def response_to(error: errors.RevokerError) -> web.Response:
    reply = of_kind(REPLIES, error) or Reply(500, "server_error")
    return error_response(reply.status, reply.error, str(error), reply.headers)


def response_to_http_error(error: web.HTTPException) -> web.Response:
    """The response to what aiohttp's router refuses: an unknown path, or another method."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = {"Allow": error.headers["Allow"]}
        return error_response(405, "invalid_request", "method not allowed", allowed)
    if isinstance(error, web.HTTPNotFound):
        return error_response(404, "invalid_request", "there is nothing at this path")
    return error_response(error.status, "invalid_request", error.reason)


def malformed_request(status: int) -> web.Response:
    """The response to bytes that are no request; it does not repeat them."""
    if status == 431:
        return error_response(status, "invalid_request", "the head of the request is too long")
    return error_response(status, "invalid_request", "this is not HTTP/1.1 as it should be")


def server_error(error: BaseException | None, status: int = 500) -> web.Response:
    """Log an unexpected error, and respond without details."""
    _log.error("request_failed", exc_info=error)
    return error_response(status, "server_error", "the service failed")
