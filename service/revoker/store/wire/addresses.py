"""The addresses of the servers, and who is the primary, from the store's URL.

``redis://``, ``rediss://`` and ``unix://`` name one server; ``redis+sentinel://`` (TLS:
``rediss+sentinel://``) names Sentinels and the name under which they know the primary.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from redis.asyncio.connection import SSLConnection, parse_url

from revoker.errors import StoreUnavailable
from revoker.store.wire.connection import Connection, ConnectionLost, role_in
from revoker.store.wire.login import ADVICE_FOR_SENTINELS, Credentials, Login, ServerAddress, Tls

_DEFAULT_PORTS: Final = {"sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class SentinelAccess:
    """How Sentinels are reached where that differs from the servers.

    Attributes:
        tls: None: as the servers.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    password_file: str = ""
    tls: bool | None = None
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


class Connectable(Protocol):
    """A server that one can connect to."""

    @property
    def timeout(self) -> float: ...

    async def connect(self, lost: Callable[[Connection], None]) -> Connection:
        """Connect and log in.

        Raises:
            StoreUnavailable: not now.
        """


@dataclass(frozen=True, slots=True)
class Naming:
    """What Sentinels say of the primary.

    Attributes:
        server: As :attr:`Connection.server`, of the server that most of them name.
        others: How many other servers there are, up or down, by the one of these Sentinels that counts most.
            None: one of them does not say.
        asked: When they were asked, by the loop's clock.
        since: When they were first asked and named this server, by the loop's clock.
    """

    server: str
    others: int | None
    asked: float
    since: float


class PrimaryLocator(Connectable, Protocol):
    """Finds the primary, which may change."""

    @property
    def naming(self) -> Naming | None:
        """What Sentinels last said, if it is of the server of the last connection; None without Sentinels."""

    async def moved(self) -> bool:
        """Whether another server than that of the last connection is the primary by now; it says so once."""

    async def renew(self) -> None:
        """As :meth:`Login.renew`."""

    async def faults(self) -> list[str]:
        """What may keep the primary from being found, in words."""


class FixedServer:
    """One server, whose role is not asked."""

    def __init__(self, address: ServerAddress, login: Login) -> None:
        self._address = address
        self._login = login
        self.timeout: Final = login.timeout
        self.naming: Final = None

    async def connect(self, lost: Callable[[Connection], None]) -> Connection:
        return await self._login.connect(self._address, lost)

    async def moved(self) -> bool:
        return False

    async def renew(self) -> None:
        await self._login.renew()

    async def faults(self) -> list[str]:
        return []


@dataclass(frozen=True, slots=True)
class _Named:
    """A primary as one Sentinel names it, or several; ``others`` as in :class:`Naming`."""

    address: ServerAddress
    others: int | None


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
        self._server = ""
        self._others_behind = False
        self.naming: Naming | None = None
        self.timeout: Final = login.timeout

    async def connect(self, lost: Callable[[Connection], None]) -> Connection:
        asked = asyncio.get_running_loop().time()
        named = await self._primary()
        connection = await self._login.connect(named.address, lost)
        try:
            async with asyncio.timeout(self.timeout):
                role = role_in(await connection.ask_role())
        except (TimeoutError, ConnectionLost) as error:
            connection.abort()
            raise StoreUnavailable("the store can't be reached") from error
        except LookupError:
            role = []
        if role[:1] != [b"master"]:
            connection.abort()
            raise StoreUnavailable("the Sentinels name a server that is not a primary")
        self._others_behind = self._others_behind or self._last not in {None, named.address}
        self._last, self._server = named.address, connection.server
        self._note(named, asked)
        return connection

    async def moved(self) -> bool:
        if self._others_behind:  # one connection was made again, to another primary
            self._others_behind = False
            return True
        asked, last = asyncio.get_running_loop().time(), self._last
        try:
            named = await self._primary()
        except StoreUnavailable:
            return False  # the present connection may be to the primary all the same
        if last is None or last != self._last:  # connected meanwhile
            return False
        if named.address != last:
            self._last = self.naming = None  # reported once
            return True
        self._note(named, asked)
        return False

    def _note(self, named: "_Named", asked: float) -> None:
        """Note that Sentinels have named the server of the last connection."""
        last = self.naming
        since = asked if last is None or last.server != self._server else last.since
        self.naming = Naming(self._server, named.others, asked, since)

    async def renew(self) -> None:
        await self._login.renew()

    async def faults(self) -> list[str]:
        answers = await asyncio.gather(*map(self._ask_one, self._addresses))
        named = {answer.address for _, answer in answers if isinstance(answer, _Named)}
        found = []
        for sentinel, answer in answers:
            if not isinstance(answer, _Named):
                found.append(f"the Sentinel at {sentinel} {answer}")
            elif answer.others is None:
                found.append(f"the Sentinel at {sentinel} does not describe the primary (SENTINEL MASTER)")
            elif len(named) > 1:
                found.append(f"the Sentinel at {sentinel} names {answer.address}")
        return found

    async def _primary(self) -> "_Named":
        """The server that a majority of the Sentinels names.

        Raises:
            StoreUnavailable: there is none; the text counts the answers.
        """
        tasks = {asyncio.create_task(self._ask_one(address)) for address in self._addresses}
        majority = len(tasks) // 2 + 1
        answers: dict[ServerAddress | str, list[ServerAddress]] = {}
        others: dict[ServerAddress, list[int | None]] = {}
        try:
            for answer in asyncio.as_completed(tasks):
                sentinel, named = await answer
                if isinstance(named, _Named):
                    others.setdefault(named.address, []).append(named.others)
                answers.setdefault(named.address if isinstance(named, _Named) else named, []).append(sentinel)
                if isinstance(named, _Named) and len(answers[named.address]) == majority:
                    counts = [count for count in others[named.address] if count is not None]
                    return _Named(named.address, max(counts) if len(counts) == majority else None)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        counted = ", ".join(
            f"{len(by)} {f'names {named}' if isinstance(named, ServerAddress) else named}"
            f" (at {', '.join(map(str, by))})"
            for named, by in sorted(answers.items(), key=lambda answer: -len(answer[1]))
        )
        raise StoreUnavailable(
            f"{majority} of {len(tasks)} Sentinels must name the same primary {self._name}: {counted}"
        )

    async def _ask_one(self, address: ServerAddress) -> "tuple[ServerAddress, _Named | str]":
        return address, await self._ask(address)

    async def _ask(self, address: ServerAddress) -> "_Named | str":
        """The server that one Sentinel names, or why it names none."""
        try:
            connection = await self._sentinel_login.connect(address, lambda _: None)
        except StoreUnavailable as error:
            return str(error).removeprefix("the store ")
        try:
            async with asyncio.timeout(self.timeout):
                named, described = await connection.ask(
                    ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name), ("SENTINEL", "MASTER", self._name)
                )
            if isinstance(named, Exception):
                return f"answered {str(named).split(' ')[0]}"
            if named is None:
                return f"knows no primary {self._name}"
            host, port = named
            address = ServerAddress(host.decode(), int(port))
            return _Named(address, _others(described, address))
        except (TimeoutError, ConnectionLost):
            return "did not answer"
        except (TypeError, ValueError, LookupError, AttributeError):
            return "gave a reply that is not understood"
        finally:
            connection.abort()


def _others(described: Any, named: ServerAddress) -> int | None:
    """How many servers there are beside the one that was named, by a reply to ``SENTINEL MASTER``.

    None where it does not say: during a failover a Sentinel that names the new primary may still describe the
    former one.
    """
    if isinstance(described, Exception):
        return None
    fields = dict(zip(described[::2], described[1::2], strict=True))
    if ServerAddress(fields[b"ip"].decode(), int(fields[b"port"])) != named:
        return None
    others = fields.get(b"num-slaves")
    return None if others is None else int(others)


def address_of(
    url: str, *, timeout: float, password_file: str = "", sentinels: SentinelAccess | None = None
) -> PrimaryLocator:
    """The primary that a URL names, which `revoker.config.value_types.redis_url` has validated."""
    if "+" not in urlsplit(url).scheme:
        options: dict[str, Any] = dict(parse_url(url))
        address = ServerAddress(
            options.get("host", "localhost"), options.get("port", 6379), options.get("path", "")
        )
        return FixedServer(address, login_of(options, timeout=timeout, password_file=password_file))
    addresses, options = parse_server_list(url)
    login = login_of(options, timeout=timeout, password_file=password_file)
    sentinel_login = _sentinel_login(options, timeout, password_file, sentinels or SentinelAccess())
    return Sentinels(addresses, urlsplit(url).path[1:], login, sentinel_login)


def login_of(
    options: Mapping[str, Any], *, timeout: float, password_file: str = "", clustered: bool = False
) -> Login:
    """How servers are logged in to, by the options of their URL."""
    return Login(
        _credentials(options, password_file),
        timeout=timeout,
        tls=_tls_of(options),
        database=int(options.get("db") or 0),
        clustered=clustered,
    )


def _credentials(options: Mapping[str, Any], password_file: str) -> Credentials:
    return Credentials(
        options.get("username") or "",
        options.get("password") or "",
        password_file,
        "redis.password_file" if password_file else "redis.password_file or redis.url",
    )


def _tls_of(options: Mapping[str, Any]) -> Tls | None:
    return Tls.of_options(options) if options.get("connection_class") is SSLConnection else None


def _sentinel_login(
    options: Mapping[str, Any], timeout: float, password_file: str, access: SentinelAccess
) -> Login:
    if access.username or access.password or access.password_file:
        credentials = Credentials(
            access.username, access.password, access.password_file, "redis.sentinel_password_file"
        )
    else:  # the password of the servers, unless they have none
        credentials = dataclasses.replace(
            _credentials(options, password_file), optional=True, setting="redis.sentinel_password_file"
        )
    tls = _tls_of(options)
    if access.tls is not None:
        tls = (tls or Tls()) if access.tls else None
    if tls is not None and (access.ca_file or access.cert_file):
        tls = dataclasses.replace(
            tls,
            ca_file=access.ca_file or tls.ca_file,
            cert_file=access.cert_file or tls.cert_file,
            key_file=access.key_file if access.cert_file else tls.key_file,
        )
    return Login(credentials, timeout=timeout, tls=tls, advice=ADVICE_FOR_SENTINELS, asks_role=False)


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
