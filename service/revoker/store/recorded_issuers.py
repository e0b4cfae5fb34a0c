"""What the store remembers of the issuers whose revocations it holds, so that new settings un-revoke nothing.

Every process reads it before it gives verdicts, and once a second from then on
(:mod:`revoker.store.issuer_records`).

- **Names** are parts of keys. An issuer that has another name than in the store, or a name that was
  another issuer's, is a conflict: there are no verdicts on its tokens, nothing of it is revoked, and no
  process starts with it.
- **Aliases** of an issuer are other values of its ``iss``, under the same name. The store remembers every one
  that any process had, because users are revoked under the first ``iss`` alone.
- **Claims**: revocations are stored by the values of the claims that the issuer's settings name. Other names
  would find other values, so they are a conflict too, until an operator accepts them
  (:meth:`revoker.store.issuer_records.IssuerRecords.accept`). So is a revocable claim that is missing
  in the settings, once something was revoked by it (``IssuerRecords.record_claim``).
- **Limits**: revocations are stored for the widest limits by which any process judges. When a process
  starts with a wider one, the store remembers the old value, which applies to what is issued within
  :data:`DELAY_MS` from then: after that every process stores its revocations for long enough
  (:func:`revoker.rules.check_old_limits`). A limit that was lowered stays as it is in the store:
  revocations are stored for longer than they must be.
- **Margins**: a cutoff also covers what is issued within ``clock_skew`` less ``iat_backdated`` after it.
  When a process starts with a smaller margin, what is issued within :data:`DELAY_MS` from then keeps the
  old one (:func:`revoker.rules.lost_margin`).
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from revoker.errors import StoreRefused
from revoker.models import STANDARD_NAMES, Issuer, LimitIncrease, OldLimits, OldMargin
from revoker.rules import FOREVER_MS, SAFETY_S

DELAY_MS: Final = 60_000

LIMITS: Final = ("max_token_lifetime", "horizon", "leeway", "clock_skew")

_NOT_FOR_0_1: Final = " (with claims, aliases or margins that version 0.1 does not support)"
"""Follows ``iss`` in a record that says more than 0.1 reads.

0.1 takes that for another issuer, and gives no verdicts. Without it 0.1 would judge by the standard names,
and remove from the record what it does not read.
"""


class IdentifyingClaims(msgspec.Struct, frozen=True, kw_only=True):
    """Those of :class:`revoker.models.ClaimNames` by whose values revocations are stored."""

    jti: tuple[str, ...] = STANDARD_NAMES.jti
    sub: tuple[str, ...] = STANDARD_NAMES.sub
    sid: tuple[str, ...] = STANDARD_NAMES.sid
    client_id: tuple[str, ...] = STANDARD_NAMES.client_id


_STANDARD_CLAIMS: Final = IdentifyingClaims()


class IssuerRecord(
    msgspec.Struct, frozen=True, omit_defaults=True, rename={"increases": "raises"}, kw_only=True
):
    """One issuer: its ``iss``, and the widest limits (s) by which any process judges.

    Attributes:
        aliases: Every other ``iss`` that any process had for it.
        claims: None: the standard names.
        revoked_by: The revocable claims by which something was revoked, and since when (ms by Redis) every
            process that lacks one is in conflict.
        margin: The least :attr:`revoker.models.Issuer.cutoff_margin` by which any process judges; None: the
            stored ``clock_skew``.
        wider: The wider margins before it.
        changing: When an operator began to change ``claims`` or ``revoked_by`` (ms by Redis); 0: nothing is
            being changed. Until it is done, there are no verdicts by any names.
    """

    iss: str
    max_token_lifetime: int
    horizon: int
    leeway: int
    clock_skew: int
    increases: tuple[LimitIncrease, ...] = ()
    aliases: tuple[str, ...] = ()
    claims: IdentifyingClaims | None = None
    revoked_by: dict[str, int] = {}
    changing: int = 0
    margin: int | None = None
    wider: tuple[OldMargin, ...] = ()

    @property
    def is_beyond_0_1(self) -> bool:
        """Whether version 0.1 would read less than the record says."""
        return bool(
            self.aliases
            or self.claims
            or self.revoked_by
            or self.changing
            or self.wider
            or self.margin is not None
        )


IssuerRecordsByName = dict[str, IssuerRecord]

_decoder: Final = msgspec.json.Decoder(IssuerRecordsByName)


def decode(text: bytes) -> IssuerRecordsByName:
    """The records in a value of the store; raises ``StoreRefused`` where it can't be read."""
    try:
        records = _decoder.decode(text)
    except (msgspec.MsgspecError, TypeError) as error:  # of a text, of anything else
        raise StoreRefused("the store holds settings that can't be read") from error
    return {
        name: msgspec.structs.replace(record, iss=record.iss.removesuffix(_NOT_FOR_0_1))
        if record.is_beyond_0_1
        else record
        for name, record in records.items()
    }


def encode(records: Mapping[str, IssuerRecord]) -> bytes:
    """The value in the store: equal for equal records, whatever their order."""
    return msgspec.json.encode(
        {
            name: msgspec.structs.replace(record, iss=record.iss + _NOT_FOR_0_1)
            if record.is_beyond_0_1
            else record
            for name, record in sorted(records.items())
        }
    )


def conflicts(records: Mapping[str, IssuerRecord], issuers: Iterable[Issuer]) -> dict[str, str]:
    """What is wrong with the names and the claims of issuers, by name."""
    found = {}
    for issuer in issuers:
        problem = conflict_of_names(records, issuer) or _conflict_of_claims(records, issuer)
        if problem is not None:
            found[issuer.name] = problem
    return found


def conflict_of_names(records: Mapping[str, IssuerRecord], issuer: Issuer) -> str | None:
    names = {iss: name for name, record in records.items() for iss in (record.iss, *record.aliases)}
    stored = records.get(issuer.name)
    name = names.get(issuer.iss, issuer.name)
    if name != issuer.name and issuer.iss in records[name].aliases:
        return (
            f"the issuer {issuer.iss} is called {issuer.name} in the settings and is an alias of {name} in"
            f" the store; put it into issuer_aliases of {name}, or use another store or another"
            " redis.key_prefix"
        )
    if name != issuer.name:
        return (
            f"the issuer {issuer.iss} is called {issuer.name} in the settings and {name} in the store;"
            f" call it {name}, or run `revoker export` with that name and `revoker import` with the new"
            " one, into an empty store or under another redis.key_prefix"
        )
    if stored is not None and stored.iss != issuer.iss:
        # not "change the file": users are exported by a hash that contains the old `iss`
        remedy = "use another store or another redis.key_prefix" if issuer.own else "give it another name"
        return (
            f"the issuer named {issuer.name} is {stored.iss} in the store and {issuer.iss} in the"
            f" settings; {remedy}"
        )
    for alias in issuer.aliases:
        if (name := names.get(alias, issuer.name)) != issuer.name:
            return (
                f"the issuer {alias} is an alias of {issuer.name} in the settings and is called {name} in the"
                f" store; configure it as the issuer {name}, or use another store or another redis.key_prefix"
            )
    return None


def _conflict_of_claims(records: Mapping[str, IssuerRecord], issuer: Issuer) -> str | None:
    stored = records.get(issuer.name)
    if stored is None:
        return None
    command = f"`revoker store accept-mapping {issuer.name}`"
    if stored.changing:
        return (
            f"the claims of issuer {issuer.name} are being changed; run {command} again if it was interrupted"
        )
    changes = claim_changes(stored, issuer)
    if not changes:
        return None
    return (
        f"the claims of issuer {issuer.name} are not those in the store: {'; '.join(changes)}. What was"
        f" revoked would be active again: change the settings back, or run {command}"
    )


def claim_changes(record: IssuerRecord, issuer: Issuer) -> list[str]:
    """How the settings of an issuer differ from the claims that the store remembers; one sentence each."""
    before, after = record.claims or _STANDARD_CLAIMS, _claims_of(issuer)
    changes = [
        f"{name} was {_listed(getattr(before, name))} and is {_listed(getattr(after, name))}"
        for name in IdentifyingClaims.__struct_fields__
        if getattr(before, name) != getattr(after, name)
    ]
    revocable = issuer.claim_names.revocable if issuer.claim_names else ()
    changes += [
        f"`{claim}` was revoked by and is not in revocable"
        for claim in record.revoked_by
        if claim not in revocable
    ]
    return changes


def _claims_of(issuer: Issuer) -> IdentifyingClaims:
    names = issuer.claim_names or STANDARD_NAMES
    return IdentifyingClaims(**{name: getattr(names, name) for name in IdentifyingClaims.__struct_fields__})


def accepted(record: IssuerRecord, issuer: Issuer) -> IssuerRecord:
    """The record once the claims of the settings are accepted."""
    revocable = issuer.claim_names.revocable if issuer.claim_names else ()
    return msgspec.structs.replace(
        record,
        claims=_recorded_claims(issuer),
        revoked_by={claim: at for claim, at in record.revoked_by.items() if claim in revocable},
        changing=0,
    )


def _recorded_claims(issuer: Issuer) -> IdentifyingClaims | None:
    claims = _claims_of(issuer)
    return None if claims == _STANDARD_CLAIMS else claims


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"


def reconciled(
    records: Mapping[str, IssuerRecord], issuers: Iterable[Issuer], now: int
) -> IssuerRecordsByName:
    """What the store must remember once these issuers are judged, from ``now`` (ms by Redis) on."""
    result = dict(records)
    for issuer in issuers:
        stored = records.get(issuer.name)
        limits = {limit: getattr(issuer, limit) for limit in LIMITS}
        if stored is None:
            record = IssuerRecord(
                iss=issuer.iss,
                aliases=tuple(sorted(issuer.aliases)),
                claims=_recorded_claims(issuer),
                **limits,
            )
            result[issuer.name] = _with_margin(record, issuer, issuer.cutoff_margin, now)
            continue
        increases = [increase for increase in stored.increases if now < _obsolete_at(increase.until, stored)]
        for limit, value in limits.items():
            if value > (old_value := getattr(stored, limit)):
                increases.append(LimitIncrease(limit, old_value, now + DELAY_MS))  # type: ignore[arg-type]
        widest = {limit: max(value, getattr(stored, limit)) for limit, value in limits.items()}
        aliases = tuple(sorted({*stored.aliases, *issuer.aliases}))
        record = msgspec.structs.replace(stored, increases=tuple(increases), aliases=aliases, **widest)
        last = stored.clock_skew if stored.margin is None else stored.margin
        result[issuer.name] = _with_margin(record, issuer, last, now)
    return result


def _with_margin(record: IssuerRecord, issuer: Issuer, last: int, now: int) -> IssuerRecord:
    """A record of an issuer whose margin was the last one, and is that of the settings now.

    What was issued by now keeps a wider one: else a token that a cutoff has covered would be active again.
    While processes of both margins run, they replace each other's record, and both judge by the wider one.
    """
    if issuer.own:
        return record
    present = issuer.cutoff_margin
    wider = {old.margin: old.until for old in record.wider if now < _obsolete_at(old.until, record)}
    wider[last] = now + DELAY_MS if present < last else 0
    return msgspec.structs.replace(
        record,
        margin=None if present == record.clock_skew else present,
        wider=tuple(OldMargin(margin, until) for margin, until in sorted(wider.items()) if margin > present),
    )


def old_limits_elsewhere(text: bytes, issuers: Iterable[Issuer]) -> dict[str, OldLimits]:
    """The old limits for a process that judges by a copy of a store, and cannot change its records.

    Where its own limits are wider than those in the store, the latter apply: revocations are stored for no
    longer than these require.

    Args:
        text: The value in the store.
        issuers: As the process has configured them.

    Raises:
        StoreRefused: the value can't be read.
    """
    records = decode(text)
    found = conflicts(records, issuers)
    old_limits = {name: OldLimits(conflict=problem) for name, problem in found.items()}
    for issuer in issuers:
        if issuer.name in found:
            continue
        stored = records.get(issuer.name)
        if stored is None:
            problem = f"the service has no issuer {issuer.name}, so none of its tokens can be revoked"
            old_limits[issuer.name] = OldLimits(conflict=problem)
            continue
        beyond = [
            LimitIncrease(limit, getattr(stored, limit), FOREVER_MS)
            for limit in LIMITS
            if getattr(issuer, limit) > getattr(stored, limit)
        ]
        last = stored.clock_skew if stored.margin is None else stored.margin
        margins = list(stored.wider)
        if last > issuer.cutoff_margin:  # its cutoffs cover more at the service
            margins.append(OldMargin(last, FOREVER_MS))
        if stored.increases or beyond or margins:
            old_limits[issuer.name] = OldLimits((*stored.increases, *beyond), tuple(margins))
    return old_limits


def _obsolete_at(until: int, record: IssuerRecord) -> int:
    """When the last token that was issued until a time can no longer be active (both in ms)."""
    longest = max(record.max_token_lifetime, record.horizon) + record.leeway + record.clock_skew + SAFETY_S
    return until + longest * 1000
