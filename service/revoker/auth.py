"""Who may call, and for what.

Secrets have 256 random bits and are known here by their SHA-256 alone. A caller that showed the right
secret once is recognised by the bytes of its header; a wrong secret costs its peer a share of patience.
"""

import base64
import binascii
import collections
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus

from revoker.bounded_cache import cached_where_short
from revoker.errors import InsufficientScope, InvalidClient, InvalidRequest, TooManyFailures, TooManyRequests
from revoker.models import Issuer

_REMEMBERED: Final = 1024
_REMEMBERED_CHARACTERS: Final = 1024
"""Of a header; a longer one that is right is looked at anew each time."""

_PEERS: Final = 8192
_BURST: Final = 20
_PER_SECOND: Final = 1.0


def new_secret() -> tuple[str, str]:
    """A fresh secret (256 random bits, base64url) and the SHA-256 that the configuration holds."""
    secret = secrets.token_urlsafe(32)
    return secret, digest(secret)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class RateLimit:
    """So many requests a second of one caller; what was not asked in the last second may be made up for."""

    def __init__(self, per_second: float, *, monotonic: Callable[[], float]) -> None:
        self._per_second: Final = per_second
        self._most: Final = max(1.0, per_second)
        self._monotonic = monotonic
        self._left = self._most
        self._at = monotonic()

    def spend(self) -> None:
        """Count one request.

        Raises:
            TooManyRequests: nothing is left.
        """
        now = self._monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            raise TooManyRequests("this caller asks too often")
        self._left -= 1

    def owe(self, requests: int) -> None:
        """Count more for a request that counts for many; what is not left is paid off before the next."""
        self._left -= max(0, requests)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Caller:
    """One caller.

    Attributes:
        digests: SHA-256 of its live secrets, hexadecimal.
        audiences: Tokens for others are not active to it; empty: all are.
        issuers: The issuers it may use, by ``iss``.
        default_issuer: The one meant where a request names none; None: it must name one.
        client_id: It may only revoke this client's tokens; empty: anybody's.
        rate_limit: Spent by each of its requests; None: it may ask as often as it likes.
    """

    name: str
    digests: tuple[str, ...]
    scopes: frozenset[str]
    audiences: frozenset[str] = frozenset()
    issuers: Mapping[str, Issuer]
    default_issuer: Issuer | None
    client_id: str = ""
    rate_limit: RateLimit | None = None

    def require(self, scope: str) -> None:
        """Raise ``InsufficientScope`` unless the caller has the scope."""
        if scope not in self.scopes:
            raise InsufficientScope(f"this needs the scope {scope}")

    def issuer(self, iss: str | None) -> Issuer | None:
        """The issuer that a request means; None where the caller may not use it, or nobody knows it.

        Raises:
            InvalidRequest: it names none, and it is not clear which is meant.
        """
        if iss is not None:
            return self.issuers.get(iss)
        if self.default_issuer is None:
            raise InvalidRequest("iss is missing, and more than one issuer is configured")
        return self.default_issuer

    def known_issuer(self, iss: str | None) -> Issuer:
        """As :meth:`issuer`, where an issuer that the caller may not use is an error."""
        issuer = self.issuer(iss)
        if issuer is None:
            raise InvalidRequest("iss names no issuer that this caller may use")
        return issuer

    def may_see(self, aud: str | Iterable[str] | None) -> bool:
        """Whether tokens for this audience are this caller's business."""
        if not self.audiences:
            return True
        if aud is None:
            return False
        return not self.audiences.isdisjoint((aud,) if isinstance(aud, str) else aud)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request shows of its caller; None where it does not.

    Attributes:
        authorization: The header as sent.
        client_id: From the form.
        client_secret: From the form.
        certificate: Names in a client certificate that the listener verified.
        peer: The address that it comes from.
    """

    authorization: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    certificate: frozenset[str] = frozenset()
    peer: str = ""


class Callers:
    """All callers; replaced as a whole when the configuration is read again."""

    def __init__(self, callers: Iterable[Caller], *, monotonic: Callable[[], float]) -> None:
        self._by_name: Final = {caller.name: caller for caller in callers}
        self._clients: Final = frozenset(caller.client_id for caller in self._by_name.values())
        self._patience = _Patience(monotonic)
        self._remembered: dict[str, Caller] = {}
        self.remembered: Final = self._remembered.get
        """The caller behind an ``Authorization`` header that proved right before, or None."""

    def bound_to(self, client_id: str) -> bool:
        """Whether some caller is bound to a client, so that the client can authenticate."""
        return client_id in self._clients

    def authenticate(self, shown: Credentials) -> Caller:
        """Tell who calls.

        Raises:
            InvalidClient: no credential, or a wrong one.
            InvalidRequest: two credentials at once.
            TooManyFailures: a wrong one, and the peer has shown too many; a right one always passes.
            TooManyRequests: the caller asks too often.
        """
        if shown.authorization is None and shown.client_secret is None:
            return self.by_certificate(shown.certificate)
        if shown.authorization is not None and shown.client_secret is not None:
            raise InvalidRequest("credentials both in the header and in the body")
        caller = self._by_secret(shown)
        if caller is None:
            self._patience.spend(shown.peer)
            raise InvalidClient("wrong credentials")
        if shown.authorization is not None:
            self._remember(shown.authorization, caller)
        return _counted(caller)

    def by_secret(self, secret: str, peer: str) -> Caller:
        """Tell who calls by a secret alone; raises as :meth:`authenticate`."""
        alone = f"alone {secret}"
        caller = self._remembered.get(alone) or self._with_secret(secret)
        if caller is None:
            self._patience.spend(peer)
            raise InvalidClient("wrong credentials")
        self._remember(alone, caller)
        return _counted(caller)

    def _remember(self, shown: str, caller: Caller) -> None:
        if len(shown) > _REMEMBERED_CHARACTERS:
            return
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        self._remembered[shown] = caller

    def by_certificate(self, names: frozenset[str]) -> Caller:
        """Tell who calls by the names in a client certificate that the listener verified.

        Raises:
            InvalidClient: they are no caller's, or more than one caller's.
            TooManyRequests: the caller asks too often.
        """
        caller = self.named_in(names)
        if caller is None:
            raise InvalidClient("no credentials")
        return _counted(caller)

    def named_in(self, names: frozenset[str]) -> Caller | None:
        """The caller whose certificate it is; None where the names are no caller's, or more than one's."""
        found = [self._by_name[name] for name in names if name in self._by_name]
        return found[0] if len(found) == 1 else None

    def _by_secret(self, shown: Credentials) -> Caller | None:
        if shown.authorization is None:
            assert shown.client_secret is not None  # noqa: S101  # one of the two is there
            if shown.client_id is None:
                raise InvalidRequest("client_secret without client_id")
            return self._named(shown.client_id, shown.client_secret)
        scheme, _, value = shown.authorization.partition(" ")
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
        """The comparison takes as long for an unknown name as for a known one."""
        caller = self._by_name.get(name)
        live = caller.digests if caller is not None and caller.digests else ("0" * 64,)
        shown = digest(secret)
        right = sum(hmac.compare_digest(shown, each) for each in live) if secret else 0
        return caller if right and caller is not None and caller.digests else None

    def _with_secret(self, secret: str) -> Caller | None:
        if not secret:
            return None
        shown = digest(secret)
        found = None
        for caller in self._by_name.values():
            for each in caller.digests:
                if hmac.compare_digest(shown, each):
                    found = caller
        return found


def _counted(caller: Caller) -> Caller:
    if caller.rate_limit is not None:
        caller.rate_limit.spend()
    return caller


class _Patience:
    """A bucket of wrong credentials for each peer: so many at once, then one a second."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._spent: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def spend(self, peer: str) -> None:
        """Count one failure; raises ``TooManyFailures`` where the peer had none left."""
        now = self._monotonic()
        spent, at = self._spent.pop(peer, (0.0, now))
        spent = max(0.0, spent - (now - at) * _PER_SECOND) + 1
        self._spent[peer] = (min(spent, _BURST + 1), now)
        if len(self._spent) > _PEERS:
            self._spent.popitem(last=False)
        if spent > _BURST:
            raise TooManyFailures("too many wrong credentials from this address")


def _length(certificate: tuple[tuple[str, str], ...]) -> int:
    return sum(len(kind) + len(name) for kind, name in certificate)


@cached_where_short(256, 4096, _length)
def certificate_names(certificate: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """The names in a certificate that can be a caller's: common name and DNS names."""
    return frozenset(name for kind, name in certificate if kind in {"commonName", "DNS"})
