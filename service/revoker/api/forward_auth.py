"""``/forward-auth``: a gateway forwards the headers of a request and asks whether to let it pass.

Serves Envoy's ext_authz, nginx's auth_request, Traefik's ForwardAuth, Caddy's forward_auth and HAProxy.
The gateway authenticates by ``X-Revoker-Key``. Method, query, body, and the path below ``/forward-auth`` are
the user's and are ignored.
"""

import re
import urllib.parse
from typing import Final

from aiohttp import web

from revoker.api.admission import Admission
from revoker.api.credentials import Authentication, certificate
from revoker.api.error_responses import NO_STORE, error_response, response_to
from revoker.api.introspection import SCOPE
from revoker.api.requirements import Requirements, parse_requirements
from revoker.api.verdicts import Judged, Verdicts
from revoker.auth import Caller
from revoker.errors import InvalidClient, RevokerError
from revoker.models import Verdict
from revoker.tokens.claims import scope_words
from revoker.tokens.verifying import VerifiedToken

KEY_HEADER: Final = "X-Revoker-Key"
REQUIREMENTS_HEADER: Final = "X-Revoker-Require"

_BEARER: Final = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] ([A-Za-z0-9\-._~+/]+=*)").fullmatch
_SCHEME: Final = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr](?![!#$%&'*+\-.^_`|~0-9A-Za-z])").match
_UNRESERVED: Final = "".join(chr(byte) for byte in range(0x21, 0x7F) if chr(byte) != "%")
_REALM: Final = 'Bearer realm="revoker"'


class ForwardAuth:
    """Responds to gateways about their users."""

    def __init__(self, *, authentication: Authentication, verdicts: Verdicts, admission: Admission) -> None:
        self._authentication = authentication
        self._verdicts = verdicts
        self._admission = admission

    async def respond(self, request: web.Request) -> web.Response:
        """Respond 200 with who the user is, 401 or 403; raises where there is no verdict."""
        caller = self._gateway(request)
        caller.require(SCOPE)
        credentials = request.headers.getall("Authorization", ())
        if not credentials or (len(credentials) == 1 and not _SCHEME(credentials[0])):
            return _unauthorized(_REALM)
        bearer = _BEARER(credentials[0]) if len(credentials) == 1 else None
        if bearer is None:
            return _unauthorized(f'{_REALM}, error="invalid_request"')
        requirements = parse_requirements(tuple(request.headers.getall(REQUIREMENTS_HEADER, ())))
        judged = await self._verdicts.of_token(bearer[1], caller, waiting=self._admission.not_counted)
        token = judged.token
        if judged.verdict is not Verdict.ACTIVE or token is None or token.cnf:
            return _unauthorized(
                f'{_REALM}, error="invalid_token", error_description="the token is not active"'
            )
        if requirements is None:
            return _forbidden("")
        return _unmet(requirements, token, judged) or _authorized(token)

    def _gateway(self, request: web.Request) -> Caller:
        keys = request.headers.getall(KEY_HEADER, ())
        callers = self._authentication.callers
        if len(keys) == 1:
            return callers.by_secret(keys[0], request.remote or "")
        if keys:
            raise InvalidClient("more than one X-Revoker-Key")
        return callers.by_certificate(certificate(request))


def unavailable(error: RevokerError) -> web.Response:
    """The response to an error: always 503, since the user can't correct the gateway."""
    response = response_to(error)
    if response.status == 503:
        return response
    description = f"of the gateway itself: {error}"
    return error_response(503, "temporarily_unavailable", description, {"Retry-After": "1"})


def malformed_request(_: int) -> web.Response:
    """401: gateways take other 4xx for a failure of theirs, but the user's request is wrong."""
    return _unauthorized(f'{_REALM}, error="invalid_request"')


def _unmet(requirements: Requirements, token: VerifiedToken, judged: Judged) -> web.Response | None:
    """The refusal of a token that does not meet the requirements; None: it does."""
    if not set(requirements.scopes) <= set(scope_words(token.scope)):
        return _forbidden(" ".join(requirements.scopes))
    auth_time = token.claims.auth_time
    age = None if auth_time is None else judged.store_now / 1000 - auth_time
    stale = requirements.max_age is not None and (age is None or age > requirements.max_age)
    if stale or not all(token.acr in acrs for acrs in requirements.acrs):
        challenge = f'{_REALM}, error="insufficient_user_authentication"'
        challenge += ', error_description="a stronger or fresher login is needed"'
        if requirements.acrs:
            challenge += f', acr_values="{" ".join(requirements.acrs[0])}"'
        if requirements.max_age is not None:
            challenge += f", max_age={requirements.max_age}"
        return _unauthorized(challenge)
    return None


def _authorized(token: VerifiedToken) -> web.Response:
    """200 with all four headers, so that those of the client are always replaced."""
    claims = token.claims
    return web.Response(
        headers={
            **NO_STORE,
            "X-Auth-Subject": _header(claims.sub),
            "X-Auth-Session": _header(claims.sid),
            "X-Auth-Client": _header(claims.client_id or claims.azp),
            "X-Auth-Scope": " ".join(_header(word) for word in scope_words(token.scope)),
        }
    )


def _header(value: str | None) -> str:
    """A value with everything percent-encoded that is not visible ASCII, and ``%`` itself."""
    return urllib.parse.quote(value or "", safe=_UNRESERVED)


def _unauthorized(challenge: str) -> web.Response:
    return web.Response(status=401, headers={**NO_STORE, "WWW-Authenticate": challenge})


def _forbidden(scope: str) -> web.Response:
    """RFC 6750 §3.1; without a scope where the requirements are malformed."""
    needed = f', scope="{scope}"' if scope else ""
    return web.Response(
        status=403,
        headers={**NO_STORE, "WWW-Authenticate": f'{_REALM}, error="insufficient_scope"{needed}'},
    )
