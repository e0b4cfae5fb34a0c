"""Clients of several instances that revoke and introspect at random, and record every answer."""

import asyncio
import collections
import contextlib
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

from tests.faults.history import KINDS, Introspected, Kind, Record, Revoked, Token
from tests.rig import forge
from tests.rig.service import SECRETS

PATIENCE_S = 60.0
"""After which a client no longer waits for an answer."""

LIFETIME_S = 7200

_ENDPOINTS: dict[Kind, str] = {
    "jti": "/revoke",
    "sub": "/revoke-user",
    "sid": "/revoke-session",
    "client_id": "/revoke-client",
    "grant_id": "/revoke-claim",
}
_WEIGHTS = (12, 3, 3, 2, 2)


@dataclass(frozen=True)
class Rates:
    """What clients ask of all instances together, each second, beside what they ask at random.

    Attributes:
        revocations: One a request.
        introspections: In batches of :data:`BATCH`.
    """

    revocations: int
    introspections: int


BATCH = 100
"""Tokens in one request: single requests at such rates need more than two cores."""

_TICK_S = 0.02
_MOST_UNDER_WAY = 64
"""Requests of a kind to one instance; beyond it the rate is not reached."""


class Tokens:
    """Makes tokens: a few of each user, session and client, so a cutoff covers some and not others."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._run = uuid.uuid4().hex[:8]
        self._made = 0

    def fresh(self) -> Token:
        self._made += 1
        number, now = self._made, time.time()
        return Token(
            f"{self._run}-{number}",
            f"user-{self._run}-{number // 3}",
            f"sid-{self._run}-{number // 2}",
            f"client-{self._run}-{number // 7}",
            now,
            now + LIFETIME_S,
            f"grant-{self._run}-{number // 5}",
        )


def claims(token: Token) -> dict[str, Any]:
    return {
        "iss": forge.ISSUER,
        **{kind: getattr(token, kind) for kind in KINDS},
        "iat": token.iat,
        "exp": token.exp,
    }


class Clients:
    """Keeps instances busy; ``urls`` are theirs by name.

    Attributes:
        history: All answers.
        http: Open in the ``async with`` block.
        acknowledged: One token for each revocation that was answered 200.
    """

    def __init__(
        self,
        urls: dict[str, str],
        *,
        rng: random.Random,
        history: list[Record],
        per_instance: int = 3,
        pause: float = 0.02,
        rates: Rates | None = None,
    ) -> None:
        self._urls = urls
        self._rng = rng
        self._tokens = Tokens(rng)
        self._per_instance = per_instance
        self._pause = pause
        self._rates = rates
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._quiet = False
        self._revoking = 0
        self._untouched: collections.deque[Token] = collections.deque(maxlen=200)
        self._unsure: collections.deque[tuple[Token, Kind]] = collections.deque(maxlen=50)
        self.history = history
        self.acknowledged: list[Token] = []

    async def __aenter__(self) -> Self:
        self.http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=PATIENCE_S), connector=aiohttp.TCPConnector(limit=0)
        )
        self._untouched.extend(self._tokens.fresh() for _ in range(20))
        self._stopping = False
        self._tasks = [
            asyncio.create_task(self._client(name)) for name in self._urls for _ in range(self._per_instance)
        ]
        if self._rates is not None:
            share = len(self._urls)
            for name in self._urls:
                self._tasks += [
                    asyncio.create_task(
                        self._steadily(self._rates.revocations / share, self._revoke_fresh, name)
                    ),
                    asyncio.create_task(
                        self._steadily(
                            self._rates.introspections / share / BATCH, self._introspect_some, name
                        )
                    ),
                ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self.http.close()

    async def stop(self) -> None:
        """No more requests at random; a client that failed fails here.

        Requests in flight are answered first. A revocation that is cut short takes effect, and the history
        would not have it: its tokens would pass for never revoked.
        """
        self._stopping = True
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    async def _client(self, instance: str) -> None:
        while not self._stopping:
            await asyncio.sleep(self._rng.expovariate(1 / self._pause))
            if self._rng.random() < 0.3 and not self._quiet:
                await self._revoke_one(instance)
            else:
                await self.introspect(instance, self._asked_for())

    async def _steadily(
        self, per_second: float, ask: Callable[[str], Awaitable[object]], instance: str
    ) -> None:
        """Ask at this rate, whatever the answers."""
        under_way: set[asyncio.Task[object]] = set()
        due, last = 0.0, time.monotonic()
        while not self._stopping:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            due, last = min(due + (now - last) * per_second, _MOST_UNDER_WAY), now
            while due >= 1 and len(under_way) < _MOST_UNDER_WAY:
                due -= 1
                task = asyncio.ensure_future(ask(instance))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _revoke_fresh(self, instance: str) -> None:
        if self._quiet:
            return
        [kind] = self._rng.choices(KINDS, _WEIGHTS)
        await self.revoke(instance, self._tokens.fresh(), kind)

    async def _introspect_some(self, instance: str) -> None:
        await self._introspect_batch(instance, [self._asked_for() for _ in range(BATCH)])

    def fresh_token(self) -> Token:
        """One that these clients do not know of."""
        return self._tokens.fresh()

    def untouched(self) -> Token:
        """One that has not been revoked yet."""
        return self._rng.choice(self._untouched)

    def any_instance(self) -> str:
        """The name of one."""
        return self._rng.choice(list(self._urls))

    def _asked_for(self) -> Token:
        chance = self._rng.random()
        if chance < 0.45 and self.acknowledged:
            recent = self._rng.random() < 0.6
            return self._rng.choice(self.acknowledged[-30:] if recent else self.acknowledged)
        if chance < 0.8:
            return self.untouched()
        token = self._tokens.fresh()
        self._untouched.append(token)
        return token

    async def _revoke_one(self, instance: str) -> None:
        if self._unsure and self._rng.random() < 0.5:
            token, kind = self._unsure.popleft()
        else:
            token = self._rng.choice(self._untouched) if self._rng.random() < 0.3 else self._tokens.fresh()
            [kind] = self._rng.choices(KINDS, _WEIGHTS)
        if await self.revoke(instance, token, kind):
            if self._rng.random() < 0.5:
                await self.introspect(self.any_instance(), token)
        else:
            self._unsure.append((token, kind))

    async def revoke(self, instance: str, token: Token, kind: Kind) -> bool:
        """Whether it was acknowledged."""
        value = getattr(token, kind)
        named = {"claim": kind, "value": value} if kind == "grant_id" else {kind: value}
        body = {"iss": forge.ISSUER, **named, **({"exp": token.exp} if kind == "jti" else {})}
        start = time.monotonic()
        self._revoking += 1
        try:
            status, answer = await self.post(instance, _ENDPOINTS[kind], body, "admin")
        finally:
            self._revoking -= 1
        iat_after = answer.get("iat_after")
        self.history.append(Revoked(start, time.monotonic(), instance, kind, value, status, iat_after))
        if status != 200:
            return False
        self.acknowledged.append(token)
        with contextlib.suppress(ValueError):
            self._untouched.remove(token)
        return True

    async def introspect(self, instance: str, token: Token) -> None:
        start = time.monotonic()
        status, answer = await self.post(instance, "/introspect", claims(token), "gateway")
        self.history.append(
            Introspected(start, time.monotonic(), instance, token, status, answer.get("active"))
        )

    async def introspect_all(self) -> None:
        """Ask every instance for every token that was ever acknowledged to be revoked."""
        for instance in self._urls:
            for first in range(0, len(self.acknowledged), 500):
                await self._introspect_batch(instance, self.acknowledged[first : first + 500])

    async def _introspect_batch(self, instance: str, tokens: list[Token]) -> None:
        start = time.monotonic()
        status, answer = await self.post(
            instance, "/introspect/batch", {"tokens": list(map(claims, tokens))}, "gateway"
        )
        end = time.monotonic()
        results = answer.get("results", [{}] * len(tokens))
        self.history += [
            Introspected(start, end, instance, token, status, result.get("active"))
            for token, result in zip(tokens, results, strict=True)
        ]

    async def post(
        self, instance: str, path: str, body: dict[str, Any], caller: str
    ) -> tuple[int | None, dict[str, Any]]:
        auth = aiohttp.encode_basic_auth(caller, SECRETS[caller])
        try:
            async with self.http.post(
                self._urls[instance] + path, json=body, headers={"Authorization": auth}
            ) as response:
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError):
            return None, {}
        return response.status, json.loads(text) if text else {}

    def last_acknowledged(self, instance: str, kind: Kind) -> str:
        """The value of the last revocation of a kind that an instance has acknowledged."""
        return next(
            record.value
            for record in reversed(self.history)
            if isinstance(record, Revoked)
            and (record.instance, record.kind, record.status) == (instance, kind, 200)
        )

    async def recovered(self, names: set[str], since: float, seconds: float) -> float:
        """When each of the instances had answered both kinds of requests with 200 again, from ``since`` on.

        Raises:
            TimeoutError: one did not.
        """
        return await self._succeed(
            {(kind, name) for kind in (Revoked, Introspected) for name in names}, since, seconds
        )

    @contextlib.asynccontextmanager
    async def all_read(self, names: set[str], seconds: float) -> AsyncIterator[None]:
        """In this block nothing is revoked, and all of these instances have read all that was."""
        self._quiet = True
        try:
            while self._revoking:
                await asyncio.sleep(0.001)
            await self.gives_verdicts(names, time.monotonic(), seconds)
            yield
        finally:
            self._quiet = False

    async def gives_verdicts(self, names: set[str], since: float, seconds: float) -> float:
        """As :meth:`recovered`, for introspections only."""
        return await self._succeed({(Introspected, name) for name in names}, since, seconds)

    async def _succeed(self, wanted: set[tuple[type[Record], str]], since: float, seconds: float) -> float:
        wanted = set(wanted)
        seen = len(self.history)
        async with asyncio.timeout(seconds):
            while wanted:
                await asyncio.sleep(0.02)
                fresh, seen = self.history[seen:], len(self.history)
                wanted -= {
                    (type(record), record.instance)
                    for record in fresh
                    if isinstance(record, Revoked | Introspected)
                    and record.status == 200
                    and record.start >= since
                }
        return time.monotonic()
