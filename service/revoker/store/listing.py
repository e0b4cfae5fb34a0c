"""Lists what is revoked, page by page: the latest changes first, then everything else in no order.

The journal gives the order: of its latest :data:`NEWEST_FIRST` entries, the last one of every key is listed.
Then the keys of all primaries are scanned, without those that were listed. What a page needs of the pages
before it is in its cursor, or is read again; so any process can answer any page.
"""

import asyncio
import base64
import binascii
import collections
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from revoker.errors import InvalidRequest, StoreUnavailable
from revoker.models import RevocableClaims
from revoker.store.keys import TokenKeys
from revoker.store.listed import Candidate, Listed, ListedReader, Selection
from revoker.store.pace import Pace
from revoker.store.store import Store
from revoker.store.stored_values import redis_time_ms
from revoker.store.wire.connection import reads_replies, unavailable_on_failure, understood

NEWEST_FIRST: Final = 10_000
"""Entries of the journal that are listed in its order: each process remembers them while somebody pages."""

PAGE_ENTRIES: Final = 2_000
PAGE_KEYS: Final = 20_000
PAGE_S: Final = 0.05
"""What one page may read, and for how long, pauses included; if it finds little by then, it is short."""

_STEP_ENTRIES: Final = 200
_STEP_KEYS: Final = 250
"""In one command: more would keep the server from other work."""

_STEP_FOUND: Final = 100
"""Keys that a command finds, as far as that can be foreseen."""

_READ_KEYS: Final = 50
_READ_KEYS_IN_CLUSTER: Final = 10
"""Of which the values are read together. In a cluster a task reads each slot, and all begin in one piece."""

_WINDOWS: Final = 4
_WINDOW_S: Final = 120.0
"""How many lists a process remembers the order of, and for how long after a page was asked for."""

_CHECK_BYTES: Final = 4
_KEY_DIGEST_BYTES: Final = 8
_NO_ENTRY: Final = (0, 0)
_WRONG_CURSOR: Final = "cursor is none that this service has made for this list"

_PATTERNS: Final[Mapping[str, str]] = {
    "jti": "jti:{}:*",
    "user": "{{????????????????}}:user",
    "block": "{{????????????????}}:user",
    "session": "*session-cutoff:*",  # of sessions kept by this service, too
    "client": "client-cutoff:{}:*",
    "claim": "claim-cutoff:{}:*",
    "issuer": "issuer-cutoff:{}",
    "key": "keys:{}",
}

_EntryId = tuple[int, int]
_Number = Annotated[int, msgspec.Meta(ge=0)]
_EntryPart = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_ReadEntryId = tuple[_EntryPart, _EntryPart]


@dataclass(frozen=True, slots=True)
class Page:
    """Some revocations; ``next`` is the cursor of those that follow, None if there are none."""

    listed: list[Listed]
    next: str | None


class _Place(msgspec.Struct, frozen=True, array_like=True, kw_only=True, forbid_unknown_fields=True):
    """Where a page ends.

    Callers can make one up, so it may decide where a page begins, but not how much is read for it.

    Attributes:
        selection: A digest of what is listed.
        servers: A digest of the primaries, by whose order they are numbered.
        top: The last entry of the journal when the first page was made.
        entry: The last entry that was read; those from there up to ``top`` are listed.
        entries: How many were read, so at most so many are there from ``entry`` up to ``top``.
        scans: Whether the journal is done.
        server: The number of the primary that is scanned.
        cursor: Of its ``SCAN``.
        count: The ``COUNT`` of the last step of the scan, if only a part of what it found is listed.
        follows: The cursor after that step. If it is another one when the step is repeated, so is the step.
        after: The digest of the last key of the step that is listed.
    """

    selection: bytes
    servers: bytes
    top: _ReadEntryId
    entry: _ReadEntryId
    entries: _Number = 0
    scans: bool = False
    server: _Number = 0
    cursor: _Number = 0
    count: Annotated[int, msgspec.Meta(ge=0, le=_STEP_KEYS)] = 0
    follows: _Number = 0
    after: Annotated[bytes, msgspec.Meta(max_length=_KEY_DIGEST_BYTES)] = b""

    @property
    def text(self) -> str:
        raw = msgspec.msgpack.encode(self)
        return base64.urlsafe_b64encode(_digest(raw, _CHECK_BYTES) + raw).rstrip(b"=").decode()

    @classmethod
    def read(cls, text: str) -> "_Place":
        """Read :attr:`text`; raises ``InvalidRequest``."""
        try:
            both = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            check, raw = both[:_CHECK_BYTES], both[_CHECK_BYTES:]
            place = msgspec.msgpack.decode(raw, type=cls)
        except (ValueError, binascii.Error, msgspec.MsgspecError):
            raise InvalidRequest(_WRONG_CURSOR) from None
        if check != _digest(raw, _CHECK_BYTES) or not place.is_possible:
            raise InvalidRequest(_WRONG_CURSOR)
        return place

    @property
    def is_possible(self) -> bool:
        """Whether a page can end here, as far as that shows without the store."""
        most = NEWEST_FIRST if self.scans else NEWEST_FIRST - 1
        return self.entries <= most and self.entry <= _after(self.top)


class _Window:
    """The last entry of every key in a part of the journal, which is read from its end."""

    def __init__(self, top: _EntryId) -> None:
        self.low = _after(top)
        self.entries = 0
        self._latest: dict[int, _EntryId] = {}

    def add(self, entries: Sequence[tuple[_EntryId, bytes]]) -> None:
        """Add entries, the latest first; some of them may be there already."""
        for entry, key in entries:
            if entry < self.low:
                self._latest.setdefault(hash(key), entry)
                self.entries += 1
        if entries:
            self.low = min(self.low, entries[-1][0])

    def has_later(self, key: bytes, entry: _EntryId) -> bool:
        """Whether the last entry of a key is a later one."""
        return self._latest.get(hash(key), _NO_ENTRY) > entry

    def has_since(self, key: bytes, entry: _EntryId) -> bool:
        """Whether a key has this entry, or a later one."""
        return self._latest.get(hash(key), _NO_ENTRY) >= entry


class _Pager:
    """What has come together for one page."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.listed: list[Listed] = []
        self._has_room = True
        self._until = asyncio.get_running_loop().time() + PAGE_S
        self.entries_left = PAGE_ENTRIES
        self.keys_left = PAGE_KEYS

    @property
    def wanted(self) -> int:
        return self.limit - len(self.listed)

    @property
    def is_full(self) -> bool:
        late = asyncio.get_running_loop().time() >= self._until
        return late or not self._has_room or self.wanted <= 0

    @property
    def is_done(self) -> bool:
        return self.entries_left <= 0 or self.keys_left <= 0 or self.is_full

    def takes(self, found: Sequence[Listed]) -> bool:
        """Add what one key holds; False if there is no room. An empty page always has room."""
        self._has_room = not self.listed or len(found) <= self.wanted
        if self._has_room:
            self.listed += found
        return self._has_room


class Listing:
    """Lists revocations of a store.

    Attributes:
        pace: Of all lists together.
    """

    def __init__(self, store: Store) -> None:
        self._store: Final = store
        self._keys: Final = store.keys
        self._own: Final = next((issuer.name for issuer in store.issuers.values() if issuer.own), "")
        self.pace: Final = Pace()
        self._read_keys: Final = _READ_KEYS_IN_CLUSTER if store.keys.clustered else _READ_KEYS
        self._reader: Final = ListedReader(store, self._own)
        self._windows: collections.OrderedDict[_EntryId, _Window] = collections.OrderedDict()
        self._expiries: Final[dict[_EntryId, asyncio.TimerHandle]] = {}
        self._reading: Final = asyncio.Lock()

    async def page(self, selection: Selection, *, limit: int, cursor: str | None) -> Page:
        """A page of revocations.

        It ends early where little of what is read is selected. ``limit`` is exceeded only by the revocations
        of one user, or by the revoked keys of one issuer, where they alone make the page.

        Raises:
            InvalidRequest: the cursor is not one of this list, or the servers were replaced since.
            NoVerdict: the store can't be read, or has lost data.
        """
        place = None if cursor is None else _Place.read(cursor)
        now, top = await self._present()
        primaries = await self._store.primaries()
        selected = _digest(selection.text.encode(), _CHECK_BYTES)
        servers = _digest("\n".join(sorted(primaries)).encode(), 8)
        if place is None:
            place = _Place(selection=selected, servers=servers, top=top, entry=_after(top))
        elif place.selection != selected:
            raise InvalidRequest(_WRONG_CURSOR)
        elif place.servers != servers:
            raise InvalidRequest("a server of the store was replaced since the cursor was made: begin again")
        elif place.top > top != _NO_ENTRY:  # an emptied journal does not say what its last entry was
            raise InvalidRequest(_WRONG_CURSOR)
        pager = _Pager(limit)
        following: _Place | None = place
        while following is not None:
            if following.scans:
                following = await self._scan(following, selection, pager, primaries, now)
            else:
                following = await self._read_journal(following, selection, pager, now)
            if pager.is_done:
                break
        return Page(pager.listed, None if following is None else following.text)

    async def audits(self, keys: TokenKeys, revocable: RevocableClaims = ()) -> dict[str, bytes | None]:
        """What :func:`revoker.store.audit.read_audit` reads, of all that was looked up.

        Args:
            keys: Of the lookup.
            revocable: The claims among them.

        Returns:
            By ``token``, ``user_cutoff`` and so on; after ``claim_cutoff`` come name and value of the claim.
        """
        names = ["token", "user_cutoff", "session_cutoff", "client_cutoff", "issuer_cutoff", ""]
        names += [f"claim_cutoff {claim} {value}" for claim, value in revocable]
        of = {name: self._keys.audit(key) for name, key in zip(names, keys, strict=True) if name and key}
        if (user := keys[1]) is not None:
            of["user_block"] = self._keys.audit(user, "block")
        return dict(zip(of, await self._store.values(list(of.values())), strict=True)) if of else {}

    async def _present(self) -> tuple[int, _EntryId]:
        """The present (ms by Redis), and the last entry of the journal."""
        journal = self._keys.journal
        stamp, last = await self._store.source.read_trusted(
            journal, [("TIME",), ("XREVRANGE", journal, "+", "-", "COUNT", 1)]
        )
        with understood():
            return redis_time_ms(stamp), _entry_id(last[0][0]) if last else _NO_ENTRY

    async def _entries(self, before: _EntryId, count: int) -> list[tuple[_EntryId, bytes]]:
        """Entries of the journal, the latest first, each with its key."""
        if before == _NO_ENTRY:  # Redis refuses this as an end that is not part of the range
            return []
        journal, end = self._keys.journal, f"({before[0]}-{before[1]}"
        entries = []
        async with self.pace.turn() as turn, unavailable_on_failure():
            [found] = await self._store.source.read(
                journal, [("XREVRANGE", journal, end, "-", "COUNT", count)]
            )
            turn.begin_piece()
            with understood():
                for entry, fields in found:
                    entries.append((_entry_id(entry), fields[fields.index(b"k") + 1]))
                    await turn.give_way()
        return entries

    async def _window(self, place: _Place, pager: _Pager) -> _Window:
        """The window of a list, read down to the place.

        It is read down to the place even if that is more than a page may read. Otherwise, where more lists
        are read than are remembered, none of them would ever end.
        """
        window = self._remembered(place.top)
        if window.low <= place.entry:
            return window
        async with self._reading:  # not the same by several requests
            while window.low > place.entry:
                left = place.entries - window.entries
                if left <= 0:
                    raise InvalidRequest(_WRONG_CURSOR)
                entries = await self._entries(window.low, min(left, _STEP_ENTRIES))
                pager.entries_left -= len(entries)
                window.add(entries)
                if not entries:  # the rest was trimmed, and will not be there for the next step either
                    window.low = _NO_ENTRY
        return window

    def _remembered(self, top: _EntryId) -> _Window:
        if top not in self._windows:
            self._windows[top] = _Window(top)
            if len(self._windows) > _WINDOWS:
                self._forget(next(iter(self._windows)))
        self._windows.move_to_end(top)
        if (expiry := self._expiries.pop(top, None)) is not None:
            expiry.cancel()
        self._expiries[top] = asyncio.get_running_loop().call_later(_WINDOW_S, self._forget, top)
        return self._windows[top]

    def _forget(self, top: _EntryId) -> None:
        del self._windows[top]
        self._expiries.pop(top).cancel()

    async def _read_journal(self, place: _Place, selection: Selection, pager: _Pager, now: int) -> _Place:
        window = await self._window(place, pager)
        count = min(_STEP_FOUND, max(pager.wanted, 20), NEWEST_FIRST - place.entries)
        entries = await self._entries(place.entry, count)
        window.add(entries)
        pager.entries_left -= len(entries)
        latest = {
            key: number for number, (entry, key) in enumerate(entries) if not window.has_later(key, entry)
        }
        async with self.pace.turn() as turn:
            candidates = await self._reader.candidates(latest, selection, turn)
        rest = await self._take(candidates, selection, pager, now)
        read = latest[rest[0]] if rest else len(entries)
        if read:
            place = msgspec.structs.replace(place, entry=entries[read - 1][0], entries=place.entries + read)
        if not rest and (not entries or place.entries >= NEWEST_FIRST):
            place = msgspec.structs.replace(place, scans=True)
        return place

    @reads_replies()
    async def _scan(
        self, place: _Place, selection: Selection, pager: _Pager, primaries: Mapping[str, Any], now: int
    ) -> _Place | None:
        window = await self._window(place, pager)
        names = sorted(primaries)
        if place.server >= len(names):
            raise InvalidRequest(_WRONG_CURSOR)
        connection = primaries[names[place.server]]
        count = place.count or min(max(pager.wanted, 10), _STEP_FOUND)
        pattern = self._pattern(selection)
        async with self.pace.turn() as turn:
            async with unavailable_on_failure():
                reply, keys = await connection.execute("SCAN", place.cursor, "MATCH", pattern, "COUNT", count)
            if connection.server != names[place.server]:
                raise StoreUnavailable("a server of the store was replaced")
            pager.keys_left -= count
            follows = int(reply)
            after = place.after if place.follows == follows else b""
            by_digest: dict[bytes, bytes] = {}
            turn.begin_piece()
            for key in keys:
                digest = _digest(key, _KEY_DIGEST_BYTES)
                if digest > after and not window.has_since(key, place.entry):
                    by_digest[digest] = key
                await turn.give_way()
            found = [by_digest[digest] for digest in sorted(by_digest)]
            candidates = await self._reader.candidates(found, selection, turn)
        rest = await self._take(candidates, selection, pager, now)
        if rest:
            if len(rest) < len(candidates):
                after = _digest(list(candidates)[-len(rest) - 1], _KEY_DIGEST_BYTES)
            return msgspec.structs.replace(place, count=count, follows=follows, after=after)
        if follows == 0 and place.server + 1 == len(names):
            return None
        few = len(candidates) < count // 4 and not place.after  # not only the rest of a step
        return msgspec.structs.replace(
            place,
            server=place.server + (follows == 0),
            cursor=follows,
            count=min(4 * count, _STEP_KEYS) if few else 0,
            follows=0,
            after=b"",
        )

    async def _take(
        self, candidates: Mapping[bytes, Candidate], selection: Selection, pager: _Pager, now: int
    ) -> Sequence[bytes]:
        """Add what keys hold to a page, in their order; returns those for which it had no room or time."""
        keys = list(candidates)
        for start in range(0, len(keys), self._read_keys):
            if start and pager.is_full:
                return keys[start:]
            some = keys[start : start + self._read_keys]
            async with self.pace.turn() as turn:
                chosen = {key: candidates[key] for key in some}
                found = await self._reader.read(chosen, selection, turn, now=now)
            for number, key in enumerate(some, start):
                if not pager.takes(found.get(key, ())):
                    return keys[number:]
        return ()

    def _pattern(self, selection: Selection) -> str:
        begin = f"{self._keys.prefix}:"
        if selection.kind is None:
            return f"{begin}*"
        if selection.kind == "session" and selection.issuer not in {None, self._own}:
            return f"{begin}session-cutoff:{selection.issuer}:*"
        return begin + _PATTERNS[selection.kind].format(selection.issuer or "*")


def _entry_id(text: bytes) -> _EntryId:
    ms, _, number = text.partition(b"-")
    return int(ms), int(number)


def _after(entry: _EntryId) -> _EntryId:
    return entry[0], entry[1] + 1


def _digest(text: bytes, size: int) -> bytes:
    return hashlib.blake2b(text, digest_size=size).digest()
