"""Relays delay, hold back and reset connections as their rules say."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest

from tests.rig.network import Network

ECHO = """
import socket, sys
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
for order in sys.stdin:
    patience, line = order.split(" ", 1)
    link.settimeout(float(patience))
    try:
        link.sendall(line.encode())
        print(link.makefile().readline() or "closed\\n", end="", flush=True)
    except TimeoutError:
        print("nothing", flush=True)
    except ConnectionError:
        print("reset", flush=True)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture
def server() -> Iterator[int]:
    """Echoes lines."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                link, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(link,), daemon=True).start()

    def echo(link: socket.socket) -> None:
        with link, link.makefile("rb") as lines, contextlib.suppress(ConnectionError):
            for line in lines:
                link.sendall(line)

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    serving.join()
    listening.close()


class Client:
    """A process of a party, with one connection to a port."""

    def __init__(self, network: Network, port: int, party: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ECHO, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        network.assign_process(self.process.pid, party)

    def ask(self, line: str, patience: float = 120.0) -> str:
        """Send a line; returns what comes back within ``patience`` seconds, or ``nothing``."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{patience} {line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def test_what_passes_arrives_and_a_closed_connection_is_closed_at_both_ends(
    network: Network, server: int
) -> None:
    with socket.create_connection(("127.0.0.1", network.relay(server))) as link:
        link.sendall(b"a" * 3_000_000 + b"\n")
        assert len(link.makefile("rb").readline()) == 3_000_001
    with socket.create_connection(("127.0.0.1", network.relay(1))) as link, pytest.raises(ConnectionError):
        link.recv(1)


def test_a_delay_is_added_both_ways(network: Network, server: int) -> None:
    with socket.create_connection(("127.0.0.1", network.relay(server, delay=0.001))) as link:
        lines = link.makefile("rb")
        for _ in range(20):
            began = time.perf_counter()
            link.sendall(b"a\n")
            lines.readline()
            assert time.perf_counter() - began >= 0.002


def test_a_partition_holds_back_one_party_and_not_the_other(network: Network, server: int) -> None:
    relay = network.relay(server, party="store")
    with Client(network, relay, "one") as one, Client(network, relay, "two") as two:
        assert one.ask("1") == "1"
        assert two.ask("2") == "2"
        network.between("one", "store", "hold")
        assert one.ask("3", patience=0.3) == "nothing"
        assert two.ask("4") == "4"
        network.heal()
        assert one.ask("5") == "3"


def test_an_answer_can_be_held_back_alone(network: Network, server: int) -> None:
    relay = network.relay(server, party="store")
    with Client(network, relay, "one") as one:
        assert one.ask("1") == "1"
        network.between("store", "one", "hold")
        assert one.ask("2", patience=0.3) == "nothing"
        network.between("store", "one")
        assert one.ask("3") == "2"


def test_a_reset_ends_connections_that_exist_and_new_ones(network: Network, server: int) -> None:
    relay = network.relay(server, party="store")
    with Client(network, relay, "one") as one:
        assert one.ask("1") == "1"
        network.between("*", "store", "reset")
        assert one.ask("2") in {"reset", "closed"}
    with Client(network, relay, "one") as again:
        assert again.ask("1") in {"reset", "closed"}


def test_a_connection_made_during_a_partition_is_usable_after_it(network: Network, server: int) -> None:
    relay = network.relay(server, party="store")
    network.between("*", "store", "hold")
    with Client(network, relay, "one") as one:
        assert one.ask("1", patience=0.1) == "nothing"
        network.heal()
        assert one.ask("2") == "1"


def test_a_relay_can_be_redirected(network: Network, server: int) -> None:
    relay = network.relay(1)
    network.redirect(relay, server)
    with socket.create_connection(("127.0.0.1", relay)) as link:
        link.sendall(b"a\n")
        assert link.makefile().readline() == "a\n"
