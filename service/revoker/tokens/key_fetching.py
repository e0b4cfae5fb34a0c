"""Keys that an issuer publishes on the web, refreshed in the background."""

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from revoker.metrics import Metrics
from revoker.tokens.key_sets import MAX_SET_BYTES, KeySource, Sleep

FETCH_TIMEOUT_S: Final = 5.0
REFRESH_S: Final = 300.0
REFRESH_JITTER: Final = 0.1
FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 30.0

COOL_DOWN_S: Final = 30.0
"""Seconds between fetches that tokens with an unknown ``kid`` trigger, or those with a wrong signature."""

MAX_WAITING: Final = 500
"""Requests that may wait for a fetch of one issuer's keys; others use the keys in hand."""

KEEP_S: Final = 86_400.0
"""How long a set that can't be refreshed is used: it may contain a key withdrawn since."""

_RANDOM: Final = secrets.SystemRandom()


class JwksByUrl(KeySource):
    """Keys fetched over HTTP regularly, and for tokens of keys that are not in hand.

    An unknown ``kid`` triggers at most one fetch in ``COOL_DOWN_S``. A signature that fails under a loaded
    ``kid`` triggers one only if no token has triggered any in that time. It does not delay a fetch for an
    unknown ``kid``: anybody can forge signatures, and that must not hold up a rotation.

    All requests that wait for keys share one fetch, which continues if one of them is cancelled. At most
    ``max_waiting`` wait, so that a slow server does not make requests pile up.
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
        max_waiting: int = MAX_WAITING,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
    ) -> None:
        super().__init__(name, algorithms, metrics)
        self._url = url
        self._clock = clock
        self._sleep = sleep
        self._timeout_s = timeout_s
        self._trace_configs = list(trace_configs)
        self._session: aiohttp.ClientSession | None = None
        self._fetch: asyncio.Task[bool] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._max_waiting = max_waiting
        self._waiting = 0
        self._failed = asyncio.Event()
        self._fetched_at = clock()
        self._cool_at = self._fetched_at
        self._cool_at_if_replaced = self._fetched_at

    @property
    def place(self) -> str:
        return urlsplit(self._url).netloc

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            connector=aiohttp.TCPConnector(force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "Accept": "application/jwk-set+json, application/json",
                "Accept-Encoding": "identity",
            },
            auto_decompress=False,
            trace_configs=self._trace_configs,
        )
        self._fetch_now(self._session)
        self._refreshing = asyncio.create_task(self._refresh_forever(self._session))

    async def close(self) -> None:
        running = [task for task in (self._refreshing, self._fetch) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def look_again(self, *, replaced: bool = False) -> bool:
        if self._fetch is not None and not self._fetch.done():
            if self._waiting < self._max_waiting:
                await self._wait_for(self._fetch)
            return False
        now = self._clock()
        if self._session is None or now < (self._cool_at_if_replaced if replaced else self._cool_at):
            return False
        self._cool_at_if_replaced = now + COOL_DOWN_S
        if not replaced:
            self._cool_at = now + COOL_DOWN_S
        return await self._wait_for(self._fetch_now(self._session))

    async def _wait_for(self, fetch: asyncio.Task[bool]) -> bool:
        self._waiting += 1
        try:
            return await _outcome(fetch)
        finally:
            self._waiting -= 1

    def _fetch_now(self, session: aiohttp.ClientSession) -> asyncio.Task[bool]:
        """The fetch in progress, or a new one."""
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._fetch_and_adopt(session))
        return self._fetch

    async def _refresh_forever(self, session: aiohttp.ClientSession) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            self._failed.clear()
            if await _outcome(self._fetch_now(session)):
                retry_s = FIRST_RETRY_S
                if not await self._failed_within(REFRESH_S * _RANDOM.uniform(1 - REFRESH_JITTER, 1)):
                    continue
            await self._sleep(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    async def _failed_within(self, seconds: float) -> bool:
        """Sleep until the next refresh is due, or until a fetch triggered by a token has failed."""
        tasks = asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._failed.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        return self._failed.is_set()

    async def _fetch_and_adopt(self, session: aiohttp.ClientSession) -> bool:
        try:
            document = await self._download(session)
            self._adopt(self._usable_keys(document))
        except Exception as fault:  # noqa: BLE001  # nothing that a server sends may end the refreshing
            self._note_failure(fault)
            self._failed.set()
            if self.ready and self._clock() - self._fetched_at > KEEP_S:
                self._drop()
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
    """Wait for a fetch without cancelling it for others; a cancelled fetch has failed."""
    await asyncio.wait((fetch,))
    return not fetch.cancelled() and fetch.result()
