"""Refresh tokens: a session id and its generation, under a MAC.

The store holds the generation alone, so whoever reads the store can't make a token. The same generation
gives the same token for as long as the signing key is the same.
"""

import contextlib
import functools
import hmac
import secrets
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from revoker.errors import ConfigError
from revoker.tokens.parsing import base64url, base64url_decoded
from revoker.tokens.secret_files import write_private

PREFIX: Final = "rvr_"
KEY_BYTES: Final = 32
MAX_CLIENT_BYTES: Final = 1024

_SID_BYTES: Final = 28
_MAC_BYTES: Final = 32
_FIXED: Final = struct.Struct(f">{_SID_BYTES}sI")
_LABEL: Final = b"revoker refresh token 1\0"
"""Domain separation: no other use of the same key gives the same MAC."""

_MAX_CHARS: Final = len(PREFIX) + -(-(_FIXED.size + _MAC_BYTES + MAX_CLIENT_BYTES) * 4 // 3)
_MAX_KEY_FILE_BYTES: Final = 4096
CHECK_INTERVAL_S: Final = 1.0

_log = structlog.get_logger(__name__)


class RefreshToken(msgspec.Struct, frozen=True, gc=False):
    """The contents of a genuine refresh token; the store decides whether it may still be used.

    Attributes:
        client_id: Empty where the session has none.
    """

    sid: str
    generation: int
    client_id: str


@dataclass(frozen=True, slots=True)
class RefreshKey:
    """A secret. It signs from ``signs_from`` (seconds since 1970) on; before, it only verifies."""

    secret: bytes
    signs_from: float = 0


class RefreshKeyFile:
    """The keys of a file that is read again when it changes; if that fails, the last keys stay in use."""

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Read the file.

        Raises:
            ConfigError: it can't be used.
        """
        self._path = path
        self._monotonic = monotonic
        self._stamp = _stamp(path)
        self._keys = load_refresh_keys(path)
        self._check_at = monotonic() + CHECK_INTERVAL_S

    def keys(self) -> Sequence[RefreshKey]:
        """The keys; the file is checked at most once a second."""
        if self._monotonic() >= self._check_at:
            self._check_at = self._monotonic() + CHECK_INTERVAL_S
            self._read_if_changed()
        return self._keys

    def _read_if_changed(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = load_refresh_keys(self._path)
        except ConfigError as fault:
            _log.warning("refresh keys not read", fault=str(fault))
        else:
            _log.info("refresh keys read again", keys=len(self._keys))


class RefreshTokens:
    """Makes and reads refresh tokens. All keys verify; the first whose ``signs_from`` has passed signs."""

    def __init__(
        self, keys: Callable[[], Sequence[RefreshKey]], *, clock: Callable[[], float] = time.time
    ) -> None:
        """``keys`` returns the present keys, newest first; ``clock`` is in seconds since 1970."""
        self._keys = keys
        self._clock = clock

    def make(self, sid: str, generation: int, client_id: str) -> str:
        """The token of one generation of a session.

        Raises:
            ValueError: ``sid`` was not made here, or ``client_id`` is longer than 1,024 bytes.
        """
        client = client_id.encode()
        if len(client) > MAX_CLIENT_BYTES:
            raise ValueError("client_id is too long")
        raw = base64url_decoded(sid)
        if len(raw) != _SID_BYTES:
            raise ValueError("not a sid that was made here")
        fixed = _FIXED.pack(raw, generation)
        return PREFIX + base64url(fixed + _mac(self._signing_secret(), fixed, client) + client)

    def read(self, token: str) -> RefreshToken | None:
        """The contents of a token; None unless it was made with one of the keys."""
        if not looks_like(token) or len(token) > _MAX_CHARS:
            return None
        try:
            raw = base64url_decoded(token[len(PREFIX) :])
        except ValueError:
            return None
        fixed, rest = raw[: _FIXED.size], raw[_FIXED.size :]
        mac, client = rest[:_MAC_BYTES], rest[_MAC_BYTES:]
        if len(mac) < _MAC_BYTES:
            return None
        for key in self._keys():
            if hmac.compare_digest(_mac(key.secret, fixed, client), mac):
                sid, generation = _FIXED.unpack(fixed)
                return RefreshToken(base64url(sid), generation, client.decode())
        return None

    def _signing_secret(self) -> bytes:
        keys, now = self._keys(), self._clock()
        for key in keys:
            if key.signs_from <= now:
                return key.secret
        return keys[-1].secret


def looks_like(token: str) -> bool:
    """Whether a text has the prefix of our refresh tokens, which no JWT has."""
    return token.startswith(PREFIX)


def _mac(secret: bytes, fixed: bytes, client: bytes) -> bytes:
    mac = _labelled_mac(secret).copy()
    mac.update(fixed + client)
    return mac.finalize()


@functools.lru_cache(16)
def _labelled_mac(secret: bytes) -> HMAC:
    """HMAC-SHA-256 of the label alone; copying it is faster than starting again."""
    mac = HMAC(secret, SHA256())
    mac.update(_LABEL)
    return mac


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def load_refresh_keys(path: Path) -> list[RefreshKey]:
    """The keys of a file: one per line, newest first, with an optional date from which it signs.

    Raises:
        ConfigError: it can't be read, or a line is not a key of 32 bytes.
    """
    try:
        with path.open("rb") as file:
            contents = file.read(_MAX_KEY_FILE_BYTES + 1)
    except OSError as fault:
        raise _wrong(f"can't be read ({fault.strerror}); revoker keys generate makes it") from None
    if len(contents) > _MAX_KEY_FILE_BYTES:
        raise _wrong("is too large")
    keys = []
    for number, line in enumerate(contents.decode("utf-8", "replace").splitlines(), 1):
        if line.strip():
            try:
                keys.append(_key_of(line))
            except ValueError:
                raise _wrong(f"line {number} is not a key of {KEY_BYTES} bytes in base64url") from None
    if not keys:
        raise _wrong("holds no key")
    return keys


def new_refresh_key_file(path: Path) -> None:
    """Make the file with a new key, unless it exists."""
    with contextlib.suppress(FileExistsError):
        write_private(path, f"{_new_secret()}\n".encode(), replace=False)


def rotate_refresh_keys(path: Path, *, signs_from: float) -> None:
    """Add a key that signs from a date on, and remove all but the two newest of the others.

    Every instance must have read the file by that date: an instance without the key rejects its tokens.

    Raises:
        ConfigError: as :func:`load_refresh_keys`.
    """
    lines = [f"{base64url(key.secret)} {key.signs_from:.0f}" for key in load_refresh_keys(path)[:2]]
    write_private(
        path, "".join(f"{line}\n" for line in [f"{_new_secret()} {signs_from:.0f}", *lines]).encode()
    )


def _new_secret() -> str:
    return base64url(secrets.token_bytes(KEY_BYTES))


def _key_of(line: str) -> RefreshKey:
    text, _, date = line.strip().partition(" ")
    secret = base64url_decoded(text)
    if len(secret) != KEY_BYTES:
        raise ValueError("of another length")
    return RefreshKey(secret, int(date) if date else 0)


def _wrong(problem: str) -> ConfigError:
    return ConfigError([f"sessions.refresh_key_file: {problem}"])
