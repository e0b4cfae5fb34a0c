"""A person at Chromium: clicks with the mouse, types on the keyboard, waits for pages."""

import base64

import pytest

from tests.console.conftest import ROLES, consoles, provider, settled  # noqa: F401  # fixtures
from tests.site.conftest import browser  # noqa: F401  # a fixture

KEYS = {
    "Tab": {"code": "Tab", "windowsVirtualKeyCode": 9},
    "Enter": {"code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
    "Space": {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32, "text": " "},
}


class Surfer:
    """Somebody at one page of a browser."""

    def __init__(self, page, url):
        self.page = page
        self.url = url

    async def go(self, path):
        await self.page.open(self.url + path)

    async def run(self, expression):
        return await self.page.run(f"async () => ({expression})")

    async def words(self):
        return " ".join((await self.run("document.body.innerText")).split())

    async def path(self):
        return await self.run("location.pathname")

    async def _place(self, selector):
        """The middle of an element, which is scrolled to."""
        script = """async (selector) => {
          const found = document.querySelector(selector)
          found.scrollIntoView({block: "center"})
          const box = found.getBoundingClientRect()
          return [box.x + box.width / 2, box.y + box.height / 2]
        }"""
        return await self.page.run(script, selector)

    async def _press(self, x, y, times=1):
        for count in range(1, times + 1):
            for kind in ("mousePressed", "mouseReleased"):
                await self.page.command(
                    "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count
                )

    async def click(self, selector, *, times=1):
        """Click on something that leads to another page, and wait for that."""
        x, y = await self._place(selector)
        await self.page.loaded_by(self._press(x, y, times))

    async def choose(self, selector):
        """Click on something that leads nowhere."""
        await self._press(*await self._place(selector))

    async def type(self, selector, text):
        await self.choose(selector)
        await self.page.run("async (selector) => document.querySelector(selector).select?.()", selector)
        await self.page.command("Input.insertText", text=text)

    async def key(self, name, *, loads=False):
        async def press():
            event = {"key": name, **KEYS[name]}
            await self.page.command("Input.dispatchKeyEvent", type="keyDown", **event)
            event.pop("text", None)
            await self.page.command("Input.dispatchKeyEvent", type="keyUp", **event)

        await (self.page.loaded_by(press()) if loads else press())

    async def history(self, steps):
        """Use the back button or the forward button; the browser may show the page that it has."""
        await self.page.command("Page.enable")
        since = len(self.page.events)
        await self.page.run("async (steps) => { history.go(steps) }", steps)
        await self.page.until(
            lambda event: event.get("method") == "Page.frameNavigated", since, "another page of the history"
        )
        await self.run(
            "document.readyState === 'complete' || new Promise((done) => addEventListener('load', done))"
        )

    async def reload(self):
        await self.page.loaded_by(self.page.command("Page.reload"))

    async def look(self, *, width=1000, height=700, scheme="light"):
        """Use a screen of this size, and a color scheme."""
        await self.page.command("Emulation.setScrollbarsHidden", hidden=True)
        await self.page.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        await self.page.command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    async def picture(self):
        """The screen as PNG."""
        shot = await self.page.command("Page.captureScreenshot", format="png", captureBeyondViewport=False)
        return base64.b64decode(shot["data"])

    @property
    def strangers(self):
        """Addresses outside of the service that were asked for."""
        return [url for url in self.page.requested if not url.startswith((self.url + "/", "data:", "about:"))]

    def forget_what_happened(self):
        self.page.events.clear()


@pytest.fixture
def enter(consoles, provider, browser):  # noqa: F811  # fixtures
    """A service, and somebody who has signed in there with a role, at a provider on another site."""

    async def begin(role, **changes):
        elsewhere = provider.url.replace("127.0.0.1", "localhost")
        service = await consoles(console={"authorization_endpoint": f"{elsewhere}/authorize"}, **changes)
        surfer = Surfer(browser, service.url)
        provider.claims = {
            "sub": f"{role}-1", "name": f"Robin ({role})", "realm_access": {"roles": [ROLES[role]]}
        }  # fmt: skip
        await surfer.look()
        await surfer.go("/console")
        await surfer.click("main a.button")
        assert await surfer.path() == "/console", await surfer.words()
        surfer.forget_what_happened()
        return service, surfer

    return begin
