"""Who may call, and for what.

Secrets have 256 random bits; only their SHA-256 is stored. Headers that authenticated a caller are cached.
Failed attempts are rate-limited per peer (token bucket).
"""

import base64
import binascii
import collections
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import unquote_plus

from revoker.bounded_cache import cached_where_short
from revoker.errors import InsufficientScope, InvalidClient, InvalidRequest, TooManyFailures, TooManyRequests
from revoker.models import Issuer

_CACHE_ENTRIES: Final = 1024
_CACHE_MAX_CHARACTERS: Final = 1024
"""Of a credential; a longer one is verified each time."""

MAX_PEERS: Final = 8192
"""Peers whose failed attempts are counted; beyond that, the peer with the oldest failure is dropped."""

_FAILURES_AT_ONCE: Final = 20
_FAILURES_PER_SECOND: Final = 1.0


def new_secret() -> tuple[str, str]:
    """A new secret (256 random bits, base64url) and its SHA-256 for the configuration."""
    secret = secrets.token_urlsafe(32)
    return secret, digest(secret)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class RateLimit:
    """A token bucket for the requests of one caller; it holds one second's worth, at least one."""

    def __init__(self, per_second: float, *, monotonic: Callable[[], float]) -> None:
        self._per_second: Final = per_second
        self._capacity: Final = max(1.0, per_second)
        self._monotonic = monotonic
        self._tokens = self._capacity
        self._filled_at = monotonic()

    def spend(self) -> None:
        """Take a token for one request.

        Raises:
            TooManyRequests: the bucket is empty.
        """
        now = self._monotonic()
        self._tokens = min(self._capacity, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        if self._tokens < 1:
            raise TooManyRequests("the caller exceeds its rate limit")
        self._tokens -= 1

    def charge(self, requests: int) -> None:
        """Take more tokens for a request that counts as several; the bucket may go below zero."""
        self._tokens -= max(0, requests)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Caller:
    """One caller.

    Attributes:
        digests: SHA-256 of its valid secrets, hexadecimal.
        audiences: It sees only tokens for these as active; empty: all.
        issuers: The issuers it may use, by ``iss``.
        default_issuer: Used if a request names no issuer; None: the request must name one.
        client_id: It may only revoke this client's tokens; empty: anybody's.
        rate_limit: None: unlimited.
        confirmation_limit: The same for confirmations, which others cause: they take nothing of the rest.
    """

    name: str
    digests: tuple[str, ...]
    scopes: frozenset[str]
    audiences: frozenset[str] = frozenset()
    issuers: Mapping[str, Issuer]
    default_issuer: Issuer | None
    client_id: str = ""
    rate_limit: RateLimit | None = None
    confirmation_limit: RateLimit | None = None

    def spend_request(self, *, confirmation: bool = False) -> Self:
        """Take one request from the rate limit; raises ``TooManyRequests`` where none is left."""
        limit = self.confirmation_limit if confirmation else self.rate_limit
        if limit is not None:
            limit.spend()
        return self

    def require(self, scope: str) -> None:
        """Raise ``InsufficientScope`` unless the caller has the scope."""
        if scope not in self.scopes:
            raise InsufficientScope(f"this needs the scope {scope}")

    def issuer(self, iss: str | None) -> Issuer | None:
        """The issuer that a request names; None if the caller may not use it, or it is not configured.

        Raises:
            InvalidRequest: the request names none, and there is no default.
        """
        if iss is not None:
            return self.issuers.get(iss)
        if self.default_issuer is None:
            raise InvalidRequest("iss is missing, and more than one issuer is configured")
        return self.default_issuer

    def require_issuer(self, iss: str | None) -> Issuer:
        """As :meth:`issuer`, but raises ``InvalidRequest`` for an issuer that the caller may not use."""
        issuer = self.issuer(iss)
        if issuer is None:
            raise InvalidRequest("iss names no issuer that this caller may use")
        return issuer

    def may_see(self, aud: str | Iterable[str] | None) -> bool:
        """Whether the caller may see tokens with this ``aud``."""
        if not self.audiences:
            return True
        if aud is None:
            return False
        return not self.audiences.isdisjoint((aud,) if isinstance(aud, str) else aud)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials in a request.

    Attributes:
        authorization: The header as sent.
        client_id: From the form.
        client_secret: From the form.
        certificate: Names in a client certificate that the listener verified.
        peer: The address of the sender.
    """

    authorization: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    certificate: frozenset[str] = frozenset()
    peer: str = ""


class Callers:
    """All callers; replaced as a whole when the configuration is reloaded."""

    def __init__(self, callers: Iterable[Caller], *, monotonic: Callable[[], float]) -> None:
        self._by_name: Final = {caller.name: caller for caller in callers}
        self._clients: Final = frozenset(caller.client_id for caller in self._by_name.values())
        self._failures = FailureLimit(monotonic)
        self._by_bare_secret: dict[str, Caller] = {}
        self._by_header: dict[str, Caller] = {}
        self.cached: Final = self._by_header.get
        """The caller of an ``Authorization`` header that has authenticated it before, or None."""

    def has_client(self, client_id: str) -> bool:
        """Whether some caller is bound to this client, so that the client can authenticate."""
        return client_id in self._clients

    def named(self, name: str) -> Caller | None:
        """The caller of this name, of whom nothing was verified."""
        return self._by_name.get(name)

    def authenticate(self, credentials: Credentials, *, confirmation: bool = False) -> Caller:
        """The caller that the credentials belong to.

        Args:
            credentials: Of one request.
            confirmation: By which of the caller's limits it is limited.

        Raises:
            InvalidClient: no credential, or a wrong one.
            InvalidRequest: two credentials at once.
            TooManyFailures: a wrong one, and the peer has sent too many; a right one always passes.
            TooManyRequests: the caller exceeds its rate limit.
        """
        if credentials.authorization is None and credentials.client_secret is None:
            return self.by_certificate(credentials.certificate, confirmation=confirmation)
        if credentials.authorization is not None and credentials.client_secret is not None:
            raise InvalidRequest("credentials both in the header and in the body")
        caller = self._by_secret(credentials)
        if caller is None:
            self._failures.count(credentials.peer)
            raise InvalidClient("wrong credentials")
        if credentials.authorization is not None:
            _remember(self._by_header, credentials.authorization, caller)
        return caller.spend_request(confirmation=confirmation)

    def by_secret(self, secret: str, peer: Callable[[], str]) -> Caller:
        """The caller that a secret alone belongs to; raises as :meth:`authenticate`.

        ``peer`` gives the address of the sender; only a wrong secret asks for it.
        """
        caller = self._by_bare_secret.get(secret) or self._with_secret(secret)
        if caller is None:
            self._failures.count(peer())
            raise InvalidClient("wrong credentials")
        _remember(self._by_bare_secret, secret, caller)
        return caller.spend_request()

    def by_certificate(self, names: frozenset[str], *, confirmation: bool = False) -> Caller:
        """The caller of a client certificate that the listener verified.

        Raises:
            InvalidClient: its names belong to no caller, or to more than one.
            TooManyRequests: the caller exceeds its rate limit.
        """
        caller = self.find_by_certificate(names)
        if caller is None:
            raise InvalidClient("no credentials")
        return caller.spend_request(confirmation=confirmation)

    def find_by_certificate(self, names: frozenset[str]) -> Caller | None:
        """As :meth:`by_certificate`, but None instead of ``InvalidClient``, and not rate-limited."""
        found = [self._by_name[name] for name in names if name in self._by_name]
        return found[0] if len(found) == 1 else None

    def _by_secret(self, credentials: Credentials) -> Caller | None:
        if credentials.authorization is None:
            assert credentials.client_secret is not None  # noqa: S101  # one of the two is there
            if credentials.client_id is None:
                raise InvalidRequest("client_secret without client_id")
            return self._named(credentials.client_id, credentials.client_secret)
        scheme, _, value = credentials.authorization.partition(" ")
        if scheme.lower() == "bearer":
            return self._with_secret(value.strip())
        if scheme.lower() != "basic":
            return None
        try:
            pair = base64.b64decode(value.strip(), validate=True).decode()
        except (binascii.Error, UnicodeError, ValueError):
            return None
        name, colon, secret = pair.partition(":")
        if not colon:
            return None
        return self._named(name, secret) or self._named(unquote_plus(name), unquote_plus(secret))

    def _named(self, name: str, secret: str) -> Caller | None:
        """Compares as long for an unknown name as for a configured one."""
        caller = self._by_name.get(name)
        digests = caller.digests if caller is not None and caller.digests else ("0" * 64,)
        sha256 = digest(secret)
        matches = sum(hmac.compare_digest(sha256, other) for other in digests) if secret else 0
        return caller if matches and caller is not None and caller.digests else None

    def _with_secret(self, secret: str) -> Caller | None:
        if not secret:
            return None
        sha256 = digest(secret)
        found = None
        for caller in self._by_name.values():
            for other in caller.digests:
                if hmac.compare_digest(sha256, other):
                    found = caller
        return found


def _remember(cache: dict[str, Caller], credential: str, caller: Caller) -> None:
    if len(credential) > _CACHE_MAX_CHARACTERS:
        return
    if len(cache) >= _CACHE_ENTRIES:
        cache.clear()
    cache[credential] = caller


class FailureLimit:
    """Token buckets for failed attempts, one per peer: 20 at once, then one per second."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._failures: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def __len__(self) -> int:
        """How many peers are counted."""
        return len(self._failures)

    def count(self, peer: str) -> None:
        """Count one failure; raises ``TooManyFailures`` if the peer's bucket is empty."""
        now = self._monotonic()
        failures, counted_at = self._failures.pop(peer, (0.0, now))
        failures = max(0.0, failures - (now - counted_at) * _FAILURES_PER_SECOND) + 1
        self._failures[peer] = (min(failures, _FAILURES_AT_ONCE + 1), now)
        if len(self._failures) > MAX_PEERS:
            self._failures.popitem(last=False)
        if failures > _FAILURES_AT_ONCE:
            raise TooManyFailures("too many wrong credentials from this address")


def _length(certificate: tuple[tuple[str, str], ...]) -> int:
    return sum(len(kind) + len(name) for kind, name in certificate)


@cached_where_short(256, 4096, _length)
def certificate_names(certificate: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """The names in a certificate that can name a caller: common name and DNS names."""
    return frozenset(name for kind, name in certificate if kind in {"commonName", "DNS"})
