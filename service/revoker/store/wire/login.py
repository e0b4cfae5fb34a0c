"""Connects to a server and logs in to it; says what is wrong, and what to set, where that fails."""

import asyncio
import contextlib
import ssl
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from revoker.errors import StoreUnavailable
from revoker.store.wire.connection import (
    ROLE_BY_INFO,
    Command,
    Connection,
    ConnectionLost,
    answered_with,
    parse_info,
    printable,
    role_in,
)

_log = structlog.get_logger("store")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """How a server is logged in to.

    Attributes:
        password_file: Holds the password instead. It is read at every login, so that it can be replaced.
        setting: Where to correct the password, for messages.
        optional: Whether a server that has no password is accepted.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    password_file: str = ""
    setting: str = "redis.password_file or redis.url"
    optional: bool = False

    def read_password(self) -> str:
        """The password now; empty: none.

        Raises:
            StoreUnavailable: its file is unreadable or empty.
        """
        if not self.password_file:
            return self.password
        try:
            password = Path(self.password_file).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError):
            raise StoreUnavailable(f"{self.setting} can't be read") from None
        if not password:
            raise StoreUnavailable(f"{self.setting} is empty")
        return password

    def command(self, password: str) -> Command:
        return ("AUTH", self.username, password) if self.username else ("AUTH", password)


@dataclass(frozen=True, slots=True)
class Tls:
    """Files and checks of TLS; empty files: the system's authorities, no client certificate."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    check_hostname: bool = True
    verify: bool = True

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> "Tls":
        """From the options of a URL."""
        verify = options.get("ssl_cert_reqs", "required") != "none"
        return cls(
            ca_file=options.get("ssl_ca_certs", ""),
            cert_file=options.get("ssl_certfile", ""),
            key_file=options.get("ssl_keyfile", ""),
            check_hostname=verify and str(options.get("ssl_check_hostname", True)).lower() == "true",
            verify=verify,
        )

    def versions(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when one of the files is replaced; raises ``OSError`` where one is not there."""
        stats = [Path(file).stat() for file in (self.ca_file, self.cert_file, self.key_file) if file]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def context(self) -> ssl.SSLContext:
        """Raises ``OSError`` (``SSLError`` is one) or ``ValueError`` where a file is unusable."""
        context = ssl.create_default_context(cafile=self.ca_file or None)
        context.check_hostname = self.check_hostname
        if not self.verify:
            context.verify_mode = ssl.CERT_NONE
        if self.cert_file:
            # without a password, OpenSSL would ask at the terminal for that of an encrypted key, and block
            context.load_cert_chain(self.cert_file, self.key_file or None, password=b"")
        return context


@dataclass(frozen=True, slots=True)
class TlsAdvice:
    """What to set where TLS fails, for messages."""

    turn_on: str = "write rediss instead of redis in redis.url"
    turn_off: str = "write redis instead of rediss in redis.url"
    authority: str = "ssl_ca_certs in redis.url"
    certificate: str = "ssl_certfile in redis.url"


ADVICE_FOR_SENTINELS: Final = TlsAdvice(
    "set redis.sentinel_tls to on",
    "set redis.sentinel_tls to off",
    "redis.sentinel_ca_file",
    "redis.sentinel_cert_file",
)


class Login:
    """Credentials, TLS and the time-out for connecting to servers of one kind."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        timeout: float,
        tls: Tls | None = None,
        advice: TlsAdvice = TlsAdvice(),  # it is immutable
        database: int = 0,
        asks_role: bool = True,
        clustered: bool = False,
    ) -> None:
        """Nothing connects yet.

        Args:
            credentials: To log in with.
            timeout: For connecting and logging in together, in seconds.
            tls: None: without TLS.
            advice: What to set where TLS fails.
            database: Its number.
            asks_role: Whether a server that does not show its role is refused. Sentinels have none.
            clustered: Whether servers of a cluster are expected; if not, they are refused.
        """
        self._credentials = credentials
        self._tls = tls
        self._advice = advice
        self._context: ssl.SSLContext | None = None
        self._tried: tuple[tuple[int, int, int], ...] = ()
        self._tls_failure = ""
        self._database = database
        self._asks_role = asks_role
        self._clustered = clustered
        self._passwords: weakref.WeakKeyDictionary[Connection, str] = weakref.WeakKeyDictionary()
        self._refused_password = ""
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
        except (OSError, TimeoutError, ValueError, ConnectionLost) as error:  # ValueError: a malformed host
            connection.abort()
            raise StoreUnavailable(self._why(error, connection)) from error
        except BaseException:  # cancelled, too: it may be connected already
            connection.abort()
            raise
        return connection

    async def renew(self) -> None:
        """Log in again on all connections if the password has changed: it may expire while they are open."""
        if not self._credentials.password_file or not self._passwords:
            return
        with contextlib.suppress(StoreUnavailable):  # the next login reports it
            password = self._credentials.read_password()
            old = [connection for connection, used in self._passwords.items() if used != password]
            await asyncio.gather(
                *(self._renew(connection, password) for connection in old if connection.open)
            )

    async def _renew(self, connection: Connection, password: str) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                [reply] = await connection.ask(self._credentials.command(password))
        except (TimeoutError, ConnectionLost):
            return  # requests on this connection report it
        if not isinstance(reply, Exception):
            self._passwords[connection] = password
        elif self._refused_password != password:  # the server may learn it later: it is tried again
            self._refused_password = password
            _log.warning("new_password_refused", error=printable(str(reply)))

    def _tls_context(self) -> ssl.SSLContext | None:
        """With the files as they are now: certificates are replaced before they expire.

        Files that do not fit together may be about to be replaced one after the other, so the last ones that
        did are used until then. They are tried once: loading takes long, and the log has each failure once.
        """
        if self._tls is None:
            return None
        try:
            versions = self._tls.versions()
            if self._context is None or versions != self._tried:
                self._tried = versions
                self._context, self._tls_failure = self._tls.context(), ""
        except (OSError, ValueError) as error:
            if self._context is None:
                raise
            if self._tls_failure != str(error):
                self._tls_failure = str(error)
                _log.warning("tls_files_unusable", error=self._tls_failure)
        return self._context

    async def _connect(self, address: ServerAddress, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        if address.path:
            await loop.create_unix_connection(lambda: connection, address.path)
            return
        await loop.create_connection(lambda: connection, address.host, address.port, ssl=self._tls_context())

    async def _log_in(self, address: ServerAddress, connection: Connection) -> None:
        password = self._credentials.read_password()
        commands: list[Command] = [("PING",)]  # a server that hangs accepts connections all the same
        if self._database:
            commands.insert(0, ("SELECT", self._database))
        sent = [self._credentials.command(password), *commands] if password else commands
        replies = await connection.ask(*sent, ("INFO", "server"), ("ROLE",))
        if not connection.open:
            raise StoreUnavailable("the store closed the connection")
        *replies, server_info, role = replies
        refusal = replies.pop(0) if password else None
        if isinstance(refusal, Exception) and not self._accepts(refusal, replies):
            words = printable(str(refusal))
            raise StoreUnavailable(
                f"the store refused the password ({words}): check {self._credentials.setting}"
            )
        for reply in replies:
            if isinstance(reply, Exception):
                raise StoreUnavailable(self._refusal(reply, password)) from reply
        self._passwords[connection] = password
        fields = parse_info(server_info)
        connection.server = fields.get("run_id", "") or str(address)
        if not self._asks_role:
            return
        if "cluster" in {fields.get("redis_mode"), fields.get("server_mode")} and not self._clustered:
            raise StoreUnavailable(
                "the server belongs to a cluster: redis.url must begin with redis+cluster:// (TLS:"
                " rediss+cluster://)"
            )
        if isinstance(role, Exception):
            await self._find_role_by_info(connection, role)

    def _accepts(self, refusal: Exception, replies: list[Any]) -> bool:
        """Whether a refused password does not matter, because the server has none."""
        answers = not any(isinstance(reply, Exception) for reply in replies)
        return self._credentials.optional and answers and "WRONGPASS" not in str(refusal)

    def _refusal(self, reply: Exception, password: str) -> str:
        if str(reply).startswith("NOAUTH") and not password:
            return f"the store requires a password: set it in {self._credentials.setting}"
        return answered_with(reply)

    @staticmethod
    async def _find_role_by_info(connection: Connection, refusal: Exception) -> None:
        """Let a server that refuses ``ROLE`` show its role by ``INFO replication``."""
        [info] = await connection.ask(("INFO", "replication"))
        try:
            role_in(info)
        except LookupError:
            words = printable(str(info)) if isinstance(info, Exception) else "it has no role"
            raise StoreUnavailable(
                "the store does not show whether it is a primary, and one of these commands is needed:"
                f" ROLE ({printable(str(refusal))}), INFO replication ({words})"
            ) from refusal
        connection.role = ROLE_BY_INFO

    def _why(self, error: Exception, connection: Connection) -> str:
        """Why a server could not be logged in to, and what to set, as far as that is known."""
        if connection.last_error:
            words = printable(connection.last_error)
            if _about_password(connection.last_error):
                return f"the store refused the password ({words}): check {self._credentials.setting}"
            return f"the store ended the connection ({words})"
        if isinstance(error, ConnectionLost) and isinstance(connection.ended_by, ssl.SSLError):
            error = connection.ended_by
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the store's certificate is not accepted ({printable(error.verify_message)}): check"
                f" {self._advice.authority}"
            )
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            return (
                f"the store refused TLS ({printable(error.reason)}): if it asks for a certificate, check"
                f" {self._advice.certificate}"
            )
        if isinstance(error, ConnectionLost):  # as servers do that expect TLS, or a certificate
            advice = f"if its port expects TLS, {self._advice.turn_on}"
            if self._tls is not None:
                advice = f"if it asks for a certificate, check {self._advice.certificate}"
            return f"the store ended the connection without an answer: {advice}"
        failed = isinstance(error, (ssl.SSLError, TimeoutError, ConnectionResetError))
        if self._tls is not None and failed and not connection.open:
            return f"the store can't be reached with TLS: if its port has none, {self._advice.turn_off}"
        return "the store can't be reached"


def _about_password(words: str) -> bool:
    """Whether a server's error refuses the password; some servers end the connection after it."""
    return words.startswith(("WRONGPASS", "ERR invalid password", "ERR AUTH", "ERR Client sent AUTH"))
