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


class Consumer:
    """What a consumer knows: it applies lines as docs/feed.md says.

    Attributes:
        revoked: By kind and name what is revoked: a time, or of a user both cutoffs and the excepted session.
        as_of: Of the last ``fresh``.
    """

    def __init__(self, begin: Snapshot) -> None:
        self.revoked: dict[tuple[Any, ...], Any] = {}
        self.cursor = begin.cursor
        self.as_of = begin.head["as_of"]
        for line in begin.lines:
            self.apply(line)

    def take(self, events: list[Event]) -> None:
        """Apply events in their order."""
        for event in events:
            if event.kind == "change":
                self.apply(event.data)
                self.cursor = event.id
            elif event.kind == "fresh":
                self.cursor, self.as_of = event.data["cursor"], event.data["as_of"]
            elif event.kind == "confirm":
                self.cursor = event.id
            else:
                raise AssertionError(event)

    async def follow(self, running: Running, wait: float = 0) -> list[Event]:
        """Poll once, and apply what comes."""
        events = await poll(running, self.cursor, wait)
        self.take(events)
        return events

    async def catch_up(self, running: Running) -> None:
        """Follow until everything is known that was acknowledged before now, by the store's clock."""
        begin = (await snapshot(running)).head["as_of"]
        while self.as_of < begin:
            await self.follow(running, 0.05)

    def apply(self, line: dict[str, Any]) -> None:
        if "remove" in line:
            self.revoked.pop(_name(line["remove"]), None)
            return
        name = _name(line)
        match line["kind"]:
            case "settings":
                self.revoked[name] = line["issuers"]
            case "user":
                self.revoked[name] = _merged(
                    self.revoked.get(name, (0, 0, "")), line["before"], line.get("except_sid", "")
                )
            case "block":
                self.revoked[name] = max(self.revoked.get(name, 0), line.get("until", float("inf")))
            case "jti" | "key":
                self.revoked[name] = line["at"]
            case _:
                self.revoked[name] = max(self.revoked.get(name, 0), line["before"])


def _name(line: dict[str, Any]) -> tuple[Any, ...]:
    where = line.get("tag") or line.get("iss") or ""
    names = ("jti", "sid", "client_id", "claim", "claim_segment", "value", "segment", "kid")
    return (line["kind"], where, *(line[name] for name in names if name in line))


def _merged(user: tuple[float, float, str], at: float, except_sid: str) -> tuple[float, float, str]:
    hard, soft, sid = user
    if not except_sid:
        return max(hard, at), soft, sid
    if except_sid == sid:
        return hard, max(soft, at), sid
    if at >= soft:
        return max(hard, soft), at, except_sid
    return max(hard, at), soft, sid


def means_the_same(one: Consumer, other: Consumer, sids: list[str]) -> bool:
    """Whether two consumers give the same verdicts, on these sessions among others."""

    def meaning(consumer: Consumer) -> dict[tuple[Any, ...], Any]:
        found = {}
        for name, value in consumer.revoked.items():
            if name[0] == "user":
                hard, soft, sid = value
                found[name] = [hard if one and one == sid else max(hard, soft) for one in ["", *sids]]
            else:
                found[name] = value
        return found

    return meaning(one) == meaning(other)
