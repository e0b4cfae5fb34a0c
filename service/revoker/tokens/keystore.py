"""Rotation of the signing keys in their folder: generate, list and retire."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from revoker.errors import ConfigError, InvalidRequest
from revoker.tokens.jwk import UnusableKey
from revoker.tokens.private_keys import DatedKey, SigningKey, files_in, is_over, key_in
from revoker.tokens.secret_files import write_private

AHEAD_S: Final = 600
"""Seconds for which a new key is published before it signs: longer than a key set may be cached."""

_TICK_S: Final = 0.001
"""The minimum difference of two keys in ``made``."""

State = Literal["next", "signing", "superseded", "retiring", "retired"]
SigningAlgorithm = Literal["ES256", "RS256", "PS256", "EdDSA"]

_NEW: Final[Mapping[SigningAlgorithm, Callable[[], Any]]] = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "PS256": lambda: rsa.generate_private_key(65537, 2048),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


@dataclass(frozen=True, slots=True)
class Listed:
    """A key in the folder.

    Attributes:
        state: A superseded key signs nothing, since a newer one does, but is not retired yet.
    """

    file: Path
    dated: DatedKey
    state: State


def listed(folder: Path, now: float) -> tuple[list[Listed], list[tuple[Path, str]]]:
    """The keys in a folder, oldest first, and the files that are unusable, with the reason.

    Raises:
        ConfigError: the folder can't be read.
    """
    keys, unusable = [], []
    for path in _files(folder):
        try:
            keys.append((path, key_in(path)))
        except OSError as fault:
            unusable.append((path, f"can't be read ({fault.strerror})"))
        except UnusableKey as fault:
            unusable.append((path, str(fault)))
    keys.sort(key=lambda entry: entry[1].age)
    due = [dated for _, dated in keys if dated.until is None and (dated.signs_from or 0) <= now]
    return [Listed(path, dated, _state(dated, due, now)) for path, dated in keys], unusable


def _state(dated: DatedKey, due: list[DatedKey], now: float) -> State:
    if dated.until is not None:
        return "retired" if is_over(dated, now) else "retiring"
    if dated.signs_from is not None and dated.signs_from > now:
        return "next"
    return "signing" if dated is due[-1] else "superseded"


def generate(folder: Path, alg: SigningAlgorithm, now: float, ahead: float = AHEAD_S) -> DatedKey:
    """Add a key that signs ``ahead`` seconds from now, or at once if no other key can sign.

    Raises:
        ConfigError: the folder can't be used.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        present, _ = listed(folder, now)
        others_sign = any(other.dated.until is None for other in present)
        signs_from = now + ahead if others_sign else now
        newest = max((other.dated.made for other in present), default=0.0)
        private = _NEW[alg]()
        made = DatedKey(
            SigningKey(private, kid=_kid(SigningKey(private).kid, now), alg=alg),
            signs_from,
            made=max(now, newest + _TICK_S),
        )
        _write(folder / f"{made.key.kid}.jwk", made)
    except OSError as fault:
        raise _unusable(fault) from None
    return made


def retire(folder: Path, kid: str, now: float, keep: float, *, force: bool = False) -> DatedKey:
    """Stop signing with a key; it stays published until its last token has expired.

    A PEM file, which can't hold a date, is replaced by a JWK.

    Args:
        folder: The folder of the keys.
        kid: The key.
        now: Seconds since 1970.
        keep: Seconds for which it stays published.
        force: Retire it even if no other key signs yet.

    Raises:
        InvalidRequest: there is no such key, or no other key is certain to sign: when a key without a date
            begins to sign, only the instances know.
        ConfigError: the folder can't be used.
    """
    present, _ = listed(folder, now)
    retiring = [entry for entry in present if entry.dated.key.kid == kid]
    if not retiring:
        raise InvalidRequest("there is no such key")
    others = [
        other for other in present if other not in retiring and other.state in {"signing", "superseded"}
    ]
    if not force and not others:
        raise InvalidRequest("no other key signs yet: generate one and wait until it does, or use --force")
    if not force and all(other.dated.signs_from is None for other in others):
        raise InvalidRequest(
            "the other keys have no date: use --force once every instance has had them for ten minutes"
        )
    ends = [entry.dated.until for entry in retiring if entry.dated.until is not None]
    end = min(ends, default=math.ceil(now + keep))
    try:
        for entry in retiring:
            retired = dataclasses.replace(entry.dated, until=end)
            if entry.file.suffix == ".pem":
                _write(entry.file.with_name(f"{entry.file.name}.jwk"), retired)
                entry.file.unlink()
            else:
                _write(entry.file, retired)
    except OSError as fault:
        raise _unusable(fault) from None
    return dataclasses.replace(retiring[0].dated, until=end)


def _kid(thumbprint: str, now: float) -> str:
    """A unique name that shows the day on which the key was made."""
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%d}-{thumbprint[:12]}"


def _write(path: Path, dated: DatedKey) -> None:
    dates = {"iat": dated.made or None, "nbf": dated.signs_from, "exp": dated.until}
    members = {**dated.key.secret_jwk(), **{name: date for name, date in dates.items() if date is not None}}
    write_private(path, msgspec.json.format(msgspec.json.encode(members), indent=1) + b"\n")


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path, _ in files_in(folder))
    except OSError as fault:
        raise _unusable(fault) from None


def _unusable(fault: OSError) -> ConfigError:
    return ConfigError([f"sessions.signing_keys_dir: can't be used ({fault.strerror})"])
