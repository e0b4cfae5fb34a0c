"""Where an issuer's keys come from, and how they are kept up to date beside the requests.

A source holds the keys of the last set that was read with success. A key that a newer set does not
hold is dead at once; a key that it does hold stays the same object, so that what it verified stays
remembered.
"""

import asyncio
import itertools
import secrets
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import aiohttp
import structlog

from service.errors import ConfigError
from service.metrics import Metrics
from service.tokens.jwk import (
    HMAC_BYTES,
    PUBLIC_KEY_ALGORITHMS,
    UnusableKey,
    VerifyingKey,
    public_key,
    shared_secret,
)
from service.tokens.parsing import strict_json_object

MAX_CANDIDATES: Final = 16
MAX_SET_BYTES: Final = 512 * 1024
FETCH_TIMEOUT_S: Final = 5.0
REFRESH_S: Final = 300.0
REFRESH_JITTER: Final = 0.1
FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 30.0
COOL_DOWN_S: Final = 30.0
"""Between fetches that tokens with unknown keys give rise to."""

KEEP_S: Final = 86_400.0
"""How long a set that can't be refreshed is believed: a withdrawn key must not live for ever."""

POLL_S: Final = 1.0

_log = structlog.get_logger(__name__)
_RANDOM: Final = secrets.SystemRandom()

Sleep = Callable[[float], Awaitable[object]]


class KeySource(ABC):
    """The keys of one issuer.

    Attributes:
        name: The issuer's, as in the settings.
        algorithms: What its tokens may be signed with.
        ready: Whether a set is in hand; if not, no token of the issuer can be judged.
        stale: Whether a set is in hand, but the last attempt to read it again has failed.
    """

    def __init__(self, name: str, algorithms: Collection[str], metrics: Metrics) -> None:
        self.name = name
        self.algorithms = frozenset(algorithms)
        self.ready = False
        self.stale = False
        self._keys: Mapping[object, VerifyingKey] = {}
        self._by_kid: Mapping[str | None, list[VerifyingKey]] = {}
        self._fault = ""
        self._metrics = metrics

    @abstractmethod
    async def start(self) -> None:
        """Begin to read the keys and keep them up to date; waits for no other machine."""

    @abstractmethod
    async def close(self) -> None:
        """Stop; the keys in hand stay."""

    @abstractmethod
    async def look_again(self) -> bool:
        """Bring the keys up to date for a token whose key is unknown, as far as that is allowed.

        Returns:
            Whether the keys now in hand were read, or found unchanged, after the call began.
        """

    def candidates(self, kid: str | None, alg: str) -> list[VerifyingKey]:
        """The keys that may have made a token with this header, those that bear the name first.

        A token without ``kid`` may be any key's; a key without ``kid`` may have made any token.
        """
        if kid is None:
            among: Iterable[VerifyingKey] = self._keys.values()
        else:
            among = [*self._by_kid.get(kid, ()), *self._by_kid.get(None, ())]
        fitting = (key for key in among if alg in key.algorithms)
        return list(itertools.islice(fitting, MAX_CANDIDATES))

    def knows(self, kid: str | None) -> bool:
        """Whether a key in hand bears this name."""
        return kid is not None and kid in self._by_kid

    def _adopt(self, keys: Iterable[VerifyingKey]) -> None:
        """Take a set that was read just now for the truth."""
        adopted: dict[object, VerifyingKey] = {}
        by_kid = defaultdict(list)
        for key in keys:
            if key.identity not in adopted:
                adopted[key.identity] = self._keys.get(key.identity, key)
                by_kid[key.kid].append(adopted[key.identity])
        for identity, key in self._keys.items():
            if identity not in adopted:
                key.live = False
                _log.info("issuer key withdrawn", issuer=self.name, kid=key.id)
        self._keys, self._by_kid = adopted, dict(by_kid)
        if self._fault:
            _log.info("issuer keys up to date again", issuer=self.name)
        self.ready, self.stale, self._fault = True, False, ""
        self._metrics.jwks_refreshes.labels(self.name, "ok").inc()
        self._metrics.jwks_refreshed.labels(self.name).set_to_current_time()

    def _note_failure(self, fault: Exception) -> None:
        """The set could not be read: the last good one stands, if there is one."""
        self._metrics.jwks_refreshes.labels(self.name, "error").inc()
        self.stale = self.ready
        said = f"{type(fault).__name__}: {fault}"
        if said != self._fault:
            _log.warning("issuer keys not read", issuer=self.name, fault=said, held=self.ready)
        self._fault = said

    def _forget(self) -> None:
        """Believe the set in hand no longer: until one is read, nothing can be told."""
        for key in self._keys.values():
            key.live = False
        self._keys, self._by_kid = {}, {}
        self.ready = self.stale = False
        _log.error("issuer keys too old to be believed", issuer=self.name)


def read_key_set(document: bytes, allowed: Collection[str], issuer: str) -> list[VerifyingKey]:
    """The usable keys of a JWK Set; the others are skipped and logged (RFC 7517 §5).

    Raises:
        ValueError: it is no JWK Set.
    """
    entries = strict_json_object(document).get("keys")
    if type(entries) is not list:
        raise ValueError("no JWK Set: keys is not an array")
    usable: list[VerifyingKey] = []
    for position, entry in enumerate(entries):
        try:
            usable.append(public_key(entry, allowed))
        except UnusableKey as fault:
            _log.debug("key skipped", issuer=issuer, position=position, reason=str(fault))
    if not usable:
        _log.warning("issuer has no usable key", issuer=issuer, entries=len(entries))
    return usable


class JwksByUrl(KeySource):
    """Keys fetched over HTTP ahead of need, and for an unknown ``kid`` once in each cool-down.

    All who wait for keys share the fetch that is under way; one who gives up leaves it to them.
    """

    def __init__(
        self,
        name: str,
        url: str,
        algorithms: Collection[str],
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        timeout_s: float = FETCH_TIMEOUT_S,
    ) -> None:
        super().__init__(name, algorithms, metrics)
        self._url = url
        self._clock = clock
        self._sleep = sleep
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._fetch: asyncio.Task[bool] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._fetched_at = clock()
        self._cool_at = self._fetched_at

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            connector=aiohttp.TCPConnector(force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/jwk-set+json, application/json"},
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding",),
        )
        self._fetch_now(self._session)
        self._refreshing = asyncio.create_task(self._refresh_for_ever(self._session))

    async def close(self) -> None:
        running = [task for task in (self._refreshing, self._fetch) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def look_again(self) -> bool:
        if self._fetch is not None and not self._fetch.done():
            await _outcome(self._fetch)
            return False
        if self._session is None or self._clock() < self._cool_at:
            return False
        self._cool_at = self._clock() + COOL_DOWN_S
        return await _outcome(self._fetch_now(self._session))

    def _fetch_now(self, session: aiohttp.ClientSession) -> asyncio.Task[bool]:
        """The fetch that is under way, or else a new one."""
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._fetch_and_adopt(session))
        return self._fetch

    async def _refresh_for_ever(self, session: aiohttp.ClientSession) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            if await _outcome(self._fetch_now(session)):
                retry_s = FIRST_RETRY_S
                await self._sleep(REFRESH_S * _RANDOM.uniform(1 - REFRESH_JITTER, 1))
            else:
                await self._sleep(retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)

    async def _fetch_and_adopt(self, session: aiohttp.ClientSession) -> bool:
        try:
            document = await self._download(session)
            self._adopt(read_key_set(document, self.algorithms, self.name))
        except Exception as fault:  # noqa: BLE001 - another machine's answer must not end the refreshing
            self._note_failure(fault)
            if self.ready and self._clock() - self._fetched_at > KEEP_S:
                self._forget()
            return False
        self._fetched_at = self._clock()
        return True

    async def _download(self, session: aiohttp.ClientSession) -> bytes:
        body = bytearray()
        async with session.get(self._url, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"answered with status {response.status}")
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_SET_BYTES:
                    raise ValueError("too large")
        return bytes(body)


async def _outcome(fetch: asyncio.Task[bool]) -> bool:
    """Wait for a fetch that others may wait for too; one that was called off has failed."""
    await asyncio.wait((fetch,))
    return not fetch.cancelled() and fetch.result()


class PolledKeys(KeySource):
    """Keys on disk: looked at once a second, and again for a token whose key is unknown."""

    def __init__(
        self, name: str, algorithms: Collection[str], metrics: Metrics, *, sleep: Sleep = asyncio.sleep
    ) -> None:
        super().__init__(name, algorithms, metrics)
        self._sleep = sleep
        self._polling: asyncio.Task[None] | None = None

    @abstractmethod
    def _read_if_changed(self) -> None:
        """Adopt what is there now, or note why it can't be read."""

    async def start(self) -> None:
        self._read_if_changed()
        self._polling = asyncio.create_task(self._poll_for_ever())

    async def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)

    async def look_again(self) -> bool:
        self._read_if_changed()
        return self.ready and not self.stale

    async def _poll_for_ever(self) -> None:
        while True:
            await self._sleep(POLL_S)
            self._read_if_changed()


class KeyFile(PolledKeys):
    """Keys of a file that is read again whenever it was changed or replaced."""

    def __init__(
        self,
        name: str,
        path: Path,
        algorithms: Collection[str],
        metrics: Metrics,
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        super().__init__(name, algorithms, metrics, sleep=sleep)
        self._path = path
        self._seen: tuple[int, ...] | None = None

    @abstractmethod
    def _keys_in(self, contents: bytes) -> list[VerifyingKey]:
        """The keys that the file holds; ValueError if it is not such a file."""

    def _read_if_changed(self) -> None:
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return
            contents = self._contents()
            self._seen = seen
            self._adopt(self._keys_in(contents))
        except OSError as fault:
            self._seen = None
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
        return read_key_set(contents, self.algorithms, self.name)


class HmacFile(KeyFile):
    """A secret shared with the issuer: the bytes of a file, less one newline at its end.

    Raises:
        ConfigError: at once, if the secret can't be read or is weak.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        algorithms: Collection[str],
        metrics: Metrics,
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        super().__init__(name, path, algorithms, metrics, sleep=sleep)
        try:
            self._keys_in(self._contents())
        except OSError as fault:
            raise _wrong(name, f"hmac_secret_file: {fault.strerror}") from None
        except ValueError as fault:
            raise _wrong(name, f"hmac_secret_file: {fault}") from None

    def _keys_in(self, contents: bytes) -> list[VerifyingKey]:
        secret = contents.removesuffix(b"\n").removesuffix(b"\r")
        return [shared_secret(secret, self.algorithms)]


class KeySettings(Protocol):
    """What the settings of an issuer say about its keys; exactly one of the three places is set."""

    @property
    def name(self) -> str: ...
    @property
    def algorithms(self) -> Collection[str]: ...
    @property
    def jwks_uri(self) -> object: ...
    @property
    def jwks_file(self) -> object: ...
    @property
    def hmac_secret_file(self) -> object: ...
    @property
    def jwks_insecure(self) -> bool: ...


def key_source(issuer: KeySettings, metrics: Metrics) -> KeySource:
    """The source that an issuer's settings ask for, not started yet.

    Raises:
        ConfigError: the settings are unsafe, or contradict each other.
    """
    name, algorithms = issuer.name, frozenset(issuer.algorithms)
    places = [bool(issuer.jwks_uri), bool(issuer.jwks_file), bool(issuer.hmac_secret_file)]
    if sum(places) != 1:
        raise _wrong(name, "exactly one of jwks_uri, jwks_file and hmac_secret_file is needed")
    fitting = frozenset(HMAC_BYTES) if issuer.hmac_secret_file else PUBLIC_KEY_ALGORITHMS
    if not algorithms or algorithms - fitting:
        raise _wrong(name, f"algorithms: with keys of this kind, only {', '.join(sorted(fitting))}")
    if issuer.hmac_secret_file:
        return HmacFile(name, Path(str(issuer.hmac_secret_file)), algorithms, metrics)
    if issuer.jwks_file:
        return JwksFile(name, Path(str(issuer.jwks_file)), algorithms, metrics)
    url = str(issuer.jwks_uri)
    if urlsplit(url).scheme not in (("https", "http") if issuer.jwks_insecure else ("https",)):
        raise _wrong(name, "jwks_uri: https only (http where jwks_insecure is set)")
    return JwksByUrl(name, url, algorithms, metrics)


def _wrong(name: str, problem: str) -> ConfigError:
    return ConfigError([f"issuer {name}: {problem}"])
