"""A token verifier of FastMCP: an agent's token stops working when it is revoked.

    verifier = RevokerTokenVerifier(RevokerClient(url, secret), base_url="https://mcp.example.com")
    mcp = FastMCP("orders", auth=verifier)
    app = verifier.guard(mcp.http_app())

FastMCP asks the verifier for every request, and knows two answers, active and not. :meth:`~
RevokerTokenVerifier.guard` adds the third: 503 where there is no verdict.
"""

from contextvars import ContextVar
from typing import Any, Final

from fastmcp.server.auth import AccessToken, TokenVerifier

from revoker_client.asgi import App, Message, Receive, Scope, Send, refuse
from revoker_client.bearer import Refused, token_in, verified
from revoker_client.client import RevokerClient

_without_verdict: Final[ContextVar[list[Refused] | None]] = ContextVar("without_verdict", default=None)
"""Of the request in progress; None: nobody guards the application."""


class RevokerTokenVerifier(TokenVerifier):
    """Accepts tokens that are active and no others.

    Args:
        client: Asks Revoker.
        options: As of ``fastmcp.server.auth.TokenVerifier``: ``base_url``, ``required_scopes``.
    """

    def __init__(self, client: RevokerClient, **options: Any) -> None:
        super().__init__(**options)
        self._client = client

    async def verify_token(self, token: str) -> AccessToken | None:
        """The token's members, or None where it is not active.

        Raises:
            Refused: There is no verdict, and the application is not guarded; FastMCP answers 500.
        """
        try:
            verdict = await verified(self._client, token_in([f"Bearer {token}"]))
        except Refused as refused:
            if refused.status == 503:
                found = _without_verdict.get()
                if found is None:
                    raise
                found.append(refused)
            return None
        return AccessToken(
            token=token,
            client_id=verdict.client_id or verdict.sub or "",
            scopes=list(verdict.scopes),
            expires_at=verdict.exp,
            subject=verdict.sub,
            claims=dict(verdict.members),
        )

    @staticmethod
    def guard(app: App) -> App:
        """The application, which answers 503 with ``Retry-After`` where there is no verdict."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            found: list[Refused] = []

            async def send_unless_refused(message: Message) -> None:
                if not found:
                    await send(message)
                elif message["type"] == "http.response.start":  # FastMCP's 401 to what has no verdict
                    await refuse(found[0], scope, send)

            reset = _without_verdict.set(found)
            try:
                await app(scope, receive, send_unless_refused)
            finally:
                _without_verdict.reset(reset)

        return guarded
