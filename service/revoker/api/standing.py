"""Revocations that concern a token, a session or a user, with who made them and why."""

from collections.abc import Mapping
from typing import Any

import msgspec

from revoker.api.fields import NumericDate
from revoker.models import RevocableClaims, Revocation, RevocationState
from revoker.rules import FOREVER_MS, is_blocked
from revoker.store.audit import read_audit


class StandingRevocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A revocation, cutoff, block or loss of data.

    ``since`` is when it was made, or the date of a cutoff; ``until`` is the end of a block. ``claim`` and
    ``value`` are there for a claim cutoff. ``by`` and ``made`` say who made it and when, where that is known.
    """

    kind: str
    since: NumericDate | None = None
    until: NumericDate | None = None
    except_sid: str | None = None
    claim: str | None = None
    value: str | None = None
    why: str | None = None
    by: str | None = None
    made: NumericDate | None = None


Audits = Mapping[str, bytes | None]
"""What is stored of who made revocations, by ``kind``."""


def standing_revocations(
    state: RevocationState, now: int, revocable: RevocableClaims = (), audits: Audits | None = None
) -> list[StandingRevocation]:
    """What is in effect, without revoked keys.

    Args:
        state: As it was looked up.
        now: Redis ``TIME`` (ms) of the lookup.
        revocable: The claims whose cutoffs were looked up.
        audits: Who made it.
    """
    made = audits or {}
    found = []
    user = state.user
    if user is not None and is_blocked(user, now):
        until = None if user.blocked >= FOREVER_MS else user.blocked / 1000
        found.append(
            StandingRevocation(
                kind="user_block",
                until=until,
                why=user.block_reason or None,
                **_made(made.get("user_block"), user.blocked),
            )
        )
    if user is not None and user.hard:
        found.append(
            StandingRevocation(
                kind="user_cutoff",
                since=user.hard / 1000,
                why=user.reason or None,
                **_made(made.get("user_cutoff"), user.hard),
            )
        )
    if user is not None and user.soft > user.hard:
        found.append(
            StandingRevocation(
                kind="user_cutoff",
                since=user.soft / 1000,
                except_sid=user.sid or None,
                why=user.reason or None,
                **_made(made.get("user_cutoff"), user.soft),
            )
        )
    marks: list[tuple[str, Revocation | None]] = [
        ("token", state.jti),
        ("session_cutoff", state.session),
        ("client_cutoff", state.client),
    ]
    found += [_standing(kind, mark, made.get(kind)) for kind, mark in marks if mark is not None]
    found += [
        StandingRevocation(
            kind="claim_cutoff",
            since=mark.at / 1000,
            claim=claim,
            value=value,
            why=mark.reason or None,
            **_made(made.get(f"claim_cutoff {claim} {value}"), mark.at),
        )
        for (claim, value), mark in zip(revocable, state.claims, strict=False)  # of none where there is none
        if mark is not None
    ]
    if state.issuer is not None:
        found.append(_standing("issuer_cutoff", state.issuer, made.get("issuer_cutoff")))
    if state.loss:
        found.append(
            StandingRevocation(kind="data_loss", since=state.loss / 1000, why="the store lost data then")
        )
    return found


def standing_key(mark: Revocation, audit: bytes | None = None) -> StandingRevocation:
    """A revoked signing key."""
    return _standing("key", mark, audit)


def _standing(kind: str, mark: Revocation, audit: bytes | None) -> StandingRevocation:
    read = read_audit(audit, mark.at)
    why = mark.reason or (read.reason if read else "")
    return StandingRevocation(kind=kind, since=mark.at / 1000, why=why or None, **_made(audit, mark.at))


def _made(audit: bytes | None, at: int) -> dict[str, Any]:
    read = read_audit(audit, at)
    return {} if read is None else {"by": read.by, "made": read.made / 1000}
