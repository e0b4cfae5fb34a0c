"""The address of a client behind proxies: ``server.trusted_proxies``, ``Forwarded`` and ``X-Forwarded-For``.

A proxy appends the address that it was reached from, so the lists are read from the right: as far as proxies
wrote them that are trusted. What is left of that may come from the client.
"""

import ipaddress
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from aiohttp import web

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_PROXIES: Final = 32
"""In a row. Beyond that the list is not read, so that no request costs more than this."""

# Possessive: spaces that are tried in every division would take quadratic time.
_PAIR: Final = re.compile(
    r"""[ \t]*+
        (?:(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s",;\\]+)))?
        [ \t]*+(?P<end>[;,]|\Z)""",
    re.VERBOSE,
).match
_ESCAPED: Final = re.compile(r"\\(.)")
_NODE: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+))(?::(?:[0-9]{1,5}|_[0-9A-Za-z._-]+))?"
).fullmatch
_BARE: Final = re.compile(r"[0-9A-Fa-f:.]+").fullmatch


class ClientAddresses:
    """Finds the addresses of clients; ``trusted``: the networks of proxies. None: every peer is a client."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._trusted: Final = tuple(map(_unmapped_network, trusted))

    def of(self, request: web.Request) -> str:
        """The client of a request; empty where the connection has no address."""
        peer = request.remote or ""
        if not self._trusted:
            return peer
        headers = request.headers
        return self.behind(peer, headers.getall("Forwarded", ()), headers.getall("X-Forwarded-For", ()))

    def behind(self, peer: str, forwarded: Sequence[str], forwarded_for: Sequence[str]) -> str:
        """The client behind a peer: the first address from the right that is not trusted.

        The last address that was read, where an element can't be read, where the list ends, or where both
        headers are there and differ: a proxy that writes one of them passes on what the client wrote in the
        other.
        """
        client = _read(peer.partition("%")[0]) if self._trusted else None
        if client is None:
            return peer
        lists = []
        if forwarded:
            lists.append(_forwarded(forwarded))
        if forwarded_for:
            lists.append(_forwarded_for(forwarded_for))
        for found in itertools.islice(zip(*lists, strict=False), MAX_PROXIES):
            if found[0] is None or found[-1] != found[0] or not self._trusts(client):
                break
            client = found[0]
        return str(client)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _forwarded(lines: Sequence[str]) -> Iterator[Address | None]:
    """The elements of ``Forwarded`` (RFC 7239 §4) from the right; None: it can't be read."""
    for line in reversed(lines):
        for node in reversed(_nodes(line)):
            match = _NODE(node) if node is not None else None
            yield _read(match["v6"] or match["v4"]) if match else None


def _nodes(line: str) -> list[str | None]:
    """The ``for`` of every element; None where it has none or two, and alone where the line can't be read.

    Empty elements are left out (RFC 9110 §5.6.1).
    """
    nodes: list[str | None] = []
    values: list[str] = []
    position = pairs = 0
    while match := _PAIR(line, position):
        position = match.end()
        if match["name"]:
            pairs += 1
            if match["name"].lower() == "for":
                quoted = match["quoted"]
                values.append(match["plain"] if quoted is None else _ESCAPED.sub(r"\1", quoted))
        if match["end"] != ";":
            if pairs:
                nodes.append(values[0] if len(values) == 1 else None)
            values, pairs = [], 0
            if not match["end"]:
                return nodes
    return [None]


def _forwarded_for(lines: Sequence[str]) -> Iterator[Address | None]:
    """The elements of ``X-Forwarded-For`` from the right, with or without a port; None: it can't be read."""
    for line in reversed(lines):
        for element in reversed(line.split(",")):
            text = element.strip(" \t")
            match = _NODE(text)
            yield _read(match["v6"] or match["v4"]) if match else _read(text) if _BARE(text) else None


def _read(text: str) -> Address | None:
    """An address; an IPv4 address that is written as IPv6 (RFC 4291 §2.5.5.2) is the IPv4 address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped if address.version == 6 else None) or address


def _unmapped_network(text: str) -> Network:
    network = ipaddress.ip_network(text)
    if network.version == 6 and network.prefixlen >= 96 and (start := network.network_address.ipv4_mapped):
        return ipaddress.ip_network((start, network.prefixlen - 96))
    return network
