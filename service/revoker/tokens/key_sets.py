"""The keys of an issuer, from its latest key set that could be read.

A key that a newer set lacks is not live any more. A key that it has too stays the same object, so that the
tokens that it verified stay cached.
"""

from abc import ABC, abstractmethod
from codecs import BOM_UTF8
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import structlog

from revoker.metrics import Metrics
from revoker.tokens.jwk import NotForUs, UnusableKey, VerifyingKey, header_algorithms, public_key
from revoker.tokens.parsing import strict_json_object

MAX_SET_BYTES: Final = 512 * 1024

MAX_LOGGED: Final = 16
"""Skipped keys of one set that are logged: a set may hold thousands."""

KEY_PROBLEMS: Final = ("keys_never_loaded", "keys_stale")
"""The names in :data:`revoker.metrics.PROBLEMS` of what can be wrong with keys."""

_CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"

Sleep = Callable[[float], Awaitable[object]]

_log = structlog.get_logger(__name__)


class SkippedKey(NamedTuple):
    """An entry of a key set that is not used.

    Attributes:
        kid: None if it has none, or one that is not a string.
        not_for_us: It is in order, but for another purpose or algorithm.
    """

    kid: str | None
    reason: str
    not_for_us: bool


class KeySource(ABC):
    """The keys of one issuer.

    Attributes:
        name: The issuer's name in the settings.
        algorithms: The ``alg`` of tokens that are accepted.
        ready: Whether a key set is loaded; if not, no token of the issuer can be verified.
        stale: Whether a key set is loaded, but the last attempt to refresh it failed.
        fault: Why the last attempt failed; empty if it did not, or none was made.
    """

    def __init__(self, name: str, algorithms: Collection[str], metrics: Metrics) -> None:
        self.name = name
        self.algorithms = header_algorithms(algorithms)
        self.ready = False
        self.stale = False
        self._keys: Mapping[object, VerifyingKey] = {}
        self._by_kid: Mapping[str | None, list[VerifyingKey]] = {}
        self._allowed = frozenset(algorithms)
        self._skipped: AbstractSet[SkippedKey] = frozenset()
        self.fault = ""
        self._metrics = metrics

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the keys come from: the host of a URL, or a path."""

    @abstractmethod
    async def start(self) -> None:
        """Load the keys and refresh them in the background; does not wait for other machines."""

    @abstractmethod
    async def close(self) -> None:
        """Stop refreshing; the loaded keys stay."""

    @abstractmethod
    async def look_again(self, *, replaced: bool = False) -> bool:
        """Refresh the keys for a token whose key is not in hand, unless that happened too recently.

        Args:
            replaced: A loaded key has the token's ``kid``, but did not sign it: it may have been replaced.

        Returns:
            Whether the loaded keys were read, or found unchanged, after the call began.
        """

    def candidates(self, kid: str | None, alg: str) -> list[VerifyingKey]:
        """The keys that may have signed a token with this header, those with its ``kid`` first.

        Any key may have signed a token without ``kid``; a key without ``kid`` may have signed any token.
        """
        if kid is None:
            keys: Iterable[VerifyingKey] = self._keys.values()
        else:
            keys = [*self._by_kid.get(kid, ()), *self._by_kid.get(None, ())]
        return [key for key in keys if alg in key.algorithms]

    def knows(self, kid: str | None) -> bool:
        """Whether a loaded key has this ``kid``."""
        return kid is not None and kid in self._by_kid

    def ids_of_unnamed(self) -> list[str]:
        """The ids of loaded keys without ``kid``: each may have signed a token with any ``kid``."""
        return [key.id for key in self._by_kid.get(None, ())]

    def names_keys(self) -> bool:
        """Whether the ``kid`` of a token is meaningful: a loaded key has one, or no key is loaded."""
        return self._by_kid.keys() != {None}

    def _adopt(self, keys: Iterable[VerifyingKey]) -> None:
        """Replace the keys by those of a set that was just read."""
        adopted: dict[object, VerifyingKey] = {}
        by_kid = defaultdict(list)
        for key in keys:
            if key.identity not in adopted:
                adopted[key.identity] = self._keys.get(key.identity, key)
                by_kid[key.kid].append(adopted[key.identity])
        for identity, key in self._keys.items():
            if identity not in adopted:
                key.live = False
                _log.info("issuer key withdrawn", issuer=self.name, kid=key.id)
        self._keys, self._by_kid = adopted, dict(by_kid)
        if self.fault:
            _log.info("issuer keys up to date again", issuer=self.name)
        self.ready, self.stale, self.fault = True, False, ""
        self._metrics.jwks_refreshes.labels(self.name, "ok").inc()
        self._metrics.jwks_refreshed.labels(self.name).set_to_current_time()

    def _usable_keys(self, document: bytes) -> list[VerifyingKey]:
        """The usable keys of a JWK Set; logs the others unless the last set had them too (RFC 7517 §5).

        Raises:
            ValueError: it is not a JWK Set, or has no usable key. An issuer without keys signs nothing, so
                that is an error on its side and must not withdraw the keys in use.
        """
        usable, skipped = read_key_set(document, self._allowed)
        changed = sorted(skipped - self._skipped, key=lambda key: (key.not_for_us, key.kid or "", key.reason))
        for key in changed[:MAX_LOGGED]:
            log = _log.debug if key.not_for_us else _log.warning
            log("issuer key skipped", issuer=self.name, kid=key.kid, reason=key.reason)
        self._skipped = skipped
        return require_usable(usable, skipped)

    def _note_failure(self, fault: Exception) -> None:
        """Record that the set could not be read; the last good one stays in use."""
        self._metrics.jwks_refreshes.labels(self.name, "error").inc()
        self.stale = self.ready
        text = f"{type(fault).__name__}: {fault}".removesuffix(": ")
        if text != self.fault:
            _log.warning("issuer keys not read", issuer=self.name, fault=text, held=self.ready)
        self.fault = text

    def _drop(self) -> None:
        """Stop using the loaded keys: no token can be verified until a set is read."""
        for key in self._keys.values():
            key.live = False
        self._keys, self._by_kid = {}, {}
        self.ready = self.stale = False
        _log.error("issuer keys too old to be believed", issuer=self.name)


def read_key_set(
    document: bytes, allowed: Collection[str]
) -> tuple[list[VerifyingKey], AbstractSet[SkippedKey]]:
    """The usable keys of a JWK Set, and the others without repetition.

    Raises:
        ValueError: it is not a JWK Set.
    """
    members = strict_json_object(document.removeprefix(BOM_UTF8))
    entries = members.get("keys")
    if type(entries) is not list:
        if any(type(value) is str and value.startswith(_CERTIFICATE) for value in members.values()):
            raise ValueError("this is a map of PEM certificates; use the provider's JWK endpoint")
        raise ValueError("not a JWK Set: keys is not an array")
    usable: list[VerifyingKey] = []
    skipped: set[SkippedKey] = set()
    for entry in entries:
        try:
            usable.append(public_key(entry, allowed))
        except UnusableKey as fault:
            kid = entry.get("kid") if type(entry) is dict else None
            kid = kid if type(kid) is str else None
            skipped.add(SkippedKey(kid, str(fault), isinstance(fault, NotForUs)))
    return usable, skipped


def require_usable(usable: list[VerifyingKey], skipped: AbstractSet[SkippedKey]) -> list[VerifyingKey]:
    """The usable keys of a set; raises ``ValueError``, with the reasons, where there is none."""
    if not usable:
        reasons = sorted({key.reason for key in skipped})[:MAX_LOGGED]
        raise ValueError(f"no usable key: {', '.join(reasons) or 'the set is empty'}")
    return usable


def key_problems(sources: Collection[KeySource]) -> dict[str, str]:
    """What is wrong with the keys of issuers: a sentence for each name of :data:`KEY_PROBLEMS`."""
    lacking = [source for source in sources if not source.ready]
    stale = [source for source in sources if source.stale]
    return {
        problem: "; ".join(f"of issuer {source.name}: {source.fault or 'no answer yet'}" for source in having)
        for problem, having in zip(KEY_PROBLEMS, (lacking, stale), strict=True)
        if having
    }
