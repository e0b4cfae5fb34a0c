"""``/sessions``: begin a session after a login, end it, and record a second factor."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from revoker.api.endpoint import Call, Endpoint
from revoker.api.session_services import CLAIMS_BYTES, SessionServices, Tokens
from revoker.auth import Caller
from revoker.errors import AccessDenied, InvalidRequest, KeysUnavailable, StoreRefused
from revoker.metrics import Metrics
from revoker.models import RESERVED_CLAIMS, Issuer
from revoker.rules import revocable_value, session_is_cut_off
from revoker.store.keys import user_tag
from revoker.store.sessions import Refusal
from revoker.tokens.claims import MAX_REVOCABLE_VALUES
from revoker.tokens.parsing import strict_json_object

Short = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
# Python's "$" matches before a line feed at the end, too.
Scope = Annotated[
    str,
    msgspec.Meta(max_length=2048, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*$(?!\n)"),
]
Client = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"^[\x20-\x7e]+$(?!\n)")]
Methods = Annotated[list[Short], msgspec.Meta(max_length=16)]


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """A login that the caller has checked.

    ``client_id`` defaults to the caller's own, or its name; ``aud`` to the configured audiences, of
    which it must be a subset. ``claims`` are further claims of the access tokens, in at most 1 KiB of JSON.
    Values of claims that are revocable by the settings are strings or numbers.
    """

    sub: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    client_id: Client | None = None
    scope: Scope | None = None
    aud: str | Annotated[list[str], msgspec.Meta(min_length=1, max_length=16)] | None = None
    amr: Methods | None = None
    acr: Short | None = None
    device: Short | None = None
    ip: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    user_agent: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    claims: dict[str, Any] | None = None


class End(msgspec.Struct, frozen=True):
    """The path names the session; ``dry_run`` and ``wait_edges`` are refused: use ``/revoke-session``."""

    dry_run: Annotated[bool, msgspec.Meta(extra_json_schema={"enum": [False]})] = False
    wait_edges: Annotated[bool, msgspec.Meta(extra_json_schema={"enum": [False]})] = False


class Elevation(msgspec.Struct, frozen=True, kw_only=True):
    """The user has passed a second factor; a member that is left out stays as it was."""

    amr: Methods | None = None
    acr: Short | None = None


async def begin_session(call: Call[Login], *, sessions: SessionServices, metrics: Metrics) -> Tokens:
    """Begin a session.

    Raises:
        StoreRefused: a cutoff would cover the session at once; it does not begin, and displaces no other.
    """
    login = call.body
    sessions.require_access(call.caller)
    client_id = _client(call.caller, login.client_id)
    audiences = [login.aud] if isinstance(login.aud, str) else login.aud or []
    if not set(audiences) <= sessions.audiences:
        raise InvalidRequest("aud names an audience that is not configured")
    claims = login.claims or {}
    if claims:
        _check_claims(claims, sessions.issuer)
    revocable = sessions.revocable(claims)
    found = await sessions.cutoffs.of(sub=login.sub, client_id=client_id, revocable=revocable)
    if session_is_cut_off(found.now, found.state, store_now=found.now):
        raise StoreRefused("everything was revoked a moment ago; log in again in two seconds")
    key = sessions.minter.signer(found.now)
    started = await sessions.store.start(
        login.sub,
        client_id,
        scope=login.scope or "",
        aud=audiences,
        amr=login.amr or (),
        acr=login.acr or "",
        device=login.device or "",
        ip=login.ip or "",
        user_agent=login.user_agent or "",
        claims=claims,
        now=found.now,
    )
    if started is None:
        raise AccessDenied("the user is blocked")
    session = started.session
    tokens = await sessions.tokens(session, started.now, session.scope, key, refreshable=True)
    metrics.sessions.labels("begun").inc()
    metrics.sessions.labels("displaced").inc(started.displaced)
    call.audit(
        "session_begun", sub=login.sub, sid=session.sid, client_id=client_id, displaced=started.displaced
    )
    return tokens


async def end_session(call: Call[End], *, sessions: SessionServices, metrics: Metrics) -> None:
    """End a session; one that has ended, or was lost, is ended once more, and its tokens with it."""
    sessions.require_access(call.caller)
    sid = call.path["sid"]
    if call.body.dry_run:
        raise InvalidRequest("dry_run is not possible here: /revoke-session has it")
    if call.body.wait_edges:
        raise InvalidRequest("wait_edges is not possible here: /revoke-session has it")
    if call.caller.client_id:
        session = await sessions.reader.peek(sid)
        if session is not None:
            _client(call.caller, session.client_id)
    if await sessions.store.end(sid, by=call.caller.name):
        metrics.sessions.labels("ended").inc()
        call.audit("session_ended", sid=sid)


async def elevate_session(call: Call[Elevation], *, sessions: SessionServices, metrics: Metrics) -> Tokens:
    """Record how the user has authenticated, and answer an access token that says so."""
    elevation, sid = call.body, call.path["sid"]
    sessions.require_access(call.caller)
    if elevation.amr is None and elevation.acr is None:
        raise InvalidRequest("amr or acr is needed")
    session = await sessions.reader.peek(sid)
    if session is None:
        raise AccessDenied("there is no such session")
    _client(call.caller, session.client_id)
    tag = user_tag(sessions.issuer.iss, session.sub)
    found = await sessions.cutoffs.beyond_user(session.client_id, tag, sessions.revocable(session.claims))
    if session_is_cut_off(session.start, found.state, store_now=found.now):
        raise AccessDenied("the session has ended")
    key = sessions.minter.signer(found.now)
    elevated = await sessions.store.elevate(
        sid,
        session.amr if elevation.amr is None else elevation.amr,
        session.acr if elevation.acr is None else elevation.acr,
    )
    if isinstance(elevated, Refusal):
        raise AccessDenied("the session has ended")
    metrics.sessions.labels("elevated").inc()
    call.audit("session_elevated", sid=sid, amr=elevation.amr, acr=elevation.acr)
    return await sessions.tokens(elevated.session, elevated.now, session.scope, key, refreshable=False)


def _check_claims(claims: Mapping[str, Any], issuer: Issuer) -> None:
    """Check the further claims of a session.

    Raises:
        InvalidRequest: one is not for the caller to set, or tokens with these claims could not be judged.
    """
    reserved = sorted(RESERVED_CLAIMS.intersection(claims))
    if reserved:
        raise InvalidRequest(f"claims must not have {', '.join(reserved)}")
    encoded = msgspec.json.encode(claims)
    if len(encoded) > CLAIMS_BYTES:
        raise InvalidRequest(f"claims are longer than {CLAIMS_BYTES} bytes")
    try:
        strict_json_object(encoded)
    except ValueError as error:
        raise InvalidRequest(f"claims are not accepted in a token: {error}") from error
    for name in issuer.claim_names.revocable if issuer.claim_names else ():
        value = claims.get(name, [])
        values = value if isinstance(value, list) else [value]
        if len(values) > MAX_REVOCABLE_VALUES:
            raise InvalidRequest(f"claim {name} has more than {MAX_REVOCABLE_VALUES} values")
        if any(revocable_value(name, item) is None for item in values):
            raise InvalidRequest(
                f"claim {name} is revocable: its values are strings that are not empty, or numbers"
            )


def _client(caller: Caller, client_id: str | None) -> str:
    """The client of a session: the one to which the caller is bound, else the one named."""
    if caller.client_id and client_id not in {None, caller.client_id}:
        raise AccessDenied("this caller may use its own client's sessions only")
    return client_id or caller.client_id or caller.name


ENDPOINTS: Final = (
    Endpoint(
        path="/sessions",
        scope="sessions",
        body=Login,
        answer=Tokens,
        status=201,
        summary="Begin a session after a login",
        handle=begin_session,
        errors=(AccessDenied, KeysUnavailable),
    ),
    Endpoint(
        path="/sessions/{sid}",
        method="DELETE",
        scope="sessions",
        body=End,
        answer=None,
        status=204,
        summary="End a session",
        handle=end_session,
        errors=(AccessDenied,),
    ),
    Endpoint(
        path="/sessions/{sid}/elevate",
        scope="sessions",
        body=Elevation,
        answer=Tokens,
        summary="Record that a second factor was passed",
        handle=elevate_session,
        errors=(AccessDenied, KeysUnavailable),
    ),
)
