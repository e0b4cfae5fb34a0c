"""The keys of an issuer, as its newest set that could be read has them.

A key that a newer set does not hold is dead at once; a key that it does hold stays the same object,
so that what it verified stays remembered.
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
        name: The issuer's, as in the settings.
        algorithms: What its tokens may be signed with.
        ready: Whether a set is in hand; if not, no token of the issuer can be judged.
        stale: Whether a set is in hand, but the last attempt to read it again has failed.
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
        """Begin to read the keys and keep them up to date; waits for no other machine."""

    @abstractmethod
    async def close(self) -> None:
        """Stop; the keys in hand stay."""

    @abstractmethod
    async def look_again(self) -> bool:
        """Bring the keys up to date for a token whose key is unknown, as far as that is allowed.

        Returns:
            Whether the keys now in hand were read, or found unchanged, after the call began.
        """

    def candidates(self, kid: str | None, alg: str) -> list[VerifyingKey]:
        """The keys that may have made a token with this header, those that bear the name first.

        A token without ``kid`` may be any key's; a key without ``kid`` may have made any token.
        """
        if kid is None:
            among: Iterable[VerifyingKey] = self._keys.values()
        else:
            among = [*self._by_kid.get(kid, ()), *self._by_kid.get(None, ())]
        return [key for key in among if alg in key.algorithms]

    def knows(self, kid: str | None) -> bool:
        """Whether a key in hand bears this name."""
        return kid is not None and kid in self._by_kid

    def ids_of_unnamed(self) -> list[str]:
        """The ids of the keys in hand without a name: each may have signed a token with any ``kid``."""
        return [key.id for key in self._by_kid.get(None, ())]

    def names_keys(self) -> bool:
        """Whether the ``kid`` of a token says anything: a key in hand bears a name, or none is in hand."""
        return self._by_kid.keys() != {None}

    def _adopt(self, keys: Iterable[VerifyingKey]) -> None:
        """Take a set that was read just now for the truth."""
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
        """The set could not be read: the last good one stands, if there is one."""
        self._metrics.jwks_refreshes.labels(self.name, "error").inc()
        self.stale = self.ready
        said = f"{type(fault).__name__}: {fault}"
        if said != self._fault:
            _log.warning("issuer keys not read", issuer=self.name, fault=said, held=self.ready)
        self._fault = said

    def _forget(self) -> None:
        """Believe the set in hand no longer: until one is read, nothing can be told."""
        for key in self._keys.values():
            key.live = False
        self._keys, self._by_kid = {}, {}
        self.ready = self.stale = False
        _log.error("issuer keys too old to be believed", issuer=self.name)


def read_key_set(document: bytes, allowed: Collection[str], issuer: str) -> list[VerifyingKey]:
    """The usable keys of a JWK Set; the others are skipped and logged (RFC 7517 §5).

    Raises:
        ValueError: it is no JWK Set, or has no usable key: an issuer without keys signs nothing, so
            that is a fault at its side, and must not withdraw the keys that are in use.
    """
    entries = strict_json_object(document).get("keys")
    if type(entries) is not list:
        raise ValueError("no JWK Set: keys is not an array")
    usable: list[VerifyingKey] = []
    for position, entry in enumerate(entries):
        try:
            usable.append(public_key(entry, allowed))
        except UnusableKey as fault:
            _log.debug("key skipped", issuer=issuer, position=position, reason=str(fault))
    if not usable:
        raise ValueError(f"no usable key among {len(entries)}")
    return usable
