"""Reads all revocations of a store in steps, with bounded memory.

Tokens, cutoffs, blocks and keys are exported. Sessions are not: they belong to the store that created them.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

import msgspec

from revoker.errors import StoreRefused
from revoker.store.audit import Audit, read_audit
from revoker.store.consistency.epoch import Epoch
from revoker.store.keys import Held
from revoker.store.store import Store
from revoker.store.stored_values import redis_time_ms
from revoker.store.transfer import records
from revoker.store.transfer.audited_records import attributed, audited_part, audited_time
from revoker.store.transfer.records import Record, date
from revoker.store.transfer.stored_records import StoredRecords
from revoker.store.wire.command_channel import CommandChannel
from revoker.store.wire.connection import reads_replies, unavailable_on_failure, understood

KEYS_PER_STEP: Final = 1000
"""Keys that one step of an export reads, roughly."""

_REPLACED: Final = "a server of the store was restarted or replaced during the export: export again"


class Step(NamedTuple):
    """The result of one step of an export.

    Attributes:
        lines: Revocations, encoded.
        unreadable: Keys whose value cannot be read, or whose kind is unknown.
    """

    lines: list[bytes]
    unreadable: list[str]


class Exporting:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys
        self._issuers = {issuer.name: issuer for issuer in store.issuers.values()}
        self._records: Final = StoredRecords(self._issuers)

    @reads_replies()
    async def size(self) -> int:
        """How many keys the servers hold, roughly: sessions and keys of other services count too."""
        connections = (await self._store.primaries()).values()
        async with unavailable_on_failure():
            return sum([int(await connection.execute("DBSIZE")) for connection in connections])

    async def steps(self) -> AsyncIterator[Step]:
        """Read all revocations.

        Raises:
            StoreUnavailable: the store did not answer.
            StoreRefused: a server was replaced meanwhile, so that keys may be missing.
        """
        primaries = await self._store.primaries()  # before anything is read: all of it must be theirs
        yield Step(await self._lost_data(), [])
        for server, connection in sorted(primaries.items()):
            cursor = b"0"
            while True:
                async with unavailable_on_failure():
                    scanned = await connection.execute(
                        "SCAN", cursor, "MATCH", self._keys.all(), "COUNT", KEYS_PER_STEP
                    )
                    with understood():
                        cursor, found = scanned
                        keys = [key.decode(errors="replace") for key in found]
                    step = await self._read(connection, keys)
                if connection.server != server:
                    raise StoreRefused(_REPLACED)
                yield step
                if cursor == b"0":
                    break
        if (await self._store.primaries()).keys() != primaries.keys():
            raise StoreRefused(_REPLACED)

    async def _lost_data(self) -> list[bytes]:
        """The cutoff of a data loss, as a cutoff of every issuer: both cover the same tokens."""
        readings = (await self._store.readings()).values()
        cutoff = max((Epoch.parse(reading.epoch).cutoff for reading in readings if reading.epoch), default=0)
        if not cutoff:
            return []
        return [
            records.write(records.Issuer(iss=issuer.iss, before=date(cutoff), reason="data loss"))
            for issuer in self._issuers.values()
        ]

    @reads_replies()
    async def _read(self, connection: CommandChannel, keys: Sequence[str]) -> Step:
        places: dict[str, Held] = {}
        unreadable = []
        for key in keys:
            try:
                place = self._keys.held(key)
            except ValueError:
                unreadable.append(key)
                continue
            if place is not None:
                places[key] = place
        commands: list[tuple[str, ...]] = [("GET", key) for key in places]
        commands += [("PTTL", key) for key, place in places.items() if place.kind == "jti"]
        *replies, stamp = await connection.ask([*commands, ("TIME",)])
        now = redis_time_ms(stamp)
        ttls = iter(replies[len(places) :])
        of_keys: list[tuple[str, Record]] = []
        for (key, place), value in zip(places.items(), replies[: len(places)], strict=True):
            ttl = next(ttls) if place.kind == "jti" else -1
            if value is None:  # it has expired since the SCAN
                continue
            if isinstance(value, Exception):
                unreadable.append(key)
                continue
            try:
                expires = None if ttl < 0 else now + ttl
                found = list(self._records.of(place, value, expires, now))
            except (ValueError, msgspec.MsgspecError):
                unreadable.append(key)
            else:
                of_keys += [(key, record) for record in found]
        return Step(await self._attributed(connection, of_keys), unreadable)

    async def _attributed(
        self, connection: CommandChannel, of_keys: Sequence[tuple[str, Record]]
    ) -> list[bytes]:
        """The lines of revocations, each with its key, and with who made it where that is stored."""
        if not of_keys:
            return []
        audits = await connection.ask(
            [("GET", self._keys.audit(key, audited_part(record))) for key, record in of_keys]
        )
        return [
            records.write(attributed(record, _audit(text, record), self._issuers))
            for (_, record), text in zip(of_keys, audits, strict=True)
        ]


def _audit(text: bytes | Exception | None, record: Record) -> Audit | None:
    return None if isinstance(text, Exception) else read_audit(text, audited_time(record))
