"""Follows the feed of an upstream, and keeps a mirror up to date."""

import asyncio
import contextlib
import secrets
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog

from revoker.elapsed_time import Clock, elapsed
from revoker.errors import InvalidRequest, StoreRefused, StoreUnavailable
from revoker.metrics import Metrics
from revoker.store.mirror import feed_lines
from revoker.store.mirror.confirming import Confirming
from revoker.store.mirror.copy import Copy
from revoker.store.mirror.feed_lines import Event, EventStream, FeedBroken
from revoker.store.mirror.mirror import Mirror
from revoker.store.mirror.upstream_clock import SAMPLE_S

_log = structlog.get_logger("store")

SILENCE_S: Final = 3.0
"""A stream without an event for this time is given up: there must be one a second."""

POLLING_S: Final = 60.0
"""How long after a stream without an event another one is tried; events are fetched by polls meanwhile."""

WAIT_S: Final = 1
"""How long one poll waits for events: what it brings is as old as that."""

CONNECT_S: Final = 3.0
SNAPSHOT_BEGINS_S: Final = 40.0
"""When a snapshot is given up that has not begun: an upstream lets it wait for its turn for 30 s."""

SNAPSHOT_SILENCE_S: Final = 10.0
FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 3.0
LAST_RELOAD_PAUSE_S: Final = 30.0
QUIET_S: Final = 60.0
"""A reload after this time is no part of a storm."""

SLICE_S: Final = 0.0005
"""How long a snapshot is read at a time; requests are answered in between."""

SWEEP_S: Final = 60.0
"""How often expired entries are removed."""

_RANDOM: Final = secrets.SystemRandom()

Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamAccess:
    """How the upstreams are reached.

    Attributes:
        urls: At least one; when one fails, the next is tried.
        name: By which an upstream lists this consumer.
    """

    urls: Sequence[str]
    secret_file: str
    name: str
    ca_file: str = ""


class _Verdict(msgspec.Struct, frozen=True):
    active: bool


_encode: Final = msgspec.json.Encoder().encode
_decode_verdict: Final = msgspec.json.Decoder(_Verdict).decode


class _Reload(Exception):
    """The upstream cannot continue from the cursor."""


class Follower:
    """Keeps a mirror up to date until it is closed.

    Attributes:
        connected: The upstream whose events arrive; empty: none.
        fault: What is wrong with the connection, for operators; empty: nothing.
    """

    def __init__(
        self,
        mirror: Mirror,
        access: UpstreamAccess,
        metrics: Metrics,
        *,
        monotonic: Clock = elapsed,
        sleep: Sleep = asyncio.sleep,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._mirror: Final = mirror
        self._access: Final = access
        self._metrics: Final = metrics
        self._monotonic: Final = monotonic
        self._sleep: Final = sleep
        self._silence_s: Final = silence_s
        self._session: aiohttp.ClientSession | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._cursor: str | None = None
        self._retry_stream_at: dict[str, float] = {}
        self._parts: list[bytes] = []
        self._reloads = 0
        self._reloaded_at = float("-inf")
        self._sample_now = asyncio.Event()
        self._confirming: Final = Confirming(self._confirm)
        self.connected = ""
        self.fault = "no answer yet"

    async def start(self) -> None:
        """Begin to follow."""
        tls: ssl.SSLContext | bool = True
        if self._access.ca_file:
            tls = ssl.create_default_context(cafile=self._access.ca_file)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        )
        tasks = (self._follow, self._sample, self._confirming.run, self._sweep)
        self._tasks = [asyncio.create_task(work()) for work in tasks]

    async def close(self) -> None:
        """End it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _follow(self) -> None:
        failures = 0
        while True:
            url = self._access.urls[failures % len(self._access.urls)]
            try:
                await self._follow_one(url)
                failures = 0
            except _Reload:
                self._cursor = None
                self.connected = ""
                await self._pause_before_reload()
                continue
            except Exception as error:  # noqa: BLE001  # nothing that an upstream sends may end the following
                failures = 0 if self.connected else failures
                self.connected = ""
                failures += 1
                self._note_fault(url, error)
            rounds = min(failures // len(self._access.urls), 8)
            await self._sleep(min(FIRST_PAUSE_S * 2**rounds, LAST_PAUSE_S) * _RANDOM.uniform(0.5, 1))

    async def _follow_one(self, url: str) -> None:
        self._parts.clear()
        if self._cursor is None:
            await self._load(url)
        if url in self._retry_stream_at:
            await self._poll(url)
        else:
            await self._stream(url)

    @property
    def connected_to(self) -> list[bool]:
        """For each upstream, whether its events arrive."""
        return [url == self.connected for url in self._access.urls]

    def _note_fault(self, url: str, error: Exception) -> None:
        fault = f"{urlsplit(url).netloc}: {str(error) or type(error).__name__}"
        if fault != self.fault:
            _log.warning("upstream_failed", upstream=urlsplit(url).netloc, problem=str(error) or repr(error))
        self.fault = fault

    def _note_connected(self, url: str) -> None:
        if not self.connected:
            _log.info("upstream_connected", upstream=urlsplit(url).netloc)
            self._sample_now.set()
            self._confirming.asked.set()
        self.connected, self.fault = url, ""

    async def _pause_before_reload(self) -> None:
        """Not at once where the last reload was a moment ago, and never with all other edges."""
        now = self._monotonic()
        self._reloads = 0 if now - self._reloaded_at > QUIET_S else self._reloads + 1
        self._reloaded_at = now
        pause = FIRST_PAUSE_S if not self._reloads else min(2.0**self._reloads / 2, LAST_RELOAD_PAUSE_S)
        await self._sleep(pause * _RANDOM.uniform(0.5, 1))

    # Requests

    def _authorization(self) -> dict[str, str]:
        secret = Path(self._access.secret_file).read_text(encoding="utf-8").strip()
        return {"Authorization": f"Bearer {secret}"}

    @contextlib.asynccontextmanager
    async def _get(self, url: str, path: str, **query: str) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None  # noqa: S101  # it was started
        async with self._session.get(
            f"{url.rstrip('/')}{path}",
            params=query,
            headers=self._authorization(),
            allow_redirects=False,
        ) as response:
            if response.status == 400 and "cursor" in query:
                raise _Reload("the cursor is not understood")
            if response.status != 200:
                text = (await response.content.read(512)).decode(errors="replace")
                raise FeedBroken(f"{path} was answered with status {response.status}: {text}")
            yield response

    def _as_consumer(self) -> dict[str, str]:
        """Whose requests these are; its polls confirm nothing, since it may not answer by them yet."""
        return {"name": self._access.name, "confirms": "true"}

    # Snapshots

    async def _load(self, url: str) -> None:
        """Load a snapshot beside the present copy, and then replace that."""
        mirror = self._mirror
        first_copy = mirror.copy is None
        began = self._monotonic()
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(SNAPSHOT_BEGINS_S):
                    response = await stack.enter_async_context(
                        self._get(url, "/feed/snapshot", name=self._access.name)
                    )
                head, copy = await self._read_snapshot(response)
        except Exception:
            self._metrics.edge_reloads.labels("failed").inc()
            raise
        events = await self._sampled_events(url, head.cursor)
        self._cursor = head.cursor
        mirror.install(copy, head.as_of)
        for event in events:
            self._take(event)
        self._metrics.edge_reloads.labels("first" if first_copy else "reload").inc()
        _log.info(
            "snapshot_loaded",
            upstream=urlsplit(url).netloc,
            entries=copy.tokens + copy.others,
            seconds=round(self._monotonic() - began, 3),
        )

    async def _sampled_events(self, url: str, cursor: str) -> list[Event]:
        """What has happened during the snapshot, and a sample; nothing where that fails.

        The last sample may be too old by now. Without a new one, the old copy would be replaced by one of
        unknown age, and there would be no verdicts until the next.
        """
        try:
            return await self._take_sample(url, cursor)
        except Exception as error:  # noqa: BLE001  # following reports it, if it lasts
            _log.info("no_sample", problem=str(error) or repr(error))
            return []

    async def _read_snapshot(self, response: aiohttp.ClientResponse) -> tuple[feed_lines.Head, Copy]:
        """Raises ``FeedBroken`` unless all of it is there and is understood."""
        head: feed_lines.Head | None = None
        copy = Copy(self._mirror.keys, self._mirror.issuers)
        count, rest = 0, b""
        now = self._mirror.expiry_now
        chunks = response.content.iter_any()
        try:
            while True:
                async with asyncio.timeout(SNAPSHOT_SILENCE_S):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                whole, newline, rest = (rest + chunk).rpartition(b"\n")
                if not newline:
                    continue
                if head is None:
                    first, _, whole = whole.partition(b"\n")
                    head = feed_lines.decode_head(first)
                    if head.format != feed_lines.FORMAT:
                        raise FeedBroken(f"the snapshot has the format {head.format}; update this edge")
                    prefix = head.key_prefix if head.clustered else ""
                    copy = Copy(self._mirror.keys, self._mirror.issuers, prefix)
                # the last complete line waits for the next: it may be the end
                whole, _, last = whole.rpartition(b"\n")
                rest = last + b"\n" + rest if last else rest
                count += await self._add_lines(copy, whole, now)
            if head is None:
                raise FeedBroken("the snapshot is empty")
            end = feed_lines.decode_end(rest)
        except (msgspec.MsgspecError, InvalidRequest, StoreRefused, UnicodeDecodeError) as error:
            raise FeedBroken(f"the snapshot is incomplete, or not understood: {error}") from error
        if not end.end or end.lines != count:
            raise FeedBroken(f"the snapshot has {count} lines, and says that it has {end.lines}")
        return head, copy

    async def _add_lines(self, copy: Copy, whole: bytes, now: int) -> int:
        lines = feed_lines.decode_lines(whole)
        until = time.perf_counter() + SLICE_S
        for line in lines:
            copy.add(line, now)
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + SLICE_S
        return len(lines)

    # Events

    async def _stream(self, url: str) -> None:
        any_event = False
        try:
            async with contextlib.aclosing(self._events(url)) as events:
                async for event in events:
                    self._take(event)
                    any_event = True
                    self._note_connected(url)
        except TimeoutError:
            if not any_event:
                _log.info("upstream_polled", upstream=urlsplit(url).netloc)
                self._retry_stream_at[url] = self._monotonic() + POLLING_S
                return
            raise FeedBroken(f"there was no event for {self._silence_s:g} seconds") from None

    async def _events(self, url: str) -> AsyncGenerator[Event, None]:
        """The events of a stream; raises ``TimeoutError`` where there is none for a time."""
        stream = EventStream()
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(self._silence_s):
                response = await stack.enter_async_context(
                    self._get(url, "/feed", cursor=self._cursor or "", **self._as_consumer())
                )
            deadline = asyncio.get_running_loop().time() + self._silence_s
            while True:
                async with asyncio.timeout_at(deadline):
                    chunk = await response.content.readany()
                if not chunk:
                    raise FeedBroken("the stream has ended")
                for event in stream.feed(chunk):
                    yield event
                    deadline = asyncio.get_running_loop().time() + self._silence_s

    async def _poll(self, url: str) -> None:
        """Fetch events by polls until a stream, which is tried from time to time meanwhile, brings some.

        Raises:
            FeedBroken: they have brought none for a time: the upstream does not know the present.
        """
        trial: asyncio.Task[bool] | None = None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._silence_s
        try:
            while True:
                if trial is None and self._monotonic() >= self._retry_stream_at[url]:
                    trial = asyncio.create_task(self._try_stream(url))
                elif trial is not None and trial.done():
                    if trial.result():
                        del self._retry_stream_at[url]
                        return
                    trial, self._retry_stream_at[url] = None, self._monotonic() + POLLING_S
                async with asyncio.timeout(WAIT_S + self._silence_s):
                    events = await self._poll_once(url, self._cursor or "", WAIT_S)
                for event in events:
                    self._take(event)
                    self._note_connected(url)
                    deadline = loop.time() + self._silence_s
                if loop.time() > deadline:
                    raise FeedBroken(f"polls have brought no event for {self._silence_s:g} seconds")
        finally:
            if trial is not None:
                trial.cancel()
                await asyncio.gather(trial, return_exceptions=True)

    async def _try_stream(self, url: str) -> bool:
        """Whether a stream brings an event, which is left to the polls."""
        try:
            async with contextlib.aclosing(self._events(url)) as events:
                await anext(events)
        except Exception as error:  # noqa: BLE001  # polls continue, and fail where the upstream does
            _log.info("no_stream", upstream=urlsplit(url).netloc, problem=str(error) or repr(error))
            return False
        return True

    async def _poll_once(self, url: str, cursor: str, wait: int) -> list[Event]:
        async with self._get(url, "/feed", cursor=cursor, wait=str(wait), **self._as_consumer()) as response:
            body = await response.read()
        try:
            return [
                Event(event.event, bytes(event.data), event.id) for event in feed_lines.decode_polled(body)
            ]
        except msgspec.MsgspecError as error:
            raise FeedBroken(f"the answer to a poll is not understood: {error}") from error

    def _take(self, event: Event) -> None:
        """Apply one event.

        Raises:
            _Reload: a snapshot must be loaded.
        """
        mirror = self._mirror
        try:
            match event.event:
                case "fresh":
                    fresh = feed_lines.decode_fresh(event.data)
                    self._cursor = fresh.cursor
                    mirror.confirm(fresh.as_of)
                    if mirror.must_sample:
                        self._sample_now.set()
                case "change":
                    self._parts.append(event.data)
                    if event.id != self._cursor:  # the last part of one change, by its new cursor
                        parts, self._parts = self._parts, []
                        for data in parts:
                            self._change(data)
                        self._cursor = event.id or self._cursor
                case "confirm":
                    self._cursor = event.id or self._cursor
                    self._confirming.asked.set()
                case "reload":
                    _log.info("reload_asked")
                    raise _Reload
                case other:
                    raise FeedBroken(f"an event {other!r} is not understood")  # noqa: TRY301  # as others
        except (msgspec.MsgspecError, InvalidRequest, StoreRefused, FeedBroken) as error:
            _log.error("feed_not_understood", problem=str(error))
            self.fault = f"not understood: {error}"
            raise _Reload from error

    def _change(self, data: bytes) -> None:
        mirror = self._mirror
        if data.startswith(b'{"remove"'):
            assert mirror.copy is not None  # noqa: S101  # otherwise nothing is followed
            mirror.copy.remove(feed_lines.decode_removal(data).remove)
            return
        now, line = mirror.now, feed_lines.decode_line(data)
        mirror.add(line)
        changed = getattr(line, "changed", None)
        if changed is not None:
            self._metrics.edge_propagation_seconds.observe(max(0.0, now / 1000 - changed))

    # Questions

    async def ask(self, body: bytes) -> bool:
        """Post the body of an introspection to an upstream: whether the token is active.

        Raises:
            StoreUnavailable: no upstream has answered with a verdict.
        """
        assert self._session is not None  # noqa: S101  # it was started
        await asyncio.sleep(0)  # a request that has not waited yet has no task, and so no time-out
        urls = sorted(self._access.urls, key=lambda url: url != self.connected)
        for url in urls:
            try:
                async with (
                    asyncio.timeout(self._silence_s),
                    self._session.post(
                        f"{url}/introspect",
                        data=body,
                        headers={**self._authorization(), "Content-Type": "application/json"},
                        allow_redirects=False,
                    ) as response,
                ):
                    if response.status == 200:
                        return _decode_verdict(await response.read()).active
            except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError) as error:
                self._note_fault(url, error)
        raise StoreUnavailable("what this edge knows is too old, and no upstream gives a verdict")

    # In the background

    async def _sample(self) -> None:
        while True:
            if self.connected and self._cursor is not None:
                await self._sampled_events(self.connected, self._cursor)
            self._sample_now.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAMPLE_S):
                    await self._sample_now.wait()

    async def _take_sample(self, url: str, cursor: str) -> list[Event]:
        """Compare the clock with the store's, by a request whose answer says how old its reading is.

        Returns:
            The events after the cursor.
        """
        sent = self._monotonic() * 1000
        async with asyncio.timeout(self._silence_s):
            events = await self._poll_once(url, cursor, 0)
        for event in events:
            if event.event == "fresh":
                fresh = feed_lines.decode_fresh(event.data)
                self._mirror.sample(fresh.as_of, sent, fresh.age)
        return events

    async def _confirm(self) -> None:
        """Confirm that all is taken over up to the cursor, where an upstream is followed."""
        if not self.connected or self._cursor is None:
            return
        assert self._session is not None  # noqa: S101  # it was started
        body = {"cursor": self._cursor, "as_of": self._mirror.as_of, "name": self._access.name}
        body["max_staleness"] = self._mirror.max_staleness
        async with (
            asyncio.timeout(self._silence_s),
            self._session.post(
                f"{self.connected}/feed/confirm",
                data=_encode(body),
                headers={**self._authorization(), "Content-Type": "application/json"},
                allow_redirects=False,
            ) as response,
        ):
            if response.status != 204:
                raise FeedBroken(f"/feed/confirm was answered with status {response.status}")

    async def _sweep(self) -> None:
        while True:
            await self._sleep(SWEEP_S)
            copy = self._mirror.copy
            if copy is not None and self._mirror.fresh:
                for _ in copy.remove_expired(self._mirror.expiry_now):
                    await asyncio.sleep(0)
