"""A backend as a process of its own: `python backend.py port`; answers 200 to whatever has no body."""

import asyncio
import sys

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


class Backend(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.read = b""

    def data_received(self, data):
        *heads, self.read = (self.read + data).split(b"\r\n\r\n")
        self.transport.write(ANSWER * len(heads))


async def main():
    server = await asyncio.get_running_loop().create_server(
        Backend, "127.0.0.1", int(sys.argv[1]), backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
