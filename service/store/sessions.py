"""Sessions kept here: begun, refreshed, elevated, listed and ended; every change is one script.

All keys of one user's sessions share the user's slot, and the ``sid`` carries that slot and the start;
so a session is found, and compared with cutoffs, from its ``sid`` alone.
"""

import enum
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from service.errors import StoreRefused
from service.models import Issuer, Session, UserStanding
from service.rules import cutoff_kept_for
from service.store.connection import fence
from service.store.keys import Keys, tag_and_start, user_tag
from service.store.lookups import mark, user_standing
from service.store.revocations import Revocations
from service.store.scripts import Scripts
from service.store.servers import Servers

_RANDOM_BYTES: Final = 10


class Refusal(enum.StrEnum):
    """Why a session gives no token."""

    UNKNOWN = "unknown"
    ENDED = "ended"
    REVOKED = "revoked"
    BLOCKED = "blocked"
    SCOPE = "scope"
    AHEAD = "ahead"
    REUSED_PREVIOUS = "reused_previous"
    REUSED_OLDER = "reused_older"


class Refreshed(msgspec.Struct, frozen=True, gc=False):
    """A session that gives a token at ``now`` (ms by Redis); ``repeated``: the generation had been used."""

    session: Session
    now: int
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """A session begun at ``now`` (ms by Redis), and how many older ones ended for it."""

    session: Session
    now: int
    displaced: int


class _Profile(msgspec.Struct, frozen=True, array_like=True, gc=False):
    sub: str
    client_id: str
    scope: str
    aud: tuple[str, ...]
    device: str
    ip: str
    user_agent: str


class _Auth(msgspec.Struct, frozen=True, array_like=True, gc=False):
    amr: tuple[str, ...]
    acr: str


_profile: Final = msgspec.json.Decoder(_Profile).decode
_auth: Final = msgspec.json.Decoder(_Auth).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """In seconds, as the settings have them; ``most`` is how many sessions a user may have (0: any)."""

    idle: int
    absolute: int
    grace: int
    most: int


@dataclass(frozen=True, slots=True)
class Page:
    """Sessions in the order of their end, and where the next page begins (None: nowhere)."""

    sessions: list[Session]
    next: tuple[int, str] | None


class Sessions:
    """Raises ``StoreUnavailable`` from every method where the change may or may not have been made."""

    def __init__(
        self,
        scripts: Scripts,
        servers: Servers,
        keys: Keys,
        issuer: Issuer,
        lifetimes: Lifetimes,
        *,
        revocations: Revocations,
    ) -> None:
        self._scripts = scripts
        self._revocations = revocations
        self._servers = servers
        self._keys = keys
        self._issuer = issuer
        self._lives: Final = lifetimes
        self._idle_ms: Final = lifetimes.idle * 1000
        self._life_ms: Final = lifetimes.absolute * 1000

    async def start(
        self,
        sub: str,
        client_id: str,
        *,
        scope: str = "",
        aud: Sequence[str] = (),
        amr: Sequence[str] = (),
        acr: str = "",
        device: str = "",
        ip: str = "",
        user_agent: str = "",
    ) -> Started | None:
        """Begin a session after a login, dated after everything else of the user's.

        None where the user is blocked.
        """
        tag = user_tag(self._issuer.iss, sub)
        profile = _Profile(sub, client_id, scope, tuple(aud), device, ip, user_agent)
        auth = _Auth(tuple(amr), acr)
        reply, whole = await self._scripts.call(
            "start_session",
            [self._keys.user(tag), self._keys.sessions(tag)],
            [
                self._keys.of_user(tag),
                tag,
                secrets.token_urlsafe(_RANDOM_BYTES),
                msgspec.json.encode(auth),
                msgspec.json.encode(profile),
                self._idle_ms,
                self._life_ms,
                self._lives.most,
                cutoff_kept_for(self._issuer),
            ],
        )
        if reply[0] == b"blocked":
            return None
        sid, ended, at, now = reply
        await self._remember(ended, whole=whole)
        header = (1, 0, 0, self._life_ms, 0)
        return Started(_session(sid.decode(), int(at), header, auth, profile), int(now), len(ended) // 2)

    async def refresh(self, sid: str, generation: int, scopes: Sequence[str]) -> Refreshed | Refusal:
        """Take one generation of a refresh token whose MAC was right.

        The generation that counts moves on by one. The one before it gives the same once more within
        the grace after its first use, which only the next use closes early. Any other ends the session.

        Args:
            sid: As the refresh token has it.
            generation: Likewise.
            scopes: Those asked for, of which each must be granted; nothing is consumed otherwise.
        """
        found = tag_and_start(sid)
        if found is None:
            return Refusal.UNKNOWN
        tag, start = found
        grace = self._lives.grace * 1000
        reply, whole = await self._scripts.call(
            "refresh_session",
            self._keys.of_session(tag, sid),
            (
                sid,
                start,
                generation,
                self._idle_ms,
                self._life_ms,
                grace,
                cutoff_kept_for(self._issuer),
                *scopes,
            ),
        )
        said = reply[0]
        if said in {b"rotated", b"repeated"}:
            return Refreshed(read(sid, start, reply[2]), int(reply[1]), said == b"repeated")
        if said == b"reused":
            _, ago, at = reply
            await self._remember([sid.encode(), at], whole=whole)
            return Refusal.REUSED_PREVIOUS if int(ago) == 1 else Refusal.REUSED_OLDER
        return Refusal(said.decode())

    async def elevate(self, sid: str, amr: Sequence[str], acr: str) -> Refreshed | Refusal:
        """Note that a second factor was passed: ``auth_time`` is now, the start stays."""
        found = tag_and_start(sid)
        if found is None:
            return Refusal.UNKNOWN
        tag, start = found
        reply, _ = await self._scripts.call(
            "elevate_session",
            [*self._own_keys(tag, sid), self._keys.user(tag)],
            [sid, start, self._idle_ms, self._life_ms, msgspec.json.encode(_Auth(tuple(amr), acr))],
        )
        said = reply[0].decode()
        if said != "elevated":
            return Refusal(said)
        return Refreshed(read(sid, start, reply[2]), int(reply[1]))

    async def end(self, sid: str) -> bool:
        """End a session for good; False where the ``sid`` is none of ours. Repeating is harmless."""
        found = tag_and_start(sid)
        if found is None:
            return False
        tag, start = found
        keys = [*self._own_keys(tag, sid), self._keys.sessions(tag)]
        [at] = await self._scripts.run("end_session", keys, [sid, start, cutoff_kept_for(self._issuer)])
        self._revocations.session_ended(self._issuer, sid, int(at))
        return True

    async def _remember(self, ended: Sequence[bytes], *, whole: bool) -> None:
        """Keep what a script has ended by the way: each ``sid`` and the ms of its end.

        Where that may be among what was lost, it is ended again.
        """
        for sid, at in zip(ended[::2], ended[1::2], strict=True):
            if whole:
                self._revocations.session_ended(self._issuer, sid.decode(), int(at))
            else:
                await self.end(sid.decode())

    async def peek(self, sid: str) -> Session | None:
        """The record as it stands, whatever cutoffs say; None where there is none."""
        found = tag_and_start(sid)
        if found is None:
            return None
        tag, start = found
        text: bytes | None = await self._read(self._keys.session(tag, sid), "GET")
        return None if text is None else self._shortened(read(sid, start, text))

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
            keys += self._own_keys(tag, sid)
        user, *rest = await self._read(keys[0], "MGET", *keys[1:])
        standing = UserStanding() if user is None else user_standing(user)
        found = {}
        for sid, text, cutoff in zip(sids, rest[::2], rest[1::2], strict=True):
            place = tag_and_start(sid)
            if text is None or place is None:
                continue
            session = self._shortened(read(sid, place[1], text))
            covering = standing.hard if standing.sid == sid else max(standing.hard, standing.soft)
            if cutoff is not None:
                covering = max(covering, mark(cutoff).at)
            if session.start > covering and min(session.ends, session.used + self._idle_ms) > now:
                found[sid] = session
        return found

    def _shortened(self, session: Session) -> Session:
        """Settings that let sessions live less long hold for those that were begun before, too."""
        return msgspec.structs.replace(session, ends=min(session.ends, session.start + self._life_ms))

    async def _read(self, key: str, command: str, *rest: str | int) -> Any:
        async with fence():
            [reply] = await self._servers.read(key, [(command, key, *rest)])
        return reply

    def _own_keys(self, tag: str, sid: str) -> list[str]:
        return [self._keys.session(tag, sid), self._keys.session_cutoff(self._issuer, sid)]


_Header = tuple[int, int, int, int, int]
"""The generation, when that was first given out, last use and end (ms after the start), and auth_time
(s after the start's)."""


def read(sid: str, start: int, text: bytes) -> Session:
    """Read a record.

    Raises:
        StoreRefused: it can't be read.
    """
    try:
        generation, given, used, ends, auth_time, length, rest = text.split(b" ", 6)
        header = int(generation), int(given), int(used), int(ends), int(auth_time)
        size = int(length)
        return _session(sid, start, header, _auth(rest[:size]), _profile(rest[size:]))
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise StoreRefused("the store holds a session that can't be read") from error


def _session(sid: str, start: int, header: _Header, auth: _Auth, profile: _Profile) -> Session:
    generation, _, used, ends, auth_time = header
    return Session(
        sid=sid,
        sub=profile.sub,
        client_id=profile.client_id,
        scope=profile.scope,
        aud=profile.aud,
        amr=auth.amr,
        acr=auth.acr,
        device=profile.device,
        ip=profile.ip,
        user_agent=profile.user_agent,
        start=start,
        used=start + used,
        ends=start + ends,
        auth_time=start // 1000 + auth_time,
        generation=generation,
    )
