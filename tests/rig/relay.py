"""Between a service and its server: loses, refuses and leaves unconfirmed what a test asks for."""

import asyncio
import contextlib

import hiredis
import jwt

from tests.sessions.conftest import SESSIONS_ISSUER

ANSWER = {
    b"ROLE": ("EVAL", "return {'master', 0, {{'127.0.0.1', '1', '0'}}}", 0),
    b"WAIT": ("EVAL", "return 1", 0),
}
"""What a primary with one replica would say, asked of a server that has none."""

UNCONFIRMED = {"unconfirmed": ("EVAL", "return 0", 0), "garbled": ("EVAL", "return 'x'", 0)}
"""What is answered where the replica has not got a change, and where nobody understands what it says."""

REFUSED = ("EVAL", "return redis.error_reply('BUSY for a while')", 0)

OF_THE_SERVICE = (b":blocks", b":refills", b":seq", b":settings")
"""First keys of scripts that the service sends by itself."""

FAULTS = ("lost_before", "lost_after", "unconfirmed", "lookup_refused")
"""The script never reaches the server; or its reply never comes; or the replica does not confirm it; or the
lookup before it fails."""


class Relay:
    """Passes commands on, and does to the next script or lookup what it was armed for."""

    def __init__(self, valkey):
        self._valkey = valkey
        self._server = None
        self._fault = None
        self._meanwhile = None
        self.after_script = None
        self._open = []
        self.port = 0

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self):
        return self._valkey.client()

    async def open(self):
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self):
        self._server.close()
        for writer in self._open:
            writer.transport.abort()

    def arm(self, fault, meanwhile=None):
        """Do this to the next script or lookup; ``meanwhile`` is awaited before its loss is noticed."""
        self._fault, self._meanwhile = fault, meanwhile

    @property
    def armed(self):
        return self._fault is not None

    def disarm(self):
        self._fault = None

    async def _pass_on(self, reader, writer):
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._valkey.port)
        self._open += [writer, to_server]
        lost = asyncio.Event()

        async def answer():
            while data := await from_server.read(65536):
                if lost.is_set():
                    if self._meanwhile is not None:
                        await self._meanwhile()
                    break
                writer.write(data)
            writer.close()
            to_server.close()

        answers = asyncio.create_task(answer())
        commands, unconfirmed = hiredis.Reader(), None
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    name, fault = command[0], self._fault
                    script = name == b"EVALSHA" and _is_of_a_request(command)
                    if script and fault in {"lost_before", "lost_after", *UNCONFIRMED}:
                        self._fault = None
                        if fault == "lost_before":
                            writer.close()
                            to_server.close()
                            return
                        unconfirmed = UNCONFIRMED.get(fault)
                        if fault == "lost_after":
                            lost.set()
                    elif fault == "lookup_refused" and name == b"MGET" and any(map(_is_of_client, command)):
                        self._fault, command = None, REFUSED
                    elif name == b"WAIT" and unconfirmed is not None:
                        unconfirmed, command = None, unconfirmed
                    else:
                        command = ANSWER.get(name, command)
                    to_server.write(hiredis.pack_command(tuple(command)))
                    if script and self.after_script is not None:
                        self.after_script()
        to_server.close()
        await asyncio.gather(answers, return_exceptions=True)


def _is_of_a_request(command):
    """Whether a request waits for a script; the service sends others by itself, whenever it likes."""
    keys, args = command[3 : 3 + int(command[2])], command[3 + int(command[2]) :]
    trims_sessions = b"{" in args[0] and args[1].isdigit()  # a prefix of keys and a limit
    return not keys[0].endswith(OF_THE_SERVICE) and not trims_sessions


def _is_of_client(key):
    """Only a lookup for a request reads it; the service's own reading of the store does not."""
    return b":client-cutoff:" in key


async def without_signing_key(running, access):
    """Revoke the key that signed an access token, the only one; returns what takes that back."""
    kid = jwt.get_unverified_header(access)["kid"]
    answer = await running.post("/revoke-key", {"kid": kid, "iss": SESSIONS_ISSUER})
    assert answer.status == 200, answer.body
    store = running.service.store
    return lambda: store.revocations.forget_key(store.issuers[SESSIONS_ISSUER], kid)
