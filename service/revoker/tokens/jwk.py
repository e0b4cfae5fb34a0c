"""Verification keys, from JWK Sets (RFC 7517) and shared secrets.

PyJWT prepares the keys and verifies the signatures. The algorithms of a key are fixed when it is read: a
token's header chooses among them and can't add one.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from revoker.config.value_types import HMAC_KEY_BYTES
from revoker.tokens.parsing import base64url, base64url_decoded

RSA_BITS: Final = range(2048, 8192 + 1)
"""Smaller is weak (RFC 7518 §3.3), larger is slow to verify."""

_RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of public key.

    Attributes:
        members: Those of its thumbprint, in the order of RFC 7638.
        algorithms: The default first.
        synonym: Another name of the only algorithm (RFC 9864); empty: there is none.
    """

    members: tuple[str, ...]
    algorithms: tuple[str, ...]
    synonym: str = ""

    def names_of(self, algorithm: str) -> tuple[str, ...]:
        """All names of one of the algorithms."""
        return (algorithm, self.synonym) if self.synonym else (algorithm,)

    def names_allowed(self, allowed: Collection[str]) -> list[str]:
        """All names of those of the algorithms that are allowed by any of their names."""
        return [
            name
            for algorithm in self.algorithms
            if any(name in allowed for name in self.names_of(algorithm))
            for name in self.names_of(algorithm)
        ]


_KINDS: Final[Mapping[tuple[str, str | None], _Kind]] = {
    ("RSA", None): _Kind(("e", "kty", "n"), _RSA_ALGORITHMS),
    ("EC", "P-256"): _Kind(("crv", "kty", "x", "y"), ("ES256",)),
    ("EC", "P-384"): _Kind(("crv", "kty", "x", "y"), ("ES384",)),
    ("EC", "P-521"): _Kind(("crv", "kty", "x", "y"), ("ES512",)),
    ("OKP", "Ed25519"): _Kind(("crv", "kty", "x"), ("EdDSA",), "Ed25519"),
    ("OKP", "Ed448"): _Kind(("crv", "kty", "x"), ("EdDSA",), "Ed448"),
}

PUBLIC_KEY_ALGORITHMS: Final = frozenset(name for kind in _KINDS.values() for name in kind.algorithms)

_IMPLEMENTED: Final[Mapping[str, Algorithm]] = get_default_algorithms()
_ALGORITHMS: Final[Mapping[str, Algorithm]] = {
    **{name: _IMPLEMENTED[name] for name in HMAC_KEY_BYTES},
    **{
        name: _IMPLEMENTED[algorithm]
        for kind in _KINDS.values()
        for algorithm in kind.algorithms
        for name in kind.names_of(algorithm)
    },
}


def header_algorithms(allowed: Collection[str]) -> frozenset[str]:
    """The ``alg`` of tokens that may be accepted where these algorithms are allowed: with their synonyms."""
    return frozenset(allowed).union(*(kind.names_allowed(allowed) for kind in _KINDS.values()))


class UnusableKey(ValueError):
    """A key that can't be used; the message says why and contains nothing of the key."""


class NotForUs(UnusableKey):
    """A key that may be well-formed, but serves another purpose or an algorithm that is not accepted."""


class VerifyingKey:
    """One key, prepared, with the algorithms that it may verify.

    Attributes:
        kid: As in its key set; None if it has none.
        id: The ``kid``, or else the thumbprint: the ``kid`` of the tokens that it verifies.
        identity: Equal for keys that verify the same tokens under the same ``kid``.
        live: False once its key set no longer has it; tokens that it verified are then invalid.
    """

    __slots__ = ("_material", "algorithms", "id", "identity", "kid", "live")

    def __init__(self, material: Any, *, kid: str | None, thumbprint: str, algorithms: Iterable[str]) -> None:
        self._material = material
        self.kid = kid
        self.id = thumbprint if kid is None else kid
        self.algorithms = frozenset(algorithms)
        self.identity: Final = (kid, thumbprint, self.algorithms)
        self.live = True

    def verifies(self, alg: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether this key made the signature with ``alg``; False for an algorithm that is not the key's."""
        return alg in self.algorithms and _ALGORITHMS[alg].verify(signing_input, self._material, signature)


def public_key(jwk: Any, allowed: Collection[str]) -> VerifyingKey:
    """Prepare an entry of a JWK Set for those of the allowed algorithms that fit it.

    A member that is null counts as absent: many serializers write null for what is not set.

    Raises:
        NotForUs: it is of another kind, or not for verifying with an allowed algorithm.
        UnusableKey: it is malformed, weak or private.
    """
    if type(jwk) is not dict:
        raise UnusableKey("not an object")
    jwk = {name: value for name, value in jwk.items() if value is not None}
    if not jwk.keys().isdisjoint(("d", "p", "q", "dp", "dq", "qi", "oth", "k")):
        raise UnusableKey("has private members")
    kid = jwk.get("kid")
    if not isinstance(kid, str | None):
        raise UnusableKey("kid is not a string")
    kind = _kind(jwk)
    algorithms = _algorithms_for(jwk, kind, allowed)
    members = _public_members(jwk, kind)
    return VerifyingKey(
        _material(members, kind.algorithms[0]),
        kid=kid,
        thumbprint=thumbprint(members),
        algorithms=algorithms,
    )


def _algorithms_for(jwk: dict[str, Any], kind: _Kind, allowed: Collection[str]) -> list[str]:
    """The names of the allowed algorithms that a key verifies."""
    use, operations, alg = jwk.get("use", "sig"), jwk.get("key_ops", ["verify"]), jwk.get("alg")
    if type(use) is not str:
        raise UnusableKey("use is not a string")
    if type(operations) is not list:
        raise UnusableKey("key_ops is not an array")
    if not isinstance(alg, str | None):
        raise UnusableKey("alg is not a string")
    if use != "sig":
        raise NotForUs("not for signatures")
    if "verify" not in operations:
        raise NotForUs("not for verifying")
    algorithms = kind.names_allowed(allowed)
    if alg is not None:
        meant = kind.names_allowed((alg,))
        algorithms = [name for name in algorithms if name in meant]
    if not algorithms:
        raise NotForUs("fits no algorithm of the issuer")
    return algorithms


def algorithm_of(jwk: dict[str, Any], alg: Any = None) -> str:
    """The algorithm that ``alg`` names for this key by any of its names; the default if it is None.

    Raises:
        UnusableKey: the key is of an unknown kind, or ``alg`` does not fit it.
    """
    kind = _kind(jwk)
    if alg is None:
        return kind.algorithms[0]
    for algorithm in kind.algorithms:
        if alg in kind.names_of(algorithm):
            return algorithm
    raise UnusableKey(f"does not fit its alg; it fits {', '.join(kind.algorithms)}")


def _kind(jwk: dict[str, Any]) -> _Kind:
    kty = jwk.get("kty")
    crv = jwk.get("crv") if kty != "RSA" else None
    if type(kty) is not str or not isinstance(crv, str | None):
        raise UnusableKey("kty or crv is not a string")
    if (kty, crv) not in _KINDS:
        raise NotForUs("of an unknown kind")
    return _KINDS[kty, crv]


def _public_members(jwk: dict[str, Any], kind: _Kind) -> dict[str, str]:
    """Those of the thumbprint, without the padding that some issuers write."""
    members = {name: jwk.get(name) for name in kind.members}
    for name in {"n", "e", "x", "y"} & members.keys():
        value = members[name]
        if type(value) is not str:
            raise UnusableKey(f"{name} is not a string")
        members[name] = value = value.rstrip("=")
        try:
            base64url_decoded(value)
        except ValueError:
            raise UnusableKey(f"{name} is not base64url") from None
    return members  # type: ignore[return-value]  # _kind has checked kty and crv


def _material(members: dict[str, str], algorithm: str) -> Any:
    try:
        material: Any = _ALGORITHMS[algorithm].from_jwk(members)
    except (PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        raise UnusableKey("malformed") from None
    if members["kty"] == "RSA" and material.key_size not in RSA_BITS:
        raise UnusableKey(f"{material.key_size} bits long")
    return material


def shared_secret(secret: bytes, allowed: Collection[str]) -> VerifyingKey:
    """Prepare a secret shared with the issuer.

    Raises:
        UnusableKey: it is too short for an allowed algorithm, or the text of another kind of key.
    """
    algorithms = [name for name in HMAC_KEY_BYTES if name in allowed]
    if not algorithms:
        raise UnusableKey("a shared secret fits HS256, HS384 and HS512 only")
    minimum = max(HMAC_KEY_BYTES[name] for name in algorithms)
    if len(secret) < minimum:
        raise UnusableKey(f"{len(secret)} bytes long; {algorithms[-1]} needs {minimum}")
    try:
        material = _ALGORITHMS[algorithms[0]].prepare_key(secret)
    except PyJWTError:
        raise UnusableKey("the text of another kind of key") from None
    return VerifyingKey(
        material,
        kid=None,
        thumbprint=thumbprint({"k": base64url(secret), "kty": "oct"}),
        algorithms=algorithms,
    )


def thumbprint(members: Mapping[str, str]) -> str:
    """The RFC 7638 thumbprint of exactly these members."""
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return base64url(hashlib.sha256(canonical.encode()).digest())
