"""A network between processes of this machine: relays that delay, hold back or reset what passes.

One child process runs all relays; it takes orders over its standard input. A *party* is a server or a client
by name. A relay to a party recognizes its clients by their processes, so a partition can separate some of
them from the server and not others. It finds the processes in ``/proc``: Linux only.
"""

import asyncio
import collections
import contextlib
import json
import os
import resource
import select
import selectors
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

ANYBODY = "*"

State = Literal["pass", "hold", "reset"]
"""``hold``: nothing arrives until it passes again, then all that was sent, as TCP would repeat it."""

_BUFFERED = 1 << 20
"""Bytes that are buffered in one direction before its sender has to wait."""

_RECOGNITION_S = 5.0
"""How long after a process connects it may be assigned to a party."""


class Network:
    """All relays of a test; they end with the ``with`` block."""

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.rig.network"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        self._one_order = threading.Lock()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.communicate()

    def relay(self, port: int, *, party: str = "", delay: float = 0.0, listen: int = 0) -> int:
        """Begin to relay to a port of 127.0.0.1.

        Args:
            port: Of the server; it need not be up.
            party: The server's name in :meth:`between`.
            delay: Added to everything, each way, in seconds.
            listen: Where to listen; 0: any free port.

        Returns:
            The port to connect to instead.
        """
        return int(self._order(act="relay", port=port, party=party, delay=delay, listen=listen))

    def redirect(self, relay: int, port: int, *, party: str = "") -> None:
        """Let a relay lead to another server from now on; its connections are reset."""
        self._order(act="redirect", relay=relay, port=port, party=party)

    def assign_process(self, pid: int, party: str) -> None:
        """Let a process be of a party: before it connects to anything, or shortly after."""
        self._order(act="assign_process", pid=pid, party=party)

    def between(self, sender: str, receiver: str, state: State = "pass", *, delay: float = 0.0) -> None:
        """Set what becomes of all that one party sends to another, whichever of them connected.

        ``*`` stands for every party without a rule of its own; a rule for the receiver comes before one for
        the sender. ``reset`` ends the connections of the two at once, and every new one.
        """
        self._order(act="between", sender=sender, receiver=receiver, state=state, delay=delay)

    def heal(self) -> None:
        """Remove all rules that :meth:`between` set; what was held arrives."""
        self._order(act="heal")

    def _order(self, **order: Any) -> Any:
        with self._one_order:
            assert self._child.stdin is not None
            assert self._child.stdout is not None
            self._child.stdin.write(json.dumps(order) + "\n")
            self._child.stdin.flush()
            answer = json.loads(self._child.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]


class _Rules:
    """State and delay by sender and receiver."""

    def __init__(self) -> None:
        self._by_pair: dict[tuple[str, str], tuple[State, float]] = {}

    def set(self, sender: str, receiver: str, state: State, delay: float) -> None:
        self._by_pair[sender, receiver] = state, delay

    def clear(self) -> None:
        self._by_pair.clear()

    def of(self, sender: str, receiver: str) -> tuple[State, float]:
        for pair in (sender, receiver), (ANYBODY, receiver), (sender, ANYBODY), (ANYBODY, ANYBODY):
            if pair in self._by_pair:
                return self._by_pair[pair]
        return "pass", 0.0


class _End(asyncio.Protocol):
    """One end of a relayed connection; what it receives goes to ``outbound``."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.outbound: _Direction | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.outbound is not None:
            self.outbound.put(data)
        else:
            self.early.append(data)

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        if self.outbound is not None:
            self.outbound.put(None)

    def reset(self) -> None:
        """End with an RST instead of a FIN."""
        if self.transport is not None:
            with contextlib.suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            self.transport.abort()


class _Direction:
    """What one end sends to the other: pieces, and the time at which each is due; None ends it."""

    def __init__(self, source: _End, sink: _End, delay: float) -> None:
        self._source = source
        self._sink = sink
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._pieces: collections.deque[tuple[float, bytes | None]] = collections.deque()
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self.open = True
        self.extra = 0.0

    def put(self, data: bytes | None) -> None:
        self._pieces.append((self._loop.time() + self._delay + self.extra, data))
        self._size += len(data or b"")
        if self._size > _BUFFERED and self._source.transport is not None:
            self._source.transport.pause_reading()
        self.move()

    def move(self) -> None:
        """Pass on what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self.open and self._pieces:
            due, data = self._pieces[0]
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self.move)
                return
            self._pieces.popleft()
            self._size -= len(data or b"")
            if self._sink.transport is None:
                continue
            if data is None:
                self._sink.transport.close()
            else:
                self._sink.transport.write(data)
        if self._size <= _BUFFERED and self._source.transport is not None:
            self._source.transport.resume_reading()


class _Connection:
    """One relayed connection between two parties."""

    def __init__(self, relay: "_Relay", client: _End, sender: str) -> None:
        self.parties = sender, relay.party
        self.server = _End()
        self.client = client
        self.there = _Direction(client, self.server, relay.delay)
        self.there.open = False
        self.back = _Direction(self.server, client, relay.delay)
        client.outbound, self.server.outbound = self.there, self.back
        for data in client.early:
            self.there.put(data)
        self._connect: asyncio.Task[None] | None = None

    def govern(self, rules: _Rules, relay: "_Relay") -> bool:
        """Apply the rules for the two parties; False where the connection is over."""
        there, there_delay = rules.of(*self.parties)
        back, back_delay = rules.of(*reversed(self.parties))
        if "reset" in (there, back):
            self.reset()
            return False
        self.there.extra, self.back.extra = there_delay, back_delay
        self.there.open = there == "pass" and self.server.transport is not None
        self.back.open = back == "pass"
        if there == back == "pass" and self._connect is None and self.client.transport is not None:
            self._connect = asyncio.create_task(self._connected(rules, relay))
        self.there.move()
        self.back.move()
        return True

    async def _connected(self, rules: _Rules, relay: "_Relay") -> None:
        if relay.delay or self.there.extra:
            await asyncio.sleep(relay.delay + self.there.extra)
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.server, "127.0.0.1", relay.port)
        except OSError:
            self.client.reset()
        else:
            self.govern(rules, relay)

    def reset(self) -> None:
        if self._connect is not None:
            self._connect.cancel()
        self.client.reset()
        self.server.reset()

    @property
    def over(self) -> bool:
        connecting = self._connect is not None and not self._connect.done()
        return self.client.transport is None and self.server.transport is None and not connecting


class _Relay:
    """Listens on one port for one server."""

    def __init__(self, rules: _Rules, parties: "_Parties", port: int, party: str, delay: float) -> None:
        self.rules = rules
        self.parties = parties
        self.port = port
        self.party = party
        self.delay = delay
        self.listening = 0
        self.connections: set[_Connection] = set()

    async def listen(self, port: int) -> int:
        server = await asyncio.get_running_loop().create_server(lambda: _Accepted(self), "127.0.0.1", port)
        self.listening = int(server.sockets[0].getsockname()[1])
        self._server = server
        return self.listening

    def accept(self, client: _End) -> None:
        assert client.transport is not None
        if self.party:
            port = client.transport.get_extra_info("peername")[1]
            self.parties.recognize((port, self.listening), lambda sender: self._begin(client, sender))
        else:
            self._begin(client, "")

    def _begin(self, client: _End, sender: str) -> None:
        if client.transport is None:
            return
        self.connections = {connection for connection in self.connections if not connection.over}
        connection = _Connection(self, client, sender)
        if connection.govern(self.rules, self):
            self.connections.add(connection)

    def govern(self) -> None:
        self.connections = {
            connection for connection in self.connections if connection.govern(self.rules, self)
        }

    def reset(self) -> None:
        for connection in self.connections:
            connection.reset()
        self.connections = set()


class _Accepted(_End):
    def __init__(self, relay: _Relay) -> None:
        super().__init__()
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._relay.accept(self)


class _Parties:
    """Finds out which processes are at the other ends of connections."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._diagnosis = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG)
        self._diagnosis.settimeout(1)

    def assign_process(self, pid: int, party: str) -> None:
        self._names[pid] = party

    def recognize(
        self, ports: tuple[int, int], found: Callable[[str], None], left: float = _RECOGNITION_S
    ) -> None:
        """Call back with the party at the first of two ports; with an empty name where it has none.

        A client that has given up has no inode. A busy machine has many of these, and to look for them in all
        processes again and again would take all of the relays' time.
        """
        inode = self._inode(*ports)
        name = self._owner(b"socket:[%d]" % inode) if inode else ""
        if name or not inode or left < 0:
            found(name)
        else:
            asyncio.get_running_loop().call_later(0.05, self.recognize, ports, found, left - 0.05)

    def _inode(self, port: int, other: int) -> int:
        """The inode of a socket, by its port and its peer's: one request to the kernel (sock_diag(7))."""
        here = socket.inet_aton("127.0.0.1")
        ends = struct.pack(">HH4s12x4s12x", port, other, here, here) + struct.pack(
            "=III", 0, *[2**32 - 1] * 2
        )
        asked = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 2**32 - 1) + ends
        self._diagnosis.send(struct.pack("=IHHII", 16 + len(asked), _BY_FAMILY, 1, 1, 0) + asked)
        answer = self._diagnosis.recv(4096)
        _, kind = struct.unpack_from("=IH", answer)
        return int(struct.unpack_from("=I", answer, 16 + 4 + 48 + 16)[0]) if kind == _BY_FAMILY else 0

    def _owner(self, link: bytes) -> str:
        for pid, name in list(self._names.items()):
            try:
                for descriptor in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208  # Path objects take too long
                    with contextlib.suppress(OSError):
                        if os.readlink(f"/proc/{pid}/fd/{descriptor}".encode()) == link:  # noqa: PTH115  # likewise
                            self._names = {pid: name, **self._names}  # the first that the next look tries
                            return name
            except OSError:
                del self._names[pid]
        return ""


_SOCK_DIAG = 4
_BY_FAMILY = 20


class _Orders:
    """Carries out what comes over the standard input."""

    def __init__(self) -> None:
        self._rules = _Rules()
        self._parties = _Parties()
        self._relays: dict[int, _Relay] = {}

    async def carry_out(self, order: dict[str, Any]) -> Any:
        act = order.pop("act")
        if act == "relay":
            relay = _Relay(self._rules, self._parties, order["port"], order["party"], order["delay"])
            port = await relay.listen(order["listen"])
            self._relays[port] = relay
            return port
        if act == "assign_process":
            self._parties.assign_process(**order)
            return None
        if act == "redirect":
            relay = self._relays[order["relay"]]
            relay.port, relay.party = order["port"], order["party"]
            relay.reset()
        elif act == "between":
            self._rules.set(**order)
        elif act == "heal":
            self._rules.clear()
        for relay in self._relays.values():
            relay.govern()
        return None


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    orders = _Orders()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        try:
            answer: dict[str, Any] = {"result": await orders.carry_out(json.loads(line))}
        except Exception as error:  # noqa: BLE001  # the parent raises it, and all relays go on
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


class _Punctual(selectors.EpollSelector):
    """Waits exactly as long as it was asked to; epoll itself rounds up to whole ms."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.SelectorEventLoop(_Punctual()).run_until_complete(_serve())


if __name__ == "__main__":
    main()
