"""Runs the Lua scripts: one round trip each, counted in the store, confirmed by replicas where asked."""

import asyncio
import hashlib
import importlib.resources
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import NoScriptError

from service.errors import StoreUnavailable
from service.metrics import Metrics
from service.store.connection import fence

_LUA: Final = importlib.resources.files("service.store") / "lua"


def _load(*names: str) -> bytes:
    return b"\n".join((_LUA / f"{name}.lua").read_bytes() for name in ("prelude", *names))


TEXTS: Final = {
    "revoke_token": _load("revoke_token"),
    "move_cutoff": _load("move_cutoff"),
    "revoke_user": _load("user", "revoke_user"),
    "block_user": _load("user", "block_user"),
    "unblock_user": _load("user", "unblock_user"),
    "revoke_key": _load("revoke_key"),
    "forget_key": _load("forget_key"),
    "lift_cutoff": _load("user", "lift_cutoff"),
    "set_epoch": _load("set_epoch"),
    "start_session": _load("user", "session", "start_session"),
    "refresh_session": _load("user", "session", "refresh_session"),
    "elevate_session": _load("user", "session", "elevate_session"),
    "end_session": _load("user", "session", "end_session"),
}
_DIGESTS: Final = {name: hashlib.sha1(text).hexdigest() for name, text in TEXTS.items()}  # noqa: S324

Wrote = Callable[[bytes, int, int], None]


class Scripts:
    """Changes to the store, each atomic and each a write even where it changes nothing."""

    def __init__(
        self,
        client: Redis,
        *,
        tail: Sequence[str],
        wait_replicas: int,
        timeout: float,
        metrics: Metrics,
        wrote: Wrote,
    ) -> None:
        """Connects at the first use.

        Args:
            client: To the primary.
            tail: The keys that every script ends with: seq, share, epoch.
            wait_replicas: How many replicas must have a change before it counts as stored.
            timeout: For one round trip, in seconds.
            metrics: Where to count.
            wrote: Told the epoch and the two numbers after each acknowledged change.
        """
        self._client = client
        self._tail = tuple(tail)
        self._wait = wait_replicas
        self._timeout = timeout
        self._metrics = metrics
        self._wrote = wrote

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """Run a script that revokes or takes back.

        Returns:
            What the script returns, less the numbers at its end.

        Raises:
            StoreUnavailable: it may or may not have been stored; repeating it is safe.
        """
        reply = await self.call(name, keys, args)
        return reply if len(reply) < 3 else self.counted(reply)

    def counted(self, reply: list[Any]) -> list[Any]:
        """Take the numbers off the end of a reply whose script has counted a revocation."""
        *said, seq, share, epoch = reply
        self._wrote(epoch, int(seq), int(share))
        return said

    async def set_epoch(
        self, stood: bytes, new_id: str, latest: int, finding: str, cutoff: int | None
    ) -> tuple[bool, bytes, int, int]:
        """Set the epoch where it still is ``stood`` (empty: none).

        Returns:
            Whether it was set, the epoch that stands, seq and share.
        """
        args = (stood, new_id, latest, finding, "now" if cutoff is None else cutoff)
        done, text, seq, share = await self.call("set_epoch", (), args)
        return bool(done), text, int(seq), int(share)

    async def call(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """Run a script; what it returns, whole. Raises as :meth:`run`."""
        began = time.perf_counter()
        outcome = "error"
        try:
            async with fence():
                reply = await self._execute(name, (*keys, *self._tail), args)
            outcome = "ok"
        finally:
            self._metrics.write_seconds.labels(outcome).observe(time.perf_counter() - began)
        return reply

    async def _execute(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        try:
            return await self._evaluate("EVALSHA", _DIGESTS[name], keys, args)
        except NoScriptError:
            return await self._evaluate("EVAL", TEXTS[name], keys, args)

    async def _evaluate(
        self, command: str, script: str | bytes, keys: Sequence[str], args: Sequence[Any]
    ) -> list[Any]:
        call = (command, script, len(keys), *keys, *args)
        if not self._wait:
            return await self._retried(call)
        async with asyncio.timeout(2 * self._timeout):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.execute_command(*call)
            pipeline.execute_command("WAIT", self._wait, int(self._timeout * 1000) or 1)
            reply, replicas = await pipeline.execute()
        if int(replicas) < self._wait:
            raise StoreUnavailable("too few replicas have confirmed the change")
        return list(reply)

    async def _retried(self, call: tuple[Any, ...]) -> list[Any]:
        execute: Any = self._client.execute_command
        try:
            reply: list[Any] = await execute(*call)
        except ConnectionLost:  # a pooled connection that the server has closed meanwhile
            reply = await execute(*call)
        return reply
