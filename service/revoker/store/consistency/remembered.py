"""The blocks and revoked signing keys of all processes: the cutoff of a loss of data does not cover these."""

import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from revoker.models import Revocation
from revoker.store.keys import Keys


class Remembered:
    """All blocks and revoked signing keys, as last read and as this process has changed them since.

    Attributes:
        blocks: End of each block (ms), by the user's tag.
        keys: By issuer name and ``kid``.
        changes: How many changes this process has made; a reading of the store that began before is older.
    """

    def __init__(self, keys: Keys, issuers: Iterable[str]) -> None:
        """Nothing is remembered yet; ``issuers`` are names."""
        self._clustered: Final = keys.clustered
        self._part_of_user = functools.lru_cache(maxsize=65536)(lambda tag: keys.part(keys.user(tag)))
        self._changed_blocks: dict[str, int] = {}
        self._taken_blocks = 0
        self._blocks_by_part: tuple[tuple[int, int], dict[int, list[tuple[str, int]]]] | None = None
        self.blocks: dict[str, int] = {}
        self.keys: dict[str, dict[str, Revocation]] = {issuer: {} for issuer in issuers}
        self.changes = 0

    def block(self, tag: str, until: int) -> None:
        """This process has blocked a user."""
        self._change_block(tag)
        self.blocks[tag] = until

    def unblock(self, tag: str) -> None:
        """This process has ended a block."""
        self._change_block(tag)
        self.blocks.pop(tag, None)

    def _change_block(self, tag: str) -> None:
        self.changes += 1
        self._changed_blocks[tag] = self.changes

    def revoke_key(self, issuer: str, kid: str, revoked: Revocation) -> None:
        """This process has revoked a signing key of the issuer with this name."""
        self.changes += 1
        self.keys[issuer][kid] = revoked

    def forget_key(self, issuer: str, kid: str) -> None:
        """This process has taken back the revocation of a signing key."""
        self.changes += 1
        self.keys[issuer].pop(kid, None)

    def take_blocks(self, running: Mapping[int, dict[str, int]], changes: int) -> None:
        """Take over the blocks of all processes.

        Args:
            running: Until when (ms), by the user's tag, in some data sets.
            changes: How many there were when reading them began; later ones of this process are newer.
        """
        self._taken_blocks += 1
        blocks = self.blocks
        newer = {tag: at for tag, at in self._changed_blocks.items() if at > changes}
        self._changed_blocks = newer
        gone: Collection[str]
        if self._clustered:
            gone = [tag for tag in blocks if tag not in running.get(self._part_of_user(tag), blocks)]
        else:
            gone = blocks.keys() - running[0].keys() if running else ()
        for tag in gone:
            if tag not in newer:
                del blocks[tag]
        for read in running.values():
            for tag in newer.keys() & read.keys():
                del read[tag]
            blocks.update(read)

    def blocks_of(self, part: int) -> list[tuple[str, int]]:
        """The blocks of one data set, and their ends. Thousands of slots may be asked for in one go."""
        state = (self.changes, self._taken_blocks)
        if self._blocks_by_part is None or self._blocks_by_part[0] != state:
            by_part: dict[int, list[tuple[str, int]]] = {}
            for tag, until in self.blocks.items():
                by_part.setdefault(self._part_of_user(tag), []).append((tag, until))
            self._blocks_by_part = state, by_part
        return self._blocks_by_part[1].get(part, [])
