"""Runs single steps of a request with the real parts, as lines of the standard input ask for.

Arguments: configuration with sessions, file of claims, file of tokens, Authorization. The answer to a line
``step count`` is the CPU time of one run of the step, in µs.
"""

import asyncio
import functools
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web
from aiohttp.http_parser import HttpRequestParser

from bench import quiet  # noqa: F401  # nothing by the clock
from bench.material import BATCH
from revoker import app
from revoker.api import batch
from revoker.api.bodies import form_fields
from revoker.api.introspection import ACTIVE, SCOPE, IntrospectReader, claims_of, read_introspect
from revoker.api.prebuilt import PrebuiltResponse
from revoker.api.token import ENDPOINTS
from revoker.auth import Credentials
from revoker.config import schema as settings
from revoker.models import Verdict
from revoker.rules import judge
from revoker.server.parsed_heads import ParsedHeads
from revoker.server.prebuilt_writers import bytes_of
from revoker.store.keys import user_tag
from revoker.tokens import verifying
from revoker.tokens.parsing import parse_token

TOGETHER = 64
"""Lookups that are sent as one command, as with 64 connections."""

Step = Callable[[int], Awaitable[float]]


class _Protocol(asyncio.Protocol):
    """The parts of a connection that the parser uses."""

    _reading_paused = False

    def pause_reading(self) -> None: ...

    def resume_reading(self, *, resume_parser: bool = True) -> None: ...


async def _respond(_: web.Request) -> PrebuiltResponse:
    """The handler of requests that are only parsed."""
    raise AssertionError


def _looped(work: Callable[[], Any]) -> Step:
    async def step(count: int) -> float:
        began = time.process_time()
        for _ in range(count):
            work()
        return (time.process_time() - began) / max(count, 1) * 1e6

    return step


async def steps(service: app.Service, bodies: list[bytes], authorization: str) -> dict[str, Step]:
    services = service._services  # noqa: SLF001
    caller = services.authentication.callers.authenticate(Credentials(authorization=authorization))
    head = (
        "POST /introspect HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n"
        f"Authorization: {authorization}\r\nContent-Length: "
    ).encode()
    written = [b"%b%d\r\n\r\n%b" % (head, len(body), body) for body in bodies]
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(_Protocol(), loop, 2**16, auto_decompress=False)  # type: ignore[arg-type]
    heads = ParsedHeads()
    parsed = [parser.feed_data(request)[0][0] for request in written]
    for request, (message, _) in zip(written, parsed, strict=True):
        heads.remember(request, message, _respond)
    requests = cycle(written)
    headers = parsed[0][0].headers
    raw = cycle(bodies)
    reordered = cycle([json.dumps(dict(reversed(json.loads(body).items()))).encode() for body in bodies])
    claims = [read_introspect(body) for body in bodies]
    _, issuer = claims_of(claims[0], caller, bodies[0])
    assert issuer is not None
    store = services.store
    of_token = store.keys.of_token
    keys = [of_token(token_claims, issuer) for token_claims in claims]
    found = await store.lookups.find(keys[0])
    next_claims, next_keys = cycle(claims), cycle(keys)
    observe = service._metrics.deferred.observing(service._metrics.introspection_seconds)  # noqa: SLF001
    verdicts = services.verdicts

    def recognise_caller() -> None:
        values = headers.getall("Authorization", ())
        cached = services.authentication.callers.cached(values[0]) if len(values) == 1 else None
        assert cached is not None
        assert headers.get("Content-Type") == "application/json"
        assert "Content-Encoding" not in headers
        assert SCOPE in cached.scopes

    reader = IntrospectReader(services.issuers.values())

    def read(of: Iterator[bytes]) -> None:
        asked, document = reader.read(next(of))
        claims_of(asked, caller, document)

    def judge() -> None:
        verdicts.judged(next(next_claims), issuer, found)

    def count() -> None:
        began = time.perf_counter()
        verdicts._count[Verdict.ACTIVE]()  # noqa: SLF001
        observe(time.perf_counter() - began)

    def answer() -> None:
        bytes_of(PrebuiltResponse(ACTIVE))

    async def look_up(times: int) -> float:
        began = time.process_time()
        for _ in range(0, times, TOGETHER):
            await asyncio.gather(*(store.lookups.find(next(next_keys)) for _ in range(TOGETHER)))
        return (time.process_time() - began) / times * 1e6

    return {
        "parse": _looped(lambda: heads.find(next(requests))),
        "caller": _looped(recognise_caller),
        "decode": _looped(lambda: read(raw)),
        "decode otherwise": _looped(lambda: read(reordered)),
        "keys": _looped(lambda: of_token(next(next_claims), issuer)),
        "lookup": look_up,
        "rules": _looped(judge),
        "metrics": _looped(count),
        "answer": _looped(answer),
    }


async def batch_steps(service: app.Service, bodies: list[bytes], authorization: str) -> dict[str, Step]:
    """The cost of a batch of a hundred claims, without connection, request and response."""
    services = service._services  # noqa: SLF001
    caller = services.authentication.callers.authenticate(Credentials(authorization=authorization))
    reader = IntrospectReader(services.issuers.values())
    introspection = batch.BatchIntrospection(
        authentication=services.authentication,
        reader=reader,
        sessions=None,
        verifier=services.verifier,
        verdicts=services.verdicts,
        admission=services.admission,
    )
    body = b'{"tokens":[%b]}' % b",".join(bodies[:BATCH])
    items = batch._items(body, reader)  # noqa: SLF001
    _, issuer = claims_of(read_introspect(bodies[0]), caller, bodies[0])
    assert issuer is not None
    of_token, lookups = services.store.keys.of_token, services.store.lookups
    claims = [read_introspect(item) for item in bodies[:BATCH]]
    keys = [of_token(token_claims, issuer) for token_claims in claims]
    found = await lookups.find_all(keys)
    now = found[0].now
    answers = [ACTIVE] * BATCH

    async def look_up(times: int) -> float:
        began = time.process_time()
        for _ in range(times):
            await lookups.find_all(keys)
        return (time.process_time() - began) / max(times, 1) * 1e6

    def rules() -> None:
        for token_claims, reading in zip(claims, found, strict=True):
            judge(token_claims, issuer, reading.state, None, store_now=now, own_now=now)

    return {
        "batch read": _looped(lambda: batch._items(body, reader)),  # noqa: SLF001
        "batch issuers": _looped(lambda: [introspection._check(item, caller) for item in items]),  # noqa: SLF001
        "batch keys": _looped(lambda: [of_token(token_claims, issuer) for token_claims in claims]),
        "batch lookup": look_up,
        "batch rules": _looped(rules),
        "batch answer": _looped(lambda: b'{"results":[' + b",".join(answers) + b"]}"),
    }


def token_steps(service: app.Service, token: str) -> dict[str, Step]:
    """The additional cost of a token that was not seen before, compared with the claims form."""
    verifier = service._services.verifier  # noqa: SLF001
    unverified = parse_token(token)
    trusted = verifier._issuer_of(unverified)  # noqa: SLF001
    key = verifying._Search(unverified, trusted.keys).first()  # noqa: SLF001
    assert key is not None
    verified = verifying._access_token(unverified, trusted, key)  # noqa: SLF001
    texts = (f"{token}{number}" for number in itertools.count())
    return {
        "parse token": _looped(lambda: parse_token(token)),
        "verify": _looped(lambda: verifying._Search(unverified, trusted.keys).first()),  # noqa: SLF001
        "claims of token": _looped(lambda: verifying._access_token(unverified, trusted, key)),  # noqa: SLF001
        "remember": _looped(lambda: verifier._cache.put(next(texts), verified)),  # noqa: SLF001
    }


async def refresh_steps(service: app.Service) -> dict[str, Step]:
    """The cost of ``/token``, without connection, request and response."""
    sessions = service._services.sessions  # noqa: SLF001
    assert sessions is not None
    [asked_of] = ENDPOINTS
    sessions_started = [
        started.session
        for number in range(TOGETHER)
        if (started := await sessions.store.start(f"user-{number}", "web", scope="orders:read", amr=("pwd",)))
    ]
    generations = dict.fromkeys((started.sid for started in sessions_started), 1)
    session = sessions_started[0]
    refresh_token = sessions.refresh_tokens.make(session.sid, 1, session.client_id)
    body = f"grant_type=refresh_token&refresh_token={refresh_token}".encode()
    tag = user_tag(sessions.issuer.iss, session.sub)
    now = int(time.time() * 1000)

    async def refresh(sid: str) -> None:
        asked = sessions.cutoffs.beyond_user_together(session.client_id, tag)
        await sessions.store.refresh(sid, generations[sid], ())
        generations[sid] += 1
        await asked

    async def refreshes(times: int) -> float:
        began = time.process_time()
        for _ in range(0, times, TOGETHER):
            await asyncio.gather(*map(refresh, generations))
        return (time.process_time() - began) / max(times, 1) * 1e6

    async def mints(times: int) -> float:
        began = time.process_time()
        for _ in range(0, times, TOGETHER):
            await asyncio.gather(
                *(sessions.minter.mint(started, now, started.scope) for started in sessions_started)
            )
        return (time.process_time() - began) / max(times, 1) * 1e6

    return {
        "form": _looped(lambda: asked_of.read_body(form_fields(body), body)),
        "refresh token": _looped(lambda: sessions.refresh_tokens.read(refresh_token)),
        "refresh": refreshes,
        "mint": mints,
        "successor": _looped(lambda: sessions.refresh_tokens.make(session.sid, 2, session.client_id)),
    }


async def main() -> None:
    config, bodies, tokens, authorization = sys.argv[1:]
    service = app.Service(settings.load(Path(config), {}))
    await service.start()
    while not service.started():
        await asyncio.sleep(0.05)
    requests = Path(bodies).read_bytes().split(b"\n")
    by_name = await steps(service, requests, authorization)
    by_name |= await batch_steps(service, requests, authorization)
    with Path(tokens).open() as lines:
        by_name |= token_steps(service, json.loads(next(lines))["token"])
    by_name |= await refresh_steps(service)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    read = functools.partial(loop.run_in_executor, None, sys.stdin.readline)
    while line := await read():
        name, times = line.rsplit(maxsplit=1)
        print(await by_name[name](int(times)), flush=True)
    await service.close()


if __name__ == "__main__":
    uvloop.run(main())
