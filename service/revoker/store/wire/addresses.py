"""Where the servers are and how to be let in, from the store's URL.

``redis://``, ``rediss://`` and ``unix://`` name one server; ``redis+sentinel://`` (TLS:
``rediss+sentinel://``) names Sentinels and the name under which they know the primary.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from redis.asyncio.connection import SSLConnection, parse_url

from revoker.errors import StoreUnavailable
from revoker.store.wire.connection import Command, ConnectionLost, Replies, Wire

_DEFAULT_PORTS: Final = {"sentinel": 26379, "cluster": 6379}
_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens: host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""


class Access:
    """How to be let in by a server, and within what time."""

    def __init__(
        self,
        options: dict[str, Any],
        *,
        timeout: float,
        password: str | None = None,
        open_to_all: bool = False,
    ) -> None:
        """Read the options of ``parse_url``.

        Args:
            options: Of the URL.
            timeout: For connecting and logging in together, in seconds.
            password: Where the URL has none.
            open_to_all: Whether the servers may ask for no password although one is given.
        """
        self._open_to_all = open_to_all
        self._user = options.get("username")
        self._password = password or options.get("password")
        self._database = options.get("db")
        tls = options.get("connection_class") is SSLConnection
        self._tls: Final = {k: options[k] for k in _TLS_OPTIONS if k in options} if tls else None
        self._context: ssl.SSLContext | None = None
        self.timeout: Final = timeout

    async def wire(self, place: Place, lost: Callable[[Wire], None]) -> Wire:
        """Connect and log in.

        Raises:
            StoreUnavailable: refused, not let in, or not within the time-out.
        """
        wire = Wire(lost)
        try:
            async with asyncio.timeout(self.timeout):
                await self._connect(place, wire)
                await self._log_in(place, wire)
        except (
            OSError,
            TimeoutError,
            ValueError,
            ConnectionLost,
        ) as error:  # ValueError: a host, a file of TLS
            wire.abort()
            raise StoreUnavailable("the store can't be reached") from error
        except BaseException:  # cancelled too: the connection may stand already
            wire.abort()
            raise
        return wire

    async def _connect(self, place: Place, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        if place.path:
            await loop.create_unix_connection(lambda: wire, place.path)
            return
        if self._tls is not None and self._context is None:
            self._context = SSLConnection(**self._tls).ssl_context.get()
        await loop.create_connection(lambda: wire, place.host, place.port, ssl=self._context)

    async def _log_in(self, place: Place, wire: Wire) -> None:
        commands: list[Command] = []
        if self._password:
            commands.append(("AUTH", self._user, self._password) if self._user else ("AUTH", self._password))
        if self._database:
            commands.append(("SELECT", self._database))
        commands.append(("PING",))  # a server that hangs accepts connections all the same
        *replies, told = await wire.ask(*commands, ("INFO", "server"))
        if not wire.open:
            raise StoreUnavailable("the store closed the connection")
        if self._open_to_all:
            replies = replies[-1:]
        _refuse_errors(replies)
        wire.server = info(told).get("run_id", "") or f"{place.host}:{place.port}{place.path}"


class Reachable(Protocol):
    """A server, wherever it is."""

    @property
    def timeout(self) -> float: ...

    async def wire(self, lost: Callable[[Wire], None]) -> Wire:
        """Connect and log in.

        Raises:
            StoreUnavailable: that can't be done now.
        """


class Address(Reachable, Protocol):
    """Where the primary is, which may change."""

    async def moved(self) -> bool:
        """Whether another server than that of the last wire is the primary by now."""


class Fixed:
    """One server, whatever it is."""

    def __init__(self, place: Place, access: Access) -> None:
        self._place = place
        self._access = access
        self.timeout: Final = access.timeout

    async def wire(self, lost: Callable[[Wire], None]) -> Wire:
        return await self._access.wire(self._place, lost)

    async def moved(self) -> bool:
        return False


class Sentinels:
    """Asks all Sentinels at once which server is the primary; it is believed where most of them name it.

    Most of those that are configured, not of those that answer: one that was cut off, or was never asked to
    watch this primary, still names another one.
    """

    def __init__(self, places: Sequence[Place], name: str, access: Access, to_ask: Access) -> None:
        """Ask by ``to_ask``, then log in to the primary by ``access``."""
        self._places = places
        self._name = name
        self._access = access
        self._to_ask = to_ask
        self._last: Place | None = None
        self.timeout: Final = access.timeout

    async def wire(self, lost: Callable[[Wire], None]) -> Wire:
        place = await self._primary()
        wire = await self._access.wire(place, lost)
        try:
            async with asyncio.timeout(self.timeout):
                [role] = await wire.ask(("ROLE",))
        except (TimeoutError, ConnectionLost) as error:
            wire.abort()
            raise StoreUnavailable("the store can't be reached") from error
        if not isinstance(role, list) or role[:1] != [b"master"]:
            wire.abort()
            raise StoreUnavailable("the Sentinels name a server that is not a primary")
        self._last = place
        return wire

    async def moved(self) -> bool:
        try:
            return self._last is not None and await self._primary() != self._last
        except StoreUnavailable:
            return False  # what the wire leads to may be sound all the same

    async def _primary(self) -> Place:
        """The server that most Sentinels name.

        Raises:
            StoreUnavailable: there is none, with how many answered what.
        """
        tasks = {asyncio.create_task(self._ask(place)) for place in self._places}
        most = len(tasks) // 2 + 1
        answers: Counter[Place | str] = Counter()
        try:
            for answer in asyncio.as_completed(tasks):
                said = await answer
                answers[said] += 1
                if isinstance(said, Place) and answers[said] == most:
                    return said
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        counted = ", ".join(
            f"{count} {f'names {said.host}:{said.port}' if isinstance(said, Place) else said}"
            for said, count in answers.most_common()
        )
        raise StoreUnavailable(
            f"{most} of {len(tasks)} Sentinels must name the same primary {self._name}: {counted}"
        )

    async def _ask(self, place: Place) -> Place | str:
        """Which server one Sentinel names; why it names none."""
        try:
            wire = await self._to_ask.wire(place, lambda _: None)
        except StoreUnavailable as error:
            return str(error).removeprefix("the store ")
        try:
            async with asyncio.timeout(self.timeout):
                [reply] = await wire.ask(("SENTINEL", "MASTER", self._name))
            if isinstance(reply, Exception):
                return f"answered {str(reply).split(' ')[0]}"
            fields = dict(zip(reply[::2], reply[1::2], strict=True))
            return Place(fields[b"ip"].decode(), int(fields[b"port"]))
        except (TimeoutError, ConnectionLost):
            return "did not answer"
        except (TypeError, ValueError, LookupError, AttributeError):
            return "gave a reply that is not understood"
        finally:
            wire.abort()


def address_of(url: str, *, timeout: float, password: str | None = None) -> Address:
    """What a URL means that `revoker.config.value_types.redis_url` has let through."""
    if "+" not in urlsplit(url).scheme:
        options: dict[str, Any] = dict(parse_url(url))
        place = Place(options.get("host", "localhost"), options.get("port", 6379), options.get("path", ""))
        return Fixed(place, Access(options, timeout=timeout, password=password))
    places, options = several(url)
    access = Access(options, timeout=timeout, password=password)
    to_ask = Access({**options, "db": None}, timeout=timeout, password=password, open_to_all=True)
    return Sentinels(places, urlsplit(url).path[1:], access, to_ask)


def is_cluster(url: str) -> bool:
    """Whether a URL names a cluster."""
    return urlsplit(url).scheme.endswith("+cluster")


def several(url: str) -> tuple[list[Place], dict[str, Any]]:
    """The servers that a URL names, and its options."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    user, at, hosts = parts.netloc.rpartition("@")
    places = []
    for each in hosts.split(","):
        one = urlsplit(f"//{each}")
        places.append(Place(one.hostname or "localhost", one.port or _DEFAULT_PORTS[kind]))
    return places, dict(parse_url(f"{scheme}://{user}{at}localhost?{parts.query}"))


def info(text: Any) -> dict[str, str]:
    """The fields of an ``INFO`` reply; none where it was refused."""
    if not isinstance(text, bytes):
        return {}
    lines = text.decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _refuse_errors(replies: Replies) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise StoreUnavailable(f"the store answered {str(reply).split(' ')[0]}") from reply
