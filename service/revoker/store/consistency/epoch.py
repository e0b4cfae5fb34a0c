"""The identity of a data set and its numbers, as they are stored and as a process reads them."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from revoker.errors import NotPrimary
from revoker.store.consistency.counts import Counts
from revoker.store.stored_values import redis_time_ms
from revoker.store.wire.connection import understood

DataLoss = Literal["cutoff", "refuse", "ignore"]
FINDING_OF_POLICY: Final[dict[DataLoss, str]] = {
    "cutoff": "cutoff",
    "refuse": "refused",
    "ignore": "ignored",
}
REPAIRING: Final = "repairing"
REPAIRED: Final = "repaired"
DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Epoch:
    """The identity of a data set.

    Attributes:
        noticed: When data was last found missing, by Redis ``TIME`` (ms); 0 for a store declared new.
        cutoff: Tokens issued before it are not active (ms; 0: none).
        finding: ``new``, ``repairing`` (no verdicts until that has ended), ``repaired``, ``cutoff``,
            ``refused`` (no verdicts until accepted), ``ignored`` or ``accepted``.
    """

    id: str
    noticed: int
    cutoff: int
    finding: str

    @property
    def text(self) -> str:
        """The value of ``rv:epoch``."""
        return f"{self.id} {self.noticed} {self.cutoff} {self.finding}"

    @classmethod
    def parse(cls, text: bytes) -> "Epoch":
        """Read the value of ``rv:epoch``; a malformed one is another data set of unknown age."""
        parts = text.decode(errors="replace").split(" ")
        if len(parts) == 4 and parts[1].isdecimal() and parts[2].isdecimal():
            return cls(parts[0], int(parts[1]), int(parts[2]), parts[3])
        return cls("", 0, 0, "")


@dataclass(frozen=True, slots=True)
class Watermark:
    """The least that a reading must show: the epoch as stored, ``seq``, the share and the list of writers."""

    epoch: bytes
    seq: int
    share: int
    writers: bytes = b""

    @property
    def counts(self) -> Counts:
        """Without the share, which the list of writers has, too."""
        return Counts(self.seq, self.writers)


class Reading(NamedTuple):
    """The numbers of a data set as one command read them from a primary, and its ``TIME`` (ms).

    Attributes:
        server: The id of the primary; empty if it is not known.
    """

    epoch: bytes | None
    seq: int
    share: int | None
    now: int
    writers: bytes = b""
    server: str = ""

    @property
    def in_repair(self) -> bool:
        """Whether a process has begun a repair that has not ended."""
        return self.epoch is not None and self.epoch.endswith(REPAIRING.encode())


def new_id() -> str:
    return secrets.token_hex(8)


def decode(values: list[Any], server: str = "") -> Reading:
    """Decode the replies to ``TIME``, ``MGET epoch seq share writers`` and ``ROLE``, of a server by its id.

    Raises:
        StoreRefused: the server is no primary.
        ReplyNotUnderstood: a reply has an unexpected form.
    """
    with understood():
        stamp, numbers, role = values
        if role[0] not in {b"master", "master"}:
            raise NotPrimary("the store's server is not a primary")
        return reading_of(numbers, redis_time_ms(stamp), server)


def reading_of(values: Sequence[Any], now: int, server: str) -> Reading:
    """As :func:`decode`, of the reply to ``MGET``; raises what ``understood`` takes."""
    epoch, seq, share, writers = values
    if epoch is not None and not isinstance(epoch, bytes):
        raise TypeError("an epoch of another type")
    return Reading(epoch, int(seq or 0), None if share is None else int(share), now, writers or b"", server)
