"""A user at a browser: it follows redirects, fills in forms of an identity provider, and has its cookies."""

import dataclasses
from html.parser import HTMLParser
from urllib.parse import urljoin

import aiohttp

from tests.rig.service import HANGS_S

MOST_STEPS = 20
"""Redirects and forms from a link to the address that it leads to; a loop ends here."""


@dataclasses.dataclass
class Form:
    """Where it is sent, and what it contains before a user has filled it in."""

    method: str
    action: str
    values: dict[str, str] = dataclasses.field(default_factory=dict)
    names: set[str] = dataclasses.field(default_factory=set)
    """Of all its fields and buttons."""

    def filled(self, answers):
        return {**self.values, **{name: value for name, value in answers.items() if name in self.names}}


class Page(HTMLParser):
    """What the provider shows."""

    def __init__(self, url, text):
        super().__init__()
        self.url = url
        self.text = text
        self.forms = {}
        self._open = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "form":
            self._open = found.get("id") or f"form {len(self.forms)}"
            self.forms[self._open] = Form(
                found.get("method", "get").upper(), urljoin(self.url, found.get("action") or "")
            )
        elif tag in {"input", "button"} and "name" in found:
            form = self.forms.get(found.get("form", self._open))
            if form is None:
                return
            form.names.add(found["name"])
            kind = found.get("type", "submit" if tag == "button" else "text")
            unchecked = kind in {"checkbox", "radio"} and "checked" not in found
            if kind != "submit" and not unchecked:
                form.values[found["name"]] = found.get("value") or ""

    def handle_endtag(self, tag):
        if tag == "form":
            self._open = None

    def form(self, answers):
        """The form with most of the fields that there is an answer for."""
        assert self.forms, f"no form at {self.url}: {self.text[:2000]}"
        return max(self.forms.values(), key=lambda form: len(form.names & answers.keys()))


def new_client(**options):
    """An HTTP client with a connection for each request.

    A server ends a connection that was idle (Node.js after 5 s), and a POST that meets this end fails.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True),
        timeout=aiohttp.ClientTimeout(total=HANGS_S),
        **options,
    )


class Browser:
    """One user's; the cookies of another browser are its own.

    Args:
        origin: Of the provider: it gets `Secure` cookies without TLS, as browsers do it for loopback.
    """

    def __init__(self, origin):
        self.http = new_client(cookie_jar=aiohttp.CookieJar(unsafe=True, treat_as_secure_origin=origin))

    async def close(self):
        await self.http.close()

    async def walk(self, url, answers, *, until):
        """Open an address, and follow redirects and send forms up to one that begins with ``until``.

        Args:
            url: Where to begin.
            answers: What the user fills in, by the names of fields; those that a form lacks are not sent.
            until: One beginning or several. The address is the result, and is not opened.
        """
        request, seen = ("GET", url, None), []
        for _ in range(MOST_STEPS):
            method, url, data = request
            seen.append(url)
            if url.startswith(until):
                return url
            async with self.http.request(method, url, data=data, allow_redirects=False) as response:
                text = await response.text()
            assert response.status < 400, f"{response.status} at {url}: {text[:2000]}"
            if "Location" in response.headers:
                request = ("GET", urljoin(url, response.headers["Location"]), None)
            else:
                form = Page(url, text).form(answers)
                assert form.method == "POST", form
                request = ("POST", form.action, form.filled(answers))
        raise AssertionError(f"{until} was not reached in {MOST_STEPS} steps: {seen}")
