"""The clients. Both have the same methods, results and errors; one is for asyncio, one is not."""

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx

from revoker_client import calls
from revoker_client.calls import Call, Token, WaitEdges
from revoker_client.errors import RevokerError, RevokerUnavailable
from revoker_client.results import (
    Block,
    Cutoff,
    Edges,
    Explanation,
    Introspection,
    RevokedKey,
    SessionPage,
    Tokens,
)

T = TypeVar("T")
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

    async def introspect(self, token: str) -> Introspection:
        """The verdict on a token whose signature Revoker verifies."""
        return await self._send(calls.introspect(token))

    async def introspect_claims(
        self, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None
    ) -> Introspection:
        """The verdict on a token whose signature was verified before, by its payload and its JOSE header."""
        return await self._send(calls.introspect(calls.envelope(claims, header)))

    async def introspect_batch(self, tokens: Iterable[Token]) -> list[Introspection | RevokerError]:
        """The verdicts on many tokens in their order; where one has none, the error is in its place."""
        results: list[Introspection | RevokerError] = []
        for call in calls.batches(tokens):
            part = await self._send(call)
            results += part
        return results

    async def explain(self, token: Token) -> Explanation:
        """Why a token is active or not, for support staff; scope ``revoke``."""
        return await self._send(calls.explain(token))

    async def revoke(
        self,
        token: str | None = None,
        *,
        jti: str | None = None,
        iss: str | None = None,
        exp: float | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Edges | None:
        """Revoke one token, by itself or by ``jti``; also succeeds if there is nothing to revoke.

        Returns:
            How far that has spread, where the call waits for edges.
        """
        members = {"token": token, "jti": jti, "iss": iss, "exp": exp}
        return await self._send(calls.revoke(members, wait_edges, wait_seconds))

    async def revoke_user(
        self,
        sub: str,
        *,
        iss: str | None = None,
        before: float | None = None,
        except_sid: str | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Cutoff:
        """Log a user out everywhere, except in one session where ``except_sid`` is given."""
        members = {"sub": sub, "iss": iss, "before": before, "except_sid": except_sid, "reason": reason}
        return await self._send(calls.cutoff("/revoke-user", members, wait_edges, wait_seconds))

    async def revoke_session(
        self,
        sid: str,
        *,
        iss: str | None = None,
        before: float | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Cutoff:
        """End one session of any issuer."""
        members = {"sid": sid, "iss": iss, "before": before, "reason": reason}
        return await self._send(calls.cutoff("/revoke-session", members, wait_edges, wait_seconds))

    async def revoke_client(
        self,
        client_id: str,
        *,
        iss: str | None = None,
        before: float | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Cutoff:
        """Revoke all that a client was given."""
        members = {"client_id": client_id, "iss": iss, "before": before, "reason": reason}
        return await self._send(calls.cutoff("/revoke-client", members, wait_edges, wait_seconds))

    async def revoke_claim(
        self,
        claim: str,
        value: str | float,
        *,
        iss: str | None = None,
        before: float | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Cutoff:
        """Revoke every token in which a claim has a value: a grant, a tenant, an agent."""
        members = {"claim": claim, "value": value, "iss": iss, "before": before, "reason": reason}
        return await self._send(calls.cutoff("/revoke-claim", members, wait_edges, wait_seconds))

    async def revoke_issuer(
        self,
        iss: str,
        *,
        before: float | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Cutoff:
        """Log out all users of an issuer; scope ``revoke-all``."""
        members = {"iss": iss, "before": before, "reason": reason}
        return await self._send(calls.cutoff("/revoke-issuer", members, wait_edges, wait_seconds))

    async def revoke_key(
        self,
        kid: str,
        *,
        iss: str,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> RevokedKey:
        """Revoke a signing key for good; scope ``revoke-all``."""
        return await self._send(calls.revoke_key(kid, iss, reason, wait_edges, wait_seconds))

    async def block_user(
        self,
        sub: str,
        *,
        iss: str | None = None,
        until: float | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Block:
        """Until the block ends, no token of the user is active, new ones included."""
        members = {"sub": sub, "iss": iss, "until": until, "reason": reason}
        return await self._send(calls.block_user(members, wait_edges, wait_seconds))

    async def unblock_user(
        self,
        sub: str,
        *,
        iss: str | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Block:
        """End a block."""
        members = {"sub": sub, "iss": iss, "reason": reason}
        return await self._send(calls.unblock_user(members, wait_edges, wait_seconds))

    async def begin_session(
        self,
        sub: str,
        *,
        client_id: str | None = None,
        scope: str | None = None,
        aud: str | Sequence[str] | None = None,
        amr: Sequence[str] | None = None,
        acr: str | None = None,
        device: str | None = None,
        ip: str | None = None,
        user_agent: str | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> Tokens:
        """Begin a session after a login; scope ``sessions``. ``claims`` are added to its access tokens."""
        members = {
            "sub": sub,
            "client_id": client_id,
            "scope": scope,
            "aud": aud,
            "amr": amr,
            "acr": acr,
            "device": device,
            "ip": ip,
            "user_agent": user_agent,
            "claims": claims,
        }
        return await self._send(calls.begin_session(members))

    async def sessions(
        self,
        sub: str,
        *,
        iss: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        current: str | None = None,
    ) -> SessionPage:
        """A user's sessions, a page at a time; ``current`` is the ``sid`` to mark."""
        query = {"sub": sub, "iss": iss, "limit": limit, "cursor": cursor, "current": current}
        return await self._send(calls.sessions(query))

    async def end_session(self, sid: str) -> None:
        """End a session that Revoker issued; also succeeds if it has ended."""
        await self._send(calls.end_session(sid))

    async def elevate_session(
        self, sid: str, *, amr: Sequence[str] | None = None, acr: str | None = None
    ) -> Tokens:
        """Record that a second factor was passed; the new access token has the new ``auth_time``."""
        return await self._send(calls.elevate_session(sid, amr, acr))

    async def refresh(
        self, refresh_token: str, *, scope: str | None = None, client_id: str | None = None
    ) -> Tokens:
        """New tokens for a refresh token, which is used up.

        After :class:`RevokerUnavailable` the same token may be sent again within ``refresh_grace``.
        """
        return await self._send(calls.refresh(refresh_token, scope, client_id))


class SyncRevokerClient:
    """Asks Revoker, for threads.

    Use one client for the life of the process: it holds the connections, and threads may share it. ``with``
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

    def introspect(self, token: str) -> Introspection:
        """The verdict on a token whose signature Revoker verifies."""
        return self._send(calls.introspect(token))

    def introspect_claims(
        self, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None
    ) -> Introspection:
        """The verdict on a token whose signature was verified before, by its payload and its JOSE header."""
        return self._send(calls.introspect(calls.envelope(claims, header)))

    def introspect_batch(self, tokens: Iterable[Token]) -> list[Introspection | RevokerError]:
        """The verdicts on many tokens in their order; where one has none, the error is in its place."""
        results: list[Introspection | RevokerError] = []
        for call in calls.batches(tokens):
            part = self._send(call)
            results += part
        return results

    def explain(self, token: Token) -> Explanation:
        """Why a token is active or not, for support staff; scope ``revoke``."""
        return self._send(calls.explain(token))

    def revoke(
        self,
        token: str | None = None,
        *,
        jti: str | None = None,
        iss: str | None = None,
        exp: float | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Edges | None:
        """Revoke one token, by itself or by ``jti``; also succeeds if there is nothing to revoke.

        Returns:
            How far that has spread, where the call waits for edges.
        """
        members = {"token": token, "jti": jti, "iss": iss, "exp": exp}
        return self._send(calls.revoke(members, wait_edges, wait_seconds))

    def revoke_user(
        self,
        sub: str,
        *,
        iss: str | None = None,
        before: float | None = None,
        except_sid: str | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Cutoff:
        """Log a user out everywhere, except in one session where ``except_sid`` is given."""
        members = {"sub": sub, "iss": iss, "before": before, "except_sid": except_sid, "reason": reason}
        return self._send(calls.cutoff("/revoke-user", members, wait_edges, wait_seconds))

    def revoke_session(
        self,
        sid: str,
        *,
        iss: str | None = None,
        before: float | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Cutoff:
        """End one session of any issuer."""
        members = {"sid": sid, "iss": iss, "before": before, "reason": reason}
        return self._send(calls.cutoff("/revoke-session", members, wait_edges, wait_seconds))

    def revoke_client(
        self,
        client_id: str,
        *,
        iss: str | None = None,
        before: float | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Cutoff:
        """Revoke all that a client was given."""
        members = {"client_id": client_id, "iss": iss, "before": before, "reason": reason}
        return self._send(calls.cutoff("/revoke-client", members, wait_edges, wait_seconds))

    def revoke_claim(
        self,
        claim: str,
        value: str | float,
        *,
        iss: str | None = None,
        before: float | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Cutoff:
        """Revoke every token in which a claim has a value: a grant, a tenant, an agent."""
        members = {"claim": claim, "value": value, "iss": iss, "before": before, "reason": reason}
        return self._send(calls.cutoff("/revoke-claim", members, wait_edges, wait_seconds))

    def revoke_issuer(
        self,
        iss: str,
        *,
        before: float | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Cutoff:
        """Log out all users of an issuer; scope ``revoke-all``."""
        members = {"iss": iss, "before": before, "reason": reason}
        return self._send(calls.cutoff("/revoke-issuer", members, wait_edges, wait_seconds))

    def revoke_key(
        self,
        kid: str,
        *,
        iss: str,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> RevokedKey:
        """Revoke a signing key for good; scope ``revoke-all``."""
        return self._send(calls.revoke_key(kid, iss, reason, wait_edges, wait_seconds))

    def block_user(
        self,
        sub: str,
        *,
        iss: str | None = None,
        until: float | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Block:
        """Until the block ends, no token of the user is active, new ones included."""
        members = {"sub": sub, "iss": iss, "until": until, "reason": reason}
        return self._send(calls.block_user(members, wait_edges, wait_seconds))

    def unblock_user(
        self,
        sub: str,
        *,
        iss: str | None = None,
        reason: str | None = None,
        wait_edges: WaitEdges = False,
        wait_seconds: float | None = None,
    ) -> Block:
        """End a block."""
        members = {"sub": sub, "iss": iss, "reason": reason}
        return self._send(calls.unblock_user(members, wait_edges, wait_seconds))

    def begin_session(
        self,
        sub: str,
        *,
        client_id: str | None = None,
        scope: str | None = None,
        aud: str | Sequence[str] | None = None,
        amr: Sequence[str] | None = None,
        acr: str | None = None,
        device: str | None = None,
        ip: str | None = None,
        user_agent: str | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> Tokens:
        """Begin a session after a login; scope ``sessions``. ``claims`` are added to its access tokens."""
        members = {
            "sub": sub,
            "client_id": client_id,
            "scope": scope,
            "aud": aud,
            "amr": amr,
            "acr": acr,
            "device": device,
            "ip": ip,
            "user_agent": user_agent,
            "claims": claims,
        }
        return self._send(calls.begin_session(members))

    def sessions(
        self,
        sub: str,
        *,
        iss: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        current: str | None = None,
    ) -> SessionPage:
        """A user's sessions, a page at a time; ``current`` is the ``sid`` to mark."""
        query = {"sub": sub, "iss": iss, "limit": limit, "cursor": cursor, "current": current}
        return self._send(calls.sessions(query))

    def end_session(self, sid: str) -> None:
        """End a session that Revoker issued; also succeeds if it has ended."""
        self._send(calls.end_session(sid))

    def elevate_session(
        self, sid: str, *, amr: Sequence[str] | None = None, acr: str | None = None
    ) -> Tokens:
        """Record that a second factor was passed; the new access token has the new ``auth_time``."""
        return self._send(calls.elevate_session(sid, amr, acr))

    def refresh(
        self, refresh_token: str, *, scope: str | None = None, client_id: str | None = None
    ) -> Tokens:
        """New tokens for a refresh token, which is used up.

        After :class:`RevokerUnavailable` the same token may be sent again within ``refresh_grace``.
        """
        return self._send(calls.refresh(refresh_token, scope, client_id))
