"""All that verdicts depend on, as lines, with the place in the journal from which changes must follow."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from revoker.errors import StoreRefused, StoreUnavailable
from revoker.models import Issuer
from revoker.store.journal.entries import LineMaker, settings_line
from revoker.store.journal.tail import Fresh, JournalTail
from revoker.store.store import Store
from revoker.store.stored_values import redis_time_ms
from revoker.store.transfer.records import date
from revoker.store.transfer.stored_records import exp_margin_ms
from revoker.store.wire.command_channel import CommandChannel
from revoker.store.wire.connection import answered_with, unavailable_on_failure, understood

_KEYS_PER_STEP: Final = 500
"""More would delay the other requests of this process."""

_STRINGS: Final = ("TYPE", "string")
"""The type of all keys that a verdict reads; sessions have it too, and are left out later."""

_GONE: Final = -2
"""The reply to ``PTTL`` for a key that has expired meanwhile."""

_MOVING: Final = "slots of the cluster are being moved, and a snapshot could miss keys of theirs"

_REPLACED: Final = "a server of the store was restarted or replaced during the snapshot"

_encode: Final = msgspec.json.Encoder().encode


class Snapshot:
    """One snapshot; begun by :meth:`begin`.

    Attributes:
        begins: The place from which changes must follow.
        lines: How many lines :meth:`steps` has given.
    """

    def __init__(
        self, store: Store, begins: Fresh, primaries: dict[str, CommandChannel], slots: frozenset[str]
    ) -> None:
        self._store = store
        self._primaries = primaries
        self._slots = slots
        self._lines: Final = LineMaker(store.keys, store.issuers)
        self._of_jti: Final = {
            store.keys.of_segment("jti", issuer, "").encode()[:-1]: _JtiLines(issuer)
            for issuer in store.issuers.values()
        }
        self._began = False
        self.begins: Final = begins
        self.lines = 0

    @classmethod
    async def begin(cls, store: Store, tail: JournalTail) -> "Snapshot":
        """Note where the journal ends, before anything is read.

        Raises:
            NoVerdict: what is stored must not be trusted.
        """
        await store.learn()
        begins = await tail.position()
        primaries = dict(await store.primaries())
        return cls(store, begins, primaries, await _slots_of_nodes(store))

    @property
    def head(self) -> bytes:
        """The first line."""
        keys, begins = self._store.keys, self.begins
        return _encode({
            "cursor": begins.cursor.text,
            "as_of": begins.as_of,
            "format": 1,
            "key_prefix": keys.prefix,
            "clustered": keys.clustered,
        }) + b"\n"  # fmt: skip

    @property
    def end(self) -> bytes:
        """The last line."""
        return b'{"end":true,"lines":%d}\n' % self.lines

    async def steps(self, tail: JournalTail) -> AsyncIterator[bytes]:
        """All lines between the first and the last, some at a time.

        Raises:
            NoVerdict: some may be missing: a server was replaced, or data was lost.
        """
        value, _ = await self._store.source.trusted_value(self._store.keys.settings)
        yield self._counted(([] if value is None else [settings_line(value)]) + self._losses())
        for server, connection in sorted(self._primaries.items()):
            cursor: bytes | None = b"0"
            found: Sequence[bytes] = ()
            while cursor is not None:
                async with unavailable_on_failure():
                    lines, cursor, found = await self._read(connection, found, cursor)
                if connection.server != server:
                    raise StoreRefused(_REPLACED)
                if tail.identity() != self.begins.cursor.data_set:
                    raise StoreRefused("the store has lost data during the snapshot")
                yield self._counted(lines)
        await self._store.learn()
        if (await self._store.primaries()).keys() != self._primaries.keys():
            raise StoreRefused(_REPLACED)
        if await _slots_of_nodes(self._store) != self._slots:
            raise StoreRefused(_MOVING)
        if (await tail.position()).cursor.data_set != self.begins.cursor.data_set:
            raise StoreRefused("the store has lost data during the snapshot")

    def _counted(self, lines: Sequence[bytes]) -> bytes:
        self.lines += len(lines)
        return b"\n".join([*lines, b""]) if lines else b""

    def _losses(self) -> list[bytes]:
        """The cutoffs of losses; in a cluster each with its slots, as ranges."""
        slots_of: dict[int, list[int]] = {}
        for part, data in self._store.source.read_data_sets():
            if data.baseline.loss:
                slots_of.setdefault(data.baseline.loss, []).append(part)
        lines = []
        for cutoff, parts in sorted(slots_of.items()):
            line: dict[str, Any] = {"kind": "loss", "before": date(cutoff)}
            if self._store.keys.clustered:
                line["slots"] = _ranges(parts)
            lines.append(_encode(line))
        return lines

    async def _read(
        self, connection: CommandChannel, keys: Sequence[bytes], cursor: bytes
    ) -> tuple[list[bytes], bytes | None, Sequence[bytes]]:
        """Read keys, and find the next ones meanwhile.

        Args:
            connection: To their server.
            keys: Those that were found last; none at the beginning.
            cursor: Where ``SCAN`` continues; ``b"0"`` at the beginning and, with keys, at the end.

        Returns:
            The lines of these keys, where to continue (None: this was the last step), and the next keys.
        """
        together = not self._store.keys.clustered  # keys of several slots can't be read by one command
        commands: list[tuple[Any, ...]] = []
        if keys:
            commands += [("MGET", *keys)] if together else [("GET", key) for key in keys]
            commands += [("PTTL", key) for key in keys]
        ends = self._began and cursor == b"0"
        commands.append(("TIME",))
        if not ends:
            pattern = self._store.keys.all()
            commands.append(("SCAN", cursor, "MATCH", pattern, "COUNT", _KEYS_PER_STEP, *_STRINGS))
        self._began = not ends
        replies = await connection.pipeline(commands)
        with understood():
            following, found = (None, ()) if ends else replies.pop()
            now = redis_time_ms(replies.pop())
            ttls = replies[len(replies) - len(keys) :]
            values = replies[0] if together and keys else replies[: len(keys)]
            lines: list[bytes] = []
            for key, value, ttl in zip(keys, values, ttls, strict=True):
                if value is not None and ttl != _GONE:
                    lines += self._lines_of(key, value, None if ttl < 0 else now + ttl, now)
        return lines, following, found

    def _lines_of(self, key: bytes, value: bytes, expires: int | None, now: int) -> Sequence[bytes]:
        begin, _, jti = key.rpartition(b":")
        of_jti = self._of_jti.get(begin)
        if of_jti is not None and expires is not None and value.isdigit():
            return (of_jti.line(jti, int(value), expires),)
        name = key.decode(errors="replace")
        return () if name == self._store.keys.settings else self._lines.of(name, value, expires, now=now)


class _JtiLines:
    """Makes the lines of an issuer's revoked tokens, which are many, faster than :class:`LineMaker`."""

    def __init__(self, issuer: Issuer) -> None:
        self._begin: Final = b'{"kind":"jti","iss":%b,' % _encode(issuer.iss)
        self._margin: Final = exp_margin_ms(issuer)

    def line(self, jti: bytes, at: int, expires: int) -> bytes:
        """``jti`` is as in a key: no character of it must be escaped."""
        name = b"segment" if jti.startswith(b"=") else b"jti"
        exp = max(0, expires - self._margin)
        return b'%b"%b":"%b","exp":%d.%03d,"at":%d.%03d,"expires":%d.%03d}' % (
            self._begin, name, jti, *divmod(exp, 1000), *divmod(at, 1000), *divmod(expires, 1000),
        )  # fmt: skip


async def _slots_of_nodes(store: Store) -> frozenset[str]:
    """Which node of a cluster has which slots, as the nodes say of themselves; empty if it is no cluster.

    Raises:
        StoreRefused: slots are being moved.
        StoreUnavailable: a node does not say it.
    """
    if not store.keys.clustered:
        return frozenset()
    async with unavailable_on_failure():
        answers = await store.source.on_every_primary([("CLUSTER", "NODES")])
    found = set()
    for _, [text] in answers:
        if isinstance(text, Exception):
            raise StoreUnavailable(answered_with(text, "CLUSTER NODES"))
        with understood():
            lines = text.decode().splitlines()
            node, slots = next(_node_and_slots(line) for line in lines if "myself" in line.split(" ")[2])
        if any(slot.startswith("[") for slot in slots):  # it gives or takes this one
            raise StoreRefused(_MOVING)
        found.add(" ".join([node, *slots]))
    return frozenset(found)


def _node_and_slots(line: str) -> tuple[str, list[str]]:
    fields = line.split(" ")
    return fields[0], fields[8:]


def _ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending numbers as the first and last of each range."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges
