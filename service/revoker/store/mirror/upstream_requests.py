"""The requests of an edge to its upstreams."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from revoker.store.mirror import feed_lines
from revoker.store.mirror.feed_lines import Event, EventStream, FeedBroken

CONNECT_S: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamAccess:
    """How the upstreams are reached.

    Attributes:
        urls: At least one; when one fails, the next is tried.
        name: By which an upstream lists this consumer.
    """

    urls: Sequence[str]
    secret_file: str
    name: str
    ca_file: str = ""


class _Verdict(msgspec.Struct, frozen=True):
    active: bool


_encode: Final = msgspec.json.Encoder().encode
_decode_verdict: Final = msgspec.json.Decoder(_Verdict).decode


class Reload(Exception):
    """The upstream cannot continue from the cursor."""


class UpstreamRequests:
    """Sends requests; each reads the secret again."""

    def __init__(self, access: UpstreamAccess) -> None:
        self._access: Final = access
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Nothing connects before the first request."""
        tls: ssl.SSLContext | bool = True
        if self._access.ca_file:
            tls = ssl.create_default_context(cafile=self._access.ca_file)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def snapshot(self, url: str) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """The answer that brings a snapshot."""
        return self._get(url, "/feed/snapshot", name=self._access.name)

    async def events(self, url: str, cursor: str, silence_s: float) -> AsyncGenerator[Event, None]:
        """The events of a stream after a cursor.

        Raises:
            TimeoutError: there was none for ``silence_s``.
            FeedBroken: the stream has ended, or is none.
            Reload: the upstream cannot continue from the cursor.
        """
        stream = EventStream()
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(silence_s):
                response = await stack.enter_async_context(
                    self._get(url, "/feed", cursor=cursor, **self._as_consumer())
                )
            deadline = asyncio.get_running_loop().time() + silence_s
            while True:
                async with asyncio.timeout_at(deadline):
                    chunk = await response.content.readany()
                if not chunk:
                    raise FeedBroken("the stream has ended")
                for event in stream.feed(chunk):
                    yield event
                    deadline = asyncio.get_running_loop().time() + silence_s

    async def poll(self, url: str, cursor: str, wait: int) -> list[Event]:
        """The events after a cursor, for which the upstream waits up to ``wait`` seconds; errors as above."""
        async with self._get(url, "/feed", cursor=cursor, wait=str(wait), **self._as_consumer()) as response:
            body = await response.read()
        try:
            return [
                Event(event.event, bytes(event.data), event.id) for event in feed_lines.decode_polled(body)
            ]
        except msgspec.MsgspecError as error:
            raise FeedBroken(f"the answer to a poll is not understood: {error}") from error

    async def is_active(self, url: str, body: bytes) -> bool | None:
        """Post the body of an introspection; None where that is answered without a verdict."""
        async with self._post(f"{url}/introspect", body) as response:
            return _decode_verdict(await response.read()).active if response.status == 200 else None

    async def confirm(self, url: str, body: Mapping[str, Any]) -> None:
        """Confirm what ``body`` says; raises ``FeedBroken`` where that is not taken."""
        async with self._post(f"{url}/feed/confirm", _encode(body)) as response:
            if response.status != 204:
                raise FeedBroken(f"/feed/confirm was answered with status {response.status}")

    def _post(self, url: str, body: bytes) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        assert self._session is not None  # noqa: S101  # it was opened
        return self._session.post(
            url,
            data=body,
            headers={**self._authorization(), "Content-Type": "application/json"},
            allow_redirects=False,
        )

    @contextlib.asynccontextmanager
    async def _get(self, url: str, path: str, **query: str) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None  # noqa: S101  # it was opened
        async with self._session.get(
            f"{url.rstrip('/')}{path}",
            params=query,
            headers=self._authorization(),
            allow_redirects=False,
        ) as response:
            if response.status == 400 and "cursor" in query:
                raise Reload("the cursor is not understood")
            if response.status != 200:
                text = (await response.content.read(512)).decode(errors="replace")
                raise FeedBroken(f"{path} was answered with status {response.status}: {text}")
            yield response

    def _as_consumer(self) -> dict[str, str]:
        """Whose requests these are; its polls confirm nothing, since it may not answer by them yet."""
        return {"name": self._access.name, "confirms": "true"}

    def _authorization(self) -> dict[str, str]:
        secret = Path(self._access.secret_file).read_text(encoding="utf-8").strip()
        return {"Authorization": f"Bearer {secret}"}
