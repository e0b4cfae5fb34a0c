"""What the console has in the store, so that any process can answer any of its requests.

Nothing of it is a revocation: it is neither counted nor journaled, and after a loss of data people sign in
again. Every record has a random name, which only the browser has, and expires.
"""

from typing import Any, Final, Literal, TypeVar

import msgspec

from revoker.store.store import Store
from revoker.store.wire.connection import reads_replies, unavailable_on_failure

Kind = Literal["sign-in", "draft", "session", "form"]

_Record = TypeVar("_Record", bound=msgspec.Struct)

_encode: Final = msgspec.json.Encoder().encode


class ConsoleRecords:
    """Reads and writes records; every method raises ``StoreUnavailable``."""

    def __init__(self, store: Store) -> None:
        self._source: Final = store.source
        self._keys: Final = store.keys

    async def write(self, kind: Kind, name: str, record: msgspec.Struct, ms: int) -> None:
        """Write a record, or replace it; it expires after ``ms``."""
        await self._change(kind, name, "SET", _encode(record), "PX", ms)

    async def write_first(self, kind: Kind, name: str, record: msgspec.Struct, ms: int) -> bool:
        """Write a record unless there is one with this name; whether it was written."""
        return await self._change(kind, name, "SET", _encode(record), "NX", "PX", ms) is not None

    @reads_replies()
    async def read(self, kind: Kind, name: str, record: type[_Record]) -> _Record | None:
        """A record; None where there is none, or one that another version has written.

        Raises:
            StoreRefused: what is read must not be trusted.
        """
        key = self._keys.console(kind, name)
        async with unavailable_on_failure():
            [value] = await self._source.read_trusted(key, [("GET", key)])
        if value is None:
            return None
        try:
            return msgspec.json.decode(value, type=record)
        except msgspec.MsgspecError:
            return None

    async def remove(self, kind: Kind, name: str) -> bool:
        """Remove a record; whether it was there: of several that try, one gets True."""
        return bool(await self._change(kind, name, "DEL"))

    def prolong(self, kind: Kind, name: str, ms: int) -> None:
        """Let a record expire after ``ms``; nobody waits for it."""
        key = self._keys.console(kind, name)
        self._source.change_unconfirmed(key, "PEXPIRE", key, ms)

    async def _change(self, kind: Kind, name: str, command: str, *arguments: Any) -> Any:
        key = self._keys.console(kind, name)
        async with unavailable_on_failure():
            return await self._source.change(key, command, key, *arguments)
