"""Keys in local files, reloaded when they change."""

import asyncio
from abc import abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Final

from revoker.errors import ConfigError
from revoker.metrics import Metrics
from revoker.tokens.jwk import VerifyingKey, shared_secret
from revoker.tokens.key_sets import MAX_SET_BYTES, KeySource, Sleep

POLL_S: Final = 1.0


class PolledKeys(KeySource):
    """Keys on disk, checked for changes once a second, and for a token whose key is unknown."""

    def __init__(
        self, name: str, algorithms: Collection[str], metrics: Metrics, *, sleep: Sleep = asyncio.sleep
    ) -> None:
        super().__init__(name, algorithms, metrics)
        self._sleep = sleep
        self._polling: asyncio.Task[None] | None = None

    @abstractmethod
    def _read_if_changed(self) -> None:
        """Adopt the present keys, or record why they can't be read."""

    async def start(self) -> None:
        self._read_if_changed()
        self._polling = asyncio.create_task(self._poll_forever())

    async def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)

    async def look_again(self, *, replaced: bool = False) -> bool:  # noqa: ARG002  # both cost little here
        self._read_if_changed()
        return self.ready and not self.stale

    async def _poll_forever(self) -> None:
        while True:
            await self._sleep(POLL_S)
            self._read_if_changed()


class KeyFile(PolledKeys):
    """Keys of a file that is reloaded whenever it is changed or replaced."""

    def __init__(self, name: str, path: Path, algorithms: Collection[str], metrics: Metrics) -> None:
        super().__init__(name, algorithms, metrics)
        self._path = path
        self._stamp: tuple[int, ...] | None = None

    @property
    def place(self) -> str:
        return str(self._path)

    @abstractmethod
    def _keys_in(self, contents: bytes) -> list[VerifyingKey]:
        """The keys in the file; raises ``ValueError`` if it is malformed."""

    def _read_if_changed(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return
            contents = self._contents()
            self._stamp = stamp
            self._adopt(self._keys_in(contents))
        except OSError as fault:
            self._stamp = None
            self._note_failure(fault)
        except ValueError as fault:
            self._note_failure(fault)

    def _contents(self) -> bytes:
        with self._path.open("rb") as file:
            contents = file.read(MAX_SET_BYTES + 1)
        if len(contents) > MAX_SET_BYTES:
            raise ValueError("too large")
        return contents


class JwksFile(KeyFile):
    """A JWK Set in a file."""

    def _keys_in(self, contents: bytes) -> list[VerifyingKey]:
        return self._usable_keys(contents)


class HmacFile(KeyFile):
    """A secret shared with the issuer: the bytes of a file without one newline at its end.

    Raises:
        ConfigError: the secret can't be read or is unusable when the process starts.
    """

    def __init__(self, name: str, path: Path, algorithms: Collection[str], metrics: Metrics) -> None:
        super().__init__(name, path, algorithms, metrics)
        try:
            self._keys_in(self._contents())
        except OSError as fault:
            raise ConfigError([f"issuer {name}: hmac_secret_file: {fault.strerror}"]) from None
        except ValueError as fault:
            raise ConfigError([f"issuer {name}: hmac_secret_file: {fault}"]) from None

    def _keys_in(self, contents: bytes) -> list[VerifyingKey]:
        secret = contents.removesuffix(b"\n").removesuffix(b"\r")
        return [shared_secret(secret, self._allowed)]
