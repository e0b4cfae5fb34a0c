"""``POST /token`` (RFC 6749 §6): a refresh token gives an access token and its successor."""

from typing import Annotated, Final

import msgspec
import structlog

from revoker.api.credentials import NOBODY, Authentication
from revoker.api.endpoint import Call, Endpoint
from revoker.api.session_services import SessionServices, Tokens
from revoker.auth import Caller, Credentials
from revoker.errors import (
    InvalidClient,
    InvalidGrant,
    InvalidRequest,
    InvalidScope,
    KeysUnavailable,
    UnsupportedGrantType,
)
from revoker.metrics import Metrics
from revoker.models import RevocableClaims, Session
from revoker.rules import session_is_cut_off
from revoker.store.keys import tag_and_start
from revoker.store.sessions import Refreshed, Refusal, ReuseUnconfirmed
from revoker.store.store import Store
from revoker.tokens.refresh_tokens import RefreshToken

PATH: Final = "/token"

_audit = structlog.get_logger("audit")

_REUSED: Final = frozenset({Refusal.REUSED_PREVIOUS, Refusal.REUSED_OLDER})
_NO_SCOPE: Final = "more scope than was granted"
_NO_GRANT: Final = "the refresh token is wrong, spent or ended"


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The refresh token is the credential; ``client_id``, where it is sent, must match.

    ``client_secret`` beside it is the credential of the client (RFC 6749 §2.3.1).
    """

    grant_type: str | None = None
    refresh_token: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    scope: str | None = None
    client_id: str | None = None
    client_secret: str | None = None


async def refresh(
    call: Call[TokenRequest],
    *,
    sessions: SessionServices,
    authentication: Authentication,
    metrics: Metrics,
    store: Store,
) -> Tokens:
    """Refresh a session; everything that can refuse is checked before the script uses up the token."""
    request = call.body
    if call.fields is None and request.client_secret is not None:
        call = msgspec.structs.replace(call, caller=_caller_in_json(call, authentication))
    if not request.grant_type:
        raise InvalidRequest("grant_type is missing")
    if request.grant_type != "refresh_token":
        raise UnsupportedGrantType("only refresh_token is known here")
    if not request.refresh_token:
        raise InvalidRequest("refresh_token is missing")
    token = sessions.refresh_tokens.read(request.refresh_token)
    if token is None:
        raise InvalidGrant(_NO_GRANT)
    _check_client(call, token, authentication)
    scopes = list(dict.fromkeys(request.scope.split(" "))) if request.scope else []
    if not all(scopes):
        raise InvalidScope("scope is malformed")
    tag_start = tag_and_start(token.sid)
    if tag_start is None:
        raise InvalidGrant(_NO_GRANT)
    tag, start = tag_start
    revocable: RevocableClaims | None = ()
    if sessions.issuer.claim_names is not None:  # the claims of a session never change
        record = await sessions.reader.peek(token.sid)
        revocable = None if record is None else sessions.revocable(record.claims)
    # a change is not cancelled where its client goes, so it may share a lookup with others
    found = await sessions.cutoffs.beyond_user_together(token.client_id, tag, revocable or ())
    key = sessions.minter.signer(found.now)

    async def is_revoked_by_claims(session: Session) -> bool:
        found = await sessions.cutoffs.beyond_user_together(
            token.client_id, tag, sessions.revocable(session.claims)
        )
        return session_is_cut_off(start, found.state, store_now=found.now)

    refreshed: Refreshed | Refusal
    try:
        if session_is_cut_off(start, found.state, store_now=found.now):
            refreshed = Refusal.REVOKED
        else:
            # a record read at a server that had not got it yet has claims that were not looked up
            is_revoked = is_revoked_by_claims if revocable is None else None
            refreshed = await sessions.store.refresh(token.sid, token.generation, scopes, is_revoked)
    except ReuseUnconfirmed as error:
        await _report_refusal(call, token, error.refusal, metrics, store)
        raise
    if isinstance(refreshed, Refusal):
        await _report_refusal(call, token, refreshed, metrics, store)
        raise InvalidScope(_NO_SCOPE) if refreshed is Refusal.SCOPE else InvalidGrant(_NO_GRANT)
    session = refreshed.session
    metrics.refreshed["repeated" if refreshed.repeated else "rotated"]()
    if refreshed.repeated:
        _audit.info("refresh_repeated", peer=call.peer, sid=session.sid, client_id=session.client_id)
    scope = " ".join(scopes) or session.scope
    return await sessions.tokens(session, refreshed.now, scope, key, refreshable=True)


def _caller_in_json(call: Call[TokenRequest], authentication: Authentication) -> Caller:
    """The caller whose credential is in the body, as it may be in a form."""
    if call.caller is not NOBODY:
        raise InvalidRequest("two methods of authentication at once")
    request = call.body
    credentials = Credentials(None, request.client_id, request.client_secret, frozenset(), call.peer)
    return authentication.callers.authenticate(credentials)


def _check_client(call: Call[TokenRequest], token: RefreshToken, authentication: Authentication) -> None:
    """Let only the session's own client use its refresh token; nothing is consumed here."""
    caller, client_id = call.caller, call.body.client_id
    if caller is not NOBODY:
        if caller.client_id != token.client_id and authentication.callers.has_client(token.client_id):
            raise InvalidGrant(_NO_GRANT)
        if caller.client_id not in {"", token.client_id}:
            raise InvalidGrant(_NO_GRANT)
        if client_id not in {None, caller.name, token.client_id}:
            raise InvalidGrant(_NO_GRANT)
    elif authentication.callers.has_client(token.client_id):
        raise InvalidClient("this client must authenticate")
    elif client_id not in {None, token.client_id}:
        raise InvalidGrant(_NO_GRANT)


async def _report_refusal(
    call: Call[TokenRequest], token: RefreshToken, reason: Refusal, metrics: Metrics, store: Store
) -> None:
    """Count and log why a refresh was refused, which the client must not learn."""
    metrics.refreshed[reason.value]()
    about = {"peer": call.peer, "sid": token.sid, "client_id": token.client_id}
    if reason in _REUSED:
        _audit.warning("refresh_reused", kind=reason.value, generation=token.generation, **about)
    elif reason is Refusal.AHEAD:
        _audit.error("refresh_ahead_of_store", generation=token.generation, **about)
        await store.settle(token.sid)
    else:
        _audit.info("refresh_refused", kind=reason.value, **about)


ENDPOINTS: Final = (
    Endpoint(
        path=PATH,
        scope="",
        body=TokenRequest,
        answer=Tokens,
        summary="Refresh a session's tokens (RFC 6749 §6)",
        handle=refresh,
        errors=(InvalidGrant, InvalidScope, KeysUnavailable, UnsupportedGrantType),
    ),
)
