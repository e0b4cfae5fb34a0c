"""What the keys of a store hold, as lines of an export."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from revoker.models import Issuer
from revoker.rules import FOREVER_MS, SAFETY_S, is_blocked
from revoker.store.keys import Held, claim_segment
from revoker.store.stored_values import parse_revocation, parse_user_state, revoked_keys
from revoker.store.transfer import records
from revoker.store.transfer.records import Record, date


class StoredRecords:
    """Makes lines of keys and values."""

    def __init__(self, issuers: Mapping[str, Issuer]) -> None:
        """``issuers``: by their names."""
        self._issuers: Final = issuers
        self._own = next((issuer.iss for issuer in issuers.values() if issuer.own), "sessions")

    def of(self, place: Held, value: bytes, expires: int | None, now: int) -> Iterator[Record]:
        """What one key holds.

        Args:
            place: The parts of the key.
            value: Its value.
            expires: When it expires (ms); None: never, or that is not known.
            now: Redis ``TIME`` (ms); a block that has ended by then is left out.

        Raises:
            ValueError: the value can't be read; or ``MsgspecError``.
        """
        iss = self.iss(place.issuer)
        match place.kind:
            case "jti":
                yield self._token(place, parse_revocation(value).at, expires)
            case "user":
                yield from self._user(place.value, value, now)
            case "keys":
                for kid, revoked in revoked_keys(value).items():
                    reason = revoked.reason or None
                    yield records.Key(iss=iss, kid=kid, at=date(revoked.at), reason=reason)
            case _:
                cutoff = parse_revocation(value)
                yield self.cutoff(place, before=date(cutoff.at), reason=cutoff.reason or None)

    def cutoff(self, place: Held, **dated: Any) -> Record:
        """The cutoff of a user, session, client, claim or issuer, with its other members."""
        iss = self.iss(place.issuer)
        match place.kind:
            case "user":
                return records.User(tag=place.value, **dated)
            case "session-cutoff":
                return records.Session(iss=iss, **_named("sid", place.value), **dated)
            case "client-cutoff":
                return records.Client(iss=iss, **_named("client_id", place.value), **dated)
            case "claim-cutoff":
                return records.Claim(iss=iss, **self._claim(place), **_named("value", place.value), **dated)
            case _:
                return records.Issuer(iss=iss, **dated)

    def _token(self, place: Held, at: int, expires: int | None) -> records.Jti:
        """``exp`` has no leeway or margin: the store that imports it adds its own."""
        margin_ms = exp_margin_ms(self._issuers.get(place.issuer))
        exp = records.LATEST_S if expires is None else date(max(0, expires - margin_ms))
        return records.Jti(iss=self.iss(place.issuer), **_named("jti", place.value), exp=exp, at=date(at))

    def _user(self, tag: str, value: bytes, now: int) -> Iterator[Record]:
        user = parse_user_state(value)
        reason = user.reason or None
        if user.hard:
            yield records.User(tag=tag, before=date(user.hard), reason=reason)
        if user.soft > user.hard:
            yield records.User(tag=tag, before=date(user.soft), except_sid=user.sid, reason=reason)
        if is_blocked(user, now):
            until = None if user.blocked >= FOREVER_MS else date(user.blocked)
            yield records.Block(tag=tag, until=until, reason=user.block_reason or None)

    def _claim(self, place: Held) -> dict[str, Any]:
        """The name of a claim, or its digest if no revocable claim in the settings has it."""
        if not place.claim.startswith("="):
            return {"claim": place.claim}
        issuer = self._issuers.get(place.issuer)
        names = () if issuer is None or issuer.claim_names is None else issuer.claim_names.revocable
        name = next((name for name in names if claim_segment(name) == place.claim), None)
        return {"claim_segment": place.claim} if name is None else {"claim": name}

    def iss(self, name: str) -> str:
        """The ``iss``; the name of an issuer that is no longer configured, which an import accepts too."""
        if not name:
            return self._own
        issuer = self._issuers.get(name)
        return name if issuer is None else issuer.iss


def exp_margin_ms(issuer: Issuer | None) -> int:
    """How long before its entry expires a token does (ms); as :func:`revoker.rules.jti_expiry_ms`."""
    return ((0 if issuer is None else issuer.leeway) + SAFETY_S) * 1000 + 1


def _named(member: str, value: str) -> dict[str, Any]:
    return {"segment" if value.startswith("=") else member: value}
