"""What a feed sends: lines of a snapshot, and events.

What is not understood is not skipped, since it could be a revocation: it ends the stream, or the snapshot.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from revoker.errors import RevokerError
from revoker.store.transfer.records import Record

MAX_EVENT_BYTES: Final = 1 << 20
"""Far longer than any event is: a line has texts of at most 16 KiB."""


OLDEST_MS: Final = 1500.0
"""The greatest age (ms) of an ``as_of`` that an upstream sends."""


class FeedBroken(RevokerError):
    """The upstream sent what is no feed, or what this version does not understand."""


FORMAT: Final = 1


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a snapshot.

    Attributes:
        key_prefix: Of the keys in the store; with ``clustered`` it says in which slots they are.
    """

    cursor: str
    as_of: int
    format: int = FORMAT
    key_prefix: str = ""
    clustered: bool = False


class Settings(msgspec.Struct, frozen=True, tag_field="kind", tag="settings", forbid_unknown_fields=True):
    """What the store remembers of its issuers (:mod:`revoker.store.recorded_issuers`)."""

    issuers: msgspec.Raw


class Loss(msgspec.Struct, frozen=True, tag_field="kind", tag="loss", forbid_unknown_fields=True):
    """Data was lost: nothing that was issued before is active.

    Attributes:
        before: A NumericDate.
        slots: The first and last of each range of slots for which it holds; None: for all data.
    """

    before: float
    slots: list[tuple[int, int]] | None = None


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of a snapshot: without it, the rest is missing."""

    end: bool
    lines: int


class Fresh(msgspec.Struct, frozen=True, kw_only=True):
    """All that was acknowledged before ``as_of`` (the store's time in ms) was sent.

    Attributes:
        age: How long ago (ms) that was read, at most; in answers to polls.
    """

    as_of: int
    cursor: str
    age: float = OLDEST_MS


class Removal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cutoff was lifted, a block has ended, or a revoked key was forgotten."""

    remove: Record


class Event(msgspec.Struct, frozen=True):
    """One event, in which ``data`` is JSON."""

    event: str
    data: bytes
    id: str | None = None


class PolledEvent(msgspec.Struct, frozen=True):
    """One event of a long poll."""

    event: str
    id: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


FeedLine = Record | Settings | Loss

decode_lines: Final = msgspec.json.Decoder(FeedLine).decode_lines
decode_line: Final = msgspec.json.Decoder(FeedLine).decode
decode_removal: Final = msgspec.json.Decoder(Removal).decode
decode_fresh: Final = msgspec.json.Decoder(Fresh).decode
decode_head: Final = msgspec.json.Decoder(Head).decode
decode_end: Final = msgspec.json.Decoder(End).decode
decode_polled: Final = msgspec.json.Decoder(list[PolledEvent]).decode


class EventStream:
    """Splits a stream of server-sent events (HTML Living Standard, 9.2.6)."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that are complete with these bytes; comments and retry times are left out.

        Raises:
            FeedBroken: an event is too long.
        """
        *blocks, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise FeedBroken("an event of the feed is too long")
        for block in blocks:
            event = _event(block)
            if event is not None:
                yield event


def _event(block: bytes) -> Event | None:
    fields: dict[bytes, bytes] = {}
    for text in block.split(b"\n"):
        name, _, value = text.partition(b":")
        if name:
            value = value.removeprefix(b" ")
            fields[name] = fields[name] + b"\n" + value if name == b"data" and name in fields else value
    if b"data" not in fields and b"event" not in fields:
        return None
    try:
        cursor = fields.get(b"id")
        return Event(
            fields.get(b"event", b"message").decode(),
            fields.get(b"data", b""),
            None if cursor is None else cursor.decode(),
        )
    except UnicodeDecodeError as error:
        raise FeedBroken("an event of the feed is not UTF-8") from error
