"""The clients. Both have the same methods, results and errors; one is for asyncio, one is not."""

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar, get_args

import httpx

from revoker_client import calls
from revoker_client.calls import Call, Token
from revoker_client.errors import RevokerError, RevokerUnavailable
from revoker_client.results import Introspection

T = TypeVar("T")
P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])
TIMEOUT_S: Final = 0.5
_NOT_SENT: Final = (httpx.ConnectError,)
_BROKEN: Final = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)


def _request(call: Call[Any], url: str, secret: str, timeout: httpx.Timeout) -> dict[str, Any]:
    if call.waits and timeout.read is not None:
        timeout = httpx.Timeout(
            connect=timeout.connect, read=timeout.read + call.waits, write=timeout.write, pool=timeout.pool
        )
    return {
        "method": call.method,
        "url": url + call.path,
        "headers": {"Authorization": f"Bearer {secret}", "Accept": "application/json"},
        "json": call.body,
        "params": call.query,
        "follow_redirects": False,
        "timeout": timeout,
    }


def _may_repeat(call: Call[Any], error: httpx.HTTPError) -> bool:
    return isinstance(error, _NOT_SENT) or (call.repeatable and isinstance(error, _BROKEN))


def _unavailable(call: Call[Any], error: Exception) -> RevokerUnavailable:
    return RevokerUnavailable(f"{call.path}: {type(error).__name__}: {error}")


def _checked(url: str, secret: str) -> tuple[str, str]:
    parsed = httpx.URL(url)
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.userinfo or parsed.query:
        raise ValueError("url must be like https://revoker.internal:8080, without credentials and query")
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise ValueError("secret must be the secret of a caller of Revoker: visible ASCII without spaces")
    return url.rstrip("/"), secret


def _named(method: F, describe: Callable[..., Call[Any]]) -> F:
    """The method with the name, the docstring and the signature of what it sends."""
    functools.update_wrapper(method, describe)
    described = inspect.signature(describe)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    [result] = get_args(described.return_annotation)
    method.__annotations__ = {**describe.__annotations__, "return": result}
    method.__signature__ = described.replace(  # type: ignore[attr-defined]  # of every function
        parameters=[itself, *described.parameters.values()], return_annotation=result
    )
    return method


def _asynchronous(
    describe: Callable[P, Call[T]],
) -> Callable[Concatenate["RevokerClient", P], Coroutine[Any, Any, T]]:
    """The method of :class:`RevokerClient` that sends what is described."""

    async def method(self: "RevokerClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._send(describe(*args, **kwargs))

    return _named(method, describe)


def _blocking(describe: Callable[P, Call[T]]) -> Callable[Concatenate["SyncRevokerClient", P], T]:
    """The method of :class:`SyncRevokerClient` that sends what is described."""

    def method(self: "SyncRevokerClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._send(describe(*args, **kwargs))

    return _named(method, describe)


class RevokerClient:
    """Asks Revoker, for asyncio.

    Use one client for the life of the process, in one event loop: it holds the connections. ``async with``
    closes it, as does :meth:`close`.

    Args:
        url: Of the service: ``https://revoker.internal:8080``.
        secret: Of a caller in its configuration.
        timeout: Seconds for each of connecting, sending, and waiting for the answer. A call whose connection
            breaks is sent once more if to repeat it changes nothing; so it may take twice as long.
        http: Another client of httpx, for a proxy, certificates or limits of one's own; ``timeout`` is then
            without effect, and the caller closes it.

    Every method raises :class:`RevokerUnavailable` where there is no verdict or nothing was confirmed to be
    stored, :class:`RevokerDenied` where the service refuses this caller, and :class:`RevokerRejected` where
    the request is wrong.

    A method with ``wait_edges`` returns once so many edges of Revoker have confirmed the change (True: all
    that are connected), or after ``wait_seconds`` (2 by default). It waits by that much longer for the
    answer. The change holds in any case: ``edges`` says how many have it.
    """

    def __init__(
        self, url: str, secret: str, *, timeout: float = TIMEOUT_S, http: httpx.AsyncClient | None = None
    ) -> None:
        self._url, self._secret = _checked(url, secret)
        self._owns_http = http is None
        self._http = http or httpx.AsyncClient(timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            await self._http.aclose()

    async def _send(self, call: Call[T]) -> T:
        request = _request(call, self._url, self._secret, self._http.timeout)
        try:
            try:
                answer = await self._http.request(**request)
            except httpx.HTTPError as error:
                if not _may_repeat(call, error):
                    raise
                answer = await self._http.request(**request)
        except httpx.HTTPError as error:
            raise _unavailable(call, error) from error
        return calls.read(call, answer.status_code, answer.headers, answer.content)

    introspect = _asynchronous(calls.introspect)
    introspect_claims = _asynchronous(calls.introspect_claims)

    async def introspect_batch(self, tokens: Iterable[Token]) -> list[Introspection | RevokerError]:
        """The verdicts on many tokens in their order; where one has none, the error is in its place."""
        return [result for call in calls.batches(tokens) for result in await self._send(call)]

    explain = _asynchronous(calls.explain)
    revoke = _asynchronous(calls.revoke)
    revoke_user = _asynchronous(calls.revoke_user)
    revoke_session = _asynchronous(calls.revoke_session)
    revoke_client = _asynchronous(calls.revoke_client)
    revoke_claim = _asynchronous(calls.revoke_claim)
    revoke_issuer = _asynchronous(calls.revoke_issuer)
    revoke_key = _asynchronous(calls.revoke_key)
    block_user = _asynchronous(calls.block_user)
    unblock_user = _asynchronous(calls.unblock_user)
    begin_session = _asynchronous(calls.begin_session)
    sessions = _asynchronous(calls.sessions)
    end_session = _asynchronous(calls.end_session)
    elevate_session = _asynchronous(calls.elevate_session)
    refresh = _asynchronous(calls.refresh)


class SyncRevokerClient:
    """Asks Revoker, for threads: as :class:`RevokerClient`, without ``await``. Threads may share it."""

    def __init__(
        self, url: str, secret: str, *, timeout: float = TIMEOUT_S, http: httpx.Client | None = None
    ) -> None:
        self._url, self._secret = _checked(url, secret)
        self._owns_http = http is None
        self._http = http or httpx.Client(timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            self._http.close()

    def _send(self, call: Call[T]) -> T:
        request = _request(call, self._url, self._secret, self._http.timeout)
        try:
            try:
                answer = self._http.request(**request)
            except httpx.HTTPError as error:
                if not _may_repeat(call, error):
                    raise
                answer = self._http.request(**request)
        except httpx.HTTPError as error:
            raise _unavailable(call, error) from error
        return calls.read(call, answer.status_code, answer.headers, answer.content)

    introspect = _blocking(calls.introspect)
    introspect_claims = _blocking(calls.introspect_claims)

    def introspect_batch(self, tokens: Iterable[Token]) -> list[Introspection | RevokerError]:
        """The verdicts on many tokens in their order; where one has none, the error is in its place."""
        return [result for call in calls.batches(tokens) for result in self._send(call)]

    explain = _blocking(calls.explain)
    revoke = _blocking(calls.revoke)
    revoke_user = _blocking(calls.revoke_user)
    revoke_session = _blocking(calls.revoke_session)
    revoke_client = _blocking(calls.revoke_client)
    revoke_claim = _blocking(calls.revoke_claim)
    revoke_issuer = _blocking(calls.revoke_issuer)
    revoke_key = _blocking(calls.revoke_key)
    block_user = _blocking(calls.block_user)
    unblock_user = _blocking(calls.unblock_user)
    begin_session = _blocking(calls.begin_session)
    sessions = _blocking(calls.sessions)
    end_session = _blocking(calls.end_session)
    elevate_session = _blocking(calls.elevate_session)
    refresh = _blocking(calls.refresh)
