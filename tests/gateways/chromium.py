"""A headless Chromium, controlled by the DevTools protocol."""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

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
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

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
        await self.command("Page.enable")
        since = len(self.events)
        await self.command("Page.navigate", url=url)
        await self.until("Page.loadEventFired", since)

    async def until(self, method: str, since: int) -> None:
        """Return once there is an event of this kind after the first ``since`` events."""
        while not any(event.get("method") == method for event in self.events[since:]):
            self.events.append(await self._socket.receive_json())

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
            port = port_file.read_text().partition("\n")[0] if port_file.exists() else ""
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"http://127.0.0.1:{port}/json/list") as response:
                    for target in await response.json():
                        if target["type"] == "page":
                            return target["webSocketDebuggerUrl"]
            await asyncio.sleep(0.05)
