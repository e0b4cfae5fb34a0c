"""Moves what was revoked of an issuer to another name of it; names are parts of keys.

Everything is copied by the scripts that revoke, so doing it twice changes nothing and what stands under
the new name is never weakened; and nothing is deleted before all of it stands there.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from revoker.errors import InvalidRequest, StoreUnavailable
from revoker.models import Issuer
from revoker.rules import FOREVER_MS
from revoker.store.consistency.acknowledged import Written
from revoker.store.issuer_records import IssuerRecords
from revoker.store.keys import Keys
from revoker.store.lookups import mark, revoked_keys
from revoker.store.scripts import Scripts
from revoker.store.source import Source
from revoker.store.wire.connection import unavailable_on_failure

_NOTICED_S: Final = 3.0
"""Three beats of the watch: every process that runs under the old name has stopped by then."""

_CHUNK: Final = 256
_SCANNED: Final = 1000

Progress = Callable[[int], None]


class Renaming:
    """Renames one issuer."""

    def __init__(
        self, servers: Source, scripts: Scripts, keys: Keys, records: IssuerRecords, *, old: str, new: str
    ) -> None:
        self._servers = servers
        self._scripts = scripts
        self._keys = keys
        self._records = records
        self._old: Final = old
        self._new: Final = new

    async def run(self, progress: Progress) -> int:
        """Copy, let the new name count, and once no process uses the old one copy the rest and delete.

        Where it broke off it is run again, and goes on.

        Args:
            progress: Told how many keys were copied so far.

        Returns:
            How many keys lay under the old name at last.

        Raises:
            InvalidRequest: there is no such issuer, or the new name is another's.
            StoreUnavailable: it broke off.
        """
        if await self._is_to_be_renamed():
            await self._copy(progress, delete=False)
            await self._rename()
        await asyncio.sleep(_NOTICED_S)
        return await self._copy(progress, delete=True)

    async def _is_to_be_renamed(self) -> bool:
        _, records, _ = await self._records.look()
        records = records or {}
        if self._old in records and self._new in records:
            raise InvalidRequest(f"the store has an issuer {self._new}: {records[self._new].iss}")
        if self._old not in records and self._new not in records:
            raise InvalidRequest(f"the store has no issuer {self._old}")
        return self._old in records

    async def _rename(self) -> None:
        for _ in range(8):
            text, records, _ = await self._records.look()
            renamed = dict(records or {})
            if self._old in renamed:
                renamed[self._new] = renamed.pop(self._old)
            if await self._records.set(text, renamed):
                return
        raise StoreUnavailable("what the store remembers of the issuers keeps changing")

    async def _copy(self, progress: Progress, *, delete: bool) -> int:
        count = 0
        async for keys in self._found():
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                copying = [self._copy_one(key, delete=delete) for key in chunk]
                for error in await asyncio.gather(*copying, return_exceptions=True):
                    if error is not None:
                        raise error
                count += len(chunk)
                progress(count)
        return count

    async def _found(self) -> AsyncIterator[list[str]]:
        async with unavailable_on_failure():
            lines = (await self._servers.primaries()).values()
            for line in lines:
                for pattern in self._keys.named(self._old):
                    cursor = b"0"
                    while True:
                        command = ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCANNED)
                        cursor, keys = await line.execute(*command)
                        yield [key.decode() for key in keys]
                        if cursor == b"0":
                            break

    async def _copy_one(self, key: str, *, delete: bool) -> None:
        async with unavailable_on_failure():
            text, left, (seconds, micros) = await self._servers.read(
                key, [("GET", key), ("PTTL", key), ("TIME",)]
            )
        if text is None:
            return
        until = FOREVER_MS if left < 0 else int(seconds) * 1000 + int(micros) // 1000 + left
        target = self._keys.renamed(key, self._old, self._new)
        if key == self._keys.revoked_keys(Issuer(name=self._old, iss="")):
            await self._copy_keys(text, target)
        else:
            stood = mark(text)
            script = "revoke_token" if key.startswith(self._keys.named(self._old)[0][:-1]) else "move_cutoff"
            written = Written(script, (target,), stood.at, until, stood.reason)
            await self._scripts.execute(script, written.keys, written.args)
        if delete:
            async with unavailable_on_failure():
                await self._servers.change(key, "DEL", key)

    async def _copy_keys(self, text: bytes, target: str) -> None:
        try:
            revoked = revoked_keys(text)
        except msgspec.MsgspecError as error:
            raise StoreUnavailable("the store holds revoked keys that can't be read") from error
        for kid, stood in revoked.items():
            await self._scripts.execute("revoke_key", [target], (kid, stood.reason, stood.at))
