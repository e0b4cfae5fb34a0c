"""``POST /token`` (RFC 6749 §6): a refresh token gives an access token and its successor."""

from collections.abc import Awaitable
from typing import Annotated, Final

import msgspec
import structlog

from revoker.api.endpoint import NOBODY, Call, Endpoint
from revoker.api.parts import Kept, Parts
from revoker.api.sessions import Tokens, covers, tokens, wide
from revoker.auth import Caller
from revoker.errors import InvalidClient, InvalidGrant, InvalidRequest, InvalidScope, UnsupportedGrantType
from revoker.store.keys import tag_and_start
from revoker.store.sessions import Refreshed, Refusal, ReuseUnconfirmed
from revoker.tokens.refresh_tokens import RefreshToken

PATH: Final = "/token"

_audit = structlog.get_logger("audit")

_REUSED: Final = frozenset({Refusal.REUSED_PREVIOUS, Refusal.REUSED_OLDER})
_NO_SCOPE: Final = "more scope than was granted"
_NO_GRANT: Final = "the refresh token is wrong, spent or ended"


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The refresh token is the credential; ``client_id``, where it is sent, must match."""

    grant_type: str | None = None
    refresh_token: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    scope: str | None = None
    client_id: str | None = None
    client_secret: str | None = None


def token(parts: Parts, call: Call[TokenRequest]) -> Awaitable[Tokens]:
    asked = call.body
    kept = parts.kept
    if not asked.grant_type:
        raise InvalidRequest("grant_type is missing")
    if asked.grant_type != "refresh_token" or kept is None:
        raise UnsupportedGrantType("only refresh_token is known here")
    if not asked.refresh_token:
        raise InvalidRequest("refresh_token is missing")
    shown = kept.refresh_tokens.read(asked.refresh_token)
    if shown is None:
        raise InvalidGrant(_NO_GRANT)
    _check_client(parts, call.caller, asked, shown)
    scopes = list(dict.fromkeys(asked.scope.split(" "))) if asked.scope else []
    if not all(scopes):
        raise InvalidScope("scope is malformed")
    return _refresh(parts, kept, call, shown, scopes)


def _check_client(parts: Parts, caller: Caller, asked: TokenRequest, shown: RefreshToken) -> None:
    """Let nobody but the session's own client use its refresh token; nothing is consumed here."""
    if caller is not NOBODY:
        if caller.client_id != shown.client_id and parts.callers.has_client(shown.client_id):
            raise InvalidGrant(_NO_GRANT)
        if caller.client_id not in {"", shown.client_id}:
            raise InvalidGrant(_NO_GRANT)
        if asked.client_id not in {None, caller.name, shown.client_id}:
            raise InvalidGrant(_NO_GRANT)
    elif parts.callers.has_client(shown.client_id):
        raise InvalidClient("this client must authenticate")
    elif asked.client_id not in {None, shown.client_id}:
        raise InvalidGrant(_NO_GRANT)


async def _refresh(
    parts: Parts, kept: Kept, call: Call[TokenRequest], shown: RefreshToken, scopes: list[str]
) -> Tokens:
    """Refresh; all that can refuse has agreed before the script uses up the token."""
    place = tag_and_start(shown.sid)
    if place is None:
        raise InvalidGrant(_NO_GRANT)
    tag, start = place
    # no refresh is cancelled but with all others that share the lookup
    found = await parts.store.lookups.find_shared(wide(parts, kept, shown.client_id, tag))
    key = kept.minter.signer(found.now)
    refreshed: Refreshed | Refusal
    try:
        refreshed = (
            Refusal.REVOKED
            if covers(found, start)
            else await kept.sessions.refresh(shown.sid, shown.generation, scopes)
        )
    except ReuseUnconfirmed as error:
        await _refused(parts, call, shown, error.refusal)
        raise
    if isinstance(refreshed, Refusal):
        await _refused(parts, call, shown, refreshed)
        raise InvalidScope(_NO_SCOPE) if refreshed is Refusal.SCOPE else InvalidGrant(_NO_GRANT)
    session = refreshed.session
    parts.metrics.refreshed["repeated" if refreshed.repeated else "rotated"]()
    if refreshed.repeated:
        _audit.info("refresh_repeated", peer=call.peer, sid=session.sid, client_id=session.client_id)
    scope = " ".join(scopes) or session.scope
    return await tokens(kept, session, refreshed.now, scope, key, refreshable=True)


async def _refused(parts: Parts, call: Call[TokenRequest], shown: RefreshToken, why: Refusal) -> None:
    """Say what kind of refusal it was to those who run the service, and to nobody else."""
    parts.metrics.refreshed[why.value]()
    told = {"peer": call.peer, "sid": shown.sid, "client_id": shown.client_id}
    if why in _REUSED:
        _audit.warning("refresh_reused", kind=why.value, generation=shown.generation, **told)
    elif why is Refusal.AHEAD:
        _audit.error("refresh_ahead_of_store", generation=shown.generation, **told)
        await parts.store.settle(shown.sid)
    else:
        _audit.info("refresh_refused", kind=why.value, **told)


ENDPOINTS: Final = (
    Endpoint(
        path=PATH,
        scope="",
        body=TokenRequest,
        answer=Tokens,
        summary="Refresh a session's tokens (RFC 6749 §6)",
        handle=token,
    ),
)
