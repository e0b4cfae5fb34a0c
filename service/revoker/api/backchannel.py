"""``POST /backchannel-logout`` (OpenID Connect Back-Channel Logout 1.0): a provider logs a user out.

The provider's signature is the credential. A logout becomes a cutoff at the token's ``iat``, so a token that
is sent twice, or late, changes nothing.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final, Literal

import msgspec
import structlog

from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import Text
from revoker.errors import InvalidRequest, InvalidToken, KeysUnavailable, Unconfirmed
from revoker.models import Issuer
from revoker.store.audit import BACKCHANNEL
from revoker.store.revocations import Revocations, Signed
from revoker.tokens.logout_tokens import AHEAD_S, LogoutTerms, LogoutToken, logout_token
from revoker.tokens.parsing import parse_token
from revoker.tokens.verifying import Verifier

PATH: Final = "/backchannel-logout"
REASON: Final = "backchannel logout"

_audit = structlog.get_logger("audit")


class Logout(msgspec.Struct, frozen=True, kw_only=True):
    """The logout token, signed by the provider."""

    logout_token: Text


async def log_out(
    call: Call[Logout],
    *,
    logout_terms: Mapping[str, LogoutTerms],
    verifier: Verifier,
    revocations: Revocations,
    revoked_key_ids: Callable[[Issuer], Collection[str]],
) -> None:
    """Log out; 200 once that is stored, also where the session is unknown or over (BCL §2.7)."""
    try:
        issuer, token, terms = await _verify(call.body.logout_token, logout_terms, verifier, revoked_key_ids)
        ends = _ends(token, terms)
        cutoff = await _revoke(issuer, token, revocations, ends)
    except (InvalidToken, InvalidRequest) as error:
        _audit.warning("logout_refused", peer=call.peer, why=str(error))
        raise InvalidRequest(f"logout_token: {error}") from error
    _audit.info(
        "logged_out_by_provider",
        peer=call.peer,
        iss=issuer.iss,
        sub=token.sub,
        sid=token.sid,
        jti=token.jti,
        ends=ends,
        cutoff=cutoff / 1000,
    )
    if terms.ends_user and ends == "session":
        _audit.warning(
            "logout_names_no_user",
            iss=issuer.iss,
            sid=token.sid,
            jti=token.jti,
            why="the session is all that the logout token names: access tokens without it stay active",
        )


def _ends(token: LogoutToken, terms: LogoutTerms) -> Literal["session", "user"]:
    """What a logout token ends. One that names no user can end its session alone, whatever is set."""
    if token.sub is None:
        return "session"
    return "user" if terms.ends_user or token.sid is None else "session"


async def _verify(
    text: str,
    logout_terms: Mapping[str, LogoutTerms],
    verifier: Verifier,
    revoked_key_ids: Callable[[Issuer], Collection[str]],
) -> tuple[Issuer, LogoutToken, LogoutTerms]:
    """Read a logout token; keys are fetched only for issuers that may log out here.

    Raises:
        InvalidToken: it is not a logout token for this service.
        KeysUnavailable: its signature can't be checked now.
    """
    iss = parse_token(text).payload.get("iss")
    terms = logout_terms.get(iss) if type(iss) is str else None
    if terms is None:
        raise InvalidToken("of an issuer that is not trusted with logouts", "issuer")
    verified = await verifier.verify_origin(text)
    issuer, kid = verified.issuer, verified.claims.kid
    if kid in issuer.revoked_kids or kid in revoked_key_ids(issuer):
        raise InvalidToken("signature of a revoked key", "key")
    return issuer, logout_token(verified, terms.audience), terms


async def _revoke(
    issuer: Issuer, token: LogoutToken, revocations: Revocations, ends: Literal["session", "user"]
) -> int:
    """Store a cutoff at the time of the token, and not after now; returns the cutoff in force (ms).

    Raises:
        InvalidRequest: the token has expired, or is dated ahead.
    """
    before = int((token.iat + issuer.iat_backdated) * 1000)
    ahead = max(AHEAD_S, issuer.clock_skew) + issuer.iat_backdated
    signed = Signed(ahead=ahead * 1000, expires=int(token.expires * 1000))
    try:
        if ends == "session":
            assert token.sid is not None  # noqa: S101  # a logout token has one of the two
            return await revocations.revoke_session(
                issuer, token.sid, before=before, reason=REASON, by=BACKCHANNEL, signed=signed
            )
        assert token.sub is not None  # noqa: S101  # likewise
        return await revocations.revoke_user(
            issuer, token.sub, before=before, except_sid=None, reason=REASON, by=BACKCHANNEL, signed=signed
        )
    except Unconfirmed as error:
        error.about = {"iss": issuer.iss, "sub": token.sub, "sid": token.sid, "jti": token.jti}
        raise


ENDPOINTS: Final = (
    Endpoint(
        path=PATH,
        scope="",
        body=Logout,
        answer=None,
        summary="Log out a user for an identity provider (OpenID Connect Back-Channel Logout 1.0)",
        handle=log_out,
        errors=(KeysUnavailable,),
    ),
)
