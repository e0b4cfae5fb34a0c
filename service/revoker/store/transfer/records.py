"""The lines of an export and of a file to import: each is one JSON object with a ``kind``.

What was exported and what a person writes have the same form. Where the store keeps only a digest of a
value, an export names its place there instead: ``segment`` for the last part of a key, ``claim_segment`` for
the name of a claim, ``tag`` for a user.
"""

import json
from typing import Annotated, Final

import msgspec

from revoker.errors import InvalidRequest
from revoker.json_members import DuplicateMember, unique_members
from revoker.models import Number

FORMAT: Final = 1
LATEST_S: Final = 99_999_999_999

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=16384)]
_Reason = Annotated[str, msgspec.Meta(max_length=512)]
_By = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
_WITHIN: Final = msgspec.Meta(ge=0, le=LATEST_S)
_Date = Annotated[int, _WITHIN] | Annotated[float, _WITHIN]
_Segment = Annotated[str, msgspec.Meta(pattern=r"^=[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]\Z")]
_Tag = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{16}\Z")]


class _Line(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="kind",
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,
):
    """Dates are NumericDates, seconds with a fraction where it matters."""


class _Revocation(_Line, frozen=True, kw_only=True):
    """A line of revocations.

    Attributes:
        by: Who made it; not in the feed.
        made: When, where that is not its date; likewise.
        expires: When the store drops it; only in the feed, and an import ignores it.
        changed: When it was stored; likewise.
    """

    by: _By | None = None
    made: _Date | None = None
    expires: _Date | None = None
    changed: _Date | None = None


class Jti(_Revocation, frozen=True, kw_only=True, tag="jti"):
    """A revoked token; without ``exp`` it is taken to live as long as any can."""

    iss: _Text
    jti: _Text | None = None
    segment: _Segment | None = None
    exp: _Date | None = None
    at: _Date | None = None
    reason: _Reason | None = None


class User(_Revocation, frozen=True, kw_only=True, tag="user"):
    """A cutoff for a user; without ``before`` at the moment it is stored, as in ``/revoke-user``."""

    iss: _Text | None = None
    sub: _Text | None = None
    tag: _Tag | None = None
    before: _Date | None = None
    except_sid: _Text | None = None
    reason: _Reason | None = None


class Session(_Revocation, frozen=True, kw_only=True, tag="session"):
    """A cutoff for a session."""

    iss: _Text
    sid: _Text | None = None
    segment: _Segment | None = None
    before: _Date | None = None
    reason: _Reason | None = None


class Client(_Revocation, frozen=True, kw_only=True, tag="client"):
    """A cutoff for a client."""

    iss: _Text
    client_id: _Text | None = None
    segment: _Segment | None = None
    before: _Date | None = None
    reason: _Reason | None = None


class Claim(_Revocation, frozen=True, kw_only=True, tag="claim"):
    """A cutoff for a value of a revocable claim; ``claim_segment`` is the place of a name in the key."""

    iss: _Text
    claim: _Text | None = None
    claim_segment: _Segment | None = None
    value: _Text | int | float | None = None
    segment: _Segment | None = None
    before: _Date | None = None
    reason: _Reason | None = None


class Issuer(_Revocation, frozen=True, kw_only=True, tag="issuer"):
    """A cutoff for all that an issuer made: it logs out the world."""

    iss: _Text
    before: _Date | None = None
    reason: _Reason | None = None


class Block(_Revocation, frozen=True, kw_only=True, tag="block"):
    """A blocked user; without ``until`` for good."""

    iss: _Text | None = None
    sub: _Text | None = None
    tag: _Tag | None = None
    until: _Date | None = None
    reason: _Reason | None = None


class Key(_Revocation, frozen=True, kw_only=True, tag="key"):
    """A revoked signing key."""

    iss: _Text
    kid: _Text
    at: _Date | None = None
    reason: _Reason | None = None


class Begin(_Line, frozen=True, kw_only=True, tag="export"):
    """The first line of an export, which must then have a last one."""

    format: int
    at: _Date


class Place(_Line, frozen=True, kw_only=True, tag="place"):
    """The progress of an export, which earlier versions wrote; an import ignores it.

    Attributes:
        servers: Ids of the servers of the store.
        at: The index of the server that was being read.
        cursor: Of its ``SCAN``.
        lines: Number of lines before this one, without the first.
    """

    servers: tuple[str, ...]
    at: Annotated[int, msgspec.Meta(ge=0)]
    cursor: str
    lines: int


class End(_Line, frozen=True, kw_only=True, tag="end"):
    """The last line of an export: without it the rest is missing.

    Attributes:
        lines: Number of lines before this one, without the first.
    """

    lines: int


Record = Jti | User | Session | Client | Claim | Issuer | Block | Key
FileLine = Record | Begin | Place | End

KINDS: Final = ("jti", "user", "session", "client", "claim", "issuer", "block", "key")

_decode: Final = msgspec.json.Decoder(FileLine).decode
_encode: Final = msgspec.json.Encoder().encode

_NAMED_BY: Final[dict[type, str]] = {Jti: "jti", Session: "sid", Client: "client_id"}


def kind(line: FileLine) -> str:
    """The ``kind`` of a line."""
    return str(line.__struct_config__.tag)


def read(line: bytes) -> FileLine:
    """One line.

    Raises:
        InvalidRequest: it is none, with what is wrong about it.
    """
    try:
        found: FileLine = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(str(error)) from None
    _names_one_thing(found)
    if line.count(b'"') != _quotes(found):
        _without_repetition(line)
    return found


def write(line: FileLine) -> bytes:
    """One line, with its end."""
    return _encode(line) + b"\n"


def date(at_ms: int) -> Number:
    """A NumericDate of whole ms."""
    return at_ms // 1000 if at_ms % 1000 == 0 else at_ms / 1000


def milliseconds(at: Number) -> int:
    """A NumericDate as whole ms."""
    return round(at * 1000)


def _names_one_thing(found: FileLine) -> None:
    if isinstance(found, _Revocation) and found.made is not None and found.by is None:
        raise InvalidRequest("`made` needs `by`")
    match found:
        case Jti() | Session() | Client():
            member = _NAMED_BY[type(found)]
            if (getattr(found, member) is None) == (found.segment is None):
                raise InvalidRequest(f"a {kind(found)} is named by `{member}`")
        case Claim():
            if (found.claim is None) == (found.claim_segment is None) or (
                (found.value is None) == (found.segment is None)
            ):
                raise InvalidRequest("a claim is named by `claim` and `value`")
        case User() | Block():
            if (found.iss is None) != (found.sub is None) or (found.sub is None) == (found.tag is None):
                raise InvalidRequest(f"a {kind(found)} is named by `iss` and `sub`")
        case Begin(format=other) if other != FORMAT:
            raise InvalidRequest(f"an export of format {other}; this version reads {FORMAT}")
        case _:
            pass


def _quotes(found: FileLine) -> int:
    """How many quotation marks a line has that says every member once and escapes nothing."""
    count = 4
    for name in found.__struct_fields__:
        value = getattr(found, name)
        if value is not None:
            count += 4 if type(value) is str else 2
    return count


def _without_repetition(line: bytes) -> None:
    try:
        json.loads(line, object_pairs_hook=unique_members)
    except DuplicateMember as error:
        raise InvalidRequest(str(error)) from error
