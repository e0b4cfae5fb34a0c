"""``POST /backchannel-logout`` (OpenID Connect Back-Channel Logout 1.0): a provider logs somebody out.

The provider's signature is the credential. A logout becomes a cutoff at the time it was said, so a
token that is sent twice, or late, changes nothing.
"""

from typing import Final

import msgspec
import structlog

from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import Text
from revoker.api.parts import Parts
from revoker.errors import InvalidRequest, InvalidToken, Unconfirmed
from revoker.models import Issuer
from revoker.store.revocations import Signed
from revoker.tokens.logout_tokens import LogoutToken, logout_token
from revoker.tokens.parsing import parse_token

PATH: Final = "/backchannel-logout"
REASON: Final = "backchannel logout"

_audit = structlog.get_logger("audit")


class Logout(msgspec.Struct, frozen=True, kw_only=True):
    """What the provider says, signed by it."""

    logout_token: Text


async def log_out(parts: Parts, call: Call[Logout]) -> None:
    """Log out; 200 once that is stored, also where the session is unknown or over (BCL §2.7)."""
    try:
        issuer, told = await _told(parts, call.body.logout_token)
    except InvalidToken as fault:
        _audit.warning("logout_refused", peer=call.peer, why=str(fault))
        raise InvalidRequest(f"logout_token: {fault}") from fault
    try:
        cutoff = await _revoke(parts, issuer, told)
    except InvalidRequest as fault:
        _audit.warning("logout_refused", peer=call.peer, why=str(fault))
        raise InvalidRequest(f"logout_token: {fault}") from fault
    except Unconfirmed as error:
        error.about = {"iss": issuer.iss, "sub": told.sub, "sid": told.sid, "jti": told.jti}
        raise
    _audit.info(
        "logged_out_by_provider",
        peer=call.peer,
        iss=issuer.iss,
        sub=told.sub,
        sid=told.sid,
        jti=told.jti,
        cutoff=cutoff / 1000,
    )


async def _told(parts: Parts, token: str) -> tuple[Issuer, LogoutToken]:
    """Read the token; keys are asked for only where its issuer may log out here.

    Raises:
        InvalidToken: it is not a logout token for us.
        KeysUnavailable: it can't be told.
    """
    iss = parse_token(token).payload.get("iss")
    audience = parts.logout_audiences.get(iss) if type(iss) is str else None
    if audience is None:
        raise InvalidToken("of an issuer that is not trusted with logouts")
    genuine = await parts.verifier.verify_origin(token)
    issuer = genuine.issuer
    revoked = parts.store.revocations.remembered.keys[issuer.name]
    if genuine.claims.kid in issuer.revoked_kids or genuine.claims.kid in revoked:
        raise InvalidToken("signature of a revoked key")
    return issuer, logout_token(genuine, audience)


async def _revoke(parts: Parts, issuer: Issuer, told: LogoutToken) -> int:
    """Store the cutoff, not after now; returns the one that stands (ms).

    Raises:
        InvalidRequest: the token is of another time.
    """
    revocations = parts.store.revocations
    before = int(told.iat * 1000)
    signed = Signed(ahead=issuer.clock_skew * 1000, expires=int(told.expires * 1000))
    if told.sid is not None:
        return await revocations.revoke_session(issuer, told.sid, before=before, reason=REASON, signed=signed)
    assert told.sub is not None  # noqa: S101  # a logout token has one of the two
    return await revocations.revoke_user(
        issuer, told.sub, before=before, except_sid=None, reason=REASON, signed=signed
    )


ENDPOINTS: Final = (
    Endpoint(
        path=PATH,
        scope="",
        body=Logout,
        answer=None,
        summary="Log out whom an identity provider says (OpenID Connect Back-Channel Logout 1.0)",
        handle=log_out,
    ),
)
