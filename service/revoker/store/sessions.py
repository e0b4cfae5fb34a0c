"""Sessions held by this service: started, refreshed, elevated and ended; every change is one script.

A change that fails after it was sent may have been made. So that a request which is answered 503 can be
repeated, the use of a refresh token stays open until it is confirmed, and a session whose beginning is not
confirmed is removed again.

:mod:`revoker.store.session_reader` reads them.
"""

import asyncio
import contextlib
import enum
import secrets
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from revoker.errors import NoVerdict, StoreUnavailable, Unconfirmed
from revoker.models import Issuer, Session
from revoker.rules import START_AHEAD_MS
from revoker.store.audit import audit_text
from revoker.store.keys import Keys, tag_and_start, user_tag
from revoker.store.revocations import Revocations
from revoker.store.scripts import Scripts
from revoker.store.session_reader import SessionReader
from revoker.store.session_records import Auth, Profile, ProfileWithClaims, read_session, session_of
from revoker.store.source import Source
from revoker.store.wire.connection import FAILURES, reads_replies

_log = structlog.get_logger("store")

_RANDOM_BYTES: Final = 10
_GIVEN: Final = frozenset({b"rotated", b"completed", b"repeated"})
"""The outcomes of a refresh that gives a token."""

_AGAIN_S: Final = 0.2
_TRIES: Final = 300
"""A change that must be undone or completed is tried for a minute."""


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


class ReuseUnconfirmed(StoreUnavailable):
    """A refresh token was used again, and the end of its session is not confirmed.

    Attributes:
        refusal: What kind of reuse it was.
    """

    def __init__(self, text: str, refusal: Refusal) -> None:
        super().__init__(text)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Started:
    """A session begun at ``now`` (ms by Redis), and how many older ones ended for it."""

    session: Session
    now: int
    displaced: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """In seconds, as the settings have them; ``most`` is how many sessions a user may have (0: any)."""

    idle: int
    absolute: int
    grace: int
    most: int


class Sessions:
    """Raises ``StoreUnavailable`` from every method where the change may or may not have been made.

    Attributes:
        reader: Reads the same sessions.
    """

    def __init__(
        self,
        scripts: Scripts,
        servers: Source,
        keys: Keys,
        issuer: Issuer,
        lifetimes: Lifetimes,
        *,
        revocations: Revocations,
        patience: float,
    ) -> None:
        """``patience`` is for how many seconds anybody waits for a change."""
        self._patience_ms: Final = int(patience * 1000)
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_turn: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._scripts = scripts
        self._revocations = revocations
        self._servers = servers
        self._keys = keys
        self._issuer = issuer
        self._lives: Final = lifetimes
        self._idle_ms: Final = lifetimes.idle * 1000
        self._life_ms: Final = lifetimes.absolute * 1000
        self.reader: Final = SessionReader(
            servers, keys, issuer, idle_ms=self._idle_ms, life_ms=self._life_ms
        )

    @reads_replies()
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
        claims: Mapping[str, Any] | None = None,
        now: int | None = None,
    ) -> Started | None:
        """Begin a session after a login, dated after everything else of the user's.

        Older sessions beyond the limit end once this one is confirmed. One that is not is removed.

        Args:
            sub: Whose.
            client_id: For which client.
            scope: Granted.
            aud: Audiences of the tokens; none: those of the settings.
            amr: How the user has logged in.
            acr: How well that proves who they are.
            device: As the caller reports it.
            ip: Likewise.
            user_agent: Likewise.
            claims: Further claims of the access tokens.
            now: A time of the store (ms) read for this request: nothing begins long after it.

        Returns:
            None where the user is blocked.

        Raises:
            StoreUnavailable: the session has not begun, or is being removed.
        """
        tag = user_tag(self._issuer.iss, sub)
        profile = Profile(sub, client_id, scope, tuple(aud), device, ip, user_agent)
        if claims:
            profile = ProfileWithClaims(**msgspec.structs.asdict(profile), claims=dict(claims))
        auth = Auth(tuple(amr), acr)
        random = secrets.token_urlsafe(_RANDOM_BYTES)
        try:
            reply, _ = await self._scripts.call(
                "start_session",
                [self._keys.user(tag), self._keys.sessions(tag)],
                [
                    self._keys.of_user(tag),
                    tag,
                    random,
                    msgspec.json.encode(auth),
                    msgspec.json.encode(profile),
                    self._idle_ms,
                    self._life_ms,
                    self._lives.most,
                    "" if now is None else now + self._patience_ms,
                ],
            )
        except Unconfirmed as error:
            await self._remove(tag, random, now, error)
            raise StoreUnavailable(str(error)) from error
        if reply[0] == b"blocked":
            return None
        if reply[0] == b"late":
            raise StoreUnavailable("the store took too long to begin a session")
        sid, more, at, present = reply
        displaced = await self._displace(tag) if more else 0
        header = (1, 0, 0, self._life_ms, 0)
        return Started(session_of(sid.decode(), int(at), header, auth, profile), int(present), displaced)

    async def _remove(self, tag: str, random: str, now: int | None, error: Unconfirmed) -> None:
        """Remove a session whose beginning was not confirmed: at once where the store has answered.

        Where it has not, the session may still begin, until nobody has waited for it for some time.
        """
        if error.reply is not None and len(error.reply) == 1:
            return  # it was refused
        self.reader.unconfirmed.setdefault(tag, set()).add(random)
        begins_until = None if now is None else now + self._patience_ms

        async def removed() -> bool:
            gone, _, present = (await self._trim(tag, 0))[:3]
            done = bool(gone) or begins_until is None or int(present) > begins_until
            if done:
                left = self.reader.unconfirmed.get(tag, set())
                left.discard(random)
                if not left:
                    self.reader.unconfirmed.pop(tag, None)
            return done

        if error.reply is not None:
            with contextlib.suppress(NoVerdict):
                if await removed():
                    return
        self._persist("session_not_removed", removed)

    async def _displace(self, tag: str) -> int:
        """End the oldest sessions of a user beyond the limit; returns how many.

        The new session is confirmed, so nothing that fails here is a reason to refuse it.
        """
        keys = [self._keys.user(tag), self._keys.sessions(tag)]

        async def trimmed() -> list[bytes]:
            reply, intact = await self._scripts.call(
                "trim_sessions", keys, self._trim_args(tag, self._lives.most)
            )
            ended: list[bytes] = reply[1]
            await self._remember(ended, intact=intact)
            return ended

        try:
            return len(await trimmed()) // 2
        except Unconfirmed as error:
            ended = error.reply[1] if error.reply else ()
        except NoVerdict:
            ended = ()

        async def completed() -> bool:
            for sid in ended[::2]:
                await self.end(sid.decode())
            await trimmed()
            return True

        self._persist("sessions_not_displaced", completed)
        return len(ended) // 2

    async def _trim(self, tag: str, limit: int) -> list[Any]:
        keys = [self._keys.user(tag), self._keys.sessions(tag)]
        return await self._scripts.call_unconfirmed("trim_sessions", keys, self._trim_args(tag, limit))

    def _trim_args(self, tag: str, limit: int) -> list[Any]:
        unconfirmed = self.reader.unconfirmed.get(tag, ())
        return [self._keys.of_user(tag), limit, self._revocations.cutoff_lifetime(self._issuer), *unconfirmed]

    def _persist(self, failed: str, attempt: Callable[[], Awaitable[bool]]) -> None:
        """Try something in the background until it is done; log ``failed`` if that takes too long."""

        async def persist() -> None:
            for _ in range(_TRIES):
                with contextlib.suppress(NoVerdict):
                    if await attempt():
                        return
                await asyncio.sleep(_AGAIN_S)
            _log.error(failed)

        task = asyncio.get_running_loop().create_task(persist())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel all background attempts."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @reads_replies()
    async def refresh(
        self,
        sid: str,
        generation: int,
        scopes: Sequence[str],
        is_revoked: Callable[[Session], Awaitable[bool]] | None = None,
    ) -> Refreshed | Refusal:
        """Take one generation of a refresh token whose MAC was right.

        The generation that counts moves on by one. The one before it gives the same once more within
        the grace after its first use, which only the next use closes early; and for as long as that use is
        not confirmed. Any other ends the session.

        Args:
            sid: As the refresh token has it.
            generation: Likewise.
            scopes: Those asked for, of which each must be granted; nothing is consumed otherwise.
            is_revoked: Whether the session gives no token, by what its record says. Where it raises
                ``NoVerdict``, the use is not confirmed; None: there is nothing to judge.

        Raises:
            ReuseUnconfirmed: it ended the session, which is not confirmed.
            StoreUnavailable: the same generation may be used again.
        """
        found = tag_and_start(sid)
        if found is None:
            return Refusal.UNKNOWN
        if self._lives.grace:
            return await self._refresh(sid, *found, generation, scopes, is_revoked)
        # Without grace, concurrent uses are ordered: the second waits until the first is confirmed.
        lock = self._in_turn.setdefault(sid, asyncio.Lock())
        try:
            async with asyncio.timeout(2 * self._patience_ms / 1000):
                await lock.acquire()
        except TimeoutError:
            raise StoreUnavailable("the session is being refreshed") from None
        try:
            return await self._refresh(sid, *found, generation, scopes, is_revoked)
        finally:
            lock.release()

    async def _refresh(  # noqa: PLR0917  # as refresh() has them, with the parts of the sid
        self,
        sid: str,
        tag: str,
        start: int,
        generation: int,
        scopes: Sequence[str],
        is_revoked: Callable[[Session], Awaitable[bool]] | None,
    ) -> Refreshed | Refusal:
        keys = self._keys.of_refresh(tag, sid, generation)
        grace = self._lives.grace * 1000
        try:
            reply, intact = await self._scripts.call(
                "refresh_session",
                keys,
                (
                    sid,
                    start,
                    generation,
                    self._idle_ms,
                    self._life_ms,
                    grace,
                    self._revocations.cutoff_lifetime(self._issuer),
                    *scopes,
                ),
            )
        except Unconfirmed as error:
            if error.reply and error.reply[0] == b"reused":
                self._persist("reuse_not_confirmed", lambda: self.end(sid))
                raise ReuseUnconfirmed(str(error), _reuse(error.reply)) from error
            if error.reply is None:  # it may have been a reuse, which a repeat does not show
                error.about = {"sid": sid, "generation": generation}
                raise
            raise StoreUnavailable(str(error)) from error  # nothing is consumed: the token can be used again
        outcome = reply[0]
        # before the mark is deleted: a record that can't be read or judged gives no token
        session = read_session(sid, start, reply[2]) if outcome in _GIVEN else None
        revoked = session is not None and is_revoked is not None and await is_revoked(session)
        if outcome in {b"rotated", b"completed"}:
            confirmed = self._servers.change_unconfirmed(keys[-1], "DEL", keys[-1])
            if not grace:
                with contextlib.suppress(NoVerdict, *FAILURES):  # the token was used and that is confirmed
                    await confirmed
        if revoked:
            return Refusal.REVOKED
        if session is not None:
            return Refreshed(session, int(reply[1]), outcome != b"rotated")
        if outcome == b"reused":
            refusal = _reuse(reply)
            try:
                await self._remember([sid.encode(), reply[2]], intact=intact)
            except StoreUnavailable as error:
                self._persist("reuse_not_confirmed", lambda: self.end(sid))
                raise ReuseUnconfirmed(str(error), refusal) from error
            return refusal
        return Refusal(outcome.decode())

    @reads_replies()
    async def elevate(self, sid: str, amr: Sequence[str], acr: str) -> Refreshed | Refusal:
        """Record that a second factor was passed: ``auth_time`` is now, the start does not change."""
        found = tag_and_start(sid)
        if found is None:
            return Refusal.UNKNOWN
        tag, start = found
        reply, _ = await self._scripts.call(
            "elevate_session",
            [*self._keys.of_session(self._issuer, tag, sid), self._keys.user(tag)],
            [sid, start, self._idle_ms, self._life_ms, msgspec.json.encode(Auth(tuple(amr), acr))],
        )
        outcome = reply[0].decode()
        if outcome != "elevated":
            return Refusal(outcome)
        return Refreshed(read_session(sid, start, reply[2]), int(reply[1]))

    @reads_replies()
    async def end(self, sid: str, *, by: str = "") -> bool:
        """End a session for good; False where the ``sid`` is not of this service. Idempotent.

        ``by``: who does so; empty: that is not stored.
        """
        found = tag_and_start(sid)
        if found is None:
            return False
        tag, start = found
        keys = [*self._keys.of_session(self._issuer, tag, sid), self._keys.sessions(tag)]
        audit = audit_text(by)
        args = [sid, start, self._revocations.cutoff_lifetime(self._issuer), START_AHEAD_MS, audit]
        [at] = await self._scripts.run("end_session", keys, args)
        if at == b"ahead":
            return False
        self._revocations.session_ended(self._issuer, sid, int(at), audit)
        return True

    async def _remember(self, ended: Sequence[bytes], *, intact: bool) -> None:
        """Remember the sessions that a script has ended: each ``sid`` and the time of its cutoff (ms).

        Sessions whose end may be lost are ended again.
        """
        for sid, at in zip(ended[::2], ended[1::2], strict=True):
            if intact:
                self._revocations.session_ended(self._issuer, sid.decode(), int(at))
            else:
                await self.end(sid.decode())


def _reuse(reply: Sequence[Any]) -> Refusal:
    return Refusal.REUSED_PREVIOUS if int(reply[1]) == 1 else Refusal.REUSED_OLDER
