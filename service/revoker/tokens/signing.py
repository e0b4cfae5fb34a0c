"""Our own signing keys."""

import asyncio
import time
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec
import structlog

from revoker.errors import ConfigError, KeysUnavailable
from revoker.metrics import Metrics
from revoker.tokens.jwk import PUBLIC_KEY_ALGORITHMS, UnusableKey
from revoker.tokens.key_files import PolledKeys
from revoker.tokens.key_sets import Sleep
from revoker.tokens.keystore import AHEAD_S
from revoker.tokens.private_keys import DatedKey, SigningKey, Stamp, files_in, is_over, key_in

_log = structlog.get_logger(__name__)


class SigningKeys(PolledKeys):
    """Our own keys, to sign with, to publish, and to verify with.

    An unusable file is logged and skipped. While all are unusable, the last good keys stay in use.

    A key is published before it signs, since other processes may find it later or cache the key set. All
    processes read the date from which it signs in its file or in the file's name. A key without a date, or
    one that is found too late for the date in its file's name, signs ``AHEAD_S`` after this process found it;
    at the start too, as nobody knows how long the key has been there. If no key is due, the oldest signs.
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
        self._not_before: dict[str, float] = {}
        self._running = False
        self._readable: list[DatedKey] = []
        self._published: list[DatedKey] = []
        self._read_if_changed()
        self._running = True
        if all(dated.until is not None for dated in self._published):
            raise ConfigError(
                ["sessions.signing_keys_dir: holds no key to sign with; make one with revoker keys generate"]
            )

    @property
    def place(self) -> str:
        return str(self._folder)

    def signer(self, now: float, revoked: Collection[str]) -> SigningKey:
        """The newest key that is due, or else the next that will be.

        Args:
            now: Seconds since 1970.
            revoked: The ``kid`` of keys that must not sign.

        Raises:
            KeysUnavailable: all are retired or revoked.
        """
        first = None
        for dated in reversed(self._published):  # newest first
            if dated.until is None and dated.key.kid not in revoked:
                if self._signs_from(dated) <= now:
                    return dated.key
                first = dated.key
        if first is None:
            raise KeysUnavailable("there is no key to sign with")
        return first

    def jwks(self, now: float, revoked: Collection[str]) -> bytes:
        """The JWK Set to publish: all public keys that may verify a token."""
        entries = [
            dated.key.public
            for dated in self._published
            if dated.key.kid not in revoked and not is_over(dated, now)
        ]
        return msgspec.json.encode({"keys": entries})

    def _signs_from(self, dated: DatedKey) -> float:
        return max(dated.signs_from or 0.0, self._not_before.get(dated.key.kid, 0.0))

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
        """Read the files that have changed since they were last read."""
        files: dict[str, tuple[Stamp, DatedKey | None]] = {}
        for path, stamp in files_in(self._folder):
            entry = self._files.get(path.name)
            if entry is None or entry[0] != stamp:
                entry = stamp, self._read_file(path)
            files[path.name] = entry
        if files != self._files:
            self._files = files
            self._found = self._distinct([dated for _, dated in files.values() if dated is not None])
        if not self._found:
            raise ValueError("the folder holds no usable key")
        self._readable = self._found
        self._delay_new(self._clock() + AHEAD_S)

    def _delay_new(self, not_before: float) -> None:
        """Record before when new keys must not sign."""
        delays: dict[str, float] = {}
        for dated in self._found:
            kid = dated.key.kid
            if kid in self._not_before:
                delays[kid] = self._not_before[kid]
            elif dated.dated_by_file and (self._running or dated.signs_from is None):
                delays[kid] = not_before
                if len(self._found) > 1 and (dated.signs_from or 0.0) < not_before:
                    _log.warning(
                        "signing key waits",
                        file=dated.file,
                        seconds=AHEAD_S,
                        reason="its file name has no date, or one that is too soon",
                    )
            else:
                delays[kid] = 0.0
        self._not_before = delays

    def _read_file(self, path: Path) -> DatedKey | None:
        try:
            return key_in(path)
        except (OSError, UnusableKey) as fault:
            _log.warning("signing key skipped", file=path.name, reason=str(fault))
            return None

    def _distinct(self, keys: list[DatedKey]) -> list[DatedKey]:
        """One key per ``kid``, oldest first; of several, the retired one, then the oldest."""
        by_kid: dict[str, DatedKey] = {}
        for dated in sorted(keys, key=lambda dated: (dated.until is None, dated.age)):
            if by_kid.setdefault(dated.key.kid, dated) is not dated:
                _log.warning("signing key skipped", kid=dated.key.kid, reason="another key has the same kid")
        return sorted(by_kid.values(), key=lambda dated: dated.age)
