"""Continuous introspections and revocations, every answer of which is checked."""

import asyncio
import collections
import contextlib
import random
import time

import aiohttp

from tests.rig.probes import issued
from tests.rig.service import HANGS_S, SECRETS


class CheckedLoad:
    """Keeps a service busy.

    No revocation that was answered 200 may ever be followed by an ``active: true`` for its token. Tokens
    that nobody revoked are active, or there is no verdict, unless ``forgets`` says that data gets lost.
    """

    def __init__(self, running, *, forgets=False):
        self._running = running
        self._forgets = forgets
        self._tasks = []
        self.revoked = []
        self.untouched = [issued() for _ in range(8)]
        self.wrong = []
        self.introspected = collections.Counter()
        self.revocations = collections.Counter()

    async def __aenter__(self):
        self._tasks = [
            *(asyncio.ensure_future(self._introspect()) for _ in range(4)),
            asyncio.ensure_future(self._revoke()),
        ]
        await self.sees(introspected=200, revocations=200)
        return self

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert not self.wrong, self.wrong[:3]
        assert set(self.introspected) | set(self.revocations) <= {200, 503}

    async def sees(self, *, introspected=None, revocations=None, times=3):
        """Wait until so many more answers have these statuses."""
        began = time.monotonic()
        wanted = [
            (counter, status, counter[status] + times)
            for counter, status in ((self.introspected, introspected), (self.revocations, revocations))
            if status is not None
        ]
        while any(counter[status] < count for counter, status, count in wanted):
            assert time.monotonic() - began < HANGS_S, (self.introspected, self.revocations)
            await asyncio.sleep(0.005)

    async def recovers(self):
        """The store is back: verdicts and revocations are too, by themselves."""
        await self.sees(introspected=200, revocations=200, times=1)

    async def _introspect(self):
        while True:
            count = len(self.revoked)
            gone = count > 0 and random.random() < 0.5
            claims = random.choice(self.revoked[:count] if gone else self.untouched)
            status, answer = await self._post("/introspect", claims, "gateway")
            self.introspected[status] += 1
            if status == 200 and gone and answer["active"]:
                self.wrong.append(("revoked and active", claims))
            if status == 200 and not gone and not answer["active"] and not self._forgets:
                self.wrong.append(("never revoked and not active", claims))
            if status == 503 and "active" in answer:
                self.wrong.append(("a verdict in a 503", answer))
            await asyncio.sleep(0.002)

    async def _revoke(self):
        while True:
            claims = issued()
            status, _ = await self._post("/revoke", {k: claims[k] for k in ("iss", "jti", "exp")}, "admin")
            self.revocations[status] += 1
            if status == 200:
                self.revoked.append(claims)
            await asyncio.sleep(0.005)

    async def _post(self, path, body, caller):
        auth = aiohttp.encode_basic_auth(caller, SECRETS[caller])
        async with self._running.http.post(
            self._running.url + path, json=body, headers={"Authorization": auth}
        ) as response:
            answer = {} if response.content_length == 0 else await response.json()
            if response.status == 503:
                assert response.headers["Retry-After"]
        return response.status, answer
