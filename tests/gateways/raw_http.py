"""Requests as bytes, since a client library would correct what the tests send malformed on purpose."""

import asyncio
import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

Header = tuple[str, str]


class _Listener(ABC):
    """A server on a free port."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    @abstractmethod
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...


class RecordingBackend(_Listener):
    """Answers 200 to every request, and records them.

    Attributes:
        requests: The target and the headers of every request, names in lower case.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[dict[str, Any]] = []

    async def _serve(self, reader, writer) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head[:-4].split("\r\n")
                pairs = [
                    (name.lower(), value.strip()) for name, _, value in (x.partition(":") for x in lines)
                ]
                self.requests.append({"target": first.split(" ")[1], "headers": pairs})
                await reader.readexactly(int(dict(pairs).get("content-length", 0)))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()


class ScriptedRevoker(_Listener):
    """Answers health checks, and every question with the bytes of ``answer``, then closes.

    Attributes:
        answer: None to answer nothing for as long as the gateway waits.
        questions: The heads that came, without health checks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answer: bytes | None = b""
        self.questions: list[str] = []

    async def _serve(self, reader, writer) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/readyz" in head.partition(b"\r\n")[0]:
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
            else:
                self.questions.append(head.decode("latin-1"))
                if self.answer is None:
                    await reader.read()
                else:
                    writer.write(self.answer)
        writer.close()


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
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway", *(f"{name}: {value}" for name, value in headers)]
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        line = await asyncio.wait_for(reader.readline(), seconds)
    except ConnectionError:
        return 0
    finally:
        writer.transport.abort()
    found = re.match(rb"HTTP/1\.[01] (\d{3})", line)
    return int(found[1]) if found else 0


async def exchange(
    url: str, target: str, headers: Iterable[Header] = (), *, method: str = "GET", body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers with names in lower case, and body of the answer to exactly these bytes."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway", *(f"{name}: {value}" for name, value in headers)]
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        async with asyncio.timeout(30):
            first, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")[:-4].split("\r\n")
            found = dict(field.lower().split(": ", 1) for field in fields)
            content = b""
            if "content-length" in found:
                content = await reader.readexactly(int(found["content-length"]))
    finally:
        writer.transport.abort()
    return int(first.split(" ")[1]), found, content


def bearer(token: str) -> Header:
    return "Authorization", f"Bearer {token}"


def folded(headers: Iterable[Header]) -> dict[str, str]:
    """Headers as CGI, WSGI and PHP show them to a program: names folded, repeated ones joined."""
    environment: dict[str, str] = {}
    for name, value in headers:
        key = "HTTP_" + name.upper().replace("-", "_")
        environment[key] = f"{environment[key]},{value}" if key in environment else value
    return environment
