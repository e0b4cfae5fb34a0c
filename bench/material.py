"""What is sent: claims and tokens of 2,000 users, and the credentials that go along."""

import base64
import hashlib
import json
import secrets
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

ISSUER = "https://idp.example.com"
MAPPED_ISSUER = "https://mapped.example.com"
"""It has other names for four claims, and two that are revocable by value."""
SESSIONS_ISSUER = "https://sessions.example.com"
AUDIENCE = "api://orders"
CALLER = "edge-gateway"
KEY_ID = "bench-1"

USERS = 2000
COLD_TOKENS = 20000
"""More than the cache of verified tokens holds (16,384): sent in turn, none is in it when it comes again."""

BATCH = 100
REVOCATIONS = 200_000


@dataclass(frozen=True)
class Workload:
    """Requests that are sent in turn.

    Attributes:
        bodies: One line each.
        units: Tokens in one request.
        script: Of ``wrk``; any but the usual one needs ``wrk``.
        prepare: Called before each run.
    """

    name: str
    path: str
    bodies: Path
    authorization: str
    units: int = 1
    content_type: str = "application/json"
    script: str = "wrk.lua"
    prepare: Callable[[], None] | None = None


class Material:
    """Everything that is sent, made once; files lie in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = secrets.token_urlsafe(32)
        self.digest = hashlib.sha256(self.secret.encode()).hexdigest()
        self._key = rsa.generate_private_key(65537, 2048)
        self._now = int(time.time())

    @property
    def authorization(self) -> str:
        pair = base64.b64encode(f"{CALLER}:{self.secret}".encode()).decode()
        return f"Basic {pair}"

    def jwks_text(self) -> str:
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return json.dumps({"keys": [{**public, "kid": KEY_ID, "alg": "RS256", "use": "sig"}]})

    def claims_form(self) -> Workload:
        return self._workload("claims", "/introspect", [_line(self._claims(n)) for n in range(USERS)])

    def envelopes(self) -> Workload:
        return self._workload(
            "envelope", "/introspect", [_line(_envelope(self._claims(n))) for n in range(USERS)]
        )

    def mapped_claims(self) -> Workload:
        return self._workload("mapped", "/introspect", [_line(self._mapped(n)) for n in range(USERS)])

    def mapped_envelopes(self) -> Workload:
        return self._workload(
            "mapped-envelope", "/introspect", [_line(_envelope(self._mapped(n))) for n in range(USERS)]
        )

    def batch_form(self) -> Workload:
        return self._batches("batch", self._claims)

    def mapped_batch(self) -> Workload:
        return self._batches("mapped-batch", self._mapped)

    def revocations(self) -> Workload:
        """Of tokens, by their ``jti``."""
        ends = self._now + 6 * 3600
        bodies = [_line({"iss": ISSUER, "jti": str(uuid.uuid4()), "exp": ends}) for _ in range(REVOCATIONS)]
        return self._workload("revocations", "/revoke", bodies)

    def warm_tokens(self) -> Workload:
        return self._workload("warm", "/introspect", self._tokens(USERS))

    def cold_tokens(self) -> Workload:
        return self._workload("cold", "/introspect", self._tokens(COLD_TOKENS))

    def verification(self) -> float:
        """µs of CPU that one RS256 signature takes to verify, and nothing else of a token."""
        public, message = self._key.public_key(), secrets.token_bytes(600)
        signature = self._key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        found = []
        for _ in range(5):
            began = time.process_time()
            for _ in range(2000):
                public.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
            found.append((time.process_time() - began) / 2000 * 1e6)
        return min(found)

    def _tokens(self, count: int) -> list[str]:
        pem = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        claims = [self._claims(n) for n in range(count)]
        shares = [claims[start : start + 1000] for start in range(0, count, 1000)]
        with ProcessPoolExecutor() as pool:
            signed = pool.map(_sign, [pem] * len(shares), shares)
            return [_line({"token": token}) for share in signed for token in share]

    def _claims(self, n: int) -> dict[str, Any]:
        return {
            "iss": ISSUER,
            "jti": str(uuid.uuid4()),
            "sub": f"user-{n % USERS}",
            "iat": self._now - n % 600,
            "exp": self._now + 6 * 3600,
            "sid": secrets.token_urlsafe(16),
            "client_id": f"client-{n % 20}",
        }

    def _mapped(self, n: int) -> dict[str, Any]:
        """As :meth:`_claims`, by the names of ``MAPPED_ISSUER``."""
        names = {"jti": "uti", "sub": "oid", "sid": "session_id", "client_id": "appid"}
        claims = {names.get(name, name): value for name, value in self._claims(n).items()}
        own = {"tenant": f"tenant-{n % 50}", "email": f"u{n % USERS}@example.com"}
        return {**claims, "iss": MAPPED_ISSUER, **own}

    def _batches(self, name: str, claims: Callable[[int], dict[str, Any]]) -> Workload:
        bodies = [
            _line({"tokens": [claims(n + i) for i in range(BATCH)]}) for n in range(0, 200 * BATCH, BATCH)
        ]
        return self._workload(name, "/introspect/batch", bodies, BATCH)

    def _workload(self, name: str, path: str, bodies: list[str], units: int = 1) -> Workload:
        file = self.folder / f"{name}.bodies"
        file.write_text("\n".join(bodies))
        return Workload(name, path, file, self.authorization, units)


def _envelope(claims: dict[str, Any]) -> dict[str, Any]:
    return {"claims": claims, "header": {"alg": "RS256", "kid": KEY_ID, "typ": "at+jwt"}}


def _sign(pem: bytes, claims: list[dict[str, Any]]) -> list[str]:
    key = serialization.load_pem_private_key(pem, None)
    header = {"kid": KEY_ID, "typ": "at+jwt"}
    return [
        jwt.encode({**payload, "aud": AUDIENCE, "scope": "orders:read"}, key, "RS256", header)  # type: ignore[arg-type]
        for payload in claims
    ]


def signing_key(algorithm: str) -> Any:
    """A fresh private key for the sessions."""
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


def _line(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"))
