"""``/forward-auth``: a gateway forwards the headers of a request and asks whether to let it pass.

Serves Envoy's ext_authz, nginx's auth_request, Traefik's ForwardAuth, Caddy's forward_auth and HAProxy.
The gateway authenticates by ``X-Revoker-Key``. Method, query, body, and the path below ``/forward-auth`` are
the user's and are ignored. Envoy can also ask by gRPC: :mod:`revoker.api.ext_authz`, by the same code.
"""

import functools
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from revoker.api.admission import Admission
from revoker.api.credentials import Authentication, certificate
from revoker.api.error_responses import NO_STORE, error_body, error_response, response_to
from revoker.api.introspection import SCOPE
from revoker.api.requirements import Requirements, parse_requirements
from revoker.api.verdicts import Judged, Verdicts
from revoker.auth import Caller
from revoker.errors import InvalidClient, RevokerError
from revoker.models import ACTIVE_VERDICT
from revoker.rules import login_is_recent
from revoker.tokens.claims import scope_words
from revoker.tokens.verifying import VerifiedToken

KEY_HEADER: Final = "X-Revoker-Key"
REQUIREMENTS_HEADER: Final = "X-Revoker-Require"
COOKIE_HEADER: Final = "X-Revoker-Cookie"

_B64TOKEN: Final = r"[A-Za-z0-9\-._~+/]+=*"
_BEARER: Final = re.compile(rf"[Bb][Ee][Aa][Rr][Ee][Rr] ({_B64TOKEN})").fullmatch
_NO_TOKEN_CHARACTER: Final = r"(?![!#$%&'*+\-.^_`|~0-9A-Za-z])"
_SCHEME: Final = re.compile(rf"[Bb][Ee][Aa][Rr][Ee][Rr]{_NO_TOKEN_CHARACTER}").match
_DPOP: Final = re.compile(rf"[Dd][Pp][Oo][Pp]{_NO_TOKEN_CHARACTER}").match
_SECOND_TOKEN: Final = re.compile(rf",[ \t]*+(?:bearer|dpop){_NO_TOKEN_CHARACTER}", re.IGNORECASE).search
"""Of another ``Authorization``, joined by a gateway to one that has no token."""

_IS_TOKEN: Final = re.compile(_B64TOKEN).fullmatch
_COOKIE_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}").fullmatch
_UNRESERVED: Final = "".join(chr(byte) for byte in range(0x21, 0x7F) if chr(byte) != "%")
_REALM: Final = 'Bearer realm="revoker"'
_DPOP_REALM: Final = 'DPoP realm="revoker"'


class Question(msgspec.Struct, frozen=True, gc=False):
    """What a gateway asks: values of headers, as they came.

    Attributes:
        keys: Of the gateway, as are ``requirements`` and ``cookie_names``.
        requirements: What the route requires.
        cookie_names: Of the cookie that has the token; none: only ``Authorization`` has it.
        authorizations: Of the user, as are ``cookies``.
        cookies: Read only where there is a name.
        certificate: Gives the names in the gateway's client certificate.
        peer: Gives the address whose failed attempts are limited.
    """

    keys: Sequence[str]
    requirements: Sequence[str]
    cookie_names: Sequence[str]
    authorizations: Sequence[str]
    cookies: Sequence[str]
    certificate: Callable[[], frozenset[str]]
    peer: Callable[[], str]


class Answer(msgspec.Struct, frozen=True, gc=False):
    """200, 401 or 403, with headers that replace all of these names; ``body`` is JSON, or empty."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class ForwardAuth:
    """Responds to gateways about their users."""

    def __init__(self, *, authentication: Authentication, verdicts: Verdicts, admission: Admission) -> None:
        self._authentication = authentication
        self._client_address = authentication.client_address
        self._verdicts = verdicts
        self._admission = admission

    async def respond(self, request: web.Request) -> web.Response:
        """Respond 200 with who the user is, 401 or 403; raises where there is no verdict."""
        values = request.headers.getall
        cookie_names = values(COOKIE_HEADER, ())
        answer = await self.answer(
            Question(
                keys=values(KEY_HEADER, ()),
                requirements=values(REQUIREMENTS_HEADER, ()),
                cookie_names=cookie_names,
                authorizations=values("Authorization", ()),
                cookies=values("Cookie", ()) if cookie_names else (),
                certificate=functools.partial(certificate, request),
                peer=functools.partial(self._client_address, request),
            )
        )
        return _rendered(answer)

    async def answer(self, question: Question) -> Answer:
        """Answer a question; raises where there is no verdict, or where the gateway is not a caller.

        It must be counted in ``admission`` meanwhile.
        """
        caller = self._gateway(question)
        caller.require(SCOPE)
        text = _token_of(question)
        if isinstance(text, Answer):
            return text
        requirements = parse_requirements(tuple(question.requirements))
        judged = await self._verdicts.of_token(text, caller, waiting=self._admission.not_counted)
        token = judged.token
        if judged.verdict is not ACTIVE_VERDICT or token is None:
            return _INACTIVE
        if token.cnf is not None:
            return _bound(token.cnf)
        if requirements is None:
            return _forbidden("")
        return _unmet(requirements, token, judged) or _authorized(token)

    def _gateway(self, question: Question) -> Caller:
        callers = self._authentication.callers
        if len(question.keys) == 1:
            return callers.by_secret(question.keys[0], question.peer)
        if question.keys:
            raise InvalidClient("more than one X-Revoker-Key")
        return callers.by_certificate(question.certificate())


def _token_of(question: Question) -> str | Answer:
    """The only token of a request, or why there is none.

    ``Authorization`` and cookie may both have it, if they agree: a backend might read the one that was not
    judged.
    """
    name = question.cookie_names[0] if question.cookie_names else None
    if name is not None and (len(question.cookie_names) > 1 or not _COOKIE_NAME(name)):
        return _forbidden("")
    credentials = question.authorizations
    in_header = None
    if len(credentials) > 1:
        return MALFORMED
    if credentials and _SCHEME(credentials[0]):
        if (bearer := _BEARER(credentials[0])) is None:
            return MALFORMED
        in_header = bearer[1]
    elif credentials and _DPOP(credentials[0]):
        return _PROOF_OFFERED
    if name is None:
        return in_header or _NO_TOKEN
    if credentials and not in_header and _SECOND_TOKEN(credentials[0]):
        return MALFORMED
    found = list(_cookies(question.cookies, name))
    if len(found) > 1 or any(map(_joined(name), question.cookies)):
        return _refused(
            401, _REALM, "invalid_request", "more than one cookie has the name of the one with the token"
        )
    in_cookie = found[0] if found else ""
    if in_cookie and not _IS_TOKEN(in_cookie):
        return MALFORMED
    if in_header and in_cookie and in_header != in_cookie:
        return _refused(401, _REALM, "invalid_request", "Authorization and cookie have different tokens")
    return in_header or in_cookie or _NO_TOKEN


@functools.lru_cache(64)
def _joined(name: str) -> Callable[[str], object]:
    """Finds a cookie after a comma, by which some gateways join lines that the backend gets as they came."""
    return re.compile(rf",[ \t]*+{re.escape(name)}[ \t]*+=").search


def _cookies(lines: Sequence[str], name: str) -> Iterator[str]:
    """The values of all cookies of a name (RFC 6265 §4.2.1), without quotes around them."""
    for line in lines:
        for pair in line.split(";"):
            found, equals, value = pair.partition("=")
            if equals and found.strip(" \t") == name:
                value = value.strip(" \t")
                quoted = len(value) > 1 and value[0] == value[-1] == '"'
                yield value[1:-1] if quoted else value


def unavailable(error: RevokerError) -> web.Response:
    """The response to an error: always 503, since the user can't correct the gateway."""
    response = response_to(error)
    if response.status == 503:
        return response
    description = f"of the gateway itself: {error}"
    return error_response(503, "temporarily_unavailable", description, {"Retry-After": "1"})


def malformed_request(_: int) -> web.Response:
    """401: gateways take other 4xx for a failure of theirs, but the user's request is wrong."""
    return _rendered(MALFORMED)


def _rendered(answer: Answer) -> web.Response:
    return web.Response(
        status=answer.status,
        headers={**NO_STORE, **answer.headers},
        body=answer.body or None,
        content_type="application/json" if answer.body else None,
    )


def _bound(cnf: Mapping[str, Any]) -> Answer:
    """The refusal of an active token that needs a proof of possession (RFC 9449 §7.1, RFC 8705 §3)."""
    if "jkt" in cnf:
        realm, what = _DPOP_REALM, "a DPoP key (jkt)"
    else:
        realm, what = _REALM, "a client certificate (x5t#S256)" if "x5t#S256" in cnf else "a key (cnf)"
    description = f"the token is bound to {what}, and possession cannot be checked here"
    return _refused(401, realm, "invalid_token", description)


def _unmet(requirements: Requirements, token: VerifiedToken, judged: Judged) -> Answer | None:
    """The refusal of a token that does not meet the requirements; None: it does."""
    if not set(requirements.scopes) <= set(scope_words(token.scope)):
        return _forbidden(" ".join(requirements.scopes))
    max_age = requirements.max_age
    stale = max_age is not None and not login_is_recent(
        token.claims.auth_time, token.issuer, max_age=max_age, store_now=judged.store_now
    )
    if stale or not all(token.acr in acrs for acrs in requirements.acrs):
        needed = f', acr_values="{" ".join(requirements.acrs[0])}"' if requirements.acrs else ""
        if max_age is not None:
            needed += f", max_age={max_age}"
        return _refused(
            401, _REALM, "insufficient_user_authentication", "a stronger or fresher login is needed", needed
        )
    return None


def _authorized(token: VerifiedToken) -> Answer:
    """200 with all four headers, so that those of the client are always replaced."""
    claims = token.claims
    return Answer(
        200,
        {
            "X-Auth-Subject": _header(claims.sub),
            "X-Auth-Session": _header(claims.sid),
            "X-Auth-Client": _header(claims.client_id or claims.azp),
            "X-Auth-Scope": " ".join(_header(word) for word in scope_words(token.scope)),
        },
    )


def _header(value: str | None) -> str:
    """A value with everything percent-encoded that is not visible ASCII, and ``%`` itself."""
    return urllib.parse.quote(value or "", safe=_UNRESERVED)


def _refused(status: int, realm: str, error: str, description: str, needed: str = "") -> Answer:
    """A refusal by RFC 6750 §3; ``needed`` has further parameters of the challenge."""
    challenge = f'{realm}, error="{error}", error_description="{description}"{needed}'
    return Answer(status, {"WWW-Authenticate": challenge}, error_body(error, description))


def _forbidden(scope: str) -> Answer:
    """RFC 6750 §3.1; without a scope where what the gateway sets is malformed."""
    challenge = f'{_REALM}, error="insufficient_scope"' + (f', scope="{scope}"' if scope else "")
    what = "the token lacks a scope" if scope else "what the gateway requires is malformed"
    return Answer(403, {"WWW-Authenticate": challenge}, error_body("insufficient_scope", what))


_NO_TOKEN: Final = Answer(  # RFC 6750 §3.1: without a token, no error in the challenge
    401, {"WWW-Authenticate": _REALM}, error_body("invalid_token", "a token is required")
)
_INACTIVE: Final = _refused(401, _REALM, "invalid_token", "the token is not active")
MALFORMED: Final = Answer(
    401,
    {"WWW-Authenticate": f'{_REALM}, error="invalid_request"'},
    error_body("invalid_request", "the request or its token is malformed"),
)
_PROOF_OFFERED: Final = _refused(401, _DPOP_REALM, "invalid_token", "DPoP proofs are not checked here")
