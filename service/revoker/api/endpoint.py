"""What an ordinary endpoint declares, and how it is served."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, NoneType
from typing import Any, Concatenate, Final, Generic, get_args

import msgspec
import structlog
from aiohttp import web

from revoker import logs
from revoker.api.bodies import (
    BODY_LIMIT,
    Body,
    Fields,
    converted,
    decoded,
    query_fields,
    read,
    refuse_broken_path,
    refuse_duplicates,
    refuse_query,
)
from revoker.api.credentials import Authentication
from revoker.api.envelope import has_gone
from revoker.api.error_responses import NO_STORE
from revoker.auth import Caller
from revoker.errors import AccessDenied, RevokerError, Unconfirmed
from revoker.models import Issuer

_audit = structlog.get_logger("audit")

_AUDITED_MEMBERS: Final = (
    "iss", "sub", "sid", "client_id", "jti", "kid", "exp", "before", "until", "except_sid", "claim", "value",
    "reason",
)  # fmt: skip
"""Members of bodies that say what is changed; none is a secret."""

_encode: Final = msgspec.json.Encoder().encode


class Call(msgspec.Struct, Generic[Body], frozen=True):
    """One authenticated request.

    Attributes:
        caller: ``NOBODY`` where the endpoint needs no credential and none was sent.
        peer: The client's address.
        path: The variable parts of the path, by name.
        fields: The form from which ``body`` was read; None: it was JSON, or there was none.
        raw: The body as sent.
        client_gone: Says whether nobody waits for the answer any more.
    """

    caller: Caller
    body: Body
    peer: str
    path: Mapping[str, str]
    fields: Fields | None = None
    raw: bytes = b""
    client_gone: Callable[[], bool] = bool

    def refuse_bound_caller(self) -> None:
        """Raise ``AccessDenied`` for a caller that may only revoke the tokens of one client."""
        if self.caller.client_id:
            raise AccessDenied("this caller may revoke its own client's tokens only")

    def issuer(self, iss: str | None) -> Issuer:
        """The issuer of a revocation that is not limited to one client; None: the caller's default.

        Raises:
            AccessDenied: the caller is bound to a client.
            InvalidRequest: the caller may not use that issuer, or must name one.
        """
        self.refuse_bound_caller()
        return self.caller.require_issuer(iss)

    def audit(self, event: str, **about: object) -> None:
        """Write a line of the audit log, with the caller."""
        _audit.info(event, caller=self.caller.name, peer=self.peer, **about)


_NO_PATH: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Generic[Body]):
    """What an endpoint reads and answers; the OpenAPI document is made from these declarations.

    Attributes:
        method: GET and DELETE read ``body`` from the query, POST from JSON or a form.
        scope: What the caller needs; empty: no credential, but a wrong one is refused.
        answer: The type of the response's body; None: it is empty.
        status: Of a response that is no error.
        summary: One line for the documentation.
        handle: Takes the call, and by keyword-only parameters what it uses: see :meth:`bind`.
        errors: What the handler raises beside the errors of every endpoint, for the documentation.
        confirmation: Whether its requests are limited by the caller's limit of confirmations.
        read_json: Reads a body from JSON; raises ``InvalidRequest``. None: by the type of ``body``.
    """

    path: str
    method: str = "POST"
    scope: str
    body: type[Body]
    answer: Any
    status: int = 200
    summary: str
    handle: Callable[Concatenate[Call[Body], ...], Awaitable[msgspec.Struct | None]]
    errors: tuple[type[RevokerError], ...] = ()
    confirmation: bool = False
    read_json: Callable[[bytes], Body] | None = None

    def __post_init__(self) -> None:
        if self.read_json is None:
            decoder = msgspec.json.Decoder(self.body)
            object.__setattr__(self, "read_json", functools.partial(decoded, decoder=decoder))

    def bind(self, provided: object) -> "BoundEndpoint[Body]":
        """Give the handler what it uses: each keyword-only parameter gets the attribute of that name.

        Args:
            provided: What the composition root provides, ``authentication`` among it.

        Raises:
            TypeError: an attribute is missing, or is None and the parameter does not allow that.
        """
        used = {
            name: self._use(provided, name, parameter.annotation)
            for name, parameter in inspect.signature(self.handle).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        authentication = self._use(provided, "authentication", Authentication)
        return BoundEndpoint(self, authentication, functools.partial(self.handle, **used))

    def _use(self, provided: object, name: str, annotation: Any) -> Any:
        value = getattr(provided, name, None)
        if value is None and (not hasattr(provided, name) or NoneType not in get_args(annotation)):
            raise TypeError(f"{self.method} {self.path} uses {name!r}, which the service does not provide")
        return value

    def read_body(self, fields: Fields | None, raw: bytes) -> Body:
        """Read a body; members that the type does not name are ignored.

        Raises:
            InvalidRequest: a member is missing, of a wrong type, or there twice.
        """
        if fields is not None:
            return converted(fields, self.body)
        assert self.read_json is not None  # noqa: S101  # set at the start
        body = self.read_json(raw)
        refuse_duplicates(raw)
        return body


@dataclass(frozen=True, slots=True)
class BoundEndpoint(Generic[Body]):
    """An endpoint that can be served."""

    endpoint: Endpoint[Body]
    authentication: Authentication
    handle: Callable[[Call[Body]], Awaitable[msgspec.Struct | None]]

    async def respond(self, request: web.Request) -> web.Response:
        """Respond to a request; errors are the caller's to render."""
        if request.match_info:
            refuse_broken_path(request)
        answer = await self.answer(request, request.match_info)
        status = self.endpoint.status
        if answer is None:
            return web.Response(status=status, headers=NO_STORE)
        return web.Response(
            status=status, body=_encode(answer), content_type="application/json", headers=NO_STORE
        )

    async def answer(self, request: web.Request, path: Mapping[str, str] = _NO_PATH) -> msgspec.Struct | None:
        """Authenticate the caller, read the request and handle it; ``path`` as in :class:`Call`."""
        endpoint = self.endpoint
        fields: Fields | None = None
        raw = b""
        if endpoint.method == "POST":
            refuse_query(request)
            fields, raw = await read(request, BODY_LIMIT)
            caller = self._caller(request, fields)
            body = endpoint.read_body(fields, raw)
        else:
            caller = self._caller(request, None)
            body = converted(query_fields(request), endpoint.body)
        return await self.carry_out(
            Call(
                caller,
                body,
                self.authentication.client_address(request),
                path,
                fields,
                raw,
                functools.partial(has_gone, request),
            )
        )

    async def carry_out(self, call: Call[Body]) -> msgspec.Struct | None:
        """Handle the call of a caller that may make it; what is not confirmed is in the audit log."""
        if not logs.audit_lines_have_room():
            await logs.wait_for_audit_room()
        try:
            return await self.handle(call)
        except Unconfirmed as error:
            _audit_unconfirmed(self.endpoint.path, call, error)
            raise

    def _caller(self, request: web.Request, fields: Fields | None) -> Caller:
        if not self.endpoint.scope:
            return self.authentication.authenticate_if_asked(request, fields)
        caller = self.authentication.authenticate(request, fields, confirmation=self.endpoint.confirmation)
        caller.require(self.endpoint.scope)
        return caller


def _audit_unconfirmed(endpoint: str, call: Call[Any], error: Unconfirmed) -> None:
    """Log a change that is answered 503 although it was made, or may have been."""
    members = {
        name: value for name in _AUDITED_MEMBERS if (value := getattr(call.body, name, None)) is not None
    }
    _audit.warning(
        "change_unconfirmed",
        endpoint=endpoint,
        caller=call.caller.name,
        peer=call.peer,
        made="unknown" if error.reply is None else "not confirmed",
        **{**members, **call.path, **error.about},
    )
