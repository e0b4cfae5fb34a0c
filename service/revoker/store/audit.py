"""Who made a revocation, and when: stored beside it for people who ask, and never read for a verdict."""

from typing import Final

import msgspec

from revoker.models import Issuer

MAX_SUB: Final = 1024
"""A longer ``sub`` is not stored with a revocation."""

BACKCHANNEL: Final = "(back-channel logout)"
MAPPING: Final = "(accept-mapping)"
IMPORT: Final = "(import)"
"""In place of a caller, whose name has no parentheses."""


class Audit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is stored beside a revocation.

    Attributes:
        by: The caller, or what revoked in place of one.
        issuer: The issuer's name, of a user: a user's key has neither that nor the ``sub``.
        sub: Of a user, likewise.
        reason: Of a token, whose entry has none.
        made: When the revocation was made (ms by Redis); it may be dated otherwise.
    """

    by: str
    issuer: str = ""
    sub: str = ""
    reason: str = ""
    made: int = 0


_decode: Final = msgspec.json.Decoder(Audit).decode
_encode: Final = msgspec.json.Encoder().encode


def audit_text(by: str, *, reason: str = "") -> bytes:
    """What a script stores; empty where nobody is named."""
    return _encode(Audit(by=by, reason=reason)) if by else b""


def audit_text_of_user(by: str, issuer: Issuer, sub: str) -> bytes:
    """As :func:`audit_text`, for a cutoff or a block of a user."""
    if not by:
        return b""
    return _encode(Audit(by=by, issuer=issuer.name, sub=sub if len(sub) <= MAX_SUB else ""))


def read_audit(value: bytes | None, at: int) -> Audit | None:
    """Who made the revocation that is dated ``at`` (ms).

    None where nobody knows: it was made by a version that did not store that, or what is stored is about an
    earlier revocation.
    """
    if value is None:
        return None
    try:
        made, of, text = value.split(b" ", 2)
        return msgspec.structs.replace(_decode(text), made=int(made)) if int(of) == at else None
    except (ValueError, msgspec.MsgspecError):
        return None
