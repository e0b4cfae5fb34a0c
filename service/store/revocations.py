"""What can be revoked, blocked and taken back; one script and one round trip each."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from service.errors import InvalidRequest
from service.metrics import Metrics
from service.models import Issuer, Mark, Number
from service.rules import FOREVER_MS, cutoff_kept_for, jti_kept_until
from service.store.keys import Keys, tag_and_start, user_tag
from service.store.scripts import Scripts

AHEAD_MS: Final = 5000
"""A cutoff dated so far ahead is taken as now; the caller's clock may be a little fast."""


@dataclass(slots=True)
class Remembered:
    """Blocks and revoked keys, which no cutoff brings back: every process keeps all of them.

    Attributes:
        blocks: Until when (ms), by the user's tag.
        keys: When (ms) and why, by issuer name and ``kid``.
        changes: How often this process has changed them; what was read of the store before is older.
    """

    blocks: dict[str, int]
    keys: dict[str, dict[str, Mark]]
    changes: int = 0


class Revocations:
    """Writes; each raises ``StoreUnavailable`` where it may not have been stored. Repeating is safe."""

    def __init__(self, scripts: Scripts, keys: Keys, issuers: Mapping[str, Issuer], metrics: Metrics) -> None:
        self._scripts = scripts
        self._keys = keys
        self._issuers = {issuer.name: issuer for issuer in issuers.values()}
        self._metrics = metrics
        self.remembered: Final = Remembered({}, {issuer: {} for issuer in self._issuers})

    async def revoke_token(self, issuer: Issuer, jti: str, exp: Number | None) -> int:
        """List a jti until nothing accepts its token any more (``exp`` in seconds; None: unknown).

        Returns:
            When it was first listed, in ms.
        """
        unknown_ms = issuer.max_token_lifetime + issuer.clock_skew + issuer.leeway + 60
        args = ("" if exp is None else jti_kept_until(issuer, exp), unknown_ms * 1000)
        return await self._run("token", "revoke_token", [self._keys.jti(issuer, jti)], args)

    async def revoke_user(
        self, issuer: Issuer, sub: str, *, before: int | None, except_sid: str | None, reason: str
    ) -> int:
        """Move a user's cutoff forward to ``before`` (ms; None: now), sparing a session where named.

        Returns:
            The standing cutoff in ms.

        Raises:
            InvalidRequest: ``before`` is further ahead than 5 s.
        """
        tag = user_tag(issuer.iss, sub)
        keys = [self._keys.user(tag), self._keys.sessions(tag)]
        args = (*_cutoff(issuer, before, reason), except_sid or "")
        return await self._run("user", "revoke_user", keys, args)

    async def revoke_session(self, issuer: Issuer, sid: str, *, before: int | None, reason: str) -> int:
        """As :meth:`revoke_user`, for a session."""
        own = tag_and_start(sid) if issuer.own else None
        args = (*_cutoff(issuer, before, reason), own[1] if own else 0)
        return await self._run("session", "move_cutoff", [self._keys.session_cutoff(issuer, sid)], args)

    async def revoke_client(self, issuer: Issuer, client: str, *, before: int | None, reason: str) -> int:
        """As :meth:`revoke_user`, for a client."""
        key = self._keys.client_cutoff(issuer, client)
        return await self._run("client", "move_cutoff", [key], (*_cutoff(issuer, before, reason), 0))

    async def revoke_issuer(self, issuer: Issuer, *, before: int | None, reason: str) -> int:
        """As :meth:`revoke_user`, for everything that an issuer made."""
        key = self._keys.issuer_cutoff(issuer)
        return await self._run("issuer", "move_cutoff", [key], (*_cutoff(issuer, before, reason), 0))

    async def revoke_key(self, issuer: Issuer, kid: str, *, reason: str) -> int:
        """Revoke a signing key for good; returns when that was first done (ms)."""
        key = self._keys.revoked_keys(issuer)
        at = await self._run("key", "revoke_key", [key], (kid, reason, ""))
        self.remembered.changes += 1
        self.remembered.keys[issuer.name][kid] = Mark(at, reason)
        return at

    async def forget_key(self, issuer: Issuer, kid: str) -> bool:
        """Take back the revocation of a key; False where there was none."""
        stood = await self._run("forget", "forget_key", [self._keys.revoked_keys(issuer)], (kid,))
        self.remembered.changes += 1
        self.remembered.keys[issuer.name].pop(kid, None)
        return bool(stood)

    async def block_user(self, issuer: Issuer, sub: str, *, until: int | None, reason: str) -> int:
        """Let nothing of a user's be active before ``until`` (ms; None: for good).

        Returns:
            The end that stands: a block never gets shorter.
        """
        tag = user_tag(issuer.iss, sub)
        stands = await self._run(
            "block",
            "block_user",
            [self._keys.user(tag), self._keys.blocks],
            (min(until or FOREVER_MS, FOREVER_MS), cutoff_kept_for(issuer), reason, tag),
        )
        self.remembered.changes += 1
        self.remembered.blocks[tag] = stands
        return stands

    async def unblock_user(self, issuer: Issuer, sub: str) -> int:
        """End a block; returns the end that stood (ms; 0: none)."""
        tag = user_tag(issuer.iss, sub)
        stood = await self._run(
            "unblock",
            "unblock_user",
            [self._keys.user(tag), self._keys.blocks],
            (cutoff_kept_for(issuer), tag),
        )
        self.remembered.changes += 1
        self.remembered.blocks.pop(tag, None)
        return stood

    async def lift_user(self, issuer: Issuer, sub: str) -> int:
        """Take back a user's cutoff; returns what stood (ms; 0: none). An operator's act only."""
        key = self._keys.user_of(issuer, sub)
        return await self._run("lift", "lift_cutoff", [key], ("user", cutoff_kept_for(issuer)))

    async def lift(self, key: str) -> int:
        """Take back the cutoff of a session, client or issuer by its key; as :meth:`lift_user`."""
        return await self._run("lift", "lift_cutoff", [key], ("", 0))

    async def write_back(self) -> None:
        """Put all blocks and revoked keys that this process knows into the store."""
        keep_ms = max(cutoff_kept_for(issuer) for issuer in self._issuers.values())
        calls: list[tuple[str, list[str], tuple[object, ...]]] = [
            ("block_user", [self._keys.user(tag), self._keys.blocks], (until, keep_ms, "", tag))
            for tag, until in self.remembered.blocks.items()
        ]
        for name, keys in self.remembered.keys.items():
            key = self._keys.revoked_keys(self._issuers[name])
            calls += [("revoke_key", [key], (kid, mark.reason, mark.at)) for kid, mark in keys.items()]
        for start in range(0, len(calls), 64):
            await asyncio.gather(*(self._scripts.execute(*call) for call in calls[start : start + 64]))

    async def _run(self, kind: str, script: str, keys: list[str], args: tuple[object, ...]) -> int:
        said = (await self._scripts.run(script, keys, args))[0]
        if said == b"ahead":
            raise InvalidRequest("before is further ahead than 5 seconds")
        self._metrics.revocations.labels(kind).inc()
        return int(said)


def _cutoff(issuer: Issuer, before: int | None, reason: str) -> tuple[object, ...]:
    return ("" if before is None else before, cutoff_kept_for(issuer), reason, AHEAD_MS)
