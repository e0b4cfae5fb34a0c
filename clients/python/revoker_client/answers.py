"""Readers of the members of a success; others raise ``KeyError``, ``TypeError`` or ``ValueError``."""

from dataclasses import dataclass
from typing import Any

from revoker_client.errors import RevokerError, RevokerRejected, RevokerUnavailable
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


def nothing(_: Any) -> None:
    """There are no members."""


def introspection(members: Any) -> Introspection:
    active = members["active"]
    if not isinstance(active, bool):
        raise TypeError("active is neither true nor false")
    return Introspection(active, members)


@dataclass(frozen=True, slots=True)
class Results:
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
            return introspection(result)
        if error == "temporarily_unavailable":
            return RevokerUnavailable("/introspect/batch: the keys of the token's issuer are unavailable")
        return RevokerRejected(f"/introspect/batch: {error}", 400, str(error))


def explanation(members: Any) -> Explanation:
    return Explanation(
        introspection(members).active,
        members["reason"],
        tuple(members["standing"]),
        members.get("why"),
    )


def edges(members: Any) -> Edges | None:
    found = members.get("edges")
    return None if found is None else Edges(found["reached"], found["connected"])


def revoked(members: Any) -> Edges | None:
    return None if members is None else edges(members)


def cutoff(members: Any) -> Cutoff:
    return Cutoff(members["iss"], members["cutoff"], members["iat_after"], edges(members))


def revoked_key(members: Any) -> RevokedKey:
    return RevokedKey(members["iss"], members["kid"], members["revoked_at"], edges(members))


def block(members: Any) -> Block:
    return Block(members["iss"], members["sub"], members["blocked"], members["until"], edges(members))


def tokens(members: Any) -> Tokens:
    return Tokens(
        members["sid"],
        members["access_token"],
        members["token_type"],
        members["expires_in"],
        members.get("refresh_token"),
        members.get("scope"),
    )


def page(members: Any) -> SessionPage:
    return SessionPage(tuple(map(session, members["sessions"])), members["next"])


def session(members: Any) -> Session:
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
