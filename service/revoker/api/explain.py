"""``POST /explain``: for support staff, what decides about a token, since when and why."""

import msgspec
import structlog

from revoker.api.cutoffs import refuse_bound
from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import NumericDate
from revoker.api.introspection import Introspect, claims_of, issuer_of_claims, token_of
from revoker.api.parts import Parts
from revoker.api.verdicts import Judged
from revoker.models import Mark, Standing, Verdict
from revoker.rules import FOREVER_MS

_audit = structlog.get_logger("audit")


class Standpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that stands against a token, its user, session, client, key or issuer.

    ``since`` is when it was made, or for a cutoff the date that it bears; ``until`` is for blocks.
    """

    kind: str
    since: NumericDate | None = None
    until: NumericDate | None = None
    except_sid: str | None = None
    why: str | None = None


class Explanation(msgspec.Struct, frozen=True):
    """The verdict, the first test that failed (or ``active``), and all that stands."""

    active: bool
    reason: str
    standing: list[Standpoint]


async def explain(parts: Parts, call: Call[Introspect]) -> Explanation:
    asked, caller = call.body, call.caller
    refuse_bound(call)
    if call.fields is not None and ("token" in call.fields or "client_secret" in call.fields):
        asked = msgspec.structs.replace(asked, client_id=None)  # the caller's own (RFC 6749 §2.3.1)
    token = token_of(asked)
    if token is not None:
        judged = await parts.verdicts.of_token(token, caller, checked=True)
    else:
        wanted = claims_of(asked)
        issuer = issuer_of_claims(wanted, caller)
        judged = await parts.verdicts.of_claims(wanted, issuer, caller, checked=True)
    claims = judged.claims
    _audit.info(
        "token_explained",
        caller=caller.name,
        peer=call.peer,
        verdict=judged.verdict.value,
        iss=claims.iss if claims else None,
        jti=claims.jti if claims else None,
        sub=claims.sub if claims else None,
    )
    foreign = judged.verdict is Verdict.FOREIGN
    return Explanation(
        judged.verdict is Verdict.ACTIVE,
        judged.verdict.value,
        [] if foreign or judged.standing is None else _standpoints(judged, judged.standing),
    )


def _standpoints(judged: Judged, standing: Standing) -> list[Standpoint]:
    found = []
    user = standing.user
    if user is not None and user.blocked > judged.store_now:
        until = None if user.blocked >= FOREVER_MS else user.blocked / 1000
        found.append(Standpoint(kind="user_block", until=until, why=user.block_reason or None))
    if user is not None and user.hard:
        found.append(Standpoint(kind="user_cutoff", since=user.hard / 1000, why=user.reason or None))
    if user is not None and user.soft > user.hard:
        found.append(
            Standpoint(
                kind="user_cutoff",
                since=user.soft / 1000,
                except_sid=user.sid or None,
                why=user.reason or None,
            )
        )
    marks: list[tuple[str, Mark | None]] = [
        ("token", standing.jti),
        ("session_cutoff", standing.session),
        ("client_cutoff", standing.client),
        ("issuer_cutoff", standing.issuer),
    ]
    found += [_standpoint(kind, mark) for kind, mark in marks if mark is not None]
    kid = judged.claims.kid if judged.claims else None
    found += [_standpoint("key", mark) for each, mark in standing.keys.items() if kid in {None, each}]
    configured = judged.issuer.revoked_kids if judged.issuer else frozenset()
    if kid in configured or (kid is None and configured):
        found.append(Standpoint(kind="key", why="revoked_kids of the configuration"))
    if standing.loss:
        found.append(Standpoint(kind="data_loss", since=standing.loss / 1000, why="the store lost data then"))
    return found


def _standpoint(kind: str, mark: Mark) -> Standpoint:
    return Standpoint(kind=kind, since=mark.at / 1000, why=mark.reason or None)


ENDPOINTS = (
    Endpoint(
        path="/explain",
        scope="revoke",
        body=Introspect,
        answer=Explanation,
        summary="Say what decides about a token, since when and why",
        handle=explain,
    ),
)
