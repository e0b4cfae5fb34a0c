"""Private keys and their files. Does not import prometheus_client: see :class:`revoker.server.workers.Plan`.

A file holds one key, as PEM or as a JWK. A JWK may state from when it signs (``nbf``), when it was made
(``iat``) and until when it is published (``exp``), as NumericDates; a key with ``exp`` is retired and signs
nothing. The file name of a key without ``nbf`` may begin with that date. Modification times are ignored:
copying, mounting or restoring a file changes them.
"""

import functools
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from revoker.models import LATEST_DATE
from revoker.tokens.jwk import UnusableKey, VerifyingKey, algorithms_of, public_key, thumbprint
from revoker.tokens.parsing import base64url, strict_json_object

MAX_FILE_BYTES: Final = 64 * 1024
MAX_KID_CHARS: Final = 128

_DATE_IN_NAME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d{4}(?:\d\d)?Z(?![0-9A-Za-z])").match
_PEM: Final = b"-----BEGIN "
_PUBLIC_MEMBERS: Final = frozenset(("crv", "e", "kty", "n", "x", "y"))
_ALGORITHMS: Final[Mapping[str, Algorithm]] = get_default_algorithms()


class SigningKey:
    """A private key, prepared to sign with one algorithm.

    Attributes:
        public: Its public JWK, as published (RFC 7517 §4).
        verifying: Its public key, to verify with.
    """

    __slots__ = ("_header", "_private", "_signature", "alg", "kid", "public", "verifying")

    def __init__(self, private: Any, *, kid: str | None = None, alg: str | None = None) -> None:
        """Prepare a key.

        Args:
            private: A private key of the library ``cryptography``.
            kid: None: the RFC 7638 thumbprint.
            alg: None: the default for this kind of key.

        Raises:
            UnusableKey: it is weak, of an unknown kind, or not for ``alg``.
        """
        members = _public_members(private)
        fitting = algorithms_of(members)
        self.alg = fitting[0] if alg is None else alg
        if self.alg not in fitting:
            raise UnusableKey(f"does not fit its alg; it fits {', '.join(fitting)}")
        self.kid = thumbprint(members) if kid is None else kid
        self.public: Final[dict[str, str]] = {**members, "kid": self.kid, "use": "sig", "alg": self.alg}
        self.verifying: VerifyingKey = public_key(self.public, (self.alg,))
        self._private = private
        self._signature: Callable[[bytes], bytes] = _signer(_ALGORITHMS[self.alg], private)
        header = {"typ": "at+jwt", "alg": self.alg, "kid": self.kid}
        self._header = f"{base64url(msgspec.json.encode(header))}."

    def sign(self, claims: Mapping[str, Any] | msgspec.Struct) -> str:
        """A signed access token (RFC 9068) of exactly these claims."""
        return self.signed(self.unsigned(claims))

    def unsigned(self, claims: Mapping[str, Any] | msgspec.Struct) -> str:
        """``header.payload`` of such a token."""
        return self._header + base64url(msgspec.json.encode(claims))

    def signed(self, unsigned: str) -> str:
        """The token: ``header.payload`` with its signature."""
        return f"{unsigned}.{base64url(self._signature(unsigned.encode()))}"

    def secret_jwk(self) -> dict[str, Any]:
        """The private JWK, for a file."""
        return {**_ALGORITHMS[self.alg].to_jwk(self._private, as_dict=True), **self.public}


@dataclass(frozen=True, slots=True)
class DatedKey:
    """A key and its dates, in seconds since 1970.

    Attributes:
        signs_from: Before that, the key is published but signs nothing, unless there is no other key. None:
            it has no date, so each process counts from when it first found the key.
        until: The key is retired and published until then; None: it is not retired.
        made: Orders keys with the same ``signs_from``; 0: unknown.
        file: The name of its file.
        dated_by_file: ``signs_from`` comes from the file's name, or is None.
    """

    key: SigningKey
    signs_from: float | None
    until: float | None = None
    made: float = 0.0
    file: str = ""
    dated_by_file: bool = False

    @property
    def age(self) -> tuple[float, float, str]:
        """Sort key, oldest first, the same in every process; keys without a date come first, by file name."""
        if self.signs_from is None:
            return -1.0, 0.0, self.file
        return self.signs_from, self.made, self.key.kid


def read_key(contents: bytes, signs_from: float | None = None, file: str = "") -> DatedKey:
    """Read the contents of a file; ``signs_from`` applies unless they state another date.

    Raises:
        UnusableKey: it is not a private key, or it is encrypted, weak, or of an unknown kind.
    """
    try:
        if contents.lstrip().startswith(_PEM):
            private = load_pem_private_key(contents, password=None)
            return DatedKey(SigningKey(private), signs_from, file=file, dated_by_file=True)
        return _key_of_jwk(strict_json_object(contents), signs_from, file)
    except UnusableKey:
        raise
    except (ValueError, TypeError, PyJWTError, UnsupportedAlgorithm):
        raise UnusableKey("neither an unencrypted private key in PEM nor a private JWK") from None


def date_in(file: str) -> float | None:
    """The date at the start of a file name: ``2026-11-28T1200Z.pem``, ``2026-11-28T120000Z-b.pem``."""
    match = _DATE_IN_NAME(file)
    if match is None:
        return None
    try:
        return datetime.fromisoformat(match[0]).timestamp()
    except ValueError:
        return None


def _key_of_jwk(jwk: dict[str, Any], signs_from: float | None, file: str) -> DatedKey:
    if jwk.get("use", "sig") != "sig" or "sign" not in jwk.get("key_ops", ("sign",)):
        raise UnusableKey("not for signing")
    if type(jwk.get("d")) is not str:
        raise UnusableKey("has no private half")
    kid, alg = jwk.get("kid"), jwk.get("alg")
    if "kid" in jwk and not (type(kid) is str and 0 < len(kid) <= MAX_KID_CHARS and kid.isprintable()):
        raise UnusableKey(f"kid is not 1 to {MAX_KID_CHARS} printable characters")
    private = _ALGORITHMS[algorithms_of(jwk)[0]].from_jwk(jwk)
    nbf = _date(jwk, "nbf")
    key = SigningKey(private, kid=kid, alg=alg)
    made: Any = jwk.get("iat")
    return DatedKey(
        key,
        signs_from if nbf is None else nbf,
        _date(jwk, "exp"),
        float(made) if type(made) in (int, float) and 0 <= made <= LATEST_DATE else 0.0,
        file,
        dated_by_file=nbf is None,
    )


def _date(jwk: Mapping[str, Any], name: str) -> float | None:
    date = jwk.get(name)
    if date is None:
        return None
    if type(date) not in (int, float) or not 0 <= date <= LATEST_DATE:
        raise UnusableKey(f"{name} is not a date")
    return float(date)


def _signer(algorithm: Algorithm, private: Any) -> Callable[[bytes], bytes]:
    """A function that signs messages; all that does not depend on the message is prepared once."""
    if isinstance(algorithm, OKPAlgorithm):
        return cast("Callable[[bytes], bytes]", private.sign)
    if not isinstance(algorithm, ECAlgorithm):
        return functools.partial(algorithm.sign, key=private)
    scheme, size = ECDSA(algorithm.hash_alg()), (private.curve.key_size + 7) // 8

    def sign(message: bytes) -> bytes:
        r, s = decode_dss_signature(private.sign(message, scheme))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")  # RFC 7518 §3.4

    return sign


def _public_members(private: Any) -> dict[str, Any]:
    if isinstance(private, RSAPrivateKey):
        jwk = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    elif isinstance(private, EllipticCurvePrivateKey):
        jwk = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    elif isinstance(private, Ed25519PrivateKey | Ed448PrivateKey):
        jwk = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
    else:
        raise UnusableKey("of an unknown kind")
    return {name: value for name, value in jwk.items() if name in _PUBLIC_MEMBERS}


Stamp = tuple[int, ...]


def files_in(folder: Path) -> list[tuple[Path, Stamp]]:
    """The files in a folder that may be keys, by name, each with a stamp that changes with its contents."""
    found: list[tuple[Path, Stamp]] = []
    for path in sorted(folder.iterdir()):
        try:
            status = path.stat()
        except FileNotFoundError:  # replaced at this very moment, or a link to nowhere
            continue
        if stat.S_ISREG(status.st_mode) and not path.name.startswith("."):
            found.append((path, (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)))
    return found


def key_in(path: Path) -> DatedKey:
    """Read a file.

    Raises:
        OSError: it can't be read.
        UnusableKey: it holds no usable key.
    """
    with path.open("rb") as file:
        contents = file.read(MAX_FILE_BYTES + 1)
    if len(contents) > MAX_FILE_BYTES:
        raise UnusableKey("too large for a key")
    return read_key(contents, date_in(path.name), path.name)


def is_over(dated: DatedKey, now: float) -> bool:
    """Whether the key is retired and all its tokens have expired."""
    return dated.until is not None and dated.until <= now
