"""Renders the pages of the console, with the headers by which a browser runs and loads nothing else."""

import datetime as dt
import functools
import importlib.resources
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import urlencode

import jinja2
from aiohttp import web

from revoker.api.caching import cacheable_response
from revoker.api.error_responses import NO_STORE, REPLIES, of_kind
from revoker.console.roles import Role
from revoker.console.sessions import Visitor
from revoker.errors import InvalidRequest, NoVerdict, RevokerError

PREFIX: Final = "/console"

_STATIC: Final = importlib.resources.files("revoker.console") / "static"
STATIC_FILES: Final = {"style.css": "text/css", "icon.svg": "image/svg+xml"}

HEADERS: Final[Mapping[str, str]] = {
    # No script at all. A form-action of 'self' also holds for redirects, so sign-in begins with a link.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # With no-referrer, browsers would send "Origin: null" with the console's own forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_INVISIBLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""Characters by which a text can look like another one: controls, and those that change its direction."""


def visible(text: object) -> str:
    """A text of unknown origin, in which every character can be seen."""
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", str(text))


def date(seconds: float | None) -> str:
    """A date as people read it, in UTC; one beyond the calendar as its number."""
    if seconds is None:
        return "never"
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s"


def link(path: str, **query: str | None) -> str:
    """A path of the console, with the parameters that are there."""
    sent = {name: value for name, value in query.items() if value}
    return f"{PREFIX}{path}" + (f"?{urlencode(sent)}" if sent else "")


_environment: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("revoker.console"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {"visible": visible, "date": date}
_environment.globals |= {"link": link, "Role": Role}


def page(
    template: str, visitor: Visitor | None, *, sign_out: str = "", status: int = 200, **values: Any
) -> web.Response:
    """A page; ``sign_out`` is the form of its button, where somebody is signed in."""
    text = _environment.get_template(template).render(visitor=visitor, sign_out=sign_out, **values)
    return web.Response(status=status, text=text, content_type="text/html", headers={**NO_STORE, **HEADERS})


def redirect(target: str) -> web.Response:
    """Lead the browser to a path of the console."""
    if not target.startswith(PREFIX):
        raise ValueError("not a path of the console")
    return web.Response(status=303, headers={**NO_STORE, **HEADERS, "Location": target})


def error_page(
    error: RevokerError, visitor: Visitor | None, *, sign_out: str = "", reason: str = ""
) -> web.Response:
    """A page that says what is wrong; ``reason`` was typed into the form that was sent, and is not lost."""
    reply = of_kind(REPLIES, error)
    status = reply.status if reply else 500
    title = {400: "That cannot be read", 403: "Not allowed", 404: "Not found", 429: "Too many attempts"}
    response = page(
        "error.html",
        visitor,
        sign_out=sign_out,
        status=status,
        title="The store gives no answer" if isinstance(error, NoVerdict) else title.get(status, "An error"),
        sentence=str(error),
        no_verdict=isinstance(error, NoVerdict),
        reason=reason,
    )
    for name, value in (reply.headers if reply else {}).items():
        if name != "WWW-Authenticate":  # browsers would ask for a password
            response.headers[name] = value
    return response


def static_file(name: str) -> Callable[[web.Request], Any]:
    """A handler that serves a file of the console."""
    body = functools.cache((_STATIC / name).read_bytes)
    headers = {**HEADERS, "Cache-Control": "no-cache"}

    async def respond(request: web.Request) -> web.Response:
        return cacheable_response(request, body(), STATIC_FILES[name], headers)

    return respond


def only(query: Mapping[str, str], *names: str) -> dict[str, str]:
    """The parameters of a page by name; raises ``InvalidRequest`` for another one."""
    if unknown := query.keys() - set(names):
        raise InvalidRequest(f"{PurePosixPath(PREFIX).name}: unknown parameter {min(unknown)[:64]!r}")
    return {name: value for name, value in query.items() if value}
