"""Every call of the API as a value: what to send, and how to read the answer. No I/O."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

from revoker_client.errors import RevokerDenied, RevokerError, RevokerRejected, RevokerUnavailable
from revoker_client.results import (
    Block,
    Cutoff,
    Edges,
    Explanation,
    Introspection,
    RevokedKey,
    Session,
    SessionPage,
    Tokens,
)

T = TypeVar("T")
Token = str | Mapping[str, Any]
"""A token, or what a gateway posts of one whose signature it has verified."""
BATCH: Final = 1000
"""The most tokens of one request."""
Result = Introspection | RevokerError


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


def envelope(claims: Mapping[str, Any], header: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The claims form of a token; its ``kid`` counts only in the header."""
    return dict(claims) if header is None else {"claims": dict(claims), "header": dict(header)}


def introspect(token: Token) -> Call[Introspection]:
    return Call("POST", "/introspect", _form(token), True, _introspection)


def batches(tokens: Iterable[Token]) -> Iterator[Call[list[Result]]]:
    """As few calls as the service allows."""
    forms = [_form(token) for token in tokens]
    for first in range(0, len(forms), BATCH):
        part = forms[first : first + BATCH]
        yield Call("POST", "/introspect/batch", {"tokens": part}, True, _Results(len(part)))


def explain(token: Token) -> Call[Explanation]:
    return Call("POST", "/explain", _form(token), True, _explanation)


WaitEdges = bool | int
"""For how many edges a call waits; True: for all that are connected, False: for none."""
_DEFAULT_WAIT_S: Final = 2.0
"""How long the service waits where a call does not say it."""


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


def revoke(
    members: Mapping[str, Any], wait_edges: WaitEdges, wait_seconds: float | None
) -> Call[Edges | None]:
    """By the token alone, or by ``jti``.

    Raises:
        ValueError: Both or neither are given.
    """
    token = members["token"]
    if (token is None) == (members["jti"] is None):
        raise ValueError("give either token or jti")
    if token is not None:
        members = {"token": token}
    return _change("/revoke", members, _revoked, wait_edges, wait_seconds)


def cutoff(
    path: str, members: Mapping[str, Any], wait_edges: WaitEdges, wait_seconds: float | None
) -> Call[Cutoff]:
    """``/revoke-user`` and the like: to repeat it moves the cutoff by the time between, never back."""
    return _change(path, members, _cutoff, wait_edges, wait_seconds)


def revoke_key(
    kid: str, iss: str, reason: str | None, wait_edges: WaitEdges, wait_seconds: float | None
) -> Call[RevokedKey]:
    members = {"kid": kid, "iss": iss, "reason": reason}
    return _change("/revoke-key", members, _revoked_key, wait_edges, wait_seconds)


def block_user(members: Mapping[str, Any], wait_edges: WaitEdges, wait_seconds: float | None) -> Call[Block]:
    return _change("/block-user", members, _block, wait_edges, wait_seconds)


def unblock_user(
    members: Mapping[str, Any], wait_edges: WaitEdges, wait_seconds: float | None
) -> Call[Block]:
    """Not repeatable: it would undo a block that was set between the two."""
    return _change("/unblock-user", members, _block, wait_edges, wait_seconds, repeatable=False)


def begin_session(members: Mapping[str, Any]) -> Call[Tokens]:
    return Call("POST", "/sessions", _given(members), False, _tokens)


def sessions(query: Mapping[str, Any]) -> Call[SessionPage]:
    return Call("GET", "/sessions", None, True, _page, _given(query))


def end_session(sid: str) -> Call[None]:
    return Call("DELETE", f"/sessions/{quote(sid, safe='')}", None, True, _nothing)


def elevate_session(sid: str, amr: Sequence[str] | None, acr: str | None) -> Call[Tokens]:
    body = _given({"amr": None if amr is None else list(amr), "acr": acr})
    return Call("POST", f"/sessions/{quote(sid, safe='')}/elevate", body, False, _tokens)


def refresh(refresh_token: str, scope: str | None, client_id: str | None) -> Call[Tokens]:
    """Not repeatable: with ``refresh_grace = 0`` a second use counts as theft."""
    body = _given({"refresh_token": refresh_token, "scope": scope, "client_id": client_id})
    return Call("POST", "/token", {"grant_type": "refresh_token", **body}, False, _tokens)


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


def _nothing(_: Any) -> None:
    return None


def _introspection(members: Any) -> Introspection:
    active = members["active"]
    if not isinstance(active, bool):
        raise TypeError("active is neither true nor false")
    return Introspection(active, members)


@dataclass(frozen=True, slots=True)
class _Results:
    """Reads the results of a batch, of which there must be as many as tokens."""

    count: int

    def __call__(self, members: Any) -> list[Introspection | RevokerError]:
        results = [self._one(result) for result in members["results"]]
        if len(results) != self.count:
            raise ValueError(f"{len(results)} results for {self.count} tokens")
        return results

    def _one(self, result: Any) -> Introspection | RevokerError:
        error = result.get("error")
        if error is None:
            return _introspection(result)
        if error == "temporarily_unavailable":
            return RevokerUnavailable("/introspect/batch: the keys of the token's issuer are unavailable")
        return RevokerRejected(f"/introspect/batch: {error}", 400, str(error))


def _explanation(members: Any) -> Explanation:
    return Explanation(
        _introspection(members).active,
        members["reason"],
        tuple(members["standing"]),
        members.get("why"),
    )


def _edges(members: Any) -> Edges | None:
    found = members.get("edges")
    return None if found is None else Edges(found["reached"], found["connected"])


def _revoked(members: Any) -> Edges | None:
    return None if members is None else _edges(members)


def _cutoff(members: Any) -> Cutoff:
    return Cutoff(members["iss"], members["cutoff"], members["iat_after"], _edges(members))


def _revoked_key(members: Any) -> RevokedKey:
    return RevokedKey(members["iss"], members["kid"], members["revoked_at"], _edges(members))


def _block(members: Any) -> Block:
    return Block(members["iss"], members["sub"], members["blocked"], members["until"], _edges(members))


def _tokens(members: Any) -> Tokens:
    return Tokens(
        members["sid"],
        members["access_token"],
        members["token_type"],
        members["expires_in"],
        members.get("refresh_token"),
        members.get("scope"),
    )


def _page(members: Any) -> SessionPage:
    return SessionPage(tuple(map(_session, members["sessions"])), members["next"])


def _session(members: Any) -> Session:
    return Session(
        members["sid"],
        members["client_id"],
        members["device"],
        members["ip"],
        members["user_agent"],
        tuple(members["amr"]),
        members["created"],
        members["last_used"],
        members["expires"],
        members["current"],
    )
