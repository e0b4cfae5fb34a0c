"""Each step of a claims-form request by itself, with the real parts: told over the standard input.

Arguments: configuration, file of bodies, Authorization. A line ``step count`` is answered by the µs of CPU
that the step takes each time.
"""

import asyncio
import contextlib
import functools
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import HttpVersion11
from aiohttp.http_parser import HttpRequestParser

from bench import quiet  # noqa: F401  # nothing by the clock
from service import app, settings
from service.api import endpoint
from service.api.introspection import ACTIVE, SCOPE, decode, issuer_of_claims
from service.api.ready import ReadyAnswer
from service.callers import Credentials
from service.models import Verdict

TOGETHER = 64
"""Lookups that leave as one command, as with 64 connections."""

Step = Callable[[int], Awaitable[float]]


class _Protocol(asyncio.Protocol):
    """What the parser asks of its connection."""

    _reading_paused = False

    def pause_reading(self) -> None: ...

    def resume_reading(self, *, resume_parser: bool = True) -> None: ...


class _Nowhere:
    """A transport, and a request on it, to which an answer is written for nothing."""

    keep_alive = True
    method = "POST"
    version = HttpVersion11
    _paused = False

    def __init__(self) -> None:
        self.transport = self.protocol = self

    def write(self, _: bytes) -> None: ...


def _looped(work: Callable[[], Any]) -> Step:
    async def step(count: int) -> float:
        began = time.process_time()
        for _ in range(count):
            work()
        return (time.process_time() - began) / max(count, 1) * 1e6

    return step


async def steps(service: app.Service, bodies: list[bytes], authorization: str) -> dict[str, Step]:
    parts = service._parts  # noqa: SLF001
    caller = parts.callers.authenticate(Credentials(authorization=authorization))
    head = (
        "POST /introspect HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n"
        f"Authorization: {authorization}\r\nContent-Length: "
    ).encode()
    requests = cycle([b"%b%d\r\n\r\n%b" % (head, len(body), body) for body in bodies])
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(_Protocol(), loop, 2**16, auto_decompress=False)  # type: ignore[arg-type]
    [(message, _)], _, _ = parser.feed_data(next(requests))
    headers = message.headers
    raw = cycle(bodies)
    claims = [endpoint.decoded(body, decode) for body in bodies]
    issuer = issuer_of_claims(claims[0], caller)
    assert issuer is not None
    store = parts.store
    of_token = store.keys.of_token
    keys = [of_token(each, issuer) for each in claims]
    found = await store.lookups.find(keys[0])
    each_claims, each_keys = cycle(claims), cycle(keys)
    introspection = service._introspection  # noqa: SLF001
    verdicts = parts.verdicts

    def know_caller() -> None:
        shown = headers.getall("Authorization", ())
        known = parts.callers.remembered(shown[0]) if len(shown) == 1 else None
        assert known is not None
        assert headers.get("Content-Type") == "application/json"
        assert "Content-Encoding" not in headers
        assert SCOPE in known.scopes

    def read() -> None:
        body = next(raw)
        asked = endpoint.decoded(body, decode)
        endpoint.refuse_ambiguous(body, asked)
        issuer_of_claims(asked, caller)

    def judge() -> None:
        verdicts.judged(next(each_claims), issuer, found)

    def count() -> None:
        began = time.perf_counter()
        verdicts._count[Verdict.ACTIVE]()  # noqa: SLF001
        introspection._seconds(time.perf_counter() - began)  # noqa: SLF001

    nowhere: Any = _Nowhere()

    def answer() -> None:
        with contextlib.suppress(StopIteration):
            ReadyAnswer(ACTIVE).prepare(nowhere).send(None)

    async def look_up(times: int) -> float:
        began = time.process_time()
        for _ in range(0, times, TOGETHER):
            await asyncio.gather(*(store.lookups.find(next(each_keys)) for _ in range(TOGETHER)))
        return (time.process_time() - began) / times * 1e6

    return {
        "parse": _looped(lambda: parser.feed_data(next(requests))),
        "caller": _looped(know_caller),
        "decode": _looped(read),
        "keys": _looped(lambda: of_token(next(each_claims), issuer)),
        "lookup": look_up,
        "rules": _looped(judge),
        "metrics": _looped(count),
        "answer": _looped(answer),
    }


async def main() -> None:
    config, bodies, authorization = sys.argv[1:]
    service = app.build(settings.load(Path(config), {}))
    await service.start()
    while not service.started():
        await asyncio.sleep(0.05)
    known = await steps(service, Path(bodies).read_bytes().split(b"\n"), authorization)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    read = functools.partial(loop.run_in_executor, None, sys.stdin.readline)
    while line := await read():
        name, times = line.split()
        print(await known[name](int(times)), flush=True)
    await service.close()


if __name__ == "__main__":
    uvloop.run(main())
