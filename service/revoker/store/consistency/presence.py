"""Whether revocations that this process knows are still in the store."""

from dataclasses import dataclass, field
from typing import Final

import msgspec

from revoker.store.consistency.acknowledged import Acknowledged, Written
from revoker.store.keys import DataKeys, Keys
from revoker.store.stored_values import parse_user_state
from revoker.store.wire.connection import Command, Replies

_LAST_MS: Final = 60_000
"""What expires within this time is not looked for: no token that it covers is still valid."""


@dataclass(slots=True)
class Sample:
    """Some revocations of one data set.

    Attributes:
        written: Acknowledged revocations of this process.
        blocks: The end of blocks (ms) by the user's tag, whoever made them.
    """

    _places: DataKeys
    written: list[Written] = field(default_factory=list)
    blocks: dict[str, int] = field(default_factory=dict)

    def commands(self, keys: Keys) -> list[Command]:
        """The commands that read them. The sample must not be empty.

        What was lifted is read after the values, and the list of blocks before and after them. So neither a
        lift nor the end of a block is mistaken for a loss.
        """
        values = [written.keys[0] for written in self.written] + [keys.user(tag) for tag in self.blocks]
        blocks: list[Command] = [("HGET", self._places.blocks, tag) for tag in self.blocks]
        return [*blocks, ("MGET", *values), *blocks, ("ZRANGE", self._places.lifted, 0, -1)]

    def judge(self, replies: Replies, now: int, acknowledged: Acknowledged) -> tuple[set[str], set[str]]:
        """Which of them are absent, and which are present.

        An acknowledged revocation that an operator has lifted is forgotten.

        Args:
            replies: To :meth:`commands`.
            now: ``TIME`` (ms).
            acknowledged: Where :attr:`written` are from.
        """
        count = len(self.blocks)
        before, [values], after, [lifted] = (
            replies[:count],
            replies[count : count + 1],
            replies[count + 1 : -1],
            replies[-1:],
        )
        lifted_keys = {key for _, key in map(lifted_key, lifted)}
        absent, present = set(), set()
        for written, value in zip(self.written, values[: len(self.written)], strict=True):
            if written.is_held_by(value):
                present.add(written.identity)
            elif not acknowledged.holds(written) or written.until - _LAST_MS <= now:
                continue
            elif written.keys[0] in lifted_keys:
                acknowledged.drop(written)
            else:
                absent.add(written.identity)
        of_blocks = zip(self.blocks, values[len(self.written) :], before, after, strict=True)
        for tag, value, listed, listed_after in of_blocks:
            if _blocked_until(value) > now:
                present.add(f"block {tag}")
            elif listed is not None and listed == listed_after and int(listed) - _LAST_MS > now:
                absent.add(f"block {tag}")
        return absent, present


def _blocked_until(value: bytes | None) -> float:
    """The end of a block in a user's record (ms). What cannot be read gives no verdict either."""
    try:
        return 0 if value is None else parse_user_state(value).blocked
    except msgspec.MsgspecError:
        return float("inf")


def lifted_key(text: bytes) -> tuple[int, str]:
    """``rv:seq`` at a lift, and the lifted key, of an entry of ``rv:lifted``."""
    seq, _, key = text.decode().partition(" ")
    return int(seq), key
