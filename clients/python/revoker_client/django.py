"""Middleware and a decorator for Django.

    MIDDLEWARE = [..., "revoker_client.django.RevokerMiddleware"]
    REVOKER_URL = "https://revoker.internal:8080"
    REVOKER_SECRET = ...

The middleware checks every request that has a bearer token, and gives views ``request.token``: the verdict,
or None where no token came. :func:`token_required` refuses requests without one.
"""

import functools
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, JsonResponse

from revoker_client.bearer import Refused, accepted, token_in, unauthorized, verified, verified_sync
from revoker_client.client import TIMEOUT_S, RevokerClient, SyncRevokerClient

_MISSING: Final = "REVOKER_URL and REVOKER_SECRET must be set for revoker_client.django"


@functools.cache
def client() -> SyncRevokerClient:
    """The client of this process, by ``REVOKER_URL``, ``REVOKER_SECRET`` and ``REVOKER_TIMEOUT``.

    Raises:
        ImproperlyConfigured: A setting is missing or malformed.
    """
    return SyncRevokerClient(*_address(), timeout=getattr(settings, "REVOKER_TIMEOUT", TIMEOUT_S))


@functools.cache
def async_client() -> RevokerClient:
    """As :func:`client`, for asyncio."""
    return RevokerClient(*_address(), timeout=getattr(settings, "REVOKER_TIMEOUT", TIMEOUT_S))


def _address() -> tuple[str, str]:
    url, secret = getattr(settings, "REVOKER_URL", ""), getattr(settings, "REVOKER_SECRET", "")
    if not url or not secret:
        raise ImproperlyConfigured(_MISSING)
    return url, secret


def response_to(refused: Refused) -> HttpResponse:
    """The response to a request that must not pass."""
    return JsonResponse(refused.body, status=refused.status, headers=refused.headers)


class RevokerMiddleware:
    """Refuses requests whose token is not active; it works in synchronous and asynchronous projects."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._asynchronous = iscoroutinefunction(get_response)
        if self._asynchronous:
            markcoroutinefunction(self)
        _address()

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        """The response of the view, or 401 or 503."""
        if self._asynchronous:
            return self._respond(request)
        try:
            token = _token_in(request)
            request.token = None if token is None else verified_sync(client(), token)
        except Refused as refused:
            return response_to(refused)
        response: HttpResponse = self._get_response(request)
        return response

    async def _respond(self, request: HttpRequest) -> HttpResponse:
        try:
            token = _token_in(request)
            request.token = None if token is None else await verified(async_client(), token)
        except Refused as refused:
            return response_to(refused)
        response: HttpResponse = await self._get_response(request)
        return response


def _token_in(request: HttpRequest) -> str | None:
    """The token of a request; None where it has none, so that other ways to log in stay possible."""
    value = request.headers.get("Authorization")
    try:
        return token_in([] if value is None else [value])
    except Refused as refused:
        if not refused.error:
            return None
        raise


def token_required(*scopes: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Refuse requests without an active token that has all these scopes; for views of both kinds."""

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        if iscoroutinefunction(view):

            @functools.wraps(view)
            async def checked_async(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
                return _refusal(request, scopes) or await view(request, *args, **kwargs)

            return checked_async

        @functools.wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            return _refusal(request, scopes) or view(request, *args, **kwargs)

        return checked

    return decorate


def _refusal(request: HttpRequest, scopes: Collection[str]) -> HttpResponse | None:
    if not hasattr(request, "token"):
        raise ImproperlyConfigured("token_required needs revoker_client.django.RevokerMiddleware")
    try:
        if request.token is None:
            raise unauthorized("", "a bearer token is needed")
        accepted(request.token, scopes)
    except Refused as refused:
        return response_to(refused)
    return None
