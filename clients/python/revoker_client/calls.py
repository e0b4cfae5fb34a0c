"""Every method of the clients as a description of its request: what to send, and how to read the answer.

No I/O: :mod:`revoker_client.client` sends them. The names, parameters and docstrings here are those of the
methods.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

from revoker_client import answers
from revoker_client.errors import RevokerDenied, RevokerError, RevokerRejected, RevokerUnavailable
from revoker_client.results import (
    Block,
    Cutoff,
    Edges,
    Explanation,
    Introspection,
    RevokedKey,
    SessionPage,
    Tokens,
)

T = TypeVar("T")
Token = str | Mapping[str, Any]
"""A token, or what a gateway posts of one whose signature it has verified."""
WaitEdges = bool | int
"""For how many edges a call waits; True: for all that are connected, False: for none."""
BATCH: Final = 1000
"""The most tokens of one request."""
_DEFAULT_WAIT_S: Final = 2.0
"""How long the service waits where a call does not say it."""
_FIRST_USE_OF_CLAIM_S: Final = 4.0
"""The longest that the service takes to tell all its processes that a claim is used for revocations."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request.

    Attributes:
        body: JSON; None: there is none.
        repeatable: Whether it may be sent again after the connection broke, since the second time changes
            nothing.
        waits: For how many seconds the service may wait before it answers.
        parse: Reads the members of a success; may raise ``KeyError``, ``TypeError``, ``ValueError``.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None
    repeatable: bool
    parse: Callable[[Any], T]
    query: Mapping[str, str | int] | None = None
    waits: float = 0


# Verdicts


def introspect(token: str) -> Call[Introspection]:
    """The verdict on a token whose signature Revoker verifies."""
    return Call("POST", "/introspect", _form(token), True, answers.introspection)


def introspect_claims(
    claims: Mapping[str, Any], header: Mapping[str, Any] | None = None
) -> Call[Introspection]:
    """The verdict on a token whose signature was verified before, by its payload and its JOSE header."""
    # the `kid` counts only in the header
    body = dict(claims) if header is None else {"claims": dict(claims), "header": dict(header)}
    return Call("POST", "/introspect", body, True, answers.introspection)


def batches(tokens: Iterable[Token]) -> Iterator[Call[list[Introspection | RevokerError]]]:
    """As few calls as the service allows."""
    forms = [_form(token) for token in tokens]
    for first in range(0, len(forms), BATCH):
        part = forms[first : first + BATCH]
        yield Call("POST", "/introspect/batch", {"tokens": part}, True, answers.Results(len(part)))


def explain(token: Token) -> Call[Explanation]:
    """Why a token is active or not, for support staff; scope ``revoke``."""
    return Call("POST", "/explain", _form(token), True, answers.explanation)


# Changes; to repeat a revocation moves its cutoff by the time between, never back


def revoke(
    token: str | None = None,
    *,
    jti: str | None = None,
    iss: str | None = None,
    exp: float | None = None,
    wait_edges: WaitEdges = False,
    wait_seconds: float | None = None,
) -> Call[Edges | None]:
    """Revoke one token, by itself or by ``jti``; also succeeds if there is nothing to revoke.

    Returns:
        How far that has spread, where the call waits for edges.

    Raises:
        ValueError: Both or neither of ``token`` and ``jti`` are given.
    """
    if (token is None) == (jti is None):
        raise ValueError("give either token or jti")
    members = {"jti": jti, "iss": iss, "exp": exp} if token is None else {"token": token}
    return _change("/revoke", members, answers.revoked, wait_edges, wait_seconds)


def revoke_user(
    sub: str,
    *,
    iss: str | None = None,
    before: float | None = None,
    except_sid: str | None = None,
    reason: str | None = None,
    wait_edges: WaitEdges = False,
    wait_seconds: float | None = None,
) -> Call[Cutoff]:
    """Log a user out everywhere, except in one session where ``except_sid`` is given."""
    members = {"sub": sub, "iss": iss, "before": before, "except_sid": except_sid, "reason": reason}
    return _change("/revoke-user", members, answers.cutoff, wait_edges, wait_seconds)


def revoke_session(
    sid: str,
    *,
    iss: str | None = None,
    before: float | None = None,
    reason: str | None = None,
    wait_edges: WaitEdges = False,
    wait_seconds: float | None = None,
) -> Call[Cutoff]:
    """End one session of any issuer."""
    members = {"sid": sid, "iss": iss, "before": before, "reason": reason}
    return _change("/revoke-session", members, answers.cutoff, wait_edges, wait_seconds)


def revoke_client(
    client_id: str,
    *,
    iss: str | None = None,
    before: float | None = None,
    reason: str | None = None,
    wait_edges: WaitEdges = False,
    wait_seconds: float | None = None,
) -> Call[Cutoff]:
    """Revoke all that a client was given."""
    members = {"client_id": client_id, "iss": iss, "before": before, "reason": reason}
    return _change("/revoke-client", members, answers.cutoff, wait_edges, wait_seconds)


def revoke_claim(
    claim: str,
    value: str | float,
    *,
    iss: str | None = None,
    before: float | None = None,
    reason: str | None = None,
    wait_edges: WaitEdges = False,
    wait_seconds: float | None = None,
) -> Call[Cutoff]:
    """Revoke every token in which a claim has a value: a grant, a tenant, an agent.

    The first revocation by a claim takes the service some 3 s: every process must learn of it before.
    """
    members = {"claim": claim, "value": value, "iss": iss, "before": before, "reason": reason}
    call = _change("/revoke-claim", members, answers.cutoff, wait_edges, wait_seconds)
    return replace(call, waits=call.waits + _FIRST_USE_OF_CLAIM_S)


def revoke_issuer(
    iss: str,
    *,
    before: float | None = None,
    reason: str | None = None,
    wait_edges: WaitEdges = False,
    wait_seconds: float | None = None,
) -> Call[Cutoff]:
    """Log out all users of an issuer; scope ``revoke-all``."""
    members = {"iss": iss, "before": before, "reason": reason}
    return _change("/revoke-issuer", members, answers.cutoff, wait_edges, wait_seconds)


def revoke_key(
    kid: str,
    *,
    iss: str,
    reason: str | None = None,
    wait_edges: WaitEdges = False,
    wait_seconds: float | None = None,
) -> Call[RevokedKey]:
    """Revoke a signing key for good; scope ``revoke-all``."""
    members = {"kid": kid, "iss": iss, "reason": reason}
    return _change("/revoke-key", members, answers.revoked_key, wait_edges, wait_seconds)


def block_user(
    sub: str,
    *,
    iss: str | None = None,
    until: float | None = None,
    reason: str | None = None,
    wait_edges: WaitEdges = False,
    wait_seconds: float | None = None,
) -> Call[Block]:
    """Until the block ends, no token of the user is active, new ones included."""
    members = {"sub": sub, "iss": iss, "until": until, "reason": reason}
    return _change("/block-user", members, answers.block, wait_edges, wait_seconds)


def unblock_user(
    sub: str,
    *,
    iss: str | None = None,
    reason: str | None = None,
    wait_edges: WaitEdges = False,
    wait_seconds: float | None = None,
) -> Call[Block]:
    """End a block."""
    members = {"sub": sub, "iss": iss, "reason": reason}
    # a repeat would undo a block that was set between the two
    return _change("/unblock-user", members, answers.block, wait_edges, wait_seconds, repeatable=False)


def _change(
    path: str,
    members: Mapping[str, Any],
    parse: Callable[[Any], T],
    wait_edges: WaitEdges,
    wait_seconds: float | None,
    *,
    repeatable: bool = True,
) -> Call[T]:
    """A change that may wait for edges."""
    body = _given(members)
    if wait_edges is False:
        return Call("POST", path, body, repeatable, parse)
    body |= _given({"wait_edges": wait_edges, "wait_seconds": wait_seconds})
    waits = _DEFAULT_WAIT_S if wait_seconds is None else wait_seconds
    return Call("POST", path, body, repeatable, parse, waits=waits)


# Sessions


def begin_session(
    sub: str,
    *,
    client_id: str | None = None,
    scope: str | None = None,
    aud: str | Sequence[str] | None = None,
    amr: Sequence[str] | None = None,
    acr: str | None = None,
    device: str | None = None,
    ip: str | None = None,
    user_agent: str | None = None,
    claims: Mapping[str, Any] | None = None,
) -> Call[Tokens]:
    """Begin a session after a login; scope ``sessions``. ``claims`` are added to its access tokens."""
    members = {
        "sub": sub,
        "client_id": client_id,
        "scope": scope,
        "aud": aud,
        "amr": amr,
        "acr": acr,
        "device": device,
        "ip": ip,
        "user_agent": user_agent,
        "claims": claims,
    }
    return Call("POST", "/sessions", _given(members), False, answers.tokens)


def sessions(
    sub: str,
    *,
    iss: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
    current: str | None = None,
) -> Call[SessionPage]:
    """A user's sessions, a page at a time; ``current`` is the ``sid`` to mark."""
    query = {"sub": sub, "iss": iss, "limit": limit, "cursor": cursor, "current": current}
    return Call("GET", "/sessions", None, True, answers.page, _given(query))


def end_session(sid: str) -> Call[None]:
    """End a session that Revoker issued; also succeeds if it has ended."""
    return Call("DELETE", f"/sessions/{quote(sid, safe='')}", None, True, answers.nothing)


def elevate_session(sid: str, *, amr: Sequence[str] | None = None, acr: str | None = None) -> Call[Tokens]:
    """Record that a second factor was passed; the new access token has the new ``auth_time``."""
    body = _given({"amr": None if amr is None else list(amr), "acr": acr})
    return Call("POST", f"/sessions/{quote(sid, safe='')}/elevate", body, False, answers.tokens)


def refresh(refresh_token: str, *, scope: str | None = None, client_id: str | None = None) -> Call[Tokens]:
    """New tokens for a refresh token, which is used up.

    After :class:`RevokerUnavailable` the same token may be sent again within ``refresh_grace``.
    """
    # not repeatable: with `refresh_grace = 0` a second use counts as theft
    body = _given({"refresh_token": refresh_token, "scope": scope, "client_id": client_id})
    return Call("POST", "/token", {"grant_type": "refresh_token", **body}, False, answers.tokens)


# The answer


def read(call: Call[T], status: int, headers: Mapping[str, str], content: bytes) -> T:
    """The result of a call.

    Raises:
        RevokerDenied: 401 or 403.
        RevokerRejected: Another 4xx but 429.
        RevokerUnavailable: Anything else that is no complete success.
    """
    if status in {200, 201, 204}:
        try:
            return call.parse(json.loads(content) if content else None)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise RevokerUnavailable(f"{call.path}: the answer cannot be read: {error!r}") from error
    code, text = _error_of(content)
    message = f"{call.path}: {status} {code}: {text}"
    if status in {401, 403}:
        raise RevokerDenied(message, status, code)
    if 400 <= status < 500 and status != 429:
        raise RevokerRejected(message, status, code)
    after = headers.get("retry-after", "")
    raise RevokerUnavailable(message, int(after) if after.isascii() and after.isdecimal() else None)


def _error_of(content: bytes) -> tuple[str, str]:
    try:
        members = json.loads(content)
        return str(members["error"]), str(members.get("error_description", ""))
    except (AttributeError, KeyError, TypeError, ValueError):
        return "unknown", "the answer is none of Revoker's"


def _form(token: Token) -> Mapping[str, Any]:
    return {"token": token} if isinstance(token, str) else token


def _given(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
