"""Client of Revoker: ask whether a token is active, revoke tokens, log users out.

The integrations with web frameworks are in modules of their own: :mod:`revoker_client.asgi`,
:mod:`revoker_client.fastapi`, :mod:`revoker_client.django`, :mod:`revoker_client.drf`,
:mod:`revoker_client.flask`, :mod:`revoker_client.fastmcp`.
"""

from revoker_client.client import RevokerClient, SyncRevokerClient
from revoker_client.errors import RevokerDenied, RevokerError, RevokerRejected, RevokerUnavailable
from revoker_client.results import (
    Block,
    Cutoff,
    Edges,
    Explanation,
    Introspection,
    RevokedKey,
    Session,
    SessionPage,
    Tokens,
)

__version__ = "0.2.0"

__all__ = [
    "Block",
    "Cutoff",
    "Edges",
    "Explanation",
    "Introspection",
    "RevokedKey",
    "RevokerClient",
    "RevokerDenied",
    "RevokerError",
    "RevokerRejected",
    "RevokerUnavailable",
    "Session",
    "SessionPage",
    "SyncRevokerClient",
    "Tokens",
]
