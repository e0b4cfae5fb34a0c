"""From the text of a token to claims that can be believed: its signature, its issuer, its kind.

Whether it may be used now, ``revoker.rules`` says: no time is judged here.
"""

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

TOGETHER: Final = 16
"""Tokens verified before others get their turn of the event loop: about a ms."""

KEYS_TRIED_TOGETHER: Final = 16
"""Keys tried with one token before others get their turn of the event loop."""

Waiting = Callable[[], AbstractContextManager[None]]
"""Entered while a token waits for keys to be fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedIssuer:
    """An issuer whose tokens are accepted, and on what terms.

    Attributes:
        audiences: A token must be meant for one of them.
        require_typ: The only ``typ`` of its access tokens; empty: ``JWT``, ``at+jwt`` or none.
    """

    issuer: Issuer
    keys: KeySource
    audiences: frozenset[str]
    require_typ: str = ""


class VerifiedToken(msgspec.Struct, frozen=True, kw_only=True):
    """An access token that its issuer made for us; nothing is said about now.

    Attributes:
        claims: Its ``kid`` is that of ``key``, whatever the token's header says.
        answer: The JSON to answer while the token is active.
        key: The one that verified it; once that is not live, the token counts for nothing.
        scope: Empty where there is none.
        cnf: What the token is bound to; not to be changed.
    """

    claims: Claims
    issuer: Issuer
    answer: bytes
    key: VerifyingKey
    scope: str
    acr: str | None
    cnf: Mapping[str, Any] | None


_ENTRY_BYTES: Final = 1024
"""Of a token in the cache beside its text and what it says."""


def _bytes_of(token: str, verified: VerifiedToken) -> int:
    """How much room a token takes in the cache: its text, the answer, and the claims, which both repeat.

    Small objects take a multiple of their text, and there may be many only in ``aud`` and ``cnf``.
    """
    size = _ENTRY_BYTES + 2 * (len(token) + len(verified.answer))
    if verified.cnf:
        size += 32 * len(msgspec.json.encode(verified.cnf))
    if isinstance(verified.claims.aud, list):
        size += 64 * len(verified.claims.aud)
    return size


class GenuineToken(msgspec.Struct, frozen=True, kw_only=True):
    """A JWT of whatever kind that one of the issuers signed.

    Attributes:
        claims: Those that can be made out; ``kid`` is that of the key which verified it.
        typ: The header's, as it was sent.
        payload: All claims, none of them checked; not to be changed.
    """

    claims: Claims
    issuer: Issuer
    typ: str | None
    payload: Mapping[str, Any]


class _Cold:
    """A token to be verified, as far as that has come, and who waits for it."""

    __slots__ = ("answers", "key", "text", "trusted", "unverified")

    unverified: UnverifiedToken
    trusted: TrustedIssuer
    key: VerifyingKey

    def __init__(self, text: str) -> None:
        self.text = text
        self.answers: list[asyncio.Future[VerifiedToken]] = []

    def waiting(self) -> Iterable[asyncio.Future[VerifiedToken]]:
        """Those who have not been cancelled."""
        return [each for each in self.answers if not each.done()]


class _KeyNotFound(Exception):
    """No key that was tried has made a token's signature, but another may have: it is no error yet."""

    def __init__(self, unverified: UnverifiedToken, trusted: TrustedIssuer) -> None:
        super().__init__()
        self.unverified = unverified
        self.trusted = trusted


class _Search:
    """The search for the key that made a token's signature; each key is tried once."""

    __slots__ = ("_candidates", "_tried", "keys", "unverified")

    def __init__(self, unverified: UnverifiedToken, keys: KeySource) -> None:
        self.unverified = unverified
        self.keys = keys
        self._tried: set[VerifyingKey] = set()
        self._candidates = keys.candidates(unverified.kid, unverified.alg)

    def first(self) -> VerifyingKey | None:
        """Try as many keys as may be tried in one turn of the event loop."""
        return self._matching(self._candidates[:KEYS_TRIED_TOGETHER])

    def is_over(self) -> bool:
        """Whether a key that was not found is none of the issuer's, whatever would be read now."""
        unverified, keys = self.unverified, self.keys
        return unverified.alg not in keys.algorithms or (
            keys.knows(unverified.kid) and len(self._candidates) <= KEYS_TRIED_TOGETHER
        )

    async def rest(self) -> VerifyingKey | None:
        """Try the keys in hand that were not tried yet, a few in each turn of the event loop."""
        self._candidates = self.keys.candidates(self.unverified.kid, self.unverified.alg)
        untried = [key for key in self._candidates if key not in self._tried]
        for start in range(0, len(untried), KEYS_TRIED_TOGETHER):
            if start:
                await asyncio.sleep(0)
            key = self._matching(untried[start : start + KEYS_TRIED_TOGETHER])
            if key is not None:
                return key
        return None

    async def newer(self, waiting: Waiting) -> VerifyingKey | None:
        """The same, in a set that is read now if no key that is in hand bears the name.

        Raises:
            KeysUnavailable: the issuer's keys were never loaded.
        """
        key = await self.rest()
        if key is None and not self.keys.knows(self.unverified.kid):
            with waiting():
                await self.keys.look_again()
            if not self.keys.ready:
                raise KeysUnavailable(f"the keys of issuer {self.keys.name} could not be had")
            key = await self.rest()
        return key

    def _matching(self, keys: Iterable[VerifyingKey]) -> VerifyingKey | None:
        unverified = self.unverified
        for key in keys:
            self._tried.add(key)
            if key.live and key.verifies(unverified.alg, unverified.signing_input, unverified.signature):
                return key
        return None


class Verifier:
    """Verifies tokens of the issuers that are trusted; of the others nothing is looked up.

    What comes in one turn of the event loop is verified together, step by step: one token after the other
    through all of them takes a fifth to a third longer under load, as each step drives the others out of the
    caches.
    """

    def __init__(
        self, trusted: Iterable[TrustedIssuer], metrics: Metrics, *, cache_size: int = CACHE_SIZE
    ) -> None:
        self._trusted = {each.issuer.iss: each for each in trusted}
        self._cache: TokenCache[VerifiedToken] = TokenCache(cache_size, bytes_of=_bytes_of)
        self._cold: dict[str, _Cold] = {}
        self._count_hit = metrics.notes.counting(metrics.token_cache.labels("hit"))
        self._count_miss = metrics.notes.counting(metrics.token_cache.labels("miss"))

    def remembered(self, token: str) -> VerifiedToken | None:
        """What this very text was verified to be, if the key that verified it is still live.

        Cheap: to be asked before ``verify`` where a coroutine is too much.
        """
        found = self._cache.get(token)
        if found is not None:
            self._count_hit()
        return found

    def ids_of_unnamed_keys(self, issuer: Issuer) -> list[str]:
        """As :meth:`KeySource.ids_of_unnamed`, of an issuer's keys."""
        trusted = self._trusted.get(issuer.iss)
        return [] if trusted is None else trusted.keys.ids_of_unnamed()

    async def verify(self, token: str, waiting: Waiting = contextlib.nullcontext) -> VerifiedToken:
        """Verify an access token; a key that can't be found is taken for a forger's.

        Args:
            token: Its text.
            waiting: What to be in while keys are waited for.

        Raises:
            InvalidToken: It is not one of a trusted issuer, for us.
            KeysUnavailable: Its issuer's keys were never loaded.
        """
        found = self.remembered(token)
        if found is not None:
            return found
        self._count_miss()
        answer = self._verified_soon(token)
        try:
            return await self._settled(token, answer, waiting)
        finally:
            del answer  # an error would lead back to it

    async def verify_all(
        self, tokens: Sequence[str], waiting: Waiting = contextlib.nullcontext
    ) -> list[VerifiedToken | InvalidToken | KeysUnavailable]:
        """As :meth:`verify`, several that are not remembered; what it would raise stands in their places."""
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
            unverified, trusted = not_found.unverified, not_found.trusted
        finally:
            del answer
        key = await _Search(unverified, trusted.keys).newer(waiting)
        return self._accepted(token, unverified, trusted, _believed(key))

    def _verified_soon(self, token: str) -> asyncio.Future[VerifiedToken]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[VerifiedToken] = loop.create_future()
        if not self._cold:
            loop.call_soon(self._verify_together)
        self._cold.setdefault(token, _Cold(token)).answers.append(answer)
        return answer

    async def verify_origin(self, token: str) -> GenuineToken:
        """Verify who made a token, and nothing else of it: not its kind, times or audience.

        Raises:
            InvalidToken: No trusted issuer made it.
            KeysUnavailable: It can't be told: no set that was read since has a key of the name that it
                bears, or it bears none and the last set could not be read.
        """
        unverified = parse_token(token)
        trusted = self._issuer_of(unverified)
        keys = trusted.keys
        search = _Search(unverified, keys)
        key = search.first()
        if key is None and not search.is_over():
            key = await search.newer(contextlib.nullcontext)
            if key is None and not keys.knows(unverified.kid):
                if unverified.kid is not None and keys.names_keys():
                    raise KeysUnavailable(f"issuer {trusted.issuer.name} has no key of that name yet")
                if keys.stale:
                    raise KeysUnavailable(f"the keys of issuer {trusted.issuer.name} could not be had")
        key = _believed(key)
        return GenuineToken(
            claims=origin_claims(unverified.payload, key.id),
            issuer=trusted.issuer,
            typ=unverified.typ,
            payload=unverified.payload,
        )

    def _verify_together(self) -> None:
        turn = [self._cold.pop(text) for text in list(itertools.islice(self._cold, TOGETHER))]
        if self._cold:
            asyncio.get_running_loop().call_soon(self._verify_together)
        for step in (self._parse, self._find_key, self._accept):
            turn = [each for each in turn if _carried_out(step, each)]

    def _parse(self, cold: _Cold) -> None:
        cold.unverified = parse_token(cold.text)
        cold.trusted = self._issuer_of(cold.unverified)

    def _find_key(self, cold: _Cold) -> None:
        search = _Search(cold.unverified, cold.trusted.keys)
        key = search.first()
        if key is None and not search.is_over():
            raise _KeyNotFound(cold.unverified, cold.trusted)
        cold.key = _believed(key)

    def _accept(self, cold: _Cold) -> None:
        verified = self._accepted(cold.text, cold.unverified, cold.trusted, cold.key)
        for each in cold.waiting():
            each.set_result(verified)

    def _accepted(
        self, token: str, unverified: UnverifiedToken, trusted: TrustedIssuer, key: VerifyingKey
    ) -> VerifiedToken:
        verified = _access_token(unverified, trusted, key)
        self._cache.put(token, verified)
        return verified

    def _issuer_of(self, unverified: UnverifiedToken) -> TrustedIssuer:
        """Choose the issuer whose keys must prove that it said so."""
        iss = unverified.payload.get("iss")
        trusted = self._trusted.get(iss) if type(iss) is str else None
        if trusted is None:
            raise InvalidToken("of an issuer that is not trusted")
        return trusted


def _carried_out(step: Callable[[_Cold], None], cold: _Cold) -> bool:
    """Whether a step did not fail; if it did, those who wait are told."""
    try:
        step(cold)
    except Exception as error:  # noqa: BLE001  # for those who wait for it
        if isinstance(error, RevokerError | _KeyNotFound):
            error.__traceback__ = None  # it would lead back to those who wait
        for each in cold.waiting():
            each.set_exception(error)
        return False
    return True


def _believed(key: VerifyingKey | None) -> VerifyingKey:
    if key is None:
        raise InvalidToken("signature of none of the issuer's keys")
    return key


def _access_token(unverified: UnverifiedToken, trusted: TrustedIssuer, key: VerifyingKey) -> VerifiedToken:
    payload = unverified.payload
    refuse_other_kinds(unverified, trusted.require_typ)
    claims = access_token_claims(payload, key.id, require_jti=trusted.issuer.require_jti)
    if not is_meant_for(claims, trusted.audiences):
        raise InvalidToken("meant for another audience")
    scope = scope_of(payload)
    return VerifiedToken(
        claims=claims,
        issuer=trusted.issuer,
        answer=active_answer(claims, payload, scope),
        key=key,
        scope=scope,
        acr=acr_of(payload),
        cnf=confirmation_of(payload),
    )
