"""What all endpoints have in common: who calls, what the body says, and how an answer is written."""

import asyncio
import functools
import json
import re
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

import msgspec
import structlog
from aiohttp import ClientError, web
from aiohttp.http import HttpProcessingError

from revoker import logs
from revoker.api.errors import NO_STORE
from revoker.api.parts import Parts
from revoker.auth import Caller, Credentials, certificate_names
from revoker.errors import InvalidRequest, RequestTooLarge, RequestTooSlow, Unconfirmed, UnsupportedMediaType
from revoker.json_members import DuplicateMember, unique_members

BODY_LIMIT: Final = 65536
BATCH_LIMIT: Final = 17 * 1024 * 1024
BODY_SECONDS: Final = 10.0

_audit = structlog.get_logger("audit")

_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"
_MEDIA: Final = frozenset({_FORM, _JSON})
_MOST_FIELDS: Final = 64
LARGEST: Final = 2**63
"""No number that anybody asks about is larger."""
_WHITE_SPACE: Final = b" \t\n\r"
_BROKEN_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")

_NAMED: Final = (
    "iss", "sub", "sid", "client_id", "jti", "kid", "exp", "before", "until", "except_sid", "reason",
)  # fmt: skip
"""Members of bodies that say what is changed; none is a secret."""

_encode: Final = msgspec.json.Encoder().encode

Body = TypeVar("Body", bound=msgspec.Struct)
Fields = dict[str, str]


class Call(msgspec.Struct, Generic[Body], frozen=True):
    """One authenticated request.

    Attributes:
        caller: ``NOBODY`` where the endpoint asks for no credential and none was shown.
        body: What it asks for.
        peer: The address that it comes from.
        path: What stands in the variable parts of the path.
        fields: The form that the body was read from; None: it was JSON, or there was none.
    """

    caller: Caller
    body: Body
    peer: str
    path: Mapping[str, str]
    fields: Fields | None = None


NOBODY: Final = Caller(name="", digests=(), scopes=frozenset(), issuers={}, default_issuer=None, client_id="")


_NO_PATH: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Generic[Body]):
    """One endpoint: what it takes and gives; the OpenAPI document is made from these.

    Attributes:
        method: Of GET and DELETE the query is read, of POST the body.
        scope: What a caller needs; empty: no credential is asked for, but a wrong secret is refused.
        body: The type of what is asked; queries, forms and JSON are all read into it.
        status: Of success.
        answer: The type of a 200's body; None: it is empty.
        summary: One line for the documentation.
        errors: Statuses that can be answered beside those that every endpoint has.
        limit: The longest body in bytes.
        form: Whether a form is read too; JSON always is.
    """

    path: str
    method: str = "POST"
    scope: str
    body: type[Body]
    answer: Any
    status: int = 200
    summary: str
    handle: Callable[[Parts, Call[Body]], Awaitable[msgspec.Struct | None]]
    errors: tuple[int, ...] = ()
    limit: int = BODY_LIMIT
    form: bool = True
    decoder: msgspec.json.Decoder[Body] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoder", msgspec.json.Decoder(self.body))

    def route(self, parts: Parts) -> web.RouteDef:
        """The route that serves this endpoint."""

        async def respond(request: web.Request) -> web.Response:
            answer = await self.ask(parts, request, request.match_info)
            return no_content(self.status) if answer is None else rendered(answer, self.status)

        return web.route(self.method, self.path, respond)

    async def ask(
        self, parts: Parts, request: web.Request, path: Mapping[str, str] = _NO_PATH
    ) -> msgspec.Struct | None:
        """Tell who calls, read what is asked, and have it answered; ``path`` as in :class:`Call`."""
        fields: Fields | None = None
        if self.method == "POST":
            refuse_query(request)
            fields, raw = await read(request, self.limit)
            caller = self._authenticated(parts, request, fields)
            body = self.read_body(fields, raw)
        else:
            caller = self._authenticated(parts, request, None)
            body = converted(name_values(request.rel_url.raw_query_string.encode()), self.body)
        if not logs.audit_lines_have_room():
            await logs.wait_for_audit_room()
        call = Call(caller, body, request.remote or "", path, fields)
        try:
            return await self.handle(parts, call)
        except Unconfirmed as error:
            self._audit_unconfirmed(call, error)
            raise

    def _audit_unconfirmed(self, call: Call[Body], error: Unconfirmed) -> None:
        """Say that a change which is answered 503 was made, or may have been."""
        named = {name: value for name in _NAMED if (value := getattr(call.body, name, None)) is not None}
        made = "unknown" if error.reply is None else "not confirmed"
        _audit.warning(
            "change_unconfirmed",
            endpoint=self.path,
            caller=call.caller.name,
            peer=call.peer,
            made=made,
            **{**named, **call.path, **error.about},
        )

    def _authenticated(self, parts: Parts, request: web.Request, fields: Fields | None) -> Caller:
        if self.scope:
            caller = authenticate(parts, request, fields)
            caller.require(self.scope)
            return caller
        if "Authorization" in request.headers or (fields and "client_secret" in fields):
            return authenticate(parts, request, fields)
        if parts.client_certificates:
            named = parts.callers.find_by_certificate(certificate(request))
            if named is not None and named.rate_limit is not None:
                named.rate_limit.spend()
            return named or NOBODY
        return NOBODY

    def read_body(self, fields: Fields | None, raw: bytes) -> Body:
        """Read what is asked; what the type does not name is ignored.

        Raises:
            InvalidRequest: a member is missing, of a wrong type, or there twice.
        """
        if fields is not None:
            if not self.form:
                raise UnsupportedMediaType("the body must be application/json")
            return converted(fields, self.body)
        body = decoded(raw, self.decoder)
        refuse_duplicates(raw)
        return body


def no_content(status: int = 200) -> web.Response:
    """Success with an empty body."""
    return web.Response(status=status, headers=NO_STORE)


def rendered(answer: msgspec.Struct, status: int = 200) -> web.Response:
    """Success with a body."""
    return web.Response(status=status, body=msgspec.json.encode(answer), content_type=_JSON, headers=NO_STORE)


def refuse_query(request: web.Request) -> None:
    """A token or secret in a URL ends up in logs (RFC 7662 §4, RFC 6749 §2.3.1)."""
    if "?" in request.raw_path and request.query_string:
        raise InvalidRequest("parameters belong in the body, not in the query")


def authenticate(parts: Parts, request: web.Request, fields: Fields | None) -> Caller:
    """Tell who calls, by header, form or client certificate."""
    headers = request.headers.getall("Authorization", ())
    if len(headers) > 1:
        raise InvalidRequest("more than one Authorization header")
    form = fields or {}
    return parts.callers.authenticate(
        Credentials(
            headers[0] if headers else None,
            form.get("client_id"),
            form.get("client_secret"),
            certificate(request),
            request.remote or "",
        )
    )


def certificate(request: web.Request) -> frozenset[str]:
    """The names in the client certificate, where the listener asked for one and verified it."""
    tls = request.get_extra_info("ssl_object")
    certificate = tls.getpeercert() if tls is not None else None
    if not certificate:
        return frozenset()
    subject = [pair for names in certificate.get("subject", ()) for pair in names]
    return certificate_names((*subject, *certificate.get("subjectAltName", ())))


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
    media = request.headers.get("Content-Type", "")
    if media not in _MEDIA:
        media = request.content_type if media else ""
        if media not in _MEDIA:
            raise UnsupportedMediaType("the body must be a form or application/json")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body must not be compressed")
    raw = await read_bytes(request, limit)
    return (form_fields(raw) if media == _FORM else None), raw


async def read_bytes(request: web.Request, limit: int) -> bytes:
    """Read a body of at most ``limit`` bytes; raises as :func:`read`."""
    content = request.content
    try:
        if content.is_eof():  # it came whole with the head
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
        InvalidRequest: broken percent-encoding or UTF-8, a name that stands twice, too many fields.
    """
    if b"%" in raw and _BROKEN_PERCENT.search(raw):
        raise InvalidRequest("the form has a broken percent-encoding")
    pairs: list[Any]
    try:
        text = raw.decode("ascii")
        if "%" in text or "+" in text or text.count("&") >= _MOST_FIELDS:
            pairs = urllib.parse.parse_qsl(
                text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
            )
        else:
            pairs = [each.split("=", 1) if "=" in each else (each, "") for each in text.split("&") if each]
    except ValueError as error:
        raise InvalidRequest("the form can't be read") from error
    fields: Fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidRequest("a parameter stands twice in the form")
    return fields


def converted(fields: Fields, body: type[Body]) -> Body:
    """Read the fields of a form as a type; unlike JSON, a form can say NaN and infinity."""
    try:
        read = msgspec.convert(fields, body, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_told(error)) from error
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
        raise InvalidRequest(_told(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise InvalidRequest("the body is not valid JSON") from error


def refuse_duplicates(raw: bytes) -> None:
    """Refuse an object with a duplicate member, and text that is not UTF-8 throughout."""
    try:
        json.loads(raw.decode(), object_pairs_hook=unique_members)
    except DuplicateMember as error:
        raise InvalidRequest("a member stands twice in an object of the body") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is not valid JSON") from error


def is_unambiguous(raw: bytes, read: msgspec.Struct) -> bool:
    """Whether no name stands twice: a cheap test that clears most documents.

    What is the same when it is written again has nothing twice. Else, without an escape and without white
    space, every name ends in a quotation mark and a colon, and so does nothing else but the beginning of a
    text that begins with a colon; where there are no more of them than in what is written again, each name
    stands once.

    Args:
        raw: A JSON document.
        read: What was read of it, of a type that omits what is not there.
    """
    again = _encode(read)
    if again == raw:
        return True
    if b"\\" in raw or not raw.isascii():
        return False
    return raw.translate(None, _WHITE_SPACE).count(b'":') == again.count(b'":')


def refuse_ambiguous(raw: bytes, read: msgspec.Struct) -> None:
    """As :func:`refuse_duplicates`; most documents are cleared without being parsed once more."""
    if is_unambiguous(raw, read):
        return
    if b"\\" not in raw and raw.isascii():
        texts = raw.split(b'"')[1::2]
        if len(set(texts)) == len(texts):
            return
    refuse_duplicates(raw)


def _told(error: msgspec.ValidationError) -> str:
    """Msgspec's own words name the member and what is wrong with it, not its value."""
    return str(error).replace("`", "'")
