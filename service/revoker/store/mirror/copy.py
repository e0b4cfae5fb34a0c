"""The revocations of a store in the memory of this process, as a feed has sent them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from revoker.errors import InvalidRequest
from revoker.models import NO_REVOCATIONS, Issuer, OldLimits, Revocation, RevocationState, UserState
from revoker.rules import (
    FOREVER_MS,
    cutoff_lifetime_ms,
    jti_expiry_ms,
    jti_lifetime_ms,
    revocable_value,
)
from revoker.store.keys import Keys, TokenKeys, claim_segment, segment, slot_of, user_tag
from revoker.store.mirror.feed_lines import FeedLine, Loss, Settings
from revoker.store.mirror.revoked_tokens import RevokedTokens
from revoker.store.recorded_issuers import old_limits_elsewhere
from revoker.store.transfer import records
from revoker.store.transfer.records import Record, milliseconds

_KEYS_PER_STEP: Final = 500
"""How many keys one step of a removal looks at, revoked tokens aside."""

_LISTED: Final = Revocation(0)
"""Of every revoked token: no verdict depends on when that was."""

Value = Revocation | UserState | Mapping[str, Revocation]


class Copy:
    """What applies to tokens, under the keys that the store has for it.

    A line adds to what is there, as the script does that writes it at the store: repeating lines changes
    nothing. Lines about issuers that are not configured here are left out: no token of theirs is judged.

    Attributes:
        loss: A cutoff (ms; 0: none) for everything that was issued before the store has lost data.
        old_limits: As :attr:`revoker.store.issuer_records.IssuerRecords.old_limits`.
    """

    def __init__(self, keys: Keys, issuers: Mapping[str, Issuer], key_prefix: str = "") -> None:
        """Hold nothing.

        Args:
            keys: Make the keys here.
            issuers: By ``iss``.
            key_prefix: Of the keys in the store.
        """
        self._keys = keys
        self._prefix = key_prefix
        self._slot_losses: dict[int, int] = {}
        self.old_limits: Mapping[str, OldLimits] = {}
        self._issuers = {issuer.name: issuer for issuer in issuers.values()} | dict(issuers)
        self._tokens = RevokedTokens()
        self._values: dict[str, Value] = {}
        self._later_expiries: dict[str, int] = {}
        self._lifetime_ms = max(map(cutoff_lifetime_ms, issuers.values()))
        self._nothing = NO_REVOCATIONS
        self._only_listed = RevocationState(jti=_LISTED)
        self.loss = 0

    @property
    def tokens(self) -> int:
        """How many revoked tokens it holds."""
        return self._tokens.count

    @property
    def others(self) -> int:
        """How many users, sessions, clients, claims and issuers it holds."""
        return len(self._values)

    def find(self, keys: TokenKeys) -> RevocationState:
        """What applies to the token with these keys."""
        jti, tokens, values = keys[0], self._tokens, self._values
        is_listed = jti is not None and tokens.count != 0 and tokens.has(jti)
        if self._slot_losses or (values and not values.keys().isdisjoint(keys)):
            return self._state(keys, is_listed=is_listed)
        return self._only_listed if is_listed else self._nothing

    def find_all(self, keys: Sequence[TokenKeys]) -> list[RevocationState]:
        """As :meth:`find`, for several tokens."""
        if self._values or self._slot_losses:
            return [self.find(token_keys) for token_keys in keys]
        nothing = self._nothing
        if self._tokens.count == 0:
            return [nothing] * len(keys)
        listed = self._only_listed
        found = self._tokens.which_of([token_keys[0] for token_keys in keys])
        return [listed if is_there else nothing for is_there in found]

    def _slot_loss(self, key: str) -> int:
        return self._slot_losses.get(slot_of(self._prefix + key.removeprefix(self._keys.prefix)), 0)

    def _state(self, keys: TokenKeys, *, is_listed: bool) -> RevocationState:
        get, loss = self._values.get, self.loss
        if self._slot_losses:
            loss = max(loss, *map(self._slot_loss, filter(None, keys)))
        _, user, session, client, issuer, revoked_keys, *claims = map(get, keys)  # type: ignore[arg-type]
        return RevocationState(
            jti=_LISTED if is_listed else None,
            user=user,  # type: ignore[arg-type]  # a key says of which kind its value is
            session=session,  # type: ignore[arg-type]
            client=client,  # type: ignore[arg-type]
            issuer=issuer,  # type: ignore[arg-type]
            claims=tuple(claims) if any(claims) else (),  # type: ignore[arg-type]
            keys=revoked_keys or {},  # type: ignore[arg-type]
            loss=loss,
        )

    def add(self, line: FeedLine, now: int) -> None:
        """Add a line, unless it has expired ``now`` (ms by the store; 0: that is not known).

        Raises:
            InvalidRequest: it lacks a date, which every line of a store has.
            StoreRefused: it has settings that can't be read.
        """
        if isinstance(line, records.Jti):
            self._add_token(line, now)
            return
        match line:
            case Settings():
                self.old_limits = old_limits_elsewhere(
                    bytes(line.issuers), {issuer.name: issuer for issuer in self._issuers.values()}.values()
                )
            case Loss():
                self._lose(line)
            case records.User():
                self._add_user_cutoff(line)
            case records.Block():
                self._add_block(line)
            case records.Key():
                self._add_key(line)
            case _:
                at = _dated(line.before)
                if (key := self._key(line)) is not None:
                    self._note_expiry(key, at, line)
                    stored = self._values.get(key)
                    if not isinstance(stored, Revocation) or stored.at < at:
                        self._values[key] = Revocation(at, line.reason or "")

    def _lose(self, line: Loss) -> None:
        cutoff = milliseconds(line.before)
        if line.slots is None:
            self.loss = max(self.loss, cutoff)
            self._nothing = RevocationState(loss=self.loss)
            self._only_listed = RevocationState(jti=_LISTED, loss=self.loss)
            return
        for first, last in line.slots:
            for slot in range(first, last + 1):
                self._slot_losses[slot] = max(self._slot_losses.get(slot, 0), cutoff)

    def remove(self, record: Record) -> None:
        """Remove what a line names: a cutoff, a block, a revoked key, or a revoked token."""
        match record:
            case records.Jti():
                raise InvalidRequest("a revoked token is not removed")
            case records.User():
                self._change_user(
                    self._tag(record),
                    lambda user: UserState(
                        blocked=user.blocked, block_reason=user.block_reason, last=user.last
                    ),
                )
            case records.Block():
                self._change_user(
                    self._tag(record),
                    lambda user: msgspec.structs.replace(user, blocked=0, block_reason=""),
                )
            case records.Key():
                issuer = self._issuers.get(record.iss)
                if issuer is not None:
                    key = self._keys.revoked_keys(issuer)
                    left = {kid: at for kid, at in self._keys_under(key).items() if kid != record.kid}
                    if left:
                        self._values[key] = left
                    else:
                        self._values.pop(key, None)
            case _:
                self._drop(self._key(record) or "")

    def remove_expired(self, now: int) -> Iterator[None]:
        """Remove what can cover no active token any more at ``now`` (ms), in short steps."""
        yield from self._tokens.remove_expired(now)
        past = now - self._lifetime_ms
        later = self._later_expiries
        keys = list(self._values)
        for start in range(0, len(keys), _KEYS_PER_STEP):
            for key in keys[start : start + _KEYS_PER_STEP]:
                if later.get(key, 0) > now:
                    continue
                match self._values.get(key):
                    case Revocation(at=at) if at <= past:
                        self._drop(key)
                    case UserState() as user if max(user.hard, user.soft) <= past and user.blocked <= now:
                        self._drop(key)
                    case _:
                        pass
            yield

    def _note_expiry(self, key: str, at: int, record: Record) -> None:
        """Keep a key for as long as the store does: limits may be wider there than in the settings here."""
        if record.expires is None:
            return
        expires = milliseconds(record.expires)
        if expires > at + self._lifetime_ms:
            self._later_expiries[key] = max(expires, self._later_expiries.get(key, 0))

    def _drop(self, key: str) -> None:
        self._values.pop(key, None)
        self._later_expiries.pop(key, None)

    def _add_token(self, record: records.Jti, now: int) -> None:
        issuer = self._issuers.get(record.iss)
        if issuer is None:
            return
        key = self._keys.of_segment("jti", issuer, record.segment or segment(record.jti or ""))
        at = _dated(record.at)
        expiry = at + jti_lifetime_ms(issuer) if record.exp is None else jti_expiry_ms(issuer, record.exp)
        if record.expires is not None:
            expiry = max(expiry, milliseconds(record.expires))
        if expiry > now:
            self._tokens.add(key, expiry)

    def _add_user_cutoff(self, record: records.User) -> None:
        at, sid = _dated(record.before), record.except_sid or ""

        def moved(user: UserState) -> UserState:
            hard, soft, excepted = user.hard, user.soft, user.sid
            if not sid:
                hard = max(hard, at)
            elif sid == excepted:
                soft = max(soft, at)
            elif at >= soft:
                hard, soft, excepted = max(hard, soft), at, sid
            else:
                hard = max(hard, at)
            return msgspec.structs.replace(user, hard=hard, soft=soft, sid=excepted)

        tag = self._tag(record)
        self._change_user(tag, moved)
        if tag is not None:
            self._note_expiry(self._keys.user(tag), at, record)

    def _add_block(self, record: records.Block) -> None:
        until = FOREVER_MS if record.until is None else min(milliseconds(record.until), FOREVER_MS)
        self._change_user(
            self._tag(record),
            lambda user: msgspec.structs.replace(user, blocked=max(user.blocked, until)),
        )

    def _add_key(self, record: records.Key) -> None:
        issuer = self._issuers.get(record.iss)
        if issuer is None:
            return
        key, at = self._keys.revoked_keys(issuer), _dated(record.at)
        self._values[key] = {**self._keys_under(key), record.kid: Revocation(at, record.reason or "")}

    def _keys_under(self, key: str) -> Mapping[str, Revocation]:
        """The revoked signing keys of an issuer, by ``kid``."""
        stored = self._values.get(key)
        return {} if stored is None or isinstance(stored, (Revocation, UserState)) else stored

    def _change_user(self, tag: str | None, change: Callable[[UserState], UserState]) -> None:
        if tag is None:
            return
        key = self._keys.user(tag)
        stored = self._values.get(key)
        user = change(stored if isinstance(stored, UserState) else UserState())
        if user.hard or user.soft or user.blocked:
            self._values[key] = user
        else:
            self._drop(key)

    def _tag(self, record: records.User | records.Block) -> str | None:
        """The user's tag; None if the issuer is not configured here."""
        if record.iss is None or record.sub is None:
            return record.tag
        issuer = self._issuers.get(record.iss)
        return None if issuer is None else user_tag(issuer.iss, record.sub)

    def _key(self, record: records.Session | records.Client | records.Claim | records.Issuer) -> str | None:
        """The key of a cutoff; None if the issuer is not configured here."""
        issuer = self._issuers.get(record.iss)
        if issuer is None:
            return None
        match record:
            case records.Session():
                if record.sid is None:
                    return self._keys.of_segment("session-cutoff", issuer, record.segment or "")
                return self._keys.session_cutoff(issuer, record.sid)
            case records.Client():
                place = record.segment or segment(record.client_id or "")
                return self._keys.of_segment("client-cutoff", issuer, place)
            case records.Claim():
                value = record.segment or segment(_claim_value(record))
                place = record.claim_segment or claim_segment(record.claim or "")
                return self._keys.of_segment("claim-cutoff", issuer, f"{place}:{value}")
            case records.Issuer():
                return self._keys.issuer_cutoff(issuer)


def _claim_value(record: records.Claim) -> str:
    if (value := revocable_value(record.claim or "", record.value)) is None:
        raise InvalidRequest("value can't be read")
    return value


def _dated(at: float | None) -> int:
    if at is None:
        raise InvalidRequest("a line of a store has the time of its revocation")
    return milliseconds(at)
