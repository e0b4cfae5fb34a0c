"""A place in the journal of one data set, as consumers keep it: opaque to them."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple, Self

from revoker.errors import InvalidRequest

_FORMAT: Final = 1
_DATA_SET_BYTES: Final = 8
_NUMBER_BYTES: Final = 8
_LENGTH: Final = 1 + _DATA_SET_BYTES + 2 * _NUMBER_BYTES
_MAX_TEXT: Final = 256
_CHARACTERS: Final = re.compile(r"[A-Za-z0-9_-]+").fullmatch

OTHER_FORMAT: Final = b""
"""The data set of a cursor that another version has made."""


class Cursor(NamedTuple):
    """A place in the journal.

    Attributes:
        data_set: Identifies the data, by :func:`identity`; :data:`OTHER_FORMAT` if that can't be known.
        entry: The id of the last entry that was read.
    """

    data_set: bytes
    entry: str

    @property
    def place(self) -> tuple[int, int]:
        """Its place among the cursors of the same data."""
        milliseconds, _, number = self.entry.partition("-")
        return int(milliseconds), int(number)

    @property
    def text(self) -> str:
        """What consumers keep."""
        milliseconds, number = self.place
        raw = b"%c%b%b%b" % (
            _FORMAT,
            self.data_set,
            milliseconds.to_bytes(_NUMBER_BYTES, "big"),
            number.to_bytes(_NUMBER_BYTES, "big"),
        )
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    @classmethod
    def read(cls, text: str) -> Self:
        """Read :attr:`text`.

        Raises:
            InvalidRequest: no version has made it.
        """
        if len(text) > _MAX_TEXT or not _CHARACTERS(text):
            raise InvalidRequest("cursor is none that this service has made")
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except binascii.Error:
            raise InvalidRequest("cursor is none that this service has made") from None
        if raw[0] != _FORMAT:
            return cls(OTHER_FORMAT, "0-0")
        if len(raw) != _LENGTH:
            raise InvalidRequest("cursor is none that this service has made")
        numbers = raw[1 + _DATA_SET_BYTES :]
        milliseconds, number = numbers[:_NUMBER_BYTES], numbers[_NUMBER_BYTES:]
        entry = f"{int.from_bytes(milliseconds, 'big')}-{int.from_bytes(number, 'big')}"
        return cls(raw[1 : 1 + _DATA_SET_BYTES], entry)


def identity(epochs: Iterable[bytes], server: str = "") -> bytes:
    """Identifies the data of a store, and of its journal.

    Args:
        epochs: The different epochs of its data sets, in order.
        server: The server that keeps the journal, where a lost entry shows in no epoch.
    """
    parts = [*epochs, server.encode()] if server else epochs
    return hashlib.blake2b(b"\n".join(parts), digest_size=_DATA_SET_BYTES).digest()
