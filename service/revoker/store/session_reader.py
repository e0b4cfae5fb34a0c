"""Reads sessions held by this service: one, those of a user, or all.

All keys of one user's sessions share the user's slot, and the ``sid`` carries that slot and the start;
so a session is found, and compared with cutoffs, from its ``sid`` alone.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from revoker.models import Issuer, Session, UserState
from revoker.rules import session_end, session_is_revoked
from revoker.store.keys import SID_CHARACTERS, TAG_CHARACTERS, Keys, tag_and_start, user_tag
from revoker.store.session_records import read_session
from revoker.store.source import Source
from revoker.store.stored_values import parse_revocation, parse_user_state
from revoker.store.wire.connection import reads_replies, unavailable_on_failure, understood

_RANDOM_AT: Final = 24
"""Where in a ``sid`` its random end begins."""


@dataclass(frozen=True, slots=True)
class Page:
    """Sessions in the order of their end, and where the next page begins (None: nowhere)."""

    sessions: list[Session]
    next: tuple[int, str] | None


class SessionReader:
    """Reads the sessions of one issuer.

    Attributes:
        unconfirmed: The random end of the ``sid`` of every session whose beginning is not confirmed, by the
            user's tag. These sessions are being removed, and are in no list.
    """

    def __init__(self, servers: Source, keys: Keys, issuer: Issuer, *, idle_ms: int, life_ms: int) -> None:
        """``idle_ms``: how long a session lasts without being used; ``life_ms``: how long at most."""
        self._servers = servers
        self._keys = keys
        self._issuer = issuer
        self._idle_ms: Final = idle_ms
        self._life_ms: Final = life_ms
        self.unconfirmed: Final[dict[str, set[str]]] = {}

    @reads_replies()
    async def peek(self, sid: str) -> Session | None:
        """The record of a session, even if a cutoff covers it; None where there is none."""
        found = tag_and_start(sid)
        if found is None:
            return None
        tag, start = found
        text: bytes | None = await self._read(self._keys.session(tag, sid), "GET")
        return None if text is None else self._shortened(read_session(sid, start, text))

    async def is_open(self, sid: str, generation: int) -> bool:
        """Whether a refresh token was used without confirmation, so that it may be used again."""
        found = tag_and_start(sid)
        if found is None:
            return False
        mark = self._keys.of_refresh(found[0], sid, generation)[-1]
        return bool(await self._read(mark, "EXISTS"))

    @reads_replies()
    async def of_user(self, sub: str, *, after: tuple[int, str] | None, limit: int, now: int) -> Page:
        """A user's sessions that still give tokens, soonest end first.

        Args:
            sub: Whose.
            after: Where the page before this one ended.
            limit: The most on this page.
            now: The present by Redis, ms.
        """
        tag = user_tag(self._issuer.iss, sub)
        found: list[Session] = []
        place = after
        while True:
            chunk = await self._index_after(self._keys.sessions(tag), place, limit, now)
            usable = await self._usable(tag, [sid for _, sid in chunk], now)
            for place in chunk:
                if place[1] in usable:
                    found.append(usable[place[1]])
                if len(found) == limit:
                    more = await self._index_after(self._keys.sessions(tag), place, 1, now)
                    return Page(found, place if more else None)
            if len(chunk) < limit:
                return Page(found, None)

    @reads_replies()
    async def usable(self, sids: Sequence[str], now: int) -> list[Session]:
        """Those of some sessions that still give tokens."""
        by_tag: dict[str, list[str]] = {}
        for sid in sids:
            if (found := tag_and_start(sid)) is not None:
                by_tag.setdefault(found[0], []).append(sid)
        usable = await asyncio.gather(*(self._usable(tag, of_tag, now) for tag, of_tag in by_tag.items()))
        return [session for of_tag in usable for session in of_tag.values()]

    async def all_sids(self, count: int) -> AsyncGenerator[list[str], None]:
        """The sessions of all users, about ``count`` keys of the store at a time; some may come twice."""
        pattern = f"{self._keys.of_user('?' * TAG_CHARACTERS)}:session:{'?' * SID_CHARACTERS}"
        async with unavailable_on_failure():
            primaries = await self._servers.primaries()
        for connection in primaries.values():
            cursor = b"0"
            while True:
                async with unavailable_on_failure():
                    scanned = await connection.execute("SCAN", cursor, "MATCH", pattern, "COUNT", count)
                with understood():
                    cursor, found = scanned
                    sids = [key[-SID_CHARACTERS:].decode() for key in found]
                yield sids
                if cursor == b"0":
                    break

    async def _index_after(
        self, index: str, place: tuple[int, str] | None, count: int, now: int
    ) -> list[tuple[int, str]]:
        lowest = max(now, place[0] if place else 0)
        found: list[tuple[int, str]] = []
        offset = 0
        while len(found) < count:
            limits = (lowest, "+inf", "WITHSCORES", "LIMIT", offset, count)
            entries: list[bytes] = await self._read(index, "ZRANGEBYSCORE", *limits)
            pairs = [(int(end), sid.decode()) for sid, end in zip(entries[::2], entries[1::2], strict=True)]
            found += [pair for pair in pairs if place is None or pair > place]
            if len(pairs) < count:
                break
            offset += count
        return found[:count]

    async def _usable(self, tag: str, sids: Sequence[str], now: int) -> dict[str, Session]:
        keys = [self._keys.user(tag)]
        for sid in sids:
            keys += self._keys.of_session(self._issuer, tag, sid)
        user, *rest = await self._read(keys[0], "MGET", *keys[1:])
        state = UserState() if user is None else parse_user_state(user)
        found = {}
        unconfirmed = self.unconfirmed.get(tag, ())
        for sid, text, cutoff in zip(sids, rest[::2], rest[1::2], strict=True):
            place = tag_and_start(sid)
            if text is None or place is None or sid[_RANDOM_AT:] in unconfirmed:
                continue
            session = self._shortened(read_session(sid, place[1], text))
            own_cutoff = None if cutoff is None else parse_revocation(cutoff)
            if not session_is_revoked(session.start, sid, state, own_cutoff) and self.expiry(session) > now:
                found[sid] = session
        return found

    def expiry(self, session: Session) -> int:
        """When a session ends if it is not used again (ms)."""
        return session_end(session, idle_ms=self._idle_ms, life_ms=self._life_ms)

    def _shortened(self, session: Session) -> Session:
        """A shorter lifetime in the settings applies to sessions that were started before, too."""
        return msgspec.structs.replace(session, ends=min(session.ends, session.start + self._life_ms))

    async def _read(self, key: str, command: str, *rest: str | int) -> Any:
        async with unavailable_on_failure():
            [reply] = await self._servers.read(key, [(command, key, *rest)])
        return reply
