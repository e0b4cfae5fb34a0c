"""An authentication class of Django REST framework, by the settings of :mod:`revoker_client.django`.

    REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": ["revoker_client.drf.RevokerAuthentication"]}

``request.user`` is a :class:`TokenUser`, and ``request.auth`` the verdict.
"""

from typing import Any

from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from revoker_client.bearer import Refused, token_in, verified_sync
from revoker_client.django import client
from revoker_client.results import Introspection


class TokenUser:
    """The user of a token, who need not be in the database. To load one from it, override ``user_of``."""

    is_authenticated = True
    is_anonymous = False
    is_active = True

    def __init__(self, token: Introspection) -> None:
        self.token = token
        self.pk = token.sub
        self.username = token.sub or ""

    def __str__(self) -> str:
        return self.username


class NoVerdict(APIException):
    """503 with ``Retry-After``."""

    status_code = 503
    default_code = "temporarily_unavailable"

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.description)
        self.wait = float(refused.headers["Retry-After"])


class RevokerAuthentication(BaseAuthentication):
    """Authenticates by a bearer token that is active."""

    def authenticate(self, request: Request) -> tuple[Any, Introspection] | None:
        """The user and the verdict; None where no token came, so that other classes are tried."""
        value = request.headers.get("Authorization")
        try:
            verdict = verified_sync(client(), token_in([] if value is None else [value]))
        except Refused as refused:
            if refused.status == 503:
                raise NoVerdict(refused) from refused
            if not refused.error:
                return None
            request._revoker_challenge = refused.headers["WWW-Authenticate"]  # noqa: SLF001
            raise AuthenticationFailed(refused.description, refused.error) from refused
        return self.user_of(verdict), verdict

    def user_of(self, token: Introspection) -> Any:
        """``request.user``."""
        return TokenUser(token)

    def authenticate_header(self, request: Request) -> str:
        """``WWW-Authenticate`` of the 401."""
        return getattr(request, "_revoker_challenge", "Bearer")


def has_scopes(*scopes: str) -> type[BasePermission]:
    """A permission: the token has all these scopes."""

    class HasScopes(BasePermission):
        message = f"the token lacks a scope: {' '.join(scopes)}"

        def has_permission(self, request: Request, view: Any) -> bool:  # noqa: ARG002
            token = request.auth
            return isinstance(token, Introspection) and set(scopes) <= set(token.scopes)

    return HasScopes
