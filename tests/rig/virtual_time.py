"""A service whose time, and that of its store, can be put forward."""

import asyncio
import hashlib
import time
import uuid

from revoker import app
from revoker.store import lookups, scripts
from revoker.store.wire.connection import pack
from tests.conftest import PATIENT_S, serve, settings_for, until_ready

_TIME = """
local t = redis.call('TIME')
return {string.format('%.0f', t[1] + (redis.call('GET', 'AHEAD') or 0)), t[2]}
"""


class Clockwork:
    """Runs a service in a loop of its own; ``ahead`` seconds lie between its time and the machine's."""

    def __init__(self, valkey, folder, *, through=None, **changes):
        self.ahead = 0
        self._valkey = valkey
        self._through = through
        self._key = f"ahead-{uuid.uuid4().hex}"
        self.loop = asyncio.new_event_loop()
        self._prefix = f"t{uuid.uuid4().hex[:12]}"
        self.running = self.run(self._begin(folder, changes))
        self._beside = []

    async def _begin(self, folder, changes, new=True):
        server = self._valkey
        if self._through is not None:
            server = self._through
            if new:
                await server.open()
        redis = {"url": server.url, "key_prefix": self._prefix, "timeout": PATIENT_S}
        redis |= changes.pop("redis", {})
        service = app.build(settings_for(self._valkey.url, folder, redis=redis, **changes), clock=self.now)
        if new:
            await service.store.init()
        running = await serve(service)
        await until_ready(running)
        return running

    def beside(self, folder, **changes):
        """Start one more instance on the same store, in the same time."""
        self._beside.append(self.run(self._begin(folder, changes, new=False)))
        return self._beside[-1]

    def now(self):
        return time.time() + self.ahead

    def pass_time(self, seconds):
        self.ahead += seconds
        with self._valkey.client() as client:
            client.set(self._key, self.ahead)

    def run(self, work):
        return self.loop.run_until_complete(work)

    def close(self):
        for running in (*self._beside, self.running):
            self.run(running.close())
        if self._through is not None:
            self._through.close()
        self.loop.close()

    def patch(self, monkeypatch):
        """Let scripts and lookups of this process read the time that is put forward."""
        ahead = f"(redis.call('GET', '{self._key}') or 0)".encode()
        for name, text in list(scripts.TEXTS.items()):
            put_forward = text.replace(b"return t[1] * 1000", b"return (t[1] + " + ahead + b") * 1000")
            assert put_forward != text
            monkeypatch.setitem(scripts.TEXTS, name, put_forward)
            monkeypatch.setitem(scripts._DIGESTS, name, hashlib.sha1(put_forward).hexdigest())
            with self._valkey.client() as client:
                client.script_load(put_forward)
        monkeypatch.setattr(lookups, "TIME", pack([("EVAL", _TIME.replace("AHEAD", self._key), 0)]))
