"""The keys of an issuer, from its latest key set that could be read.

A key that a newer set lacks is not live any more. A key that it has too stays the same object, so that the
tokens that it verified stay cached.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final

import structlog

from revoker.metrics import Metrics
from revoker.tokens.jwk import UnusableKey, VerifyingKey, public_key
from revoker.tokens.parsing import strict_json_object

MAX_SET_BYTES: Final = 512 * 1024

Sleep = Callable[[float], Awaitable[object]]

_log = structlog.get_logger(__name__)


class KeySource(ABC):
    """The keys of one issuer.

    Attributes:
        name: The issuer's name in the settings.
        algorithms: The signature algorithms that are accepted.
        ready: Whether a key set is loaded; if not, no token of the issuer can be verified.
        stale: Whether a key set is loaded, but the last attempt to refresh it failed.
    """

    def __init__(self, name: str, algorithms: Collection[str], metrics: Metrics) -> None:
        self.name = name
        self.algorithms = frozenset(algorithms)
        self.ready = False
        self.stale = False
        self._keys: Mapping[object, VerifyingKey] = {}
        self._by_kid: Mapping[str | None, list[VerifyingKey]] = {}
        self._fault = ""
        self._metrics = metrics

    @abstractmethod
    async def start(self) -> None:
        """Load the keys and refresh them in the background; does not wait for other machines."""

    @abstractmethod
    async def close(self) -> None:
        """Stop refreshing; the loaded keys stay."""

    @abstractmethod
    async def look_again(self) -> bool:
        """Refresh the keys for a token whose key is unknown, unless that happened too recently.

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
        if self._fault:
            _log.info("issuer keys up to date again", issuer=self.name)
        self.ready, self.stale, self._fault = True, False, ""
        self._metrics.jwks_refreshes.labels(self.name, "ok").inc()
        self._metrics.jwks_refreshed.labels(self.name).set_to_current_time()

    def _note_failure(self, fault: Exception) -> None:
        """Record that the set could not be read; the last good one stays in use."""
        self._metrics.jwks_refreshes.labels(self.name, "error").inc()
        self.stale = self.ready
        text = f"{type(fault).__name__}: {fault}"
        if text != self._fault:
            _log.warning("issuer keys not read", issuer=self.name, fault=text, held=self.ready)
        self._fault = text

    def _drop(self) -> None:
        """Stop using the loaded keys: no token can be verified until a set is read."""
        for key in self._keys.values():
            key.live = False
        self._keys, self._by_kid = {}, {}
        self.ready = self.stale = False
        _log.error("issuer keys too old to be believed", issuer=self.name)


def read_key_set(document: bytes, allowed: Collection[str], issuer: str) -> list[VerifyingKey]:
    """The usable keys of a JWK Set; the others are skipped and logged (RFC 7517 §5).

    Raises:
        ValueError: it is not a JWK Set, or has no usable key. An issuer without keys signs nothing, so that
            is an error on its side and must not withdraw the keys in use.
    """
    entries = strict_json_object(document).get("keys")
    if type(entries) is not list:
        raise ValueError("not a JWK Set: keys is not an array")
    usable: list[VerifyingKey] = []
    for position, entry in enumerate(entries):
        try:
            usable.append(public_key(entry, allowed))
        except UnusableKey as fault:
            _log.debug("key skipped", issuer=issuer, position=position, reason=str(fault))
    if not usable:
        raise ValueError(f"no usable key among {len(entries)}")
    return usable
