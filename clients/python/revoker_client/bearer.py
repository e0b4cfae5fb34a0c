"""What an application answers to a request with a bearer token (RFC 6750): who it is, or how it is refused.

The integrations differ in how they read a request and write a response; what they answer is decided here.
"""

import logging
import re
from collections.abc import Collection, Sequence
from typing import Final

from revoker_client.client import RevokerClient, SyncRevokerClient
from revoker_client.errors import RevokerError, RevokerUnavailable
from revoker_client.results import Introspection

_log = logging.getLogger("revoker_client")

LONGEST_TOKEN: Final = 16_384
"""A longer token is refused without asking."""
RETRY_AFTER_S: Final = 1
_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9\-._~+/]+=*) *", re.IGNORECASE).fullmatch
_SCHEME: Final = re.compile(r"bearer(?: |$)", re.IGNORECASE).match


class Refused(Exception):
    """The request must not pass.

    Attributes:
        status: 401, 403, or 503 where there is no verdict.
        error: The OAuth error code; empty where no token came.
        headers: ``WWW-Authenticate`` or ``Retry-After``, and ``Cache-Control: no-store``.
    """

    def __init__(self, status: int, error: str, description: str, headers: dict[str, str]) -> None:
        super().__init__(description)
        self.status = status
        self.error = error
        self.description = description
        self.headers = {**headers, "Cache-Control": "no-store"}

    @property
    def body(self) -> dict[str, str]:
        """The members of a JSON body."""
        return {"error": self.error or "unauthorized", "error_description": self.description}


def unauthorized(error: str, description: str) -> Refused:
    """401; ``error`` is empty where no token came (RFC 6750 §3.1)."""
    details = f' error="{error}", error_description="{description}"' if error else ""
    return Refused(401, error, description, {"WWW-Authenticate": f"Bearer{details}"})


def without_verdict(error: RevokerError) -> Refused:
    """503: nobody is refused, and nobody passes, because Revoker cannot be asked.

    Where the application's own secret or request is wrong, the user cannot correct it: it is the same to
    them, and the log says what is wrong.
    """
    after = error.retry_after if isinstance(error, RevokerUnavailable) else None
    _log.error("no verdict: %s", error)
    return Refused(
        503,
        "temporarily_unavailable",
        "whether the token is active cannot be checked now",
        {"Retry-After": str(after or RETRY_AFTER_S)},
    )


def token_in(authorization: Sequence[str]) -> str:
    """The token of the ``Authorization`` headers of a request.

    Raises:
        Refused: There is none, or more than one, or it is no token.
    """
    if not authorization or (len(authorization) == 1 and not _SCHEME(authorization[0])):
        raise unauthorized("", "a bearer token is needed")
    found = _BEARER(authorization[0]) if len(authorization) == 1 else None
    if found is None:
        raise unauthorized("invalid_request", "the Authorization header is malformed")
    if len(found[1]) > LONGEST_TOKEN:
        raise unauthorized("invalid_token", "the token is not active")
    return found[1]


def accepted(verdict: Introspection, scopes: Collection[str]) -> Introspection:
    """The verdict, if it lets the request pass.

    Raises:
        Refused: The token is not active, lacks a scope, or is bound to a key, whose proof is not checked.
    """
    if not verdict.active:
        raise unauthorized("invalid_token", "the token is not active")
    if verdict.sender_constrained:
        raise unauthorized("invalid_token", "the token is bound to a key and is no bearer token")
    if not set(scopes) <= set(verdict.scopes):
        words = " ".join(scopes)
        raise Refused(
            403,
            "insufficient_scope",
            "the token lacks a scope",
            {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{words}"'},
        )
    return verdict


async def verified(client: RevokerClient, token: str, scopes: Collection[str] = ()) -> Introspection:
    """The verdict on a token that may pass; raises :class:`Refused` for others."""
    try:
        verdict = await client.introspect(token)
    except RevokerError as error:
        raise without_verdict(error) from error
    return accepted(verdict, scopes)


def verified_sync(client: SyncRevokerClient, token: str, scopes: Collection[str] = ()) -> Introspection:
    """As :func:`verified`."""
    try:
        verdict = client.introspect(token)
    except RevokerError as error:
        raise without_verdict(error) from error
    return accepted(verdict, scopes)
