"""The addresses of the servers and how to log in to them, from the store's URL.

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
from revoker.store.wire.connection import Command, Connection, ConnectionLost, Replies

_DEFAULT_PORTS: Final = {"sentinel": 26379, "cluster": 6379}
_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""


class Login:
    """Credentials, TLS options and the time-out for connecting to servers."""

    def __init__(
        self,
        options: dict[str, Any],
        *,
        timeout: float,
        password_optional: bool = False,
    ) -> None:
        """Nothing connects yet.

        Args:
            options: As returned by redis-py's ``parse_url``.
            timeout: For connecting and logging in together, in seconds.
            password_optional: Whether a server that refuses the password, since it has none, is accepted.
        """
        self._password_optional = password_optional
        self._user = options.get("username")
        self._password = options.get("password")
        self._database = options.get("db")
        tls = options.get("connection_class") is SSLConnection
        self._tls: Final = {k: options[k] for k in _TLS_OPTIONS if k in options} if tls else None
        self._context: ssl.SSLContext | None = None
        self.timeout: Final = timeout

    async def connect(self, address: ServerAddress, lost: Callable[[Connection], None]) -> Connection:
        """Connect and log in.

        Raises:
            StoreUnavailable: it was refused, or took longer than the time-out.
        """
        connection = Connection(lost)
        try:
            async with asyncio.timeout(self.timeout):
                await self._connect(address, connection)
                await self._log_in(address, connection)
        except (
            OSError,
            TimeoutError,
            ValueError,
            ConnectionLost,
        ) as error:  # ValueError: a malformed host or TLS file
            connection.abort()
            raise StoreUnavailable("the store can't be reached") from error
        except BaseException:  # cancelled, too: it may be connected already
            connection.abort()
            raise
        return connection

    async def _connect(self, address: ServerAddress, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        if address.path:
            await loop.create_unix_connection(lambda: connection, address.path)
            return
        if self._tls is not None and self._context is None:
            self._context = SSLConnection(**self._tls).ssl_context.get()
        await loop.create_connection(lambda: connection, address.host, address.port, ssl=self._context)

    async def _log_in(self, address: ServerAddress, connection: Connection) -> None:
        commands: list[Command] = []
        if self._password:
            commands.append(("AUTH", self._user, self._password) if self._user else ("AUTH", self._password))
        if self._database:
            commands.append(("SELECT", self._database))
        commands.append(("PING",))  # a server that hangs accepts connections all the same
        *replies, server_info = await connection.ask(*commands, ("INFO", "server"))
        if not connection.open:
            raise StoreUnavailable("the store closed the connection")
        if self._password_optional:
            replies = replies[-1:]
        _refuse_errors(replies)
        run_id = parse_info(server_info).get("run_id", "")
        connection.server = run_id or f"{address.host}:{address.port}{address.path}"


class Connectable(Protocol):
    """A server that one can connect to."""

    @property
    def timeout(self) -> float: ...

    async def connect(self, lost: Callable[[Connection], None]) -> Connection:
        """Connect and log in.

        Raises:
            StoreUnavailable: not now.
        """


class PrimaryLocator(Connectable, Protocol):
    """Finds the primary, which may change."""

    async def moved(self) -> bool:
        """Whether another server than that of the last connection is the primary by now."""


class FixedServer:
    """One server, whose role is not asked."""

    def __init__(self, address: ServerAddress, login: Login) -> None:
        self._address = address
        self._login = login
        self.timeout: Final = login.timeout

    async def connect(self, lost: Callable[[Connection], None]) -> Connection:
        return await self._login.connect(self._address, lost)

    async def moved(self) -> bool:
        return False


class Sentinels:
    """Asks all Sentinels at once for the primary, and accepts the server that a majority names.

    A majority of the configured Sentinels, not of those that answer: a partitioned one may name an old
    primary.
    """

    def __init__(
        self, addresses: Sequence[ServerAddress], name: str, login: Login, sentinel_login: Login
    ) -> None:
        """``sentinel_login`` is for the Sentinels, ``login`` for the primary."""
        self._addresses = addresses
        self._name = name
        self._login = login
        self._sentinel_login = sentinel_login
        self._last: ServerAddress | None = None
        self.timeout: Final = login.timeout

    async def connect(self, lost: Callable[[Connection], None]) -> Connection:
        address = await self._primary()
        connection = await self._login.connect(address, lost)
        try:
            async with asyncio.timeout(self.timeout):
                [role] = await connection.ask(("ROLE",))
        except (TimeoutError, ConnectionLost) as error:
            connection.abort()
            raise StoreUnavailable("the store can't be reached") from error
        if not isinstance(role, list) or role[:1] != [b"master"]:
            connection.abort()
            raise StoreUnavailable("the Sentinels name a server that is not a primary")
        self._last = address
        return connection

    async def moved(self) -> bool:
        try:
            return self._last is not None and await self._primary() != self._last
        except StoreUnavailable:
            return False  # what the wire leads to may be sound all the same

    async def _primary(self) -> ServerAddress:
        """The server that a majority of the Sentinels names.

        Raises:
            StoreUnavailable: there is none; the text counts the answers.
        """
        tasks = {asyncio.create_task(self._ask(address)) for address in self._addresses}
        majority = len(tasks) // 2 + 1
        answers: Counter[ServerAddress | str] = Counter()
        try:
            for answer in asyncio.as_completed(tasks):
                named = await answer
                answers[named] += 1
                if isinstance(named, ServerAddress) and answers[named] == majority:
                    return named
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        counted = ", ".join(
            f"{count} {f'names {named.host}:{named.port}' if isinstance(named, ServerAddress) else named}"
            for named, count in answers.most_common()
        )
        raise StoreUnavailable(
            f"{majority} of {len(tasks)} Sentinels must name the same primary {self._name}: {counted}"
        )

    async def _ask(self, address: ServerAddress) -> ServerAddress | str:
        """The server that one Sentinel names, or why it names none."""
        try:
            connection = await self._sentinel_login.connect(address, lambda _: None)
        except StoreUnavailable as error:
            return str(error).removeprefix("the store ")
        try:
            async with asyncio.timeout(self.timeout):
                [reply] = await connection.ask(("SENTINEL", "MASTER", self._name))
            if isinstance(reply, Exception):
                return f"answered {str(reply).split(' ')[0]}"
            fields = dict(zip(reply[::2], reply[1::2], strict=True))
            return ServerAddress(fields[b"ip"].decode(), int(fields[b"port"]))
        except (TimeoutError, ConnectionLost):
            return "did not answer"
        except (TypeError, ValueError, LookupError, AttributeError):
            return "gave a reply that is not understood"
        finally:
            connection.abort()


def address_of(url: str, *, timeout: float) -> PrimaryLocator:
    """The primary that a URL names, which `revoker.config.value_types.redis_url` has validated."""
    if "+" not in urlsplit(url).scheme:
        options: dict[str, Any] = dict(parse_url(url))
        address = ServerAddress(
            options.get("host", "localhost"), options.get("port", 6379), options.get("path", "")
        )
        return FixedServer(address, Login(options, timeout=timeout))
    addresses, options = parse_server_list(url)
    login = Login(options, timeout=timeout)
    sentinel_login = Login({**options, "db": None}, timeout=timeout, password_optional=True)
    return Sentinels(addresses, urlsplit(url).path[1:], login, sentinel_login)


def is_cluster(url: str) -> bool:
    """Whether a URL names a cluster."""
    return urlsplit(url).scheme.endswith("+cluster")


def parse_server_list(url: str) -> tuple[list[ServerAddress], dict[str, Any]]:
    """The servers that a URL names, and its options."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    user, at, hosts = parts.netloc.rpartition("@")
    addresses = []
    for text in hosts.split(","):
        host = urlsplit(f"//{text}")
        addresses.append(ServerAddress(host.hostname or "localhost", host.port or _DEFAULT_PORTS[kind]))
    return addresses, dict(parse_url(f"{scheme}://{user}{at}localhost?{parts.query}"))


def parse_info(text: Any) -> dict[str, str]:
    """The fields of an ``INFO`` reply; empty where it is an error."""
    if not isinstance(text, bytes):
        return {}
    lines = text.decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _refuse_errors(replies: Replies) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise StoreUnavailable(f"the store answered {str(reply).split(' ')[0]}") from reply
