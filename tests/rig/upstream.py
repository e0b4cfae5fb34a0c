"""An upstream that a test scripts: it speaks the feed as the service does, or breaks it."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from tests.rig.servers import free_port

SECRET = "feed-secret"
_BEAT_S = 0.2


class Upstream:
    """Answers on ``url`` while it is open.

    Attributes:
        lines: What a snapshot has now.
        parts: Indexes of events that are not the last of their change.
        events: All events so far; the cursor of one is its number.
        ahead: By how many ms the store's clock is ahead of this machine's.
        reads: Whether the store can be read, so that ``fresh`` is sent.
        buffers: Whether a proxy holds back what streams.
        forgets: Whether no cursor can be continued.
        head: More members of the first line of a snapshot.
        sends_snapshots: While it is not set, they are made and held back.
        ends_snapshots: While it is not set, they begin and are held back.
        answers_polls: While it is not set, polls have arrived and are not answered.
        snapshot: Makes another snapshot of the right one.
        confirmed: What the edge has confirmed, by polls too, unless these say that they confirm nothing.
        confirming: The status that a confirmation gets.
        active: What it answers to introspections; their bodies are in ``asked``.
        answers: While it is not set, the answers to these are held back.
        secret: Of the edge.
        requests: Paths of all requests, with ``SSE`` or ``poll`` for the feed.
        polled: The cursors from which it was polled.
        streams: How many are open.
        names: Those of consumers.
    """

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.events: list[tuple[str, Any]] = []
        self.parts: set[int] = set()
        self.ahead = 0
        self.reads = True
        self.buffers = False
        self.forgets = False
        self.head: dict[str, Any] = {}
        self.snapshot: Callable[[str], str] = str
        self.sends_snapshots = asyncio.Event()
        self.sends_snapshots.set()
        self.answers_polls = asyncio.Event()
        self.answers_polls.set()
        self.confirmed: list[dict[str, Any]] = []
        self.confirming = 204
        self.ends_snapshots = asyncio.Event()
        self.ends_snapshots.set()
        self.active = True
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked: list[bytes] = []
        self.requests: list[str] = []
        self.polled: list[str] = []
        self.secret = SECRET
        self.streams = 0
        self.names: set[str] = set()
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def now(self) -> int:
        return int(time.time() * 1000) + self.ahead

    async def open(self) -> None:
        application = web.Application(client_max_size=2**20)
        application.router.add_get("/feed/snapshot", self._respond_with_snapshot)
        application.router.add_get("/feed", self._respond_with_feed)
        application.router.add_post("/feed/confirm", self._confirm)
        application.router.add_post("/introspect", self._introspect)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        self.port = self.port or free_port()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def close(self) -> None:
        """End all connections; it may be opened again."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def revoke(self, **line: Any) -> None:
        """Store a line, and send it."""
        self.lines.append(line)
        self.send("change", line)

    def send(self, event: str, data: Any) -> None:
        """Send an event of any kind; of the last one, the number is the cursor."""
        self.events.append((event, data))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def jti(self, jti: str, *, issuer: str) -> None:
        """Revoke a token."""
        at = self.now / 1000
        self.revoke(kind="jti", iss=issuer, jti=jti, exp=int(at) + 3600, at=at)

    def _cursor(self) -> str:
        return f"c{len(self.events)}"

    async def _respond_with_snapshot(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path)
        self._check(request)
        self.forgets = False
        head = {"cursor": self._cursor(), "as_of": self.now, **self.head}
        end = {"end": True, "lines": len(self.lines)}
        text = "".join(json.dumps(line) + "\n" for line in (head, *self.lines, end))
        await self.sends_snapshots.wait()
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await self.ends_snapshots.wait()
        await response.write(self.snapshot(text).encode())
        return response

    async def _respond_with_feed(self, request: web.Request) -> web.StreamResponse:
        self._check(request)
        self.names.add(request.query.get("name", ""))
        place = int(request.query["cursor"].removeprefix("c"))
        if "wait" in request.query:
            self.requests.append("poll")
            self.polled.append(request.query["cursor"])
            if request.query.get("confirms") != "true":
                self.confirmed.append({"cursor": request.query["cursor"], "name": request.query["name"]})
            await self.answers_polls.wait()
            return await self._respond_to_poll(place, float(request.query["wait"]))
        self.requests.append("SSE")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.streams += 1
        try:
            await self._stream(request, response, place)
        finally:
            self.streams -= 1
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse, place: int) -> None:
        while request.transport is not None:  # otherwise the client has gone
            changed = self._changed
            sent: list[tuple[str, Any, int]] = [] if not self.forgets else [("reload", {}, place)]
            sent += [
                (*self.events[index], index + (index not in self.parts))
                for index in range(place, len(self.events))
            ]
            place = len(self.events)
            if self.reads and len(self.events) - 1 not in self.parts:
                sent.append(("fresh", {"as_of": self.now, "cursor": self._cursor()}, place))
            text = "".join(
                f"event: {event}\nid: c{number}\ndata: {json.dumps(data)}\n\n" for event, data, number in sent
            )
            if not self.buffers:
                await response.write(text.encode())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _BEAT_S)

    async def _respond_to_poll(self, place: int, wait: float) -> web.Response:
        if place == len(self.events) and wait:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait)
        answer = [] if not self.forgets else [{"event": "reload", "data": {}}]
        answer += [
            {"event": event, "id": f"c{index + 1}", "data": data}
            for index, (event, data) in enumerate(self.events)
            if index >= place
        ]
        if self.reads:
            answer.append({"event": "fresh", "data": {"as_of": self.now, "age": 0, "cursor": self._cursor()}})
        return web.json_response(answer)

    async def _confirm(self, request: web.Request) -> web.Response:
        self._check(request)
        self.confirmed.append(await request.json())
        return web.Response(status=self.confirming)

    async def _introspect(self, request: web.Request) -> web.Response:
        self._check(request)
        self.asked.append(await request.read())
        active = self.active
        await self.answers.wait()
        return web.json_response({"active": active})

    def _check(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.secret}":
            raise web.HTTPUnauthorized


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """One that is open until exit."""
    opened = Upstream()
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()
