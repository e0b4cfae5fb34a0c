"""Asks a target whether it accepts a token, and the upstream to revoke one."""

import asyncio
import enum
import functools
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from yarl import URL

from revoker import __version__
from revoker.config.canary import CanaryUpstreamSettings, TargetSettings

MAX_ANSWER_BYTES: Final = 64 * 1024

_HEADERS: Final = {"Cache-Control": "no-store", "User-Agent": f"revoker-canary/{__version__}"}
_FAULTS: Final = (aiohttp.ClientError, OSError, ValueError, msgspec.MsgspecError)


class Answer(enum.Enum):
    """What an answer says about a token; the value is the reason why a round fails that ends with it."""

    ACCEPTED = "late"
    REFUSED = "not_accepted"
    NO_VERDICT = "no_verdict"
    NONE = "unreachable"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, and for people what it was."""

    answer: Answer
    problem: str


LookUp = Callable[[str, int], Awaitable[list[str]]]


class _Introspection(msgspec.Struct, frozen=True):
    active: bool


_decode: Final = msgspec.json.Decoder(_Introspection).decode


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the canary; ``exp`` in seconds since 1970."""

    text: str
    iss: str
    jti: str
    exp: int


class Place:
    """One address of a target."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: URL,
        *,
        tls: ssl.SSLContext | bool,
        secret_file: str,
        name: str = "",
        address: str = "",
    ) -> None:
        """A place to ask.

        Args:
            http: Sends the requests.
            url: Of `/introspect`, or of a page behind a gateway.
            tls: Its authorities.
            secret_file: Of the caller at `/introspect`; empty: it is a page.
            name: That in its certificate and in ``Host``, where it is not the host of ``url``.
            address: By which messages name it; empty: it is the only one.
        """
        self.address: Final = address
        self._http = http
        self._url = url
        self._secret_file = secret_file
        self._options: dict[str, Any] = {"allow_redirects": False, "ssl": tls}
        self._headers = dict(_HEADERS)
        if name:
            self._options["server_hostname"] = name if url.scheme == "https" else None
            self._headers["Host"] = name if url.is_default_port() else f"{name}:{url.port}"

    async def ask(self, token: Token, seconds: float) -> Reply:
        """Whether it accepts the token; waits so many seconds for the answer."""
        try:
            async with asyncio.timeout(seconds):
                return await (self._introspect(token) if self._secret_file else self._fetch(token))
        except TimeoutError:
            return Reply(Answer.NONE, f"no answer within {seconds:.3g} s")
        except _FAULTS as fault:
            return Reply(Answer.NONE, str(fault) or type(fault).__name__)

    async def _introspect(self, token: Token) -> Reply:
        headers = {**self._headers, **_bearer(_secret(self._secret_file))}
        async with self._http.post(
            self._url, json={"token": token.text}, headers=headers, **self._options
        ) as response:
            if response.status != 200:
                return Reply(Answer.NO_VERDICT, f"answered with status {response.status}")
            active = _decode(await _body(response)).active
        return Reply(Answer.ACCEPTED, "active") if active else Reply(Answer.REFUSED, "inactive")

    async def _fetch(self, token: Token) -> Reply:
        headers = {**self._headers, **_bearer(token.text)}
        async with self._http.get(self._url, headers=headers, **self._options) as response:
            status = response.status
        text = f"answered with status {status}"
        if status in {401, 403}:
            return Reply(Answer.REFUSED, text)
        return Reply(Answer.ACCEPTED if 200 <= status < 300 or status == 404 else Answer.NO_VERDICT, text)


class Target:
    """An edge, a service or a gateway."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        settings: TargetSettings,
        upstream: CanaryUpstreamSettings,
        look_up: LookUp | None = None,
    ) -> None:
        """``look_up``: finds the addresses of a host."""
        self.name: Final = settings.name
        url = URL(settings.url)
        introspects = settings.kind == "introspect"
        self._url: Final = url / "introspect" if introspects else url
        self._look_up: Final = look_up or _addresses
        self._all_addresses: Final = settings.all_addresses
        self._server_name: Final = settings.server_name
        self._place: Final = functools.partial(
            Place,
            http,
            tls=_tls(settings.ca_file),
            secret_file=(settings.secret_file or upstream.secret_file) if introspects else "",
        )

    async def places(self, seconds: float) -> list[Place]:
        """Whom to ask: the URL, or every address of its host, which is looked up within so many seconds.

        Raises:
            OSError: the host has no address, or none was found in time.
        """
        url, host = self._url, self._url.host or ""
        if not self._all_addresses:
            return [self._place(url, name=self._server_name)]
        async with asyncio.timeout(seconds):
            addresses = await self._look_up(host, url.port or 0)
        name = self._server_name or host
        return [self._place(url.with_host(address), name=name, address=address) for address in addresses]


class Upstream:
    """The service at which tokens are revoked."""

    def __init__(self, http: aiohttp.ClientSession, settings: CanaryUpstreamSettings) -> None:
        self._http = http
        self._url: Final = URL(settings.url) / "revoke"
        self._secret_file: Final = settings.secret_file
        self._tls: Final = _tls(settings.ca_file)

    async def revoke(self, token: Token, seconds: float) -> str:
        """Revoke a token; the problem where that is not acknowledged, otherwise an empty text."""
        body = {"jti": token.jti, "iss": token.iss, "exp": token.exp}
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.post(
                    self._url,
                    json=body,
                    headers={**_HEADERS, **_bearer(_secret(self._secret_file))},
                    allow_redirects=False,
                    ssl=self._tls,
                ) as response,
            ):
                if response.status == 200:
                    return ""
                return f"answered with status {response.status}"
        except TimeoutError:
            return f"no answer within {seconds:.3g} s"
        except _FAULTS as fault:
            return str(fault) or type(fault).__name__


async def _addresses(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _secret(path: str) -> str:
    return Path(path).read_text(encoding="utf-8").strip()


def _bearer(credential: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {credential}"}


def _tls(ca_file: str) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=ca_file) if ca_file else True


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError("the answer is too long")
    return body
