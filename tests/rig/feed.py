"""A consumer of the feed, as tests and benchmarks have it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.rig.service import HANGS_S, SECRETS, Running


@dataclass(frozen=True)
class Snapshot:
    """A whole snapshot: its first line, and the lines between that and the last one."""

    head: dict[str, Any]
    lines: list[dict[str, Any]]

    @property
    def cursor(self) -> str:
        return str(self.head["cursor"])


@dataclass(frozen=True)
class Event:
    kind: str
    id: str
    data: Any


def authorization(caller: str) -> dict[str, str]:
    return {"Authorization": aiohttp.encode_basic_auth(caller, SECRETS[caller])}


def complete(body: bytes) -> Snapshot:
    """A snapshot that has its last line."""
    head, *lines, end = [json.loads(line) for line in body.splitlines()]
    assert end == {"end": True, "lines": len(lines)}
    return Snapshot(head, lines)


async def snapshot(running: Running, caller: str = "edge") -> Snapshot:
    answer = await running.ask("GET", "/feed/snapshot", headers=authorization(caller))
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return complete(answer.body)


async def poll(running: Running, cursor: str, wait: float = 0, **more: str) -> list[Event]:
    """The events of one request that polls."""
    answer = await running.ask(
        "GET", "/feed", params={"cursor": cursor, "wait": wait, **more}, headers=authorization("edge")
    )
    assert answer.status == 200, answer.body
    return [Event(event["event"], event.get("id", ""), event["data"]) for event in answer.json]


class Stream:
    """One stream of events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def events(self) -> AsyncIterator[Event]:
        """What comes, until the stream ends."""
        fields: dict[str, str] = {}
        async for line in self.response.content:
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(":")
                fields[name] = value.strip()
            elif fields:
                if "event" in fields:
                    yield Event(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
                elif "retry" in fields:
                    yield Event("retry", "", int(fields["retry"]))
                fields = {}

    async def until(self, kind: str) -> list[Event]:
        """The events up to the first of a kind."""
        found = []
        async with asyncio.timeout(HANGS_S):
            async for event in self.events():
                found.append(event)
                if event.kind == kind:
                    return found
        raise AssertionError(f"the stream ended without {kind}: {found}")

    async def rest(self) -> list[Event]:
        """All events until the stream ends."""
        async with asyncio.timeout(HANGS_S):
            return [event async for event in self.events()]


@contextlib.asynccontextmanager
async def stream(running: Running, cursor: str, caller: str = "edge", **more: str) -> AsyncIterator[Stream]:
    """Open a stream; it is closed in the end."""
    async with running.http.get(
        running.url + "/feed", params={"cursor": cursor, **more}, headers=authorization(caller)
    ) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        yield Stream(response)
