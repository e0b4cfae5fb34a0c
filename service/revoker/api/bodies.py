"""How bodies, forms and queries are read: within limits, and strictly."""

import asyncio
import functools
import json
import re
import urllib.parse
from codecs import BOM_UTF8
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import ClientError, web
from aiohttp.http import HttpProcessingError

from revoker.errors import InvalidRequest, RequestTooLarge, RequestTooSlow, UnsupportedMediaType
from revoker.json_members import DuplicateMember, unique_members

BODY_LIMIT: Final = 65536
BATCH_LIMIT: Final = 17 * 1024 * 1024
BODY_SECONDS: Final = 10.0

_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"
_MEDIA_TYPES: Final = frozenset({_FORM, _JSON})
MAX_FIELDS: Final = 64
"""Of a form or a query; the OpenAPI document says so, too."""
LARGEST: Final = 2**63
"""Larger numbers in forms are refused, as are those further below 0."""
_WHITE_SPACE: Final = b" \t\n\r"
_SPACE: Final = ord(" ")
_BACKSLASH: Final = ord("\\")
_BROKEN_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")

_encode: Final = msgspec.json.Encoder().encode
_decode_members: Final = msgspec.json.Decoder(dict[str, Any]).decode

Body = TypeVar("Body", bound=msgspec.Struct)
Fields = dict[str, str]
Document = dict[str, Any] | msgspec.Struct | bytes
"""All members of a JSON object, or what was read from it if it has no others, or itself as sent."""


def refuse_query(request: web.Request) -> None:
    """A token or secret in a URL ends up in logs (RFC 7662 §4, RFC 6749 §2.3.1)."""
    if "?" in request.raw_path and request.query_string:
        raise InvalidRequest("parameters belong in the body, not in the query")


async def read(request: web.Request, limit: int) -> tuple[Fields | None, bytes]:
    """Read the body.

    Returns:
        The fields where it is a form, else None; and the bytes, of JSON without a byte order mark.

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
    if media_type == _FORM:
        return form_fields(raw), raw
    return None, raw.removeprefix(BOM_UTF8)  # RFC 8259 §8.1: it may be ignored


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


def refuse_broken_path(request: web.Request) -> None:
    """Refuse a path that names nothing for certain: with broken percent-encoding or UTF-8."""
    path = request.rel_url.raw_path
    if "%" not in path:
        return
    try:
        urllib.parse.unquote(path, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidRequest("the path is not UTF-8") from error
    if _BROKEN_PERCENT.search(path.encode()):
        raise InvalidRequest("the path has a broken percent-encoding")


def form_fields(raw: bytes) -> Fields:
    """Read a form strictly: empty values count as absent (RFC 6749 §3.2); raises as :func:`name_values`."""
    fields = name_values(raw)
    return {name: value for name, value in fields.items() if value} if "" in fields.values() else fields


def query_fields(request: web.Request) -> Fields:
    """Read a query. Unlike that of a form, an empty value is there; raises as :func:`name_values`."""
    return name_values(request.rel_url.raw_query_string.encode())


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
        if "%" in text or "+" in text or text.count("&") >= MAX_FIELDS:
            pairs = urllib.parse.parse_qsl(
                text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
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
        number = getattr(read, name)  # a text where that is allowed, too
        if type(number) in {int, float} and not -LARGEST <= number <= LARGEST:
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


def converted_json(document: dict[str, Any], body: type[Body]) -> Body:
    """Read the members of a JSON object as a type.

    Raises:
        InvalidRequest: a member is missing, or of a wrong type.
    """
    try:
        return msgspec.convert(document, body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_message(error)) from error


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
    try:
        json.loads(raw.decode(), object_pairs_hook=unique_members)
    except DuplicateMember as error:
        raise InvalidRequest("an object of the body has a member twice") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is not valid JSON") from error


def is_unambiguous(raw: bytes, read: msgspec.Struct | dict[str, Any]) -> bool:
    """Whether a document certainly has no duplicate member: a cheap test that most documents pass.

    Args:
        raw: A JSON document.
        read: The value read from it; a type omits absent members.
    """
    encoded = _encode(read)
    return encoded == raw or _has_as_many_members(raw, encoded)


def _has_as_many_members(raw: bytes, encoded: bytes) -> bool:
    """Whether a document has no more members than its re-encoding, which has no duplicate.

    Each name ends with ``":``. False also if that can't be counted, because there are escapes.
    """
    if _BACKSLASH in raw or not raw.isascii():
        return False
    return raw.translate(None, _WHITE_SPACE).count(b'":') == encoded.count(b'":')


def refuse_ambiguous(raw: bytes, read: msgspec.Struct) -> Document:
    """As :func:`refuse_duplicates`, without its slow parser for most documents.

    Returns:
        What is known of the document then.
    """
    encoded = _encode(read)
    if encoded == raw:
        return read
    spaced = _SPACE in raw[:32]  # probably behind the first name: it may differ in nothing else
    if spaced and _has_as_many_members(raw, encoded):
        return raw
    if _BACKSLASH not in raw:  # otherwise it is seldom equal to its re-encoding
        try:
            members = _all_members(raw)
            if is_unambiguous(raw, members):
                return members
        except InvalidRequest:
            pass  # the slow parser reads more, such as numbers beyond any double
    refuse_duplicates(raw)
    return raw


def members_of(document: Document) -> dict[str, Any]:
    """All members of a JSON object, of which no duplicate is noticed."""
    if isinstance(document, dict):
        return document
    if isinstance(document, bytes):
        return _all_members(document)
    members: dict[str, Any] = msgspec.to_builtins(document)
    return members


def _all_members(raw: bytes) -> dict[str, Any]:
    try:
        return _decode_members(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise InvalidRequest("the body is not valid JSON") from error


def _message(error: msgspec.ValidationError) -> str:
    """Msgspec's message names the member and what is wrong with it, not its value."""
    return str(error).replace("`", "'")
