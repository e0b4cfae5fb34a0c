"""The keys that tokens are signed with here: private ones, in a folder, that change while running.

A file holds one key, as PEM or as a JWK. A JWK may say from when it signs (``nbf``) and until when
it is published (``exp``), as NumericDates; a key with an ``exp`` is retired and signs nothing more.
"""

import asyncio
import os
import stat
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from service.errors import ConfigError, KeysUnavailable
from service.metrics import Metrics
from service.tokens.claims import LATEST_DATE
from service.tokens.jwk import (
    PUBLIC_KEY_ALGORITHMS,
    UnusableKey,
    VerifyingKey,
    algorithms_of,
    public_key,
    thumbprint,
)
from service.tokens.keys import PolledKeys, Sleep
from service.tokens.parsing import base64url, strict_json_object

MAX_FILE_BYTES: Final = 64 * 1024
MAX_KID_CHARS: Final = 128

_PEM: Final = b"-----BEGIN "
_PUBLIC_MEMBERS: Final = frozenset(("crv", "e", "kty", "n", "x", "y"))
_ALGORITHMS: Final[Mapping[str, Algorithm]] = get_default_algorithms()

_log = structlog.get_logger(__name__)


class SigningKey:
    """A private key, prepared, that signs with one algorithm.

    Attributes:
        public: Its public half, as it is published (RFC 7517 §4).
        verifying: The same, to verify with.
    """

    __slots__ = ("_header", "_private", "_sign", "alg", "kid", "public", "verifying")

    def __init__(self, private: Any, *, kid: str | None = None, alg: str | None = None) -> None:
        """Prepare a key.

        Args:
            private: As the library ``cryptography`` has it.
            kid: None: the RFC 7638 thumbprint.
            alg: None: the usual one for such a key.

        Raises:
            UnusableKey: it is weak, of an unknown kind, or not for ``alg``.
        """
        members = _public_members(private)
        fitting = algorithms_of(members)
        self.alg = fitting[0] if alg is None else alg
        if self.alg not in fitting:
            raise UnusableKey(f"does not fit its alg, but {', '.join(fitting)}")
        self.kid = thumbprint(members) if kid is None else kid
        self.public: Final[dict[str, str]] = {**members, "kid": self.kid, "use": "sig", "alg": self.alg}
        self.verifying: VerifyingKey = public_key(self.public, (self.alg,))
        self._private = private
        self._sign = _ALGORITHMS[self.alg].sign
        header = {"typ": "at+jwt", "alg": self.alg, "kid": self.kid}
        self._header = f"{base64url(msgspec.json.encode(header))}."

    def sign(self, claims: Mapping[str, Any]) -> str:
        """An RFC 9068 access token of these claims, as they are."""
        message = self._header + base64url(msgspec.json.encode(claims))
        return f"{message}.{base64url(self._sign(message.encode(), self._private))}"

    def secret_jwk(self) -> dict[str, Any]:
        """The whole key, to be kept in a file."""
        return {**_ALGORITHMS[self.alg].to_jwk(self._private, as_dict=True), **self.public}


@dataclass(frozen=True, slots=True)
class DatedKey:
    """A key and its time, in seconds since 1970.

    Attributes:
        signs_from: Before it the key is published and signs nothing, unless there is no other.
        until: It is retired, and published until then; None: it is not.
    """

    key: SigningKey
    signs_from: float
    until: float | None = None


def read_key(contents: bytes, modified: float) -> DatedKey:
    """The key in a file that was last ``modified`` then, from when it signs unless it says otherwise.

    Raises:
        UnusableKey: it is no private key, or encrypted, weak, or of an unknown kind.
    """
    try:
        if contents.lstrip().startswith(_PEM):
            return DatedKey(SigningKey(load_pem_private_key(contents, password=None)), modified)
        return _key_of_jwk(strict_json_object(contents), modified)
    except UnusableKey:
        raise
    except (ValueError, TypeError, PyJWTError, UnsupportedAlgorithm):
        raise UnusableKey("neither an unencrypted private key in PEM nor a private JWK") from None


def _key_of_jwk(jwk: dict[str, Any], modified: float) -> DatedKey:
    if jwk.get("use", "sig") != "sig" or "sign" not in jwk.get("key_ops", ("sign",)):
        raise UnusableKey("not for signing")
    if type(jwk.get("d")) is not str:
        raise UnusableKey("has no private half")
    kid, alg = jwk.get("kid"), jwk.get("alg")
    if "kid" in jwk and not (type(kid) is str and 0 < len(kid) <= MAX_KID_CHARS and kid.isprintable()):
        raise UnusableKey(f"kid is not 1 to {MAX_KID_CHARS} printable characters")
    private = _ALGORITHMS[algorithms_of(jwk)[0]].from_jwk(jwk)
    signs_from = _date(jwk, "nbf")
    key = SigningKey(private, kid=kid, alg=alg)
    return DatedKey(key, modified if signs_from is None else signs_from, _date(jwk, "exp"))


def _date(jwk: Mapping[str, Any], name: str) -> float | None:
    date = jwk.get(name)
    if date is None:
        return None
    if type(date) not in (int, float) or not 0 <= date <= LATEST_DATE:
        raise UnusableKey(f"{name} is not a date")
    return float(date)


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


class SigningKeys(PolledKeys):
    """The own keys: to sign with, to publish, and to verify what was signed here.

    A file that can't be used is logged and skipped. While none can, the last good ones stand.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Read the folder.

        Raises:
            ConfigError: it holds no key to sign with.
        """
        super().__init__(name, PUBLIC_KEY_ALGORITHMS, metrics, sleep=sleep)
        self._folder = folder
        self._clock = clock
        self._files: dict[str, tuple[Stamp, DatedKey | None]] = {}
        self._found: list[DatedKey] = []
        self._readable: list[DatedKey] = []
        self._published: list[DatedKey] = []
        self._read_if_changed()
        if all(dated.until is not None for dated in self._published):
            raise ConfigError(
                ["sessions.signing_keys_dir: holds no key to sign with; make one with revoker keys generate"]
            )

    def signer(self, now: float, revoked: Collection[str]) -> SigningKey:
        """The key to sign with: the newest whose time has come, else the first whose time will come.

        Args:
            now: Seconds since 1970.
            revoked: Names of keys that must sign nothing more.

        Raises:
            KeysUnavailable: all are retired or revoked.
        """
        able = [
            dated for dated in self._published if dated.until is None and dated.key.kid not in revoked
        ]  # oldest first
        if not able:
            raise KeysUnavailable("there is no key to sign with")
        due = [dated for dated in able if dated.signs_from <= now]
        return (due[-1] if due else able[0]).key

    def jwks(self, now: float, revoked: Collection[str]) -> bytes:
        """The JWK Set to publish: public halves of all keys that may verify a token."""
        entries = [
            dated.key.public
            for dated in self._published
            if dated.key.kid not in revoked and not is_over(dated, now)
        ]
        return msgspec.json.encode({"keys": entries})

    def _read_if_changed(self) -> None:
        fault = None
        try:
            self._read_folder()
        except (OSError, ValueError) as caught:
            fault = caught
        now = self._clock()
        published = [dated for dated in self._readable if not is_over(dated, now)]
        recovered = fault is None and (self.stale or not self.ready)
        if published != self._published or recovered:
            self._published = published
            self._adopt(dated.key.verifying for dated in published)
        if fault is not None:
            self._note_failure(fault)

    def _read_folder(self) -> None:
        """Read the files that were changed since they were last read."""
        files: dict[str, tuple[Stamp, DatedKey | None]] = {}
        for path, stamp in files_in(self._folder):
            known = self._files.get(path.name)
            if known is None or known[0] != stamp:
                known = stamp, self._read_file(path)
            files[path.name] = known
        if files != self._files:
            self._files = files
            self._found = self._distinct([dated for _, dated in files.values() if dated is not None])
        if not self._found:
            raise ValueError("the folder holds no usable key")
        self._readable = self._found

    def _read_file(self, path: Path) -> DatedKey | None:
        try:
            return key_in(path)
        except (OSError, UnusableKey) as fault:
            _log.warning("signing key skipped", file=path.name, reason=str(fault))
            return None

    def _distinct(self, keys: list[DatedKey]) -> list[DatedKey]:
        """One key of each name, oldest first: of two, the retired one, then the older."""
        by_kid: dict[str, DatedKey] = {}
        for dated in sorted(keys, key=lambda each: (each.until is None, each.signs_from)):
            if by_kid.setdefault(dated.key.kid, dated) is not dated:
                _log.warning("signing key skipped", kid=dated.key.kid, reason="another has its kid")
        return sorted(by_kid.values(), key=lambda each: (each.signs_from, each.key.kid))


def files_in(folder: Path) -> list[tuple[Path, Stamp]]:
    """The files of a folder that may be keys, by name, with what tells their versions apart."""
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
    """The key in a file; a file without a date counts from when it was written.

    Raises:
        OSError: it can't be read.
        UnusableKey: it holds no key that can be used.
    """
    with path.open("rb") as file:
        contents = file.read(MAX_FILE_BYTES + 1)
        modified = os.fstat(file.fileno()).st_mtime
    if len(contents) > MAX_FILE_BYTES:
        raise UnusableKey("too large for a key")
    return read_key(contents, modified)


def is_over(dated: DatedKey, now: float) -> bool:
    """Whether nothing that a key signed counts any more."""
    return dated.until is not None and dated.until <= now
