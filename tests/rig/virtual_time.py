"""A service whose time, and that of its store, can be put forward."""

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from revoker import app
from revoker.errors import NoVerdict
from revoker.store import scripts, single
from revoker.store.consistency import presence
from revoker.store.wire.command_channel import Confirmation
from revoker.store.wire.connection import Replies, pack
from tests.rig.fault_proxy import FaultProxy
from tests.rig.servers import Valkey
from tests.rig.service import PATIENT_S, Running, serve, settings_for, until_ready

_TIME = """
local t = redis.call('TIME')
return {string.format('%.0f', t[1] + (redis.call('GET', 'AHEAD') or 0)), t[2]}
"""

T = TypeVar("T")


class Clockwork:
    """Runs a service in an event loop of its own; its time is ``ahead`` of the machine's by so many seconds.

    Args:
        valkey: Its store.
        folder: For its files.
        through: A proxy before the store, where there is one.
        changes: Of the settings, by section.
    """

    def __init__(
        self, valkey: Valkey, folder: Path, *, through: FaultProxy | None = None, **changes: Any
    ) -> None:
        self.ahead = 0.0
        self._off = 0.0
        self._valkey = valkey
        self._proxy = through
        self._key = f"ahead-{uuid.uuid4().hex}"
        self.loop = asyncio.new_event_loop()
        self._ran_until = float("inf")
        self._prefix = f"t{uuid.uuid4().hex[:12]}"
        self._others: list[Running] = []
        self.running = self.run(self._begin(folder, changes))

    async def _begin(self, folder: Path, changes: dict[str, Any], *, new: bool = True) -> Running:
        if self._proxy is not None and new:
            await self._proxy.open()
        url = self._valkey.url if self._proxy is None else self._proxy.url
        redis = {"url": url, "key_prefix": self._prefix, "timeout": PATIENT_S} | changes.pop("redis", {})
        service = app.Service(
            settings_for(self._valkey.url, folder, redis=redis, **changes), clock=self._service_time
        )
        if new:
            await service.store.init()
        running = await serve(service)
        await until_ready(running)
        return running

    def start_another(self, folder: Path, **changes: Any) -> Running:
        """Start one more instance on the same store, in the same time."""
        self._others.append(self.run(self._begin(folder, changes, new=False)))
        return self._others[-1]

    def now(self) -> float:
        return time.time() + self.ahead

    def _service_time(self) -> float:
        return self.now() + self._off

    @contextlib.contextmanager
    def clocks_apart(self, seconds: float) -> Iterator[None]:
        """Let the services' clocks be ahead of the store's by so much in the block."""
        self._off = seconds
        try:
            yield
        finally:
            self._off = 0.0

    @contextlib.contextmanager
    def refused_data(self) -> Iterator[None]:
        """Let the store have lost data in the block, which nobody accepts until its end."""
        key = self.running.service.store.keys.epoch
        with self._valkey.client() as client:

            def declare(finding: str) -> None:
                noticed = int(self.now() * 1000) + 1000  # after all that was read
                client.set(key, f"{lost} {noticed} {cutoff} {finding}")

            _, _, cutoff, _ = client.get(key).split(" ")
            lost = uuid.uuid4().hex[:16]
            declare("refused")
            try:
                yield
            finally:
                declare("accepted")

    def pass_time(self, seconds: float) -> None:
        self.ahead += seconds
        with self._valkey.client() as client:
            client.set(self._key, self.ahead)

    def run(self, work: Awaitable[T]) -> T:
        """Run the loop until this is done.

        It has stood still since the last time, maybe longer than a heartbeat of a primary counts as fresh.
        """
        if time.monotonic() - self._ran_until > Confirmation.FRESH_S / 4:
            self.loop.run_until_complete(self._until_fresh())
        try:
            return self.loop.run_until_complete(work)
        finally:
            self._ran_until = time.monotonic()

    async def _until_fresh(self) -> None:
        """Wait for the next heartbeat, after which the service gives verdicts if its store allows that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(Confirmation.FRESH_S):
                for running in (self.running, *self._others):
                    while True:
                        try:
                            await running.service.store.lookups.touch()
                            break
                        except NoVerdict:
                            await asyncio.sleep(0.02)

    def close(self) -> None:
        for running in (*self._others, self.running):
            self.loop.run_until_complete(running.close())
        if self._proxy is not None:
            self.loop.run_until_complete(self._proxy.close())
        self.loop.close()

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let scripts and lookups of this process read the time that is put forward.

        A server has no setting for its clock, so their texts are replaced, and by that their digests.
        """
        ahead = f"(redis.call('GET', '{self._key}') or 0)".encode()
        for name, text in list(scripts.TEXTS.items()):
            put_forward = text.replace(b"return t[1] * 1000", b"return (t[1] + " + ahead + b") * 1000")
            assert put_forward != text
            monkeypatch.setitem(scripts.TEXTS, name, put_forward)
            monkeypatch.setitem(scripts.DIGESTS, name, hashlib.sha1(put_forward).hexdigest())
            with self._valkey.client() as client:
                client.script_load(put_forward.decode())
        monkeypatch.setattr(single, "TIME", pack([("EVAL", _TIME.replace("AHEAD", self._key), 0)]))
        judge = presence.Sample.judge

        def judge_ahead(sample: presence.Sample, replies: Replies, now: int, *rest: Any) -> Any:
            return judge(sample, replies, now + int(self.ahead * 1000), *rest)

        monkeypatch.setattr(presence.Sample, "judge", judge_ahead)
