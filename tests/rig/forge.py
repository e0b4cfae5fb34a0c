"""Makes tokens, valid and invalid: tests may set every byte of a header, a payload and a signature."""

import base64
import functools
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

ISSUER: Final = "https://idp.example.com"
AUDIENCE: Final = "api://orders"


class _Absent:
    """Its text is part of test ids, which must be the same in every worker: it has no address."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()
"""The value of a claim or of a header's member that is to be left out."""

_ALGORITHMS: Final = get_default_algorithms()
_CURVES: Final = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}

Json = bytes | Mapping[str, Any]
Sign = Callable[[bytes], bytes]


@dataclass(frozen=True)
class SigningKey:
    """A private key or a secret; ``alg`` is its default algorithm."""

    private: Any
    alg: str
    kid: str | None = None

    def sign(self, message: bytes, alg: str | None = None) -> bytes:
        return _ALGORITHMS[alg or self.alg].sign(message, self.private)

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """The public half, as an identity provider publishes it."""
        public = _ALGORITHMS[self.alg].to_jwk(self.private.public_key(), as_dict=True)
        public.pop("key_ops", None)
        named = {"kid": ABSENT if self.kid is None else self.kid, "alg": self.alg, "use": "sig"}
        return _present({**public, **named, **changes})

    def private_jwk(self, **changes: Any) -> dict[str, Any]:
        """The private half, which must never be published."""
        private = _ALGORITHMS[self.alg].to_jwk(self.private, as_dict=True)
        return _present({**private, "kid": self.kid, "alg": self.alg, "use": "sig", **changes})

    def public_bytes(self, encoding: Encoding, form: PublicFormat) -> bytes:
        """The public half as a file, to be misused as a secret."""
        encoded: bytes = self.private.public_key().public_bytes(encoding, form)
        return encoded


@functools.cache
def rsa_key(kid: str | None = "rsa-1", alg: str = "RS256", bits: int = 2048) -> SigningKey:
    """The same key for the same arguments, to save time; so are the others."""
    return SigningKey(rsa.generate_private_key(65537, bits), alg, kid)


@functools.cache
def ec_key(kid: str | None = "ec-1", alg: str = "ES256") -> SigningKey:
    return SigningKey(ec.generate_private_key(_CURVES[alg]), alg, kid)


@functools.cache
def ed_key(kid: str | None = "ed-1", curve: str = "Ed25519") -> SigningKey:
    kind = ed25519.Ed25519PrivateKey if curve == "Ed25519" else ed448.Ed448PrivateKey
    return SigningKey(kind.generate(), "EdDSA", kid)


def hmac_key(secret: bytes, alg: str = "HS256", kid: str | None = None) -> SigningKey:
    return SigningKey(secret, alg, kid)


def jwks(*keys: SigningKey | dict[str, Any]) -> dict[str, Any]:
    """A JWK Set of these keys; a dict is taken as a ready entry."""
    return {"keys": [key.jwk() if isinstance(key, SigningKey) else key for key in keys]}


def claims(*, now: float | None = None, lifetime: int = 300, **changes: Any) -> dict[str, Any]:
    """The claims of an ordinary access token, with changes."""
    issued = int(time.time() if now is None else now)
    ordinary = {
        "iss": ISSUER,
        "sub": "user-1",
        "aud": AUDIENCE,
        "client_id": "web",
        "iat": issued,
        "exp": issued + lifetime,
        "jti": base64url(hmac.digest(b"jti", json.dumps([issued, repr(changes)]).encode(), "sha256")[:16]),
        "scope": "orders:read orders:write",
        "sid": "session-1",
    }
    return _present(ordinary | changes)


def envelope(claims: Mapping[str, Any], kid: str = "main-1") -> dict[str, Any]:
    """The claims form with the token's header, which names the key that signed it."""
    return {"claims": claims, "header": {"alg": "RS256", "typ": "at+jwt", "kid": kid}}


def token(key: SigningKey, header: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """An ordinary access token, with changes to its header and its claims."""
    return forge(key, _header(key, header or {}), claims(**changes))


def forge(key: SigningKey, header: Json, payload: Json, *, alg: str | None = None) -> str:
    """Sign any header and payload; ``alg`` need not be what the header says."""
    return compact(header, payload, lambda message: key.sign(message, alg))


def compact(header: Json, payload: Json, sign: Sign) -> str:
    """Put a JWS together with any signature."""
    signing_input = f"{base64url(_bytes(header))}.{base64url(_bytes(payload))}"
    return f"{signing_input}.{base64url(sign(signing_input.encode()))}"


def header_of(key: SigningKey, **changes: Any) -> dict[str, Any]:
    """The header that an ordinary token of the key has, with changes."""
    return _header(key, changes)


def mac(secret: bytes, alg: str = "HS256") -> Sign:
    """HMAC with any secret, also with one that JOSE libraries refuse."""
    return lambda message: hmac.digest(secret, message, f"sha{alg[2:]}")


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parts(text: str) -> tuple[bytes, bytes, bytes]:
    """The decoded header, payload and signature of a well-formed token."""
    header, payload, signature = (base64.urlsafe_b64decode(part + "==") for part in text.split("."))
    return header, payload, signature


def _header(key: SigningKey, changes: Mapping[str, Any]) -> dict[str, Any]:
    kid = ABSENT if key.kid is None else key.kid
    return _present({"alg": key.alg, "typ": "at+jwt", "kid": kid, **changes})


def _present(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not ABSENT}


def _bytes(document: Json) -> bytes:
    return document if isinstance(document, bytes) else json.dumps(document).encode()
