"""A headless Chromium, controlled by the DevTools protocol."""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.rig.probes import within
from tests.rig.service import HANGS_S

_QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
)


class Page:
    """One page, with cookies of its own browser.

    Attributes:
        events: What the browser has reported, in the domains that were enabled.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with within(HANGS_S, f"the result of {method} {str(parameters)[-1000:]}"):
            while (message := await self._receive()).get("id") != number:
                self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    async def _receive(self) -> dict[str, Any]:
        message = await self._socket.receive()
        assert message.type is aiohttp.WSMsgType.TEXT, f"the browser has ended the connection: {message}"
        return json.loads(message.data)

    async def watch(self) -> None:
        """Record requests, messages of the console, and exceptions from now on."""
        for domain in ("Network", "Log", "Runtime"):
            await self.command(f"{domain}.enable")

    @property
    def faults(self) -> list[Any]:
        """Errors and exceptions that the console has shown."""
        found: list[Any] = []
        for event in self.events:
            match event:
                case {"method": "Log.entryAdded", "params": {"entry": {"level": "error"} as entry}}:
                    found.append(entry)
                case {"method": "Runtime.consoleAPICalled", "params": {"type": "error"} as call}:
                    found.append(call["args"])
                case {"method": "Runtime.exceptionThrown", "params": thrown}:
                    found.append(thrown)
                case _:
                    pass
        return found

    @property
    def requested(self) -> list[str]:
        """The addresses of all requests that were sent."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    async def open(self, url: str) -> None:
        """Return once the document has this address, with all its scripts run."""
        await self.loaded_by(self.command("Page.navigate", url=url))

    async def loaded_by(self, doing: Awaitable[Any]) -> None:
        """Return once what is done has made the page load another document.

        The load of the document before can be reported late, as that of ``about:blank`` after the browser has
        started. So it has to be the load of another one.
        """
        await self.command("Page.enable")
        await self.command("Page.setLifecycleEventsEnabled", enabled=True)
        before = (await self.command("Page.getFrameTree"))["frameTree"]["frame"]
        since = len(self.events)
        await doing

        def is_loaded(event: dict[str, Any]) -> bool:
            match event:
                case {"method": "Page.lifecycleEvent", "params": {"name": "load", **load}}:
                    return load["frameId"] == before["id"] and load["loaderId"] != before["loaderId"]
                case _:
                    return False

        await self.until(is_loaded, since, "a page is loaded")

    async def until(self, matches: Callable[[dict[str, Any]], bool], since: int, what: str) -> None:
        """Return once one of the events after the first ``since`` matches."""
        events = self.events[since:]
        async with within(HANGS_S, what):
            while not any(map(matches, events)):
                events = [await self._receive()]
                self.events += events

    async def until_fault(self, *texts: str) -> None:
        """Return once an error has one of these texts. The browser can show it after the page has loaded."""

        def matches(_: dict[str, Any]) -> bool:
            return any(text in str(fault) for fault in self.faults for text in texts)

        await self.until(matches, 0, f"an error with {' or '.join(texts)}")

    async def run(self, script: str, *arguments: Any) -> Any:
        """What an async function of the page returns for these arguments."""
        call = f"({script})({', '.join(map(json.dumps, arguments))})"
        found = await self.command("Runtime.evaluate", expression=call, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


@contextlib.asynccontextmanager
async def chromium(folder: Path):
    """An open page of a new browser, whose data is in a new folder; a missing program fails the test."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("chromium is missing; Debian has it: apt-get install chromium")
    folder.mkdir()
    with (folder / "out.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *_QUIET, f"--user-data-dir={folder}", "about:blank"],
            stdout=log,
            stderr=log,
            env=os.environ | {"HOME": str(folder)},
        )
    try:
        async with aiohttp.ClientSession() as http:
            url = await _page_of(http, process, folder)
            async with http.ws_connect(url, max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _page_of(http: aiohttp.ClientSession, process: subprocess.Popen, folder: Path) -> str:
    """Where the first page is controlled, once the browser has one."""
    port_file = folder / "DevToolsActivePort"
    async with asyncio.timeout(120):
        while True:
            assert process.poll() is None, (folder / "out.log").read_text()
            port, written, _ = port_file.read_text().partition("\n") if port_file.exists() else ("", "", "")
            if not written:  # not yet, or not all of it
                await asyncio.sleep(0.05)
                continue
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"http://127.0.0.1:{port}/json/list") as response:
                    for target in await response.json():
                        if target["type"] == "page":
                            return target["webSocketDebuggerUrl"]
            await asyncio.sleep(0.05)
