"""A proxy between a service and its store that makes one command fail in a way that a test chooses."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import hiredis
import redis

from tests.rig.listener import Listener, connected
from tests.rig.servers import Valkey

Command = list[bytes] | tuple[str | int, ...]
Fault = Literal["lost_before", "lost_after", "unconfirmed", "garbled", "lookup_refused"]
"""What becomes of the next command of a request:

- ``lost_before``: the script never reaches the server;
- ``lost_after``: the script runs, and its reply never comes;
- ``unconfirmed``: the replica does not confirm the script's changes;
- ``garbled``: the confirmation is of a form that nobody understands;
- ``lookup_refused``: the lookup is answered by an error.
"""

FAULTS: tuple[Fault, ...] = ("lost_before", "lost_after", "unconfirmed", "lookup_refused")

_REPLICATED: dict[bytes, Command] = {
    b"ROLE": ("EVAL", "return {'master', 0, {{'127.0.0.1', '1', '0'}}}", 0),
    b"WAIT": ("EVAL", "return 1", 0),
}
"""The server has no replica: it is asked to say what a primary with one replica would say."""

_UNCONFIRMED: dict[str, Command] = {
    "unconfirmed": ("EVAL", "return 0", 0),
    "garbled": ("EVAL", "return 'x'", 0),
}

_REFUSED: Command = ("EVAL", "return redis.error_reply('BUSY for a while')", 0)

_SERVICE_KEYS = (b":blocks", b":instances", b":latest", b":refills", b":repair", b":seq", b":settings")
"""How the first keys of scripts end that the service sends by itself, not for a request."""


class FaultProxy:
    """Passes commands on, but for the next script or lookup of a request once it is armed.

    Attributes:
        after_script: Called after every script of a request that was passed on.
    """

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._listener = Listener(self._pass_on)
        self._fault: Fault | None = None
        self._meanwhile: Callable[[], Awaitable[object]] | None = None
        self.after_script: Callable[[], object] | None = None
        self.open = self._listener.open
        self.close = self._listener.close

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.port}/0"

    def client(self) -> redis.Redis:
        """A client of the server itself."""
        return self._valkey.client()

    def arm(self, fault: Fault, meanwhile: Callable[[], Awaitable[object]] | None = None) -> None:
        """Do this to the next script or lookup; ``meanwhile`` is awaited before a lost reply is noticed."""
        self._fault, self._meanwhile = fault, meanwhile

    @property
    def armed(self) -> bool:
        return self._fault is not None

    def disarm(self) -> None:
        self._fault = None

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with connected(self._valkey.port) as (from_server, to_server):
            await self._pass_through(reader, writer, from_server, to_server)

    async def _pass_through(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        lost = asyncio.Event()

        async def answer() -> None:
            while data := await from_server.read(65536):
                if lost.is_set():
                    if self._meanwhile is not None:
                        await self._meanwhile()
                    break
                writer.write(data)
            writer.close()
            to_server.close()

        answers = asyncio.create_task(answer())
        parser = hiredis.Reader()
        confirmation: Command | None = None
        try:
            while data := await reader.read(65536):
                parser.feed(data)
                while (received := parser.gets()) is not False:
                    name, fault, sent = received[0], self._fault, received
                    script = name == b"EVALSHA" and _is_of_a_request(received)
                    if script and fault in {"lost_before", "lost_after", *_UNCONFIRMED}:
                        self._fault = None
                        if fault == "lost_before":
                            writer.close()
                            to_server.close()
                            return
                        confirmation = _UNCONFIRMED.get(fault)
                        if fault == "lost_after":
                            lost.set()
                    elif fault == "lookup_refused" and name == b"MGET" and _is_lookup(received):
                        self._fault, sent = None, _REFUSED
                    elif name == b"WAIT" and confirmation is not None:
                        confirmation, sent = None, confirmation
                    else:
                        sent = _REPLICATED.get(name, received)
                    to_server.write(hiredis.pack_command(tuple(sent)))
                    if script and self.after_script is not None:
                        self.after_script()
            to_server.close()
            await answers
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)


def _is_of_a_request(command: list[Any]) -> bool:
    """Whether a request waits for a script; the service sends others by itself, at any time."""
    keys, args = command[3 : 3 + int(command[2])], command[3 + int(command[2]) :]
    trims_sessions = b"{" in args[0] and args[1].isdigit()  # a prefix of keys and a limit
    return not keys[0].endswith(_SERVICE_KEYS) and not trims_sessions


def _is_lookup(keys: list[bytes]) -> bool:
    """Only a lookup for a request reads the cutoff of a client together with the epoch."""
    return any(b":client-cutoff:" in key for key in keys) and any(key.endswith(b":epoch") for key in keys)
