"""Reads the blocks of a data set, page by page."""

from typing import Any, Final, NamedTuple

from revoker.store.wire.connection import Command, understood

_PAGE: Final = 4000
"""Blocks that are read in one command, roughly: more would delay the server and this process."""


class BlocksPage(NamedTuple):
    """Some of the blocks of a data set: until when (ms), by the user's tag.

    Attributes:
        cursor: Where the next page begins; ``b"0"`` after the last one.
    """

    cursor: bytes
    until: dict[bytes, bytes]

    @property
    def last(self) -> bool:
        return self.cursor == b"0"


class BlocksReader:
    """Reads blocks with ``HSCAN``; all at once if the server's ACL forbids that."""

    def __init__(self) -> None:
        self._by_pages = True

    def command(self, key: str, cursor: bytes = b"0") -> Command:
        return ("HSCAN", key, cursor, "COUNT", _PAGE) if self._by_pages else ("HGETALL", key)

    def page(self, reply: Any) -> BlocksPage:
        """Decode a reply to :meth:`command`; raises ``ReplyNotUnderstood``."""
        with understood():
            cursor, fields = reply if self._by_pages else (b"0", reply)
            return BlocksPage(cursor, dict(zip(fields[::2], fields[1::2], strict=True)))

    def refused(self, error: Exception | None) -> bool:
        """Whether an error refuses ``HSCAN``; from then on all blocks are read at once."""
        refuses = self._by_pages and str(error).startswith("NOPERM") and "hscan" in str(error).lower()
        self._by_pages = self._by_pages and not refuses
        return refuses
