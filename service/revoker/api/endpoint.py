"""What every endpoint declares, and how its request is read and its response written."""

import asyncio
import functools
import inspect
import json
import re
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, NoneType
from typing import Any, Concatenate, Final, Generic, TypeVar, get_args

import msgspec
import structlog
from aiohttp import ClientError, web
from aiohttp.http import HttpProcessingError

from revoker import logs
from revoker.api.authentication import Authentication
from revoker.api.errors import NO_STORE
from revoker.auth import Caller
from revoker.errors import (
    AccessDenied,
    InvalidRequest,
    RequestTooLarge,
    RequestTooSlow,
    Unconfirmed,
    UnsupportedMediaType,
)
from revoker.models import Issuer

BODY_LIMIT: Final = 65536
BATCH_LIMIT: Final = 17 * 1024 * 1024
BODY_SECONDS: Final = 10.0

_audit = structlog.get_logger("audit")

_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"
_MEDIA_TYPES: Final = frozenset({_FORM, _JSON})
_MAX_FIELDS: Final = 64
LARGEST: Final = 2**63
"""Larger numbers in forms are refused, as are those further below 0."""
_WHITE_SPACE: Final = b" \t\n\r"
_BROKEN_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")

_AUDITED_MEMBERS: Final = (
    "iss", "sub", "sid", "client_id", "jti", "kid", "exp", "before", "until", "except_sid", "reason",
)  # fmt: skip
"""Members of bodies that say what is changed; none is a secret."""

_encode: Final = msgspec.json.Encoder().encode

Body = TypeVar("Body", bound=msgspec.Struct)
Fields = dict[str, str]


class Call(msgspec.Struct, Generic[Body], frozen=True):
    """One authenticated request.

    Attributes:
        caller: ``NOBODY`` where the endpoint needs no credential and none was sent.
        peer: The client's address.
        path: The variable parts of the path, by name.
        fields: The form from which ``body`` was read; None: it was JSON, or there was none.
    """

    caller: Caller
    body: Body
    peer: str
    path: Mapping[str, str]
    fields: Fields | None = None

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
    """

    path: str
    method: str = "POST"
    scope: str
    body: type[Body]
    answer: Any
    status: int = 200
    summary: str
    handle: Callable[Concatenate[Call[Body], ...], Awaitable[msgspec.Struct | None]]
    decoder: msgspec.json.Decoder[Body] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoder", msgspec.json.Decoder(self.body))

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
        body = decoded(raw, self.decoder)
        refuse_duplicates(raw)
        return body


@dataclass(frozen=True, slots=True)
class BoundEndpoint(Generic[Body]):
    """An endpoint that can be served."""

    endpoint: Endpoint[Body]
    authentication: Authentication
    handle: Callable[[Call[Body]], Awaitable[msgspec.Struct | None]]

    def route(self) -> web.RouteDef:
        """The route that serves this endpoint."""
        return web.route(self.endpoint.method, self.endpoint.path, self.respond)

    async def respond(self, request: web.Request) -> web.Response:
        """Respond to a request; errors are the caller's to render."""
        answer = await self.answer(request, request.match_info)
        status = self.endpoint.status
        if answer is None:
            return web.Response(status=status, headers=NO_STORE)
        return web.Response(status=status, body=_encode(answer), content_type=_JSON, headers=NO_STORE)

    async def answer(self, request: web.Request, path: Mapping[str, str] = _NO_PATH) -> msgspec.Struct | None:
        """Authenticate the caller, read the request and handle it; ``path`` as in :class:`Call`."""
        endpoint = self.endpoint
        fields: Fields | None = None
        if endpoint.method == "POST":
            refuse_query(request)
            fields, raw = await read(request, BODY_LIMIT)
            caller = self._caller(request, fields)
            body = endpoint.read_body(fields, raw)
        else:
            caller = self._caller(request, None)
            body = converted(name_values(request.rel_url.raw_query_string.encode()), endpoint.body)
        if not logs.audit_lines_have_room():
            await logs.wait_for_audit_room()
        call = Call(caller, body, request.remote or "", path, fields)
        try:
            return await self.handle(call)
        except Unconfirmed as error:
            _audit_unconfirmed(endpoint.path, call, error)
            raise

    def _caller(self, request: web.Request, fields: Fields | None) -> Caller:
        if not self.endpoint.scope:
            return self.authentication.authenticate_if_asked(request, fields)
        caller = self.authentication.authenticate(request, fields)
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


def refuse_query(request: web.Request) -> None:
    """A token or secret in a URL ends up in logs (RFC 7662 §4, RFC 6749 §2.3.1)."""
    if "?" in request.raw_path and request.query_string:
        raise InvalidRequest("parameters belong in the body, not in the query")


async def read(request: web.Request, limit: int) -> tuple[Fields | None, bytes]:
    """Read the body.

    Returns:
        The fields where it is a form, else None; and the bytes.

    Raises:
        UnsupportedMediaType: neither a form nor JSON, or compressed.
        RequestTooLarge: longer than ``limit`` bytes.
        RequestTooSlow: it takes longer than ``BODY_SECONDS``.
        InvalidRequest: it breaks off, or is a form that can't be read.
    """
    media_type = request.headers.get("Content-Type", "")
    if media_type not in _MEDIA_TYPES:
        media_type = request.content_type if media_type else ""
        if media_type not in _MEDIA_TYPES:
            raise UnsupportedMediaType("the body must be a form or application/json")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body must not be compressed")
    raw = await read_bytes(request, limit)
    return (form_fields(raw) if media_type == _FORM else None), raw


async def read_bytes(request: web.Request, limit: int) -> bytes:
    """Read a body of at most ``limit`` bytes; raises as :func:`read`."""
    content = request.content
    try:
        if content.is_eof():  # it arrived together with the head
            raw = content.read_nowait()
        else:
            if (request.content_length or 0) > limit:
                raise RequestTooLarge(f"the body is longer than {limit} bytes")
            chunks = bytearray()
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in content.iter_any():
                    chunks += chunk
                    if len(chunks) > limit:
                        break
            raw = bytes(chunks)
    except TimeoutError:
        raise RequestTooSlow(f"the body did not come within {BODY_SECONDS:g} seconds") from None
    except (ConnectionError, ClientError, HttpProcessingError) as error:
        raise InvalidRequest("the body breaks off, or its encoding is broken") from error
    if len(raw) > limit:
        raise RequestTooLarge(f"the body is longer than {limit} bytes")
    return raw


def form_fields(raw: bytes) -> Fields:
    """Read a form strictly: empty values count as absent (RFC 6749 §3.2); raises as :func:`name_values`."""
    fields = name_values(raw)
    return {name: value for name, value in fields.items() if value} if "" in fields.values() else fields


def name_values(raw: bytes) -> Fields:
    """Read a query or a form strictly.

    Raises:
        InvalidRequest: broken percent-encoding or UTF-8, a name that is there twice, too many fields.
    """
    if b"%" in raw and _BROKEN_PERCENT.search(raw):
        raise InvalidRequest("the form has a broken percent-encoding")
    pairs: list[Any]
    try:
        text = raw.decode("ascii")
        if "%" in text or "+" in text or text.count("&") >= _MAX_FIELDS:
            pairs = urllib.parse.parse_qsl(
                text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
            )
        else:
            pairs = [pair.split("=", 1) if "=" in pair else (pair, "") for pair in text.split("&") if pair]
    except ValueError as error:
        raise InvalidRequest("the form can't be read") from error
    fields: Fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidRequest("a parameter is in the form twice")
    return fields


def converted(fields: Fields, body: type[Body]) -> Body:
    """Read the fields of a form as a type; unlike JSON, a form can contain NaN and infinity."""
    try:
        read = msgspec.convert(fields, body, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_message(error)) from error
    for name in _numbers_of(body):
        number = getattr(read, name)
        if number is not None and not -LARGEST <= number <= LARGEST:
            raise InvalidRequest(f"{name} is not a number, or too large")
    return read


@functools.cache
def _numbers_of(body: type[msgspec.Struct]) -> tuple[str, ...]:
    """The members of a type that can be numbers."""
    members = msgspec.structs.fields(body)
    return tuple(member.name for member in members if _is_number(msgspec.inspect.type_info(member.type)))


def _is_number(kind: msgspec.inspect.Type) -> bool:
    match kind:
        case msgspec.inspect.Metadata():
            return _is_number(kind.type)
        case msgspec.inspect.UnionType():
            return any(map(_is_number, kind.types))
        case _:
            return isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType)


def decoded(raw: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """Read JSON as a type."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_message(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise InvalidRequest("the body is not valid JSON") from error


def refuse_duplicates(raw: bytes) -> None:
    """Refuse an object with a duplicate member, of which parsers read one or the other; and invalid UTF-8."""

    def object_of(pairs: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in pairs}) != len(pairs):
            raise InvalidRequest("an object of the body has a member twice")

    try:
        json.loads(raw.decode(), object_pairs_hook=object_of)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is not valid JSON") from error


def is_unambiguous(raw: bytes, read: msgspec.Struct) -> bool:
    """Whether a document certainly has no duplicate member: a cheap test that most documents pass.

    A document that is equal to its re-encoding has none. Nor has one without escapes that contains, white
    space aside, no more ``":`` than the re-encoding: each member name ends with one.

    Args:
        raw: A JSON document.
        read: The value read from it, of a type that omits absent members.
    """
    encoded = _encode(read)
    if encoded == raw:
        return True
    if b"\\" in raw or not raw.isascii():
        return False
    return raw.translate(None, _WHITE_SPACE).count(b'":') == encoded.count(b'":')


def refuse_ambiguous(raw: bytes, read: msgspec.Struct) -> None:
    """As :func:`refuse_duplicates`, without parsing most documents a second time."""
    if is_unambiguous(raw, read):
        return
    if b"\\" not in raw and raw.isascii():
        strings = raw.split(b'"')[1::2]
        if len(set(strings)) == len(strings):
            return
    refuse_duplicates(raw)


def _message(error: msgspec.ValidationError) -> str:
    """Msgspec's message names the member and what is wrong with it, not its value."""
    return str(error).replace("`", "'")
