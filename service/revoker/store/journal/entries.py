"""Entries of the journal, and the lines that consumers get for them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from revoker.models import Issuer
from revoker.store.keys import Held, Keys
from revoker.store.transfer import records
from revoker.store.transfer.records import Record, date
from revoker.store.transfer.stored_records import StoredRecords

_log = structlog.get_logger("store")

CONFIRM: Final = "confirm"
"""In place of what was undone: nothing has changed, but somebody waits for confirmations."""

LATEST_MS: Final = records.LATEST_S * 1000

_encode: Final = msgspec.json.Encoder().encode


class Entry(NamedTuple):
    """One change, as the scripts have journaled it.

    Attributes:
        id: Of the stream entry; it begins with the time of the change (ms by Redis).
        key: What was changed; empty for the entry that begins a journal.
        value: Of the key; empty if the entry does not say it.
        expires: When the key expires (ms); None: never.
        undone: ``cutoff``, ``block``, or ``key`` and a kid; empty: nothing was undone; or :data:`CONFIRM`.
    """

    id: str
    key: str
    value: bytes
    expires: int | None
    undone: str

    @property
    def at(self) -> int:
        """When the change was made (ms by Redis)."""
        return int(self.id.partition("-")[0])


def entry_of(reply: Sequence[Any]) -> Entry:
    """Decode an entry as ``XRANGE`` replies it; raises ``ValueError``, ``TypeError`` or ``LookupError``."""
    entry_id, fields = reply
    members = dict(zip(fields[::2], fields[1::2], strict=True))
    expires = members[b"x"]
    return Entry(
        entry_id.decode(),
        members[b"k"].decode(),
        members[b"v"],
        int(expires) if expires else None,
        members[b"u"].decode(),
    )


class LineMaker:
    """Makes lines of what keys hold, without their ends."""

    def __init__(self, keys: Keys, issuers: Mapping[str, Issuer]) -> None:
        """``issuers``: by ``iss``."""
        self._keys: Final = keys
        self._records: Final = StoredRecords({issuer.name: issuer for issuer in issuers.values()})

    def of(
        self, key: str, value: bytes, expires: int | None, *, now: int, changed: int | None = None
    ) -> list[bytes]:
        """The lines of one key; none if it holds nothing that a verdict depends on.

        Args:
            key: Of the store.
            value: Its value.
            expires: When it expires (ms); None: never.
            now: Redis ``TIME`` (ms).
            changed: When it was changed (ms); None: that is not known.
        """
        if key == self._keys.settings:
            return [settings_line(value)]
        try:
            place = self._keys.held(key)
            if place is None:
                return []
            dates: dict[str, Any] = {}
            if expires is not None:
                dates["expires"] = date(min(expires, LATEST_MS))
            if changed is not None:
                dates["changed"] = date(changed)
            return [
                _encode(msgspec.structs.replace(record, **dates))
                for record in self._records.of(place, value, expires, now)
            ]
        except (ValueError, msgspec.MsgspecError) as error:
            _log.error("journal_entry_unreadable", error=str(error))
            return []

    def removal(self, entry: Entry) -> bytes | None:
        """The line of what an entry has undone; None if it has undone nothing."""
        if not entry.undone:
            return None
        try:
            place = self._keys.held(entry.key)
        except ValueError:
            place = None
        if place is None:
            return None
        return b'{"remove":%b}' % _encode(self._undone(place, entry.undone))

    def _undone(self, place: Held, undone: str) -> Record:
        what, _, kid = undone.partition(" ")
        if what == "block":
            return records.Block(tag=place.value)
        if what == "key":
            return records.Key(iss=self._records.iss(place.issuer), kid=kid)
        return self._records.cutoff(place)


def settings_line(value: bytes) -> bytes:
    """The line of what the store remembers of its issuers (:mod:`revoker.store.recorded_issuers`)."""
    return b'{"kind":"settings","issuers":%b}' % value
