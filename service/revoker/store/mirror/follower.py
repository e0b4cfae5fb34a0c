"""Follows the feed of an upstream, and keeps a mirror up to date."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
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
from revoker.store.mirror.feed_lines import Event, FeedBroken
from revoker.store.mirror.mirror import Mirror
from revoker.store.mirror.snapshots import read_snapshot
from revoker.store.mirror.upstream_clock import SAMPLE_S
from revoker.store.mirror.upstream_requests import Reload, UpstreamAccess, UpstreamRequests

_log = structlog.get_logger("store")

SILENCE_S: Final = 3.0
"""A stream without an event for this time is given up: an upstream sends one a second."""

POLLING_S: Final = 60.0
"""After a stream without an event, polls fetch events for this time before a stream is tried again."""

WAIT_S: Final = 1
"""How long one poll waits for events; they may be as old as that when they arrive."""

SNAPSHOT_BEGINS_S: Final = 40.0
"""When a snapshot is given up that has not begun: an upstream lets it wait for its turn for 30 s."""

FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 3.0
LAST_RELOAD_PAUSE_S: Final = 30.0
QUIET_S: Final = 60.0
"""A reload after this time is no part of a storm."""

SWEEP_S: Final = 60.0
"""How often expired entries are removed."""

_RANDOM: Final = secrets.SystemRandom()

Sleep = Callable[[float], Awaitable[object]]


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
    ) -> None:
        self._mirror: Final = mirror
        self._access: Final = access
        self._metrics: Final = metrics
        self._monotonic: Final = monotonic
        self._sleep: Final = sleep
        self._silence_s: Final = SILENCE_S
        self._requests: Final = UpstreamRequests(access)
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
        self._requests.open()
        tasks = (self._follow, self._sample, self._confirming.run, self._sweep)
        self._tasks = [asyncio.create_task(work()) for work in tasks]

    async def close(self) -> None:
        """End it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._requests.close()

    async def _follow(self) -> None:
        failures = 0
        while True:
            url = self._access.urls[failures % len(self._access.urls)]
            try:
                await self._follow_one(url)
                failures = 0
            except Reload:
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
        """Pause if the last reload was a moment ago, for a random time: other edges reload, too."""
        now = self._monotonic()
        self._reloads = 0 if now - self._reloaded_at > QUIET_S else self._reloads + 1
        self._reloaded_at = now
        pause = FIRST_PAUSE_S if not self._reloads else min(2.0**self._reloads / 2, LAST_RELOAD_PAUSE_S)
        await self._sleep(pause * _RANDOM.uniform(0.5, 1))

    # Snapshots

    async def _load(self, url: str) -> None:
        """Load a snapshot beside the present copy, and then replace that."""
        mirror = self._mirror
        first_copy = mirror.copy is None
        began = self._monotonic()
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(SNAPSHOT_BEGINS_S):
                    response = await stack.enter_async_context(self._requests.snapshot(url))
                head, copy = await read_snapshot(response, mirror)
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

    def _events(self, url: str) -> AsyncGenerator[Event, None]:
        return self._requests.events(url, self._cursor or "", self._silence_s)

    async def _poll(self, url: str) -> None:
        """Fetch events by polls until a stream brings some; one is tried from time to time.

        Raises:
            FeedBroken: polls have brought no event for a time: the upstream does not read its store.
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
                    events = await self._requests.poll(url, self._cursor or "", WAIT_S)
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
        """Whether a stream brings an event; the event itself is not taken, the polls bring it too."""
        try:
            async with contextlib.aclosing(self._events(url)) as events:
                await anext(events)
        except Exception as error:  # noqa: BLE001  # polls continue, and fail where the upstream does
            _log.info("no_stream", upstream=urlsplit(url).netloc, problem=str(error) or repr(error))
            return False
        return True

    def _take(self, event: Event) -> None:
        """Apply one event.

        Raises:
            Reload: a snapshot must be loaded.
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
                    raise Reload
                case other:
                    raise FeedBroken(f"an event {other!r} is not understood")  # noqa: TRY301  # as others
        except (msgspec.MsgspecError, InvalidRequest, StoreRefused, FeedBroken) as error:
            _log.error("feed_not_understood", problem=str(error))
            self.fault = f"not understood: {error}"
            raise Reload from error

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
        await asyncio.sleep(0)  # a request that has not waited yet has no task, and so no time-out
        urls = sorted(self._access.urls, key=lambda url: url != self.connected)
        for url in urls:
            try:
                async with asyncio.timeout(self._silence_s):
                    active = await self._requests.is_active(url, body)
                if active is not None:
                    return active
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
            events = await self._requests.poll(url, cursor, 0)
        for event in events:
            if event.event == "fresh":
                fresh = feed_lines.decode_fresh(event.data)
                self._mirror.sample(fresh.as_of, sent, fresh.age)
        return events

    async def _confirm(self) -> None:
        """Confirm that the mirror has everything up to the cursor, where an upstream is followed."""
        if not self.connected or self._cursor is None:
            return
        body = {"cursor": self._cursor, "as_of": self._mirror.as_of, "name": self._access.name}
        body["max_staleness"] = self._mirror.max_staleness
        async with asyncio.timeout(self._silence_s):
            await self._requests.confirm(self.connected, body)

    async def _sweep(self) -> None:
        while True:
            await self._sleep(SWEEP_S)
            copy = self._mirror.copy
            if copy is not None and self._mirror.fresh:
                for _ in copy.remove_expired(self._mirror.expiry_now):
                    await asyncio.sleep(0)
