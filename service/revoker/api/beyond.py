"""What an edge with ``beyond = "ask"`` does while it knows too little: it asks the service.

A token is verified here, and a caller's limits and the rules of the issuer apply here, as ever. Only what was
revoked is asked: a token is active if it is here and at the service.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from revoker.api import bodies
from revoker.api.credentials import Authentication
from revoker.api.introspection import (
    ACTIVE,
    INACTIVE,
    SCOPE,
    Introspection,
    IntrospectReader,
    claims_of,
    token_of,
)
from revoker.api.prebuilt import PrebuiltResponse
from revoker.api.verdicts import Judged, Verdicts
from revoker.auth import Caller
from revoker.errors import StoreUnavailable
from revoker.models import NO_REVOCATIONS, Issuer, Payload, Verdict
from revoker.store.source import Found
from revoker.tokens.verifying import VerifiedToken

Ask = Callable[[bytes], Awaitable[bool]]
"""Posts the body of an introspection to the service: is the token active? Raises ``StoreUnavailable``."""


class AskedVerdicts(Verdicts):
    """As :class:`revoker.api.verdicts.Verdicts`, for single tokens by the service where it cannot judge.

    Attributes:
        may_ask: Whether there has been a snapshot: before it, the service's limits of issuers are not known.
    """

    def __init__(
        self, *, ask: Ask, may_ask: Callable[[], bool], estimated_now: Callable[[], int], **parts: Any
    ) -> None:
        """``estimated_now`` is the store's time (ms) as far as it is known; 0 where it is not."""
        super().__init__(**parts)
        self.ask = ask
        self.may_ask = may_ask
        self._estimated_now = estimated_now

    def judged_here(self, claims: Payload, issuer: Issuer, token: VerifiedToken | None = None) -> Judged:
        """Judge by the configuration of this edge alone, as if nothing was revoked at the store."""
        if token is None:
            claims = self._without_unproven_kid(claims, issuer, NO_REVOCATIONS)
        now = max(self._estimated_now(), int(self._clock() * 1000))
        return self.judged(claims, issuer, Found(NO_REVOCATIONS, now), token)

    async def of_token(self, token: str, caller: Caller, **options: Any) -> Judged:
        try:
            return await super().of_token(token, caller, **options)
        except StoreUnavailable:
            verified = self._verifier.cached(token)
            if verified is None or not self.may_ask():
                raise
        here = self.judged_here(verified.claims, verified.issuer, verified)
        if here.verdict is not Verdict.ACTIVE:
            return here
        if await self.ask(b'{"token":"%b"}' % token.encode()):  # it is base64url and dots
            return here
        return msgspec.structs.replace(here, verdict=Verdict.TOKEN_REVOKED)


class AskingIntrospection:
    """Responds to introspection requests, also while nothing recent is known."""

    def __init__(
        self,
        introspection: Introspection,
        authentication: Authentication,
        reader: IntrospectReader,
        verdicts: AskedVerdicts,
        fresh: Callable[[], bool],
    ) -> None:
        self._introspection = introspection
        self._authentication = authentication
        self._reader = reader
        self._verdicts = verdicts
        self._fresh = fresh

    async def respond(self, request: web.Request) -> PrebuiltResponse:
        """Respond to one request."""
        if self._fresh() or not self._verdicts.may_ask():
            return await self._introspection.respond(request)
        bodies.refuse_query(request)
        fields, raw = await bodies.read(request, bodies.BODY_LIMIT)
        caller = self._authentication.authenticate(request, fields)
        caller.require(SCOPE)
        if fields is not None:
            return await self._introspection.respond_to_form(fields, caller)
        asked, document = self._reader.read(raw)
        token = token_of(asked)
        if token is not None:
            return await self._introspection.respond_to_token(token, caller)
        claims, issuer = claims_of(asked, caller, document)
        if issuer is None or not caller.may_see(claims.aud):
            self._verdicts.foreign()
            return PrebuiltResponse(INACTIVE)
        here = self._verdicts.judged_here(claims, issuer)
        active = here.verdict is Verdict.ACTIVE and await self._verdicts.ask(raw)
        return PrebuiltResponse(ACTIVE if active else INACTIVE)
