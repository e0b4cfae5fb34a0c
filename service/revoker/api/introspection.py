"""``POST /introspect`` (RFC 7662): may this token be used now?

This is the path on every request of every gateway. It goes straight from the connection to
:meth:`Introspection.respond`, past router and middleware; everything else on it is in ``callers``,
``verdicts`` and ``store.lookups``.
"""

import time
from typing import Annotated, Final

import msgspec
from aiohttp import web

from revoker.api import endpoint, refresh_tokens
from revoker.api.errors import NO_STORE
from revoker.api.observing import answered, failed
from revoker.api.parts import Parts
from revoker.api.paths import INTROSPECT
from revoker.api.prebuilt import PrebuiltResponse
from revoker.auth import Caller
from revoker.errors import InvalidRequest, RevokerError
from revoker.models import Claims, Issuer, Payload, Verdict
from revoker.tokens.refresh_tokens import looks_like

SCOPE: Final = "introspect"

INACTIVE: Final = b'{"active":false}'
ACTIVE: Final = b'{"active":true}'


class Header(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The JOSE header of a token whose signature the caller has checked; other members are ignored."""

    kid: Annotated[str, msgspec.Meta(min_length=1)]


class Introspect(Payload, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A token, or the claims of one whose signature the caller has checked, or these with its header.

    In the claims form ``jti``, ``sub``, ``iat`` and ``exp`` are required, here or in ``claims``. A token
    whose ``header`` is not given is not active once a key of its issuer was revoked. One form excludes the
    others.
    """

    token: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    claims: Payload | None = None
    header: Header | None = None


decode: Final = msgspec.json.Decoder(Introspect)


def _has_claims(asked: Payload) -> bool:
    """Whether any claim is given; written out, since it is asked for every token."""
    return (
        asked.jti is not None
        or asked.sub is not None
        or asked.iat is not None
        or asked.exp is not None
        or asked.iss is not None
        or asked.sid is not None
        or asked.client_id is not None
        or asked.azp is not None
        or asked.aud is not None
        or asked.auth_time is not None
        or asked.nbf is not None
    )


CLAIMS_IN_FORMS: Final = frozenset(Introspect.__struct_fields__) - {"token", "client_id"}
"""What may not be beside a token in a form; ``client_id`` is a credential there (RFC 6749 §2.3.1)."""


def token_of(asked: Introspect) -> str | None:
    """The token that is asked about; None where it is claims.

    Raises:
        InvalidRequest: claims are beside it, and it is not clear whose verdict is wanted.
    """
    if asked.token is not None and (
        asked.claims is not None or asked.header is not None or _has_claims(asked)
    ):
        raise InvalidRequest("claims are beside the token: one of the two is wanted")
    return asked.token


def claims_of(asked: Introspect) -> Payload:
    """The claims that are asked about, with the header's ``kid`` where the header is given.

    Raises:
        InvalidRequest: only half of ``claims`` and ``header`` is there, or claims are beside them.
    """
    if asked.claims is None and asked.header is None:
        return asked
    if asked.claims is None or asked.header is None:
        raise InvalidRequest("claims and header belong together")
    if _has_claims(asked):
        raise InvalidRequest("claims are both in claims and beside it")
    payload = asked.claims
    return Claims(
        kid=asked.header.kid,
        iss=payload.iss,
        jti=payload.jti,
        sub=payload.sub,
        iat=payload.iat,
        exp=payload.exp,
        sid=payload.sid,
        client_id=payload.client_id,
        azp=payload.azp,
        aud=payload.aud,
        auth_time=payload.auth_time,
        nbf=payload.nbf,
    )


def issuer_of_claims(claims: Payload, caller: Caller) -> Issuer | None:
    """The issuer that claims name; None where they are not the caller's business.

    Raises:
        InvalidRequest: what the claims form needs is missing.
    """
    issuer = caller.issuer(claims.iss)
    if not claims.sub or claims.iat is None or claims.exp is None:
        raise InvalidRequest("token, or jti, sub, iat and exp are needed")
    if not claims.jti and issuer is not None and issuer.require_jti:
        raise InvalidRequest("jti is missing")
    return issuer


class Introspection:
    """Answers introspection requests."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._admission = parts.admission
        self._aside = parts.admission.aside
        self._seconds = parts.metrics.deferred.observing(parts.metrics.introspection_seconds)
        self._failed = parts.metrics.requests.labels(INTROSPECT, "500").inc

    async def respond(self, request: web.Request) -> web.Response:
        """Answer one request that comes by way of router and middleware, which see to errors."""
        began = time.perf_counter()
        try:
            body = await self._answer(request)
        finally:
            self._seconds(time.perf_counter() - began)
        return web.Response(body=body, content_type="application/json", headers=NO_STORE)

    async def respond_at_once(self, request: web.Request) -> web.Response | PrebuiltResponse:
        """Answer one that comes past them; every error but a broken connection becomes a response."""
        began = time.perf_counter()
        try:
            return PrebuiltResponse(await self._answer(request))
        except RevokerError as error:
            return answered(self._parts, error)
        except Exception:  # noqa: BLE001  # the boundary of the service
            self._failed()
            return failed()
        finally:
            self._seconds(time.perf_counter() - began)

    async def _answer(self, request: web.Request) -> bytes:
        parts = self._parts
        headers = request.headers
        shown = headers.getall("Authorization", ())
        caller = parts.callers.cached(shown[0]) if len(shown) == 1 else None
        if (
            caller is None
            or headers.get("Content-Type") != "application/json"
            or "Content-Encoding" in headers
            or request.raw_path != INTROSPECT
        ):
            fields, raw, caller = await self._read_anyones(request)
        else:
            if caller.rate_limit is not None:
                caller.rate_limit.spend()
            if SCOPE not in caller.scopes:
                caller.require(SCOPE)
            fields, raw = None, await endpoint.read_bytes(request, endpoint.BODY_LIMIT)
        admission = self._admission
        admission.under_way += 1
        try:
            if fields is None:
                return await self._judge(raw, caller)
            return await self._judge_form(fields, caller)
        finally:
            admission.under_way -= 1

    async def _read_anyones(self, request: web.Request) -> tuple[endpoint.Fields | None, bytes, Caller]:
        """The long way: a caller that was not seen before, a form, or something that is refused."""
        endpoint.refuse_query(request)
        fields, raw = await endpoint.read(request, endpoint.BODY_LIMIT)
        caller = self._parts.authentication.authenticate(request, fields)
        caller.require(SCOPE)
        return fields, raw, caller

    async def _judge_form(self, fields: endpoint.Fields, caller: Caller) -> bytes:
        token = fields.get("token")
        if token is None:
            raise InvalidRequest("token is missing")
        if not CLAIMS_IN_FORMS.isdisjoint(fields):
            raise InvalidRequest("claims are beside the token: one of the two is wanted")
        return await self._judge_token(token, caller)

    async def _judge(self, raw: bytes, caller: Caller) -> bytes:
        asked = endpoint.decoded(raw, decode)
        endpoint.refuse_ambiguous(raw, asked)
        token = token_of(asked)
        if token is not None:
            return await self._judge_token(token, caller)
        claims = claims_of(asked)
        issuer = issuer_of_claims(claims, caller)
        judged = await self._parts.verdicts.of_claims(claims, issuer, caller)
        return ACTIVE if judged.verdict is Verdict.ACTIVE else INACTIVE

    async def _judge_token(self, token: str, caller: Caller) -> bytes:
        sessions = self._parts.sessions
        if sessions is not None and looks_like(token):
            return await refresh_tokens.introspect(sessions, token, caller) or INACTIVE
        judged = await self._parts.verdicts.of_token(token, caller, waiting=self._aside)
        if judged.verdict is Verdict.ACTIVE and judged.token is not None:
            return judged.token.answer
        return INACTIVE
