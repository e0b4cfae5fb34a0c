"""Requests as bytes, since a client library would correct what the tests send malformed on purpose."""

import asyncio
import re
from collections.abc import Iterable
from typing import Any

from tests.rig.listener import Listener, connected
from tests.rig.service import HANGS_S

Header = tuple[str, str]


class RecordingBackend(Listener):
    """Answers 200 to every request, and records them.

    Attributes:
        requests: The target and the headers of every request, names in lower case.
    """

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.requests: list[dict[str, Any]] = []

    async def _answer(self, reader, writer) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head[:-4].split("\r\n")
            pairs = [(name.lower(), value.strip()) for name, _, value in (x.partition(":") for x in lines)]
            self.requests.append({"target": first.split(" ")[1], "headers": pairs})
            await reader.readexactly(int(dict(pairs).get("content-length", 0)))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class ScriptedRevoker(Listener):
    """Answers health checks, and every question with the bytes of ``answer``, then closes.

    Attributes:
        answer: None to answer nothing for as long as the gateway waits.
        ready: Whether it passes health checks.
        questions: The heads that came, without health checks.
    """

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.answer: bytes | None = b""
        self.ready = True
        self.questions: list[str] = []

    async def _answer(self, reader, writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/readyz" in head.partition(b"\r\n")[0]:
            writer.write(answer(200 if self.ready else 503))
            return
        self.questions.append(head.decode("latin-1"))
        if self.answer is None:
            await reader.read()
        else:
            writer.write(self.answer)


def answer(status: int, *headers: Header, body: bytes = b"{}", keep_alive: bool = False) -> bytes:
    """An answer of a service, which then closes the connection unless it says that it keeps it."""
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json"]
    lines += [] if keep_alive else ["Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


async def status_of(
    url: str, target: str, headers: Iterable[Header] = (), *, method: str = "GET", seconds: float = 30
) -> int:
    """What a request of exactly these bytes is answered; 0 where the connection ends without an answer."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway", *(f"{name}: {value}" for name, value in headers)]
    async with connected(_port(url)) as (reader, writer):
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
            line = await asyncio.wait_for(reader.readline(), seconds)
        except ConnectionError:
            return 0
    found = re.match(rb"HTTP/1\.[01] (\d{3})", line)
    return int(found[1]) if found else 0


async def exchange(
    url: str, target: str, headers: Iterable[Header] = (), *, method: str = "GET", body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers with names in lower case, and body of the answer to exactly these bytes."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway", *(f"{name}: {value}" for name, value in headers)]
    async with connected(_port(url)) as (reader, writer), asyncio.timeout(HANGS_S):
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        first, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")[:-4].split("\r\n")
        found = dict(field.lower().split(": ", 1) for field in fields)
        content = b""
        if "content-length" in found:
            content = await reader.readexactly(int(found["content-length"]))
    return int(first.split(" ")[1]), found, content


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def bearer(token: str) -> Header:
    return "Authorization", f"Bearer {token}"


def folded(headers: Iterable[Header]) -> dict[str, str]:
    """Headers as CGI, WSGI and PHP show them to a program: names folded, repeated ones joined."""
    environment: dict[str, str] = {}
    for name, value in headers:
        key = "HTTP_" + name.upper().replace("-", "_")
        environment[key] = f"{environment[key]},{value}" if key in environment else value
    return environment
