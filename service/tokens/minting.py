"""Signing tokens, and the public half of the key that does."""

from collections.abc import Mapping
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import RSAAlgorithm

from service.tokens.jwk import thumbprint

ALGORITHM: Final = "RS256"


def sign(key_pem: bytes, claims: Mapping[str, Any], *, kid: str, alg: str = ALGORITHM) -> str:
    """An RFC 9068 access token of these claims, as they are."""
    return jwt.encode(dict(claims), key_pem, algorithm=alg, headers={"kid": kid, "typ": "at+jwt"})


def public_jwk(key_pem: bytes) -> dict[str, Any]:
    """The public half of an RSA key; its ``kid`` is its RFC 7638 thumbprint.

    Raises:
        ValueError: it is no RSA private key in PEM.
    """
    key = load_pem_private_key(key_pem, password=None)
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("not an RSA private key")  # noqa: TRY004 -- of the file, not of an argument
    members = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    kid = thumbprint({name: members[name] for name in ("e", "kty", "n")})
    return {"kty": "RSA", "n": members["n"], "e": members["e"], "kid": kid, "use": "sig", "alg": ALGORITHM}
