"""Clients of edges: they ask for the tokens that others revoke, and for users whom they block themselves."""

import asyncio
import json
import random
import time
from typing import Any

import aiohttp
import msgspec

from tests.faults.clients import Clients, claims
from tests.faults.edge_history import Blocked, EdgeAnswer, EdgeRecord, Unblocked
from tests.faults.history import Token
from tests.rig.service import SECRETS

AS_OF = "Revoker-As-Of"
_PAUSE_S = 0.03
_BATCH = 200


class EdgeClients:
    """Keeps edges busy; ``urls`` are theirs by name.

    Attributes:
        history: All answers.
    """

    def __init__(
        self,
        urls: dict[str, str],
        *,
        asking: frozenset[str],
        clients: Clients,
        rng: random.Random,
        history: list[EdgeRecord],
    ) -> None:
        """``asking`` are the edges that ask the service where they know too little."""
        self._urls = urls
        self._asking = asking
        self._clients = clients
        self._rng = rng
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._users: list[Token] = []
        self.history = history

    def start(self) -> None:
        """Begin to ask; :attr:`Clients.http` is open meanwhile."""
        self._stopping = False
        self._tasks = [asyncio.create_task(self._client(edge)) for edge in self._urls]
        if self._urls:
            self._tasks.append(asyncio.create_task(self._block_users()))

    async def stop(self) -> None:
        """No more requests; those in flight are answered first."""
        self._stopping = True
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    async def _client(self, edge: str) -> None:
        while not self._stopping:
            await asyncio.sleep(self._rng.expovariate(1 / _PAUSE_S))
            await self.introspect(edge, self._asked_for())

    def _asked_for(self) -> Token:
        if self._users and self._rng.random() < 0.2:
            return self._rng.choice(self._users[-4:])
        acknowledged = self._clients.acknowledged
        if acknowledged and self._rng.random() < 0.6:
            return self._rng.choice(acknowledged[-10:] if self._rng.random() < 0.7 else acknowledged)
        return self._clients.untouched()

    async def _block_users(self) -> None:
        """Block a user, end that again, and turn to the next; what fails is not tried again."""
        while not self._stopping:
            token = self._clients.fresh_token()
            token = msgspec.structs.replace(
                token, sub=f"blocked-{token.jti}"
            )  # nobody else asks for this user
            self._users.append(token)
            if await self._change_block("/block-user", token, Blocked):
                await asyncio.sleep(self._rng.uniform(0, 1))
                await self._change_block("/unblock-user", token, Unblocked)
            await asyncio.sleep(self._rng.uniform(0.1, 0.5))

    async def _change_block(self, path: str, token: Token, kind: type[Blocked | Unblocked]) -> bool:
        place, start = len(self.history), time.monotonic()
        self.history.append(kind(start, float("inf"), token.sub, None))  # it may take effect from now on
        status, _ = await self._clients.post(self._clients.any_instance(), path, {"sub": token.sub}, "admin")
        self.history[place] = kind(start, time.monotonic(), token.sub, status)
        return status == 200

    async def introspect(self, edge: str, token: Token) -> None:
        await self._ask(edge, "/introspect", claims(token), [token])

    async def introspect_all(self) -> None:
        """Ask every edge for every token that was ever acknowledged to be revoked."""
        for edge in self._urls:
            tokens = self._clients.acknowledged
            for first in range(0, len(tokens), _BATCH):
                some = tokens[first : first + _BATCH]
                await self._ask(edge, "/introspect/batch", {"tokens": list(map(claims, some))}, some)

    async def _ask(self, edge: str, path: str, body: dict[str, Any], tokens: list[Token]) -> None:
        start = time.monotonic()
        status, as_of, answer = await self._post(edge, path, body)
        end = time.monotonic()
        single = path == "/introspect"
        results = [answer] if single else answer.get("results", [{}] * len(tokens))
        asks = edge in self._asking and single
        self.history += [
            EdgeAnswer(start, end, edge, token, status, result.get("active"), as_of, asks)
            for token, result in zip(tokens, results, strict=True)
        ]

    async def _post(
        self, edge: str, path: str, body: dict[str, Any]
    ) -> tuple[int | None, int | None, dict[str, Any]]:
        auth = aiohttp.encode_basic_auth("gateway", SECRETS["gateway"])
        try:
            async with self._clients.http.post(
                self._urls[edge] + path, json=body, headers={"Authorization": auth}
            ) as response:
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError):
            return None, None, {}
        as_of = response.headers.get(AS_OF)
        return response.status, int(as_of) if as_of else None, json.loads(text) if text else {}

    async def recovered(self, since: float, seconds: float, *, as_of: int = 0) -> None:
        """Wait until all edges have given a verdict after ``since``, and as of that time (ms) or later.

        Raises:
            TimeoutError: one did not.
        """
        missing, seen = set(self._urls), len(self.history)
        async with asyncio.timeout(seconds):
            while missing:
                await asyncio.sleep(0.02)
                fresh, seen = self.history[seen:], len(self.history)
                missing -= {
                    record.edge
                    for record in fresh
                    if isinstance(record, EdgeAnswer)
                    and record.status == 200
                    and record.start >= since
                    and (record.as_of or 0) >= as_of
                }
