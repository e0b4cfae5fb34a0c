"""Strict parsing of compact JWTs and of the JSON in them; knows no keys.

Input that two parsers could understand differently is refused, not repaired: otherwise a lenient parser
elsewhere would see another token than the one that was verified here.
"""

import binascii
import functools
import json
import math
from typing import Any, Final, NoReturn

import msgspec

from revoker.errors import InvalidToken
from revoker.json_members import unique_members

MAX_TOKEN_CHARS: Final = 16 * 1024
MAX_DEPTH: Final = 32
MAX_NUMBER_CHARS: Final = 32
"""More than any double or 64-bit integer needs; thousands of digits cost time to convert."""

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_LAST_CHARACTERS: Final[tuple[frozenset[int], ...]] = (
    frozenset(_ALPHABET),
    frozenset(),
    frozenset(b"AQgw"),
    frozenset(b"AEIMQUYcgkosw048"),
)
"""By length modulo 4, the last characters whose unused bits are zero (RFC 4648 §3.5)."""


class UnverifiedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A well-formed JWS whose signature has not been verified.

    Attributes:
        signing_input: ``header.payload`` as sent: what the signature covers.
    """

    alg: str
    kid: str | None
    typ: str | None
    payload: dict[str, Any]
    signing_input: bytes
    signature: bytes


def parse_token(token: str) -> UnverifiedToken:
    """Parse a compact JWS (RFC 7515 §7.1); JWEs and all extensions are refused.

    Raises:
        InvalidToken: for any other text.
    """
    if len(token) > MAX_TOKEN_CHARS:
        raise InvalidToken("longer than any token")
    try:
        raw = token.encode("ascii")
    except UnicodeEncodeError:
        raise InvalidToken("not ASCII") from None
    if raw.translate(None, _ALPHABET) != b"..":
        raise InvalidToken("not three parts of base64url")
    signing_input, _, signature = raw.rpartition(b".")
    header_part, _, payload_part = signing_input.partition(b".")
    try:
        alg, kid, typ = _header(header_part)
        return UnverifiedToken(
            alg=alg,
            kid=kid,
            typ=typ,
            payload=strict_json_object(_decoded(payload_part)),
            signing_input=signing_input,
            signature=_decoded(signature),
        )
    except ValueError as fault:
        raise InvalidToken(str(fault)) from None


@functools.lru_cache(maxsize=64)
def _header(part: bytes) -> tuple[str, str | None, str | None]:
    """``alg``, ``kid`` and ``typ``; members that name a place of a key are ignored.

    All tokens that one key signs have the same header, so the last few headers are cached.
    """
    header = strict_json_object(_decoded(part))
    if not header.keys().isdisjoint(("crit", "b64", "zip")):
        raise ValueError("requires an extension")
    alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if type(alg) is not str:
        raise ValueError("alg is not a string")
    if (kid is None and "kid" in header) or not isinstance(kid, str | None):
        raise ValueError("kid is not a string")
    if (typ is None and "typ" in header) or not isinstance(typ, str | None):
        raise ValueError("typ is not a string")
    return alg, kid, typ


def base64url(data: bytes) -> str:
    """Encode without padding (RFC 7515 §2)."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL).decode()


def base64url_decoded(text: str) -> bytes:
    """Decode base64url without padding (RFC 7515 §2).

    Raises:
        ValueError: it has other characters, padding, or unused bits that are not zero.
    """
    raw = text.encode("ascii")
    if raw.translate(None, _ALPHABET):
        raise ValueError("not base64url")
    return _decoded(raw)


def _decoded(part: bytes) -> bytes:
    """Decode text that has only characters of the alphabet."""
    rest = len(part) % 4
    if part and part[-1] not in _LAST_CHARACTERS[rest]:
        raise ValueError("not canonical base64url")
    return binascii.a2b_base64(part.translate(_TO_STANDARD) + b"==")


def strict_json_object(data: bytes) -> dict[str, Any]:
    """Parse one JSON object in UTF-8.

    Raises:
        ValueError: another kind of value, a duplicate member, NaN or infinity, a lone surrogate, a number
            longer than ``MAX_NUMBER_CHARS``, or more than ``MAX_DEPTH`` levels.
    """
    plain = _plain_json_object(data)
    if plain is not None:
        return plain
    try:
        text = data.decode()
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if type(value) is not dict:
        raise ValueError("not a JSON object")
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _refuse_depth(value)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is a UnicodeError
    return value


def _plain_json_object(data: bytes) -> dict[str, Any] | None:
    """A faster path for the JSON that most issuers write; None if it can't decide.

    An object that encodes to the same bytes has no duplicate member and no number that was rounded. The
    tests for depth and long numbers refuse more than the exact ones.
    """
    try:
        value = _decode_quickly(data)
        same = _encode(value) == data
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if not same or type(value) is not dict:
        return None
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH or _LONG_NUMBER in data.translate(_DIGITS_AS_ZERO):
        return None
    return value


def _refuse_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in (dict, list)
        ]
        if not level:
            return
    raise ValueError("nested too deeply")


def _integer(literal: str) -> int:
    if len(literal) > MAX_NUMBER_CHARS:
        raise ValueError("a number is too long")
    return int(literal)


def _float(literal: str) -> float:
    if len(literal) > MAX_NUMBER_CHARS:
        raise ValueError("a number is too long")
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _not_json(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is not JSON")


_decode_quickly: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode
_DIGITS_AS_ZERO: Final = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))
_LONG_NUMBER: Final = b"0" * MAX_NUMBER_CHARS

_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=unique_members, parse_int=_integer, parse_float=_float, parse_constant=_not_json
)
