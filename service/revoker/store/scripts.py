"""Runs the Lua scripts: one round trip each, counted in the store, confirmed by replicas where asked."""

import hashlib
import importlib.resources
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from revoker.errors import ReplyNotUnderstood, StoreUnavailable, Unconfirmed
from revoker.metrics import Metrics
from revoker.store.consistency.epoch import DataSet, Watermark, new_id
from revoker.store.keys import Tail
from revoker.store.source import Source
from revoker.store.wire.connection import (
    FAILURES,
    ConnectionLost,
    Refused,
    TooFewReplicas,
    public_message,
    unavailable_on_failure,
    understood,
)

_LUA: Final = importlib.resources.files("revoker.store") / "lua"


def _load(*names: str) -> bytes:
    return b"\n".join((_LUA / f"{name}.lua").read_bytes() for name in ("prelude", *names))


TEXTS: Final = {
    "revoke_token": _load("revoke_token"),
    "revoke_tokens": _load("revoke_tokens"),
    "move_cutoff": _load("move_cutoff"),
    "revoke_user": _load("user", "revoke_user"),
    "block_user": _load("user", "block_user"),
    "unblock_user": _load("taking_back", "user", "unblock_user"),
    "trim_blocks": _load("trim_blocks"),
    "revoke_key": _load("revoke_key"),
    "forget_key": _load("taking_back", "forget_key"),
    "lift_cutoff": _load("taking_back", "user", "lift_cutoff"),
    "set_epoch": _load("set_epoch"),
    "set_settings": _load("set_settings"),
    "refill": _load("refill"),
    "start_session": _load("user", "session", "start_session"),
    "refresh_session": _load("user", "session", "refresh_session"),
    "elevate_session": _load("user", "session", "elevate_session"),
    "end_session": _load("user", "session", "end_session"),
    "trim_sessions": _load("user", "session", "trim_sessions"),
}
TAKING_BACK: Final = frozenset({"unblock_user", "forget_key", "lift_cutoff"})
"""Scripts that undo a revocation. Run twice, one of them would undo what was revoked in between; so each
request has a key, ``lifted`` and an id, by which the script finds that it was carried out before."""

PUT_BACK: Final = {
    "revoke_token": "put_back_token",
    "move_cutoff": "put_back_cutoff",
    "revoke_user": "put_back_user",
    "block_user": "put_back_block",
    "revoke_key": "put_back_key",
}
"""Scripts, and the variants of them by which what they wrote is written again."""

TEXTS.update(
    put_back_token=_load("uncounted", "revoke_token"),
    put_back_cutoff=_load("uncounted", "move_cutoff"),
    put_back_user=_load("uncounted", "user", "revoke_user"),
    put_back_block=_load("uncounted", "user", "block_user"),
    put_back_key=_load("uncounted", "revoke_key"),
)
_DIGESTS: Final = {name: hashlib.sha1(text).hexdigest() for name, text in TEXTS.items()}  # noqa: S324


class Scripts:
    """Changes to the store, each atomic and each a write even where it changes nothing."""

    def __init__(self, servers: Source, metrics: Metrics, data_of: Callable[[str], DataSet]) -> None:
        """Run them on these servers.

        Args:
            servers: Which confirm what is changed.
            metrics: Where to count.
            data_of: The data set of which a key is part; told of each acknowledged change. Its tail is what
                every script ends with.
        """
        self._servers = servers
        self._succeeded = metrics.notes.observing(metrics.write_seconds.labels("ok"))
        self._failed = metrics.notes.observing(metrics.write_seconds.labels("error"))
        self._data_of = data_of

    def seq(self, key: str) -> int:
        """``rv:seq`` beside a key, as last seen."""
        watermark = self._data_of(key).watermark
        return 0 if watermark is None else watermark.seq

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """Run a script that may be repeated: one that revokes or takes back.

        A change that met another data set than the known one may be among what was lost, or have come
        before what is written back: once that is settled, it is made again.

        Returns:
            What the script returns, less the numbers at its end.

        Raises:
            Unconfirmed: it may or may not have been stored; repeating it is safe.
            StoreUnavailable: it was not stored.
        """
        for _ in range(2):
            all_keys = [*keys, f"{keys[-1]}:{new_id()}"] if name in TAKING_BACK else keys
            try:
                said, whole = await self.call(name, all_keys, args, counted=True)
            except StoreUnavailable as error:
                if not isinstance(error.__cause__, ConnectionLost):
                    raise
                said, whole = await self._call_again(name, all_keys, args)
            if whole:
                return said
            await self._data_of(keys[0]).settle()
        raise Unconfirmed("the store lost data while it was written to")

    async def _call_again(
        self, name: str, keys: Sequence[str], args: Sequence[Any]
    ) -> tuple[list[Any], bool]:
        """Run a counted script that may have been carried out already, whatever becomes of this attempt."""
        try:
            return await self.call(name, keys, args, counted=True)
        except Unconfirmed:
            raise
        except StoreUnavailable as error:
            raise Unconfirmed(str(error)) from error

    async def call(
        self, name: str, keys: Sequence[str], args: Sequence[Any], *, counted: bool = False
    ) -> tuple[list[Any], bool]:
        """Run a script that must not be repeated.

        Args:
            name: Of the script.
            keys: Of the script.
            args: Likewise.
            counted: Whether it counts what it stores, unless it answers with one word: a refusal.

        Returns:
            What :meth:`run` returns, and whether it met the known data set with all that was known of it; if
            not, what it changed may be among what was lost, or is not counted. Raises as that.
        """
        data = self._data_of(keys[0])
        before = data.watermark
        try:
            reply = await self.execute(name, keys, args)
        except ReplyNotUnderstood as error:  # the script was carried out all the same
            raise Unconfirmed(str(error)) from error
        refused = len(reply) == 1 and isinstance(reply[0], bytes) and reply[0].isalpha()
        if counted and not refused and not isinstance(reply[-1], list):
            raise Unconfirmed(str(ReplyNotUnderstood()))
        return _noted(data, before, reply)

    async def set_epoch(  # noqa: PLR0917  # what the script takes, in its order
        self, tail: Tail, stood: bytes, new_id: str, latest: int, finding: str, cutoff: int | None
    ) -> tuple[bool, bytes, int, int]:
        """Set the epoch where it still is ``stood`` (empty: none).

        Returns:
            Whether it was set, the epoch that stands, seq and share.
        """
        args = (stood, new_id, latest, finding, "now" if cutoff is None else cutoff)
        with understood():
            done, text, seq, share = await self._execute("set_epoch", (), tail, args, 0)
            return bool(done), text, int(seq), int(share)

    def execute(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Awaitable[list[Any]]:
        """Run a script, whatever data set it meets; what it returns, whole."""
        return self._execute(name, keys, self._data_of(keys[0]).tail, args, self.seq(keys[0]))

    async def call_unconfirmed(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """Run a script that may be repeated, without the replicas: for a change that may be lost again.

        Returns:
            What it returns, whole.

        Raises:
            StoreUnavailable: it may or may not have been carried out.
        """
        tail, known = self._data_of(keys[0]).tail, self.seq(keys[0])
        call = (len(keys) + len(tail), *keys, tail.seq, tail.share, tail.epoch, *args, known)
        async with unavailable_on_failure():
            [reply] = await self._servers.change_unconfirmed(keys[0], "EVALSHA", _DIGESTS[name], *call)
            if isinstance(reply, Exception) and Refused(str(reply)).code == "NOSCRIPT":
                [reply] = await self._servers.change_unconfirmed(keys[0], "EVAL", TEXTS[name], *call)
            if isinstance(reply, Exception):
                raise Refused(str(reply))
        return list(reply)

    async def _execute(
        self, name: str, keys: Sequence[str], tail: Tail, args: Sequence[Any], known: int
    ) -> list[Any]:
        began = time.perf_counter()
        observe = self._failed
        call = (len(keys) + len(tail), *keys, tail.seq, tail.share, tail.epoch, *args, known)
        try:
            try:
                reply: Any = await self._servers.change(call[1], "EVALSHA", _DIGESTS[name], *call)
            except Refused as error:
                if error.code != "NOSCRIPT":
                    raise
                reply = await self._servers.change(call[1], "EVAL", TEXTS[name], *call)
            observe = self._succeeded
        except FAILURES as error:
            if isinstance(error, Refused) and error.code == "READONLY":
                self._servers.reconnect()
            raise _failure(error) from error
        finally:
            observe(time.perf_counter() - began)
        if not isinstance(reply, list) or not reply:
            raise ReplyNotUnderstood
        return reply


def _failure(error: Exception) -> StoreUnavailable:
    """What a failed change is to those who asked for it."""
    if isinstance(error, TooFewReplicas):
        [reply] = error.replies
        counted = bool(reply) and isinstance(reply[-1], list)
        return Unconfirmed(public_message(error), reply[:-1] if counted else reply)
    if isinstance(error, Refused):
        return StoreUnavailable(public_message(error))
    return Unconfirmed(public_message(error))


def _noted(data: DataSet, before: Watermark | None, reply: list[Any]) -> tuple[list[Any], bool]:
    """What a script said, and whether it met the known data set with all that was known ``before``."""
    if not reply or not isinstance(reply[-1], list):
        return reply, True
    with understood():
        *said, (seq, share, epoch) = reply
        return said, data.record_write(before, epoch, int(seq), int(share))
