"""A person at a browser without a script: follows links, sends forms, holds cookies."""

import html.parser
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import aiohttp

from tests.rig.service import HANGS_S

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What every page has."""


@dataclass
class Form:
    action: str = ""
    method: str = "get"
    fields: dict = field(default_factory=dict)


class Reader(html.parser.HTMLParser):
    """The text, links and forms of a page; a script in it is an error."""

    def __init__(self, text):
        super().__init__()
        self.words, self.links, self.forms = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert tag not in {"script", "iframe", "object", "embed", "base"}, tag
        assert not [name for name in attributes if name.startswith("on") or name == "style"], attributes
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "form":
            self.forms.append(Form(attributes["action"], attributes.get("method", "get")))
        if tag in {"input", "textarea", "select"} and "name" in attributes:
            if attributes.get("type") == "radio" and "checked" not in attributes:
                return
            self.forms[-1].fields[attributes["name"]] = attributes.get("value") or ""
        self.textarea = attributes.get("name") if tag == "textarea" else None

    def handle_data(self, data):
        self.words.append(data)
        if getattr(self, "textarea", None):
            self.forms[-1].fields[self.textarea] += data

    def handle_endtag(self, tag):
        if tag == "textarea":
            self.textarea = None


@dataclass
class Seen:
    """A page, as it came."""

    status: int
    url: str
    headers: dict
    text: str

    def __post_init__(self):
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("text/html") or self.status == 303:
            assert {name: self.headers.get(name) for name in HEADERS} == HEADERS
        self.read = Reader(self.text) if kind.startswith("text/html") else None

    @property
    def words(self):
        return " ".join(" ".join(self.read.words).split())

    @property
    def links(self):
        return self.read.links

    def form(self, action):
        """The form that is sent to a path."""
        [found] = [form for form in self.read.forms if form.action == action]
        return found


class Person:
    """Somebody with a browser of their own."""

    def __init__(self, url):
        self.url = url
        self.http = aiohttp.ClientSession(
            cookie_jar=aiohttp.CookieJar(unsafe=True), timeout=aiohttp.ClientTimeout(total=HANGS_S)
        )

    async def close(self):
        await self.http.close()

    async def ask(self, method, path, *, follow=True, headers=None, **content):
        """Go to a path; as a browser, a POST says where it comes from."""
        sent = {"Origin": self.url, "Sec-Fetch-Site": "same-origin"} if method == "POST" else {}
        url = urljoin(self.url, path)
        async with self.http.request(
            method, url, allow_redirects=False, headers={**sent, **(headers or {})}, **content
        ) as response:
            seen = Seen(response.status, url, response.headers, await response.text())
        if follow and seen.status in {302, 303}:
            return await self.ask("GET", urljoin(url, seen.headers["Location"]))
        return seen

    async def open(self, path, **options):
        return await self.ask("GET", path, **options)

    async def send(self, page, action, *, follow=True, headers=None, **typed):
        """Type into the form that goes to a path, and send it."""
        form = page.form(action)
        fields = {**form.fields, **typed}
        path = urljoin(page.url, form.action)
        if form.method == "get":
            return await self.ask("GET", path, follow=follow, headers=headers, params=fields)
        return await self.ask("POST", path, follow=follow, headers=headers, data=fields)

    def cookie(self, name):
        """The value of a cookie, or None."""
        return next((one.value for one in self.http.cookie_jar if one.key == name), None)

    def forget(self, name):
        """Remove a cookie, as when a sign-in has expired."""
        self.http.cookie_jar.clear(lambda one: one.key == name)


def path_of(url):
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")
