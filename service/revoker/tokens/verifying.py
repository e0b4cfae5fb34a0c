"""Verifies tokens: signature, issuer, kind and audience, never times (see :mod:`revoker.rules`)."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from revoker.errors import InvalidToken, KeysUnavailable, RevokerError
from revoker.metrics import Metrics
from revoker.models import Claims, Issuer
from revoker.tokens.cache import TokenCache
from revoker.tokens.claims import (
    access_token_claims,
    acr_of,
    active_answer,
    confirmation_of,
    is_meant_for,
    origin_claims,
    refuse_other_kinds,
    scope_of,
)
from revoker.tokens.jwk import VerifyingKey
from revoker.tokens.key_sets import KeySource
from revoker.tokens.parsing import UnverifiedToken, parse_token

CACHE_SIZE: Final = 16_384

VERIFY_BATCH: Final = 16
"""Tokens verified in one turn of the event loop: about 1 ms."""

KEYS_PER_TURN: Final = 16
"""Keys tried with one token in one turn of the event loop."""

Waiting = Callable[[], AbstractContextManager[None]]
"""Entered while a token waits for keys to be fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedIssuer:
    """What verification needs of an issuer.

    Attributes:
        audiences: The ``aud`` of a token must contain one of them.
        client_ids: The client of a token without ``aud`` must be one of them.
        require_typ: The only ``typ`` of its access tokens; empty: ``JWT``, ``at+jwt`` or none.
        id_tokens: Whether ID tokens are accepted as well.
    """

    issuer: Issuer
    keys: KeySource
    audiences: frozenset[str]
    client_ids: frozenset[str] = frozenset()
    require_typ: str = ""
    id_tokens: bool = False


class VerifiedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A verified access token; its times are not judged.

    Attributes:
        claims: ``kid`` is that of ``key``, whatever the token's header says.
        answer: The JSON response while the token is active.
        key: The key that verified it; once the key is not live, the token is invalid.
        scope: Empty if there is none.
        cnf: What the token is bound to; must not be changed.
    """

    claims: Claims
    issuer: Issuer
    answer: bytes
    key: VerifyingKey
    scope: str
    acr: str | None
    cnf: Mapping[str, Any] | None


_ENTRY_BYTES: Final = 1024
"""Of a cached token, besides its text and claims."""


def _bytes_of(token: str, verified: VerifiedToken) -> int:
    """Memory of a cached token: its text, the answer, and the claims, which are about as large together.

    ``aud`` and ``cnf`` may consist of many small objects, which take a multiple of their text.
    """
    size = _ENTRY_BYTES + 2 * (len(token) + len(verified.answer))
    if verified.cnf:
        size += 32 * len(msgspec.json.encode(verified.cnf))
    if isinstance(verified.claims.aud, list):
        size += 64 * len(verified.claims.aud)
    return size


class GenuineToken(msgspec.Struct, frozen=True, kw_only=True):
    """A JWT of any kind that one of the issuers signed.

    Attributes:
        claims: Those that are well-formed; ``kid`` is that of the key which verified it.
        typ: The header's, as sent.
        payload: All claims, unchecked; must not be changed.
    """

    claims: Claims
    issuer: Issuer
    typ: str | None
    payload: Mapping[str, Any]


class _PendingVerification:
    """A token that is being verified, and the futures of those who wait for it."""

    __slots__ = ("futures", "key", "text", "trusted", "unverified")

    unverified: UnverifiedToken
    trusted: TrustedIssuer
    key: VerifyingKey

    def __init__(self, text: str) -> None:
        self.text = text
        self.futures: list[asyncio.Future[VerifiedToken]] = []

    def open_futures(self) -> Iterable[asyncio.Future[VerifiedToken]]:
        """Those that have not been cancelled."""
        return [future for future in self.futures if not future.done()]


class _KeyNotFound(Exception):
    """No key in hand has made a token's signature, but a newer set may hold one that has.

    Attributes:
        tried: Keys that have not made it; shared by all who wait for the token, so not to be changed.
    """

    def __init__(self, search: "_Search", trusted: TrustedIssuer) -> None:
        super().__init__()
        self.unverified = search.unverified
        self.tried = frozenset(search.tried)
        self.trusted = trusted


class _Search:
    """The search for the key that made a token's signature; each key is tried once."""

    __slots__ = ("_candidates", "keys", "looked_again", "tried", "unverified")

    def __init__(
        self, unverified: UnverifiedToken, keys: KeySource, tried: Iterable[VerifyingKey] = ()
    ) -> None:
        self.unverified = unverified
        self.keys = keys
        self.tried = set(tried)
        self.looked_again = False
        self._candidates = keys.candidates(unverified.kid, unverified.alg)

    def first(self) -> VerifyingKey | None:
        """Try as many keys as may be tried in one turn of the event loop."""
        return self._matching(self._candidates[:KEYS_PER_TURN])

    def is_over(self) -> bool:
        """Whether a key that was not found is none of the issuer's, whatever would be read now."""
        return self.unverified.alg not in self.keys.algorithms

    async def rest(self) -> VerifyingKey | None:
        """Try the keys in hand that were not tried yet, a few in each turn of the event loop."""
        self._candidates = self.keys.candidates(self.unverified.kid, self.unverified.alg)
        untried = [key for key in self._candidates if key not in self.tried]
        for start in range(0, len(untried), KEYS_PER_TURN):
            if start:
                await asyncio.sleep(0)
            key = self._matching(untried[start : start + KEYS_PER_TURN])
            if key is not None:
                return key
        return None

    async def newer(self, waiting: Waiting) -> VerifyingKey | None:
        """The same, then in a set that is read now: the key may be new, or have replaced another of its name.

        Raises:
            KeysUnavailable: the issuer's keys were never loaded.
        """
        key = await self.rest()
        if key is None:
            with waiting():
                self.looked_again = await self.keys.look_again(replaced=self.keys.knows(self.unverified.kid))
            if not self.keys.ready:
                raise KeysUnavailable(f"the keys of issuer {self.keys.name} are unavailable")
            key = await self.rest()
        return key

    def require(self, key: VerifyingKey | None) -> VerifyingKey:
        """The key that was found; raises ``InvalidToken`` where there is none."""
        if key is None:
            why = "signature" if self.tried or self.keys.knows(self.unverified.kid) else "key"
            raise InvalidToken("signature of none of the issuer's keys", why)
        return key

    def _matching(self, keys: Iterable[VerifyingKey]) -> VerifyingKey | None:
        unverified = self.unverified
        for key in keys:
            self.tried.add(key)
            if key.live and key.verifies(unverified.alg, unverified.signing_input, unverified.signature):
                return key
        return None


class Verifier:
    """Verifies tokens of trusted issuers; for others no key is looked up.

    Tokens that arrive in one turn of the event loop are verified together, each step for all of them. Token
    by token takes a fifth to a third longer under load, as each step evicts the others from the CPU's caches.
    """

    def __init__(
        self, trusted: Iterable[TrustedIssuer], metrics: Metrics, *, cache_size: int = CACHE_SIZE
    ) -> None:
        self._trusted = {iss: entry for entry in trusted for iss in (entry.issuer.iss, *entry.issuer.aliases)}
        self._cache: TokenCache[VerifiedToken] = TokenCache(cache_size, bytes_of=_bytes_of)
        self._pending: dict[str, _PendingVerification] = {}
        self._count_hit = metrics.deferred.counting(metrics.token_cache.labels("hit"))
        self._count_miss = metrics.deferred.counting(metrics.token_cache.labels("miss"))

    def cached(self, token: str) -> VerifiedToken | None:
        """The token, if it was verified before and its key is still live; no coroutine, for hot paths."""
        found = self._cache.get(token)
        if found is not None:
            self._count_hit()
        return found

    def ids_of_unnamed_keys(self, issuer: Issuer) -> list[str]:
        """As :meth:`KeySource.ids_of_unnamed`, for an issuer."""
        trusted = self._trusted.get(issuer.iss)
        return [] if trusted is None else trusted.keys.ids_of_unnamed()

    async def verify(self, token: str, waiting: Waiting = contextlib.nullcontext) -> VerifiedToken:
        """Verify an access token; with a key that can't be found it counts as forged.

        Raises:
            InvalidToken: it is not an access token of a trusted issuer for one of its audiences.
            KeysUnavailable: its issuer's keys were never loaded.
        """
        found = self.cached(token)
        if found is not None:
            return found
        self._count_miss()
        answer = self._verified_soon(token)
        try:
            return await self._settled(token, answer, waiting)
        finally:
            del answer  # a reference cycle with the error

    async def verify_all(
        self, tokens: Sequence[str], waiting: Waiting = contextlib.nullcontext
    ) -> list[VerifiedToken | InvalidToken | KeysUnavailable]:
        """As :meth:`verify` for several tokens that are not cached; errors are returned in their places."""
        answers = []
        for token in tokens:
            self._count_miss()
            answers.append(self._verified_soon(token))
        outcomes: list[VerifiedToken | InvalidToken | KeysUnavailable] = []
        try:
            for token, answer in zip(tokens, answers, strict=True):
                try:
                    outcomes.append(await self._settled(token, answer, waiting))
                except (InvalidToken, KeysUnavailable) as error:
                    outcomes.append(error.with_traceback(None))
        finally:
            for answer in answers:
                if not answer.cancel() and not answer.cancelled():
                    answer.exception()  # nobody else will ask for it
        return outcomes

    async def _settled(
        self, token: str, answer: asyncio.Future[VerifiedToken], waiting: Waiting
    ) -> VerifiedToken:
        try:
            return await answer
        except _KeyNotFound as not_found:
            unverified, trusted, tried = not_found.unverified, not_found.trusted, not_found.tried
        finally:
            del answer
        search = _Search(unverified, trusted.keys, tried)
        return self._accepted(token, unverified, trusted, search.require(await search.newer(waiting)))

    def _verified_soon(self, token: str) -> asyncio.Future[VerifiedToken]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[VerifiedToken] = loop.create_future()
        if not self._pending:
            loop.call_soon(self._verify_together)
        self._pending.setdefault(token, _PendingVerification(token)).futures.append(answer)
        return answer

    async def verify_origin(self, token: str) -> GenuineToken:
        """Verify the issuer of a token, but not its kind, times or audience.

        Raises:
            InvalidToken: no trusted issuer made it.
            KeysUnavailable: unknown, since no key set read meanwhile has a key with its ``kid``. Or the last
                key set could not be read, or its keys have no names and it was not read meanwhile.
        """
        unverified = parse_token(token)
        trusted = self._issuer_of(unverified)
        keys = trusted.keys
        search = _Search(unverified, keys)
        key = search.first()
        if key is None and not search.is_over():
            key = await search.newer(contextlib.nullcontext)
            if key is None:
                _refuse_uncertainty(search)
        key = search.require(key)
        return GenuineToken(
            claims=origin_claims(unverified.payload, key.id, trusted.issuer.claim_names),
            issuer=trusted.issuer,
            typ=unverified.typ,
            payload=unverified.payload,
        )

    def _verify_together(self) -> None:
        batch = [self._pending.pop(text) for text in list(itertools.islice(self._pending, VERIFY_BATCH))]
        if self._pending:
            asyncio.get_running_loop().call_soon(self._verify_together)
        for step in (self._parse, self._find_key, self._accept):
            batch = [pending for pending in batch if _succeeded(step, pending)]

    def _parse(self, pending: _PendingVerification) -> None:
        pending.unverified = parse_token(pending.text)
        pending.trusted = self._issuer_of(pending.unverified)

    def _find_key(self, pending: _PendingVerification) -> None:
        search = _Search(pending.unverified, pending.trusted.keys)
        key = search.first()
        if key is None and not search.is_over():
            raise _KeyNotFound(search, pending.trusted)
        pending.key = search.require(key)

    def _accept(self, pending: _PendingVerification) -> None:
        verified = self._accepted(pending.text, pending.unverified, pending.trusted, pending.key)
        for future in pending.open_futures():
            future.set_result(verified)

    def _accepted(
        self, token: str, unverified: UnverifiedToken, trusted: TrustedIssuer, key: VerifyingKey
    ) -> VerifiedToken:
        verified = _access_token(unverified, trusted, key)
        self._cache.put(token, verified)
        return verified

    def _issuer_of(self, unverified: UnverifiedToken) -> TrustedIssuer:
        """The issuer that the unverified token names; only its keys may verify the token."""
        iss = unverified.payload.get("iss")
        trusted = self._trusted.get(iss) if type(iss) is str else None
        if trusted is None:
            raise InvalidToken("of an issuer that is not trusted", "issuer")
        return trusted


def _succeeded(step: Callable[[_PendingVerification], None], pending: _PendingVerification) -> bool:
    """Whether a step raised nothing; an error is passed to those who wait for the token."""
    try:
        step(pending)
    except Exception as error:  # noqa: BLE001  # passed on
        if isinstance(error, RevokerError | _KeyNotFound):
            error.__traceback__ = None  # a reference cycle with the futures
        for future in pending.open_futures():
            future.set_exception(error)
        return False
    return True


def _refuse_uncertainty(search: _Search) -> None:
    """Raise unless a token of no key in hand counts as forged.

    Otherwise the revocation of a genuine token would be answered as done and not be stored: the issuer may
    have added a key since the keys in hand were read. A wrong signature under a loaded ``kid`` is forged (200
    by RFC 7009 §2.2), although an issuer may replace a key without a new ``kid``: the keys are read again for
    it, once in a cool-down.
    """
    keys, kid = search.keys, search.unverified.kid
    if keys.knows(kid):
        return
    if kid is not None and keys.names_keys():
        raise KeysUnavailable(f"issuer {keys.name} has no key with that kid yet")
    unnamed_may_be_new = bool(keys.ids_of_unnamed()) and not search.looked_again
    if keys.stale or unnamed_may_be_new:
        raise KeysUnavailable(f"the keys of issuer {keys.name} are unavailable")


def _access_token(unverified: UnverifiedToken, trusted: TrustedIssuer, key: VerifyingKey) -> VerifiedToken:
    payload, issuer = unverified.payload, trusted.issuer
    scope = scope_of(payload, issuer.claim_names)
    refuse_other_kinds(unverified, trusted.require_typ, scope=scope, id_tokens=trusted.id_tokens)
    claims = access_token_claims(payload, key.id, issuer)
    if not is_meant_for(claims, trusted.audiences, trusted.client_ids):
        raise InvalidToken("meant for another audience", "audience")
    acr, cnf = acr_of(payload), confirmation_of(payload)
    return VerifiedToken(
        claims=claims,
        issuer=trusted.issuer,
        answer=active_answer(claims, payload, scope=scope, acr=acr, cnf=cnf),
        key=key,
        scope=scope,
        acr=acr,
        cnf=cnf,
    )
