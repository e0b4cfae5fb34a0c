"""What somebody had typed when the sign-in had expired: after the next one, the same person has it again.

It is first stored under the name that the browser has for signing in, and then under that of the session.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from revoker.auth import digest
from revoker.errors import NoVerdict
from revoker.store.console_records import ConsoleRecords

SIGN_IN_S: Final = 600
"""How long somebody may take to sign in."""

_IN_SESSION_S: Final = 3600
_MAX_TARGET: Final = 8192
_MAX_FIELD: Final = 4096
_MAX_DRAFTS: Final = 4
"""Of one browser: of several tabs."""


class Draft(msgspec.Struct, frozen=True):
    """A form that was sent in vain.

    Attributes:
        owner: As :func:`owner_of`, of the session that had made the form.
        target: The page of the form, with its query.
        fields: What was typed.
    """

    owner: str
    target: str
    fields: dict[str, str]

    @property
    def fits(self) -> bool:
        """Whether it is small enough to be stored as it is."""
        return (
            len(self.target) <= _MAX_TARGET and max(map(len, self.fields.values()), default=0) <= _MAX_FIELD
        )


class _Stored(msgspec.Struct, frozen=True):
    drafts: tuple[Draft, ...] = ()


def owner_of(iss: str | None, sub: str) -> str:
    """Names a person in forms and drafts; ``iss`` None: a caller."""
    return digest(msgspec.json.encode([iss, sub]).decode())[:32]


class Drafts:
    """Stores drafts; the methods raise ``StoreUnavailable`` and ``StoreRefused``."""

    def __init__(self, records: ConsoleRecords) -> None:
        self._records: Final = records

    async def add(self, browser: str, draft: Draft) -> None:
        """Remember a draft of a browser at which nobody is signed in."""
        others = (one for one in await self._of(browser) if one.target != draft.target)
        await self._store(browser, (draft, *others)[:_MAX_DRAFTS], SIGN_IN_S)

    async def hand_over(self, browser: str, session: str, owner: str) -> str | None:
        """Give a new session the drafts of its owner, and no others; returns the page of the latest."""
        found = await self._of(browser)
        own = tuple(one for one in found if one.owner == owner)
        if not own:
            return None
        await self._store(session, own, _IN_SESSION_S)
        await self._store(browser, tuple(one for one in found if one.owner != owner), SIGN_IN_S)
        return own[0].target

    async def typed(self, session: str, target: str) -> Mapping[str, str]:
        """What the owner of a session had typed on a page."""
        return next((one.fields for one in await self._of(session) if one.target == target), {})

    async def discard(self, session: str, target: str) -> None:
        """Forget what was typed on a page, now that its form has been used; without the store it expires."""
        try:
            found = await self._of(session)
            rest = tuple(one for one in found if one.target != target)
            if rest != found:
                await self._store(session, rest, _IN_SESSION_S)
        except NoVerdict:
            return

    async def _of(self, name: str) -> tuple[Draft, ...]:
        stored = await self._records.read("draft", name, _Stored)
        return () if stored is None else stored.drafts

    async def _store(self, name: str, drafts: tuple[Draft, ...], seconds: int) -> None:
        if drafts:
            await self._records.write("draft", name, _Stored(drafts), seconds * 1000)
        else:
            await self._records.remove("draft", name)
