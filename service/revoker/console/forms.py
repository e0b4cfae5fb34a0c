"""Forms that only the page of a session can send, for what the page says, and once.

A form holds a random id, the name of its owner, and a MAC by the key of the session over the id, the time,
and all that the page has shown. So it is a defence against cross-site requests, and what is done is what was
previewed. An id is consumed in the store before anything is done: of several requests with it, one does
something.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from revoker.console.sessions import Visitor
from revoker.errors import AccessDenied
from revoker.store.console_records import ConsoleRecords

FORM_FIELD: Final = "form"
FORM_S: Final = 3600
"""How long a form can be sent after its page was made; what the page has shown may have changed meanwhile."""

_FORM: Final = re.compile(r"([A-Za-z0-9_-]{22})\.([0-9a-f]{1,16})\.([0-9a-f]{32})\.([0-9a-f]{64})").fullmatch
_ID: Final = re.compile(r"[A-Za-z0-9_-]{22}").fullmatch


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a form.

    Attributes:
        session: Of the session that sent it.
        action: The name of what was to be done.
        parameters: To whom or what.
        state: ``running``, ``done`` or ``failed``.
        began: When (ms).
        sentence: What was done, or why not.
    """

    session: str
    action: str
    parameters: dict[str, str]
    began: int
    state: str = "running"
    sentence: str = ""


UNKNOWN_AFTER_MS: Final = 60_000
"""What is running for longer will not be noted any more: the store answers sooner, or not at all."""


class StaleForm(Exception):
    """A form that cannot be sent: of an earlier sign-in, too old, or changed; nothing was done."""


class Forms:
    """Makes and consumes forms."""

    def __init__(self, records: ConsoleRecords, *, keep_ms: int) -> None:
        """``keep_ms``: how long it is remembered what became of a form."""
        self._records = records
        self._keep_ms: Final = keep_ms

    @staticmethod
    def new(visitor: Visitor, action: str, parameters: Mapping[str, str], now_s: float) -> str:
        """The value of :data:`FORM_FIELD` for a page that was made now."""
        name, made = secrets.token_urlsafe(16), f"{int(now_s):x}"
        return f"{name}.{made}.{visitor.owner}.{_mac(visitor, action, parameters, name, made)}"

    @staticmethod
    def name(visitor: Visitor, action: str, parameters: Mapping[str, str], sent: str, now_s: float) -> str:
        """The id of a form that was sent; raises ``StaleForm``."""
        parts = _FORM(sent)
        if parts is None:
            raise StaleForm("The form is not one of this page. Nothing was done.")
        name, made, _, mac = parts.groups()
        if not hmac.compare_digest(mac, _mac(visitor, action, parameters, name, made)):
            raise StaleForm("The form is of an earlier sign-in or of another page. Nothing was done.")
        if not 0 <= now_s - int(made, 16) + 60 <= FORM_S + 60:
            raise StaleForm("The page was more than an hour old. Nothing was done.")
        return name

    @staticmethod
    def owner(sent: str) -> str | None:
        """For whom a form was made, as it says itself: nobody is signed in any more who could verify that."""
        parts = _FORM(sent)
        return None if parts is None else parts[3]

    async def consume(self, name: str, outcome: Outcome) -> bool:
        """Whether this request is the first with the form of this id."""
        return await self._records.write_first("form", name, outcome, self._keep_ms)

    async def finish(self, name: str, outcome: Outcome) -> None:
        """Note what became of a form."""
        await self._records.write("form", name, outcome, self._keep_ms)

    async def outcome(self, name: str, visitor: Visitor) -> Outcome | None:
        """What became of a form of this session; None: it has none of this id, or it was long ago."""
        found = await self._records.read("form", name, Outcome) if _ID(name) else None
        return None if found is None or found.session != visitor.session else found


def _mac(visitor: Visitor, action: str, parameters: Mapping[str, str], name: str, made: str) -> str:
    text = msgspec.json.encode([action, sorted(parameters.items()), name, made])
    return hmac.new(visitor.signed_in.form_key.encode(), text, hashlib.sha256).hexdigest()


def refuse_other_sites(request: web.Request, url: str) -> None:
    """Refuse a POST that a page of another site has sent, as far as the browser says so.

    Args:
        request: A POST.
        url: Where browsers reach the console; empty: as the request says itself.

    Raises:
        AccessDenied: it comes from elsewhere.
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise AccessDenied("This request came from a page of another site. Nothing was done.")
    origin = request.headers.get("Origin")
    if origin is None:
        return
    own = url or f"//{request.headers.get('Host', '')}"
    if urlsplit(origin).netloc.lower() != urlsplit(own).netloc.lower() or (url and origin != url):
        raise AccessDenied("This request came from a page of another site. Nothing was done.")
