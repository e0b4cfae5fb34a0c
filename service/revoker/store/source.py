"""The one interface to where the data of a store is; each kind of source implements it."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from revoker.metrics import Metrics
from revoker.models import RevocationState
from revoker.store.consistency.blocks import BlocksPage
from revoker.store.consistency.clocks import Clocks
from revoker.store.consistency.data_set import Confirmed, DataSet
from revoker.store.consistency.epoch import Reading
from revoker.store.consistency.losses import Losses
from revoker.store.consistency.steps import Step
from revoker.store.keys import Keys, Tail, TokenKeys
from revoker.store.wire.addresses import PrimaryLocator, SentinelAccess
from revoker.store.wire.command_channel import CommandChannel, Confirmation
from revoker.store.wire.connection import Command, Replies

if TYPE_CHECKING:
    from revoker.tracing.spans import Spans

WAIT_S: Final = 0.4
"""How long a command may block at the server."""

OnDataSet = Callable[[int, BlocksPage | None, list[bytes], int], None]
"""Called with the number of a data set, the first page of its blocks (None: they were read a moment ago),
what was lifted in it, and the ``TIME`` (ms) of the reading."""


class Found(msgspec.Struct, frozen=True, gc=False):
    """What applies to one token, and the store's ``TIME`` (ms) when it was read."""

    state: RevocationState
    now: int


@dataclass(frozen=True, slots=True)
class LastRead:
    """What is known of the store during an outage.

    Attributes:
        now: Its time (ms) by the last reading and what has passed since; None if it was never read.
        loss: As :attr:`revoker.models.RevocationState.loss`.
    """

    now: int | None
    loss: int


@dataclass(frozen=True, slots=True)
class PartReplies:
    """Replies of one data set that shows at least its watermark.

    Attributes:
        part: Number of the data set.
        replies: In the order of the commands.
        now: ``TIME`` (ms); of a single primary it is read after the replies, in a cluster before them.
    """

    part: int
    replies: Replies
    now: int


class Lookups(Protocol):
    """Finds what applies to tokens: all that verdicts need of a source."""

    def find(self, keys: TokenKeys) -> Awaitable[Found]:
        """What applies to the token with these keys.

        Raises:
            StoreUnavailable: no answer in time.
            StoreRefused: the answer must not be trusted.
        """

    def find_shared(self, keys: TokenKeys) -> Awaitable[Found]:
        """As :meth:`find`, for keys that many ask for at the same time."""

    def find_all(self, keys: Sequence[TokenKeys]) -> Awaitable[list[Found]]:
        """As :meth:`find`, for several tokens; the results are in the same order, and fail together."""

    def last_read(self, keys: TokenKeys) -> LastRead:
        """What was last read, for a token that cannot be looked up.

        Raises:
            StoreRefused: what was read allows no verdict.
        """

    async def touch(self) -> None:
        """Check that lookups can be made; raises as :meth:`find`."""

    @property
    def ahead(self) -> float:
        """Seconds by which this clock is ahead of the source's; of several, where it is largest."""

    def reconnect(self) -> None:
        """Replace the connections; what is in flight is sent once more."""


class Source(Protocol):
    """Where the data of a store is.

    It consists of data sets, which are numbered: 0 is the only one of a single primary, and in a cluster
    every slot is one. Commands raise as :meth:`revoker.store.wire.command_channel.CommandChannel.execute`;
    methods on data sets raise ``StoreUnavailable``, and ``StoreRefused`` if no primary answers.
    """

    @property
    def beats_per_round(self) -> int:
        """In how many beats :meth:`look` reads all data sets."""

    @property
    def lookups(self) -> Lookups:
        """Of this source."""

    def open(self) -> None:
        """Start connecting."""

    async def close(self) -> None:
        """Close the connections and cancel what is being settled."""

    async def follow(self) -> bool:
        """Notice that other servers are the primaries by now; True if connections must be replaced."""

    def reconnect(self) -> None:
        """Replace the connections, which may lead to the wrong servers."""

    def leave_all_but(self, server: str) -> None:
        """Replace connections to servers but the one with this id, where one server has all data."""

    def change(self, key: str, *command: Any) -> Awaitable[Any]:
        """Send a command that writes to the slot of a key, confirmed by replicas where that is required."""

    async def change_together(self, key: str, commands: Sequence[Command]) -> Replies:
        """As :meth:`change`, for many commands that write to the slot of one key; raises the first error."""

    def change_unconfirmed(self, key: str, *command: Any) -> Awaitable[Replies]:
        """As :meth:`change`, without the replicas: for a change that may be lost again.

        An error is in the replies as a value. Nobody has to wait for it.
        """

    async def change_all(self, commands: Mapping[str, Command]) -> Replies:
        """As :meth:`change`, for many commands by their keys, with errors among the replies as values."""

    async def read(self, key: str, commands: Sequence[Command]) -> Replies:
        """Send commands, in one write, that read from the slot of a key at its primary."""

    async def read_trusted(self, key: str, commands: Sequence[Command]) -> Replies:
        """As :meth:`read`, from a primary on which verdicts may rest; the commands are not a transaction.

        Raises:
            StoreRefused: what is read must not be trusted.
        """

    async def wait_for(self, key: str, *command: Any) -> Any:
        """Send a command that blocks for up to :data:`WAIT_S`, on a connection of its own."""

    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of keys in any slots."""

    async def on_every_primary(self, commands: Sequence[Command]) -> list[tuple[Sequence[int], Replies]]:
        """Send commands to every primary.

        Returns:
            For each primary the numbers of its data sets, and its replies, with errors as values.
        """

    async def locator_faults(self) -> list[str]:
        """What may keep the primary from being found, in words; empty where nobody is asked for it."""

    async def primaries(self) -> Mapping[str, CommandChannel]:
        """A channel to each primary, for scans, by the primary's id, which changes with every restart."""

    def server_of(self, key: str) -> str:
        """The id of the server that is read for a key; empty while there is none."""

    async def keep_confirming(self) -> None:
        """Have a heartbeat confirmed again and again, to notice missing replicas, until cancelled."""

    def data_set_of(self, key: str) -> DataSet:
        """The data set of a key."""

    def data_set_numbered(self, part: int) -> DataSet:
        """A data set by its number."""

    def read_data_sets(self) -> Iterable[tuple[int, DataSet]]:
        """Those that were ever read, with their numbers."""

    async def look(self, beat: int, on_data_set: OnDataSet) -> list[DataSet]:
        """Read epochs and numbers: of all data sets at beat 0, else of those whose turn it is.

        Args:
            beat: The number of the beat.
            on_data_set: Called for each data set that is not below its watermark.

        Returns:
            Those that are below it, to be settled.
        """

    async def suspects(self) -> list[DataSet]:
        """Those data sets that are below their watermark, but for those that were looked at a moment ago."""

    async def blocks_after(self, part: int, cursor: bytes) -> tuple[BlocksPage, int] | None:
        """The next page of blocks, and ``TIME`` (ms); None if the data set is below its watermark."""

    async def settle(self, sets: Iterable[DataSet], *, since: int = 0, cause: str = "") -> None:
        """Settle data sets; as :meth:`revoker.store.consistency.data_set.DataSet.settle`."""

    async def trusted_value(self, key: str) -> tuple[bytes | None, int]:
        """The value of a key and ``TIME`` (ms), if its data set is not below its watermark."""

    async def read_parts(self, commands: Mapping[int, Sequence[Command]]) -> list[PartReplies]:
        """Send commands that read data sets, by the numbers of these.

        Data sets below their watermark are left out, since :meth:`look` finds them too.
        """

    async def readings(self) -> list[tuple[int, DataSet, Reading]]:
        """All data sets as they are now, whatever their watermarks."""

    async def reading(self, tail: Tail) -> Reading:
        """One data set as it is now."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How the servers are reached, and how they confirm writes.

    Attributes:
        timeout: For one round trip, in seconds.
        wait_replicas: How many replicas must confirm; 0: none are waited for.
        wait_fsync: Whether they and the primary must have a write on disk.
        password_file: Holds the password, for a URL without one.
        sentinels: How Sentinels are reached.
    """

    url: str
    timeout: float
    wait_replicas: int
    wait_fsync: bool
    password_file: str = ""
    sentinels: SentinelAccess = field(default_factory=SentinelAccess)

    def confirmation(self, locator: PrimaryLocator | None = None) -> Confirmation | None:
        """A new confirmation, for one server, or for the one that the locator finds."""
        if not self.wait_replicas:
            return None
        return Confirmation(self.wait_replicas, fsync=self.wait_fsync, timeout=self.timeout, locator=locator)


ChangeMany = Callable[[Sequence[tuple[str, Sequence[Command]]]], Awaitable[list[Replies | Exception]]]
"""Sends commands that write to many data sets, and may be repeated, by a key of each; returns the replies for
each, or the first error."""


class JointSteps(Protocol):
    """Carries out steps of many data sets together."""

    def __call__(
        self, asked: Sequence[tuple[DataSet, Step]], change_many: ChangeMany
    ) -> Awaitable[Sequence[Any]]:
        """Carry out steps of one kind, other than reading and pausing; errors (``NoVerdict``) are values."""


class NewDataSet(Protocol):
    """Makes the data set of a tail and number."""

    def __call__(self, tail: Tail, part: int, losses: Losses, confirmed: Confirmed | None = None) -> DataSet:
        """Make one that reports its losses as given; ``confirmed`` says what replicas have confirmed."""


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source uses of its store.

    Attributes:
        instance: The id under which this process counts its share of the revocations.
        new_data_set: Makes data sets.
        joint_steps: For a source of many data sets.
        spans: Of the round trips of lookups; None: there are no traces.
    """

    keys: Keys
    instance: str
    clocks: Clocks
    metrics: Metrics
    new_data_set: NewDataSet
    joint_steps: JointSteps
    spans: "Spans | None" = None


MakeSource = Callable[[ServerSettings, SourceContext], Source]
