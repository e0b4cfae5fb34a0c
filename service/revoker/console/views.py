"""The pages that show something: with the functions of the API, and so with its lines in the audit log."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

import msgspec
from aiohttp import web

from revoker.api import administration, explain, feed_consumers
from revoker.api.bodies import converted, name_values
from revoker.api.endpoint import BoundEndpoint, Call
from revoker.api.introspection import Introspect
from revoker.api.probes import Health
from revoker.api.services import Services
from revoker.console.acting import Acting
from revoker.console.actions import ACTIONS
from revoker.console.pages import only
from revoker.console.roles import Role
from revoker.console.sessions import Visitor
from revoker.errors import InvalidRequest, InvalidToken
from revoker.models import Claims, Issuer
from revoker.store.listed import Kind
from revoker.tokens.claims import origin_claims
from revoker.tokens.key_sources import KeySource
from revoker.tokens.parsing import parse_token

CHANGES_ON_A_PAGE: Final = 50
SESSIONS_ON_A_PAGE: Final = 50

MEANINGS: Final[Mapping[str, str]] = {
    "active": "The token is active.",
    "invalid": "It is no valid token of a configured issuer.",
    "foreign": "It is of an issuer or for an audience that is not visible here.",
    "incomplete": "It lacks a claim that every token needs.",
    "issued_in_future": "It is dated ahead of the store's clock.",
    "expired": "It has expired.",
    "not_yet_valid": "It is not valid yet.",
    "lives_too_long": "It is valid for longer than a token of this issuer may be.",
    "session_malformed": "Its session is none that Revoker can have begun.",
    "key_revoked": "The key that signed it was revoked.",
    "token_revoked": "This very token was revoked.",
    "user_blocked": "The user is blocked.",
    "user_cutoff": "The user was logged out after the token was made.",
    "session_cutoff": "The session was ended after the token was made.",
    "client_cutoff": "Everything of its client was revoked after it was made.",
    "claim_cutoff": "Everything with one of its claims was revoked after it was made.",
    "issuer_cutoff": "Everything of its issuer was revoked after it was made.",
    "data_loss": "The store lost data after it was made, so that everybody was logged out.",
}
"""Verdicts in words."""

KINDS: Final[Mapping[str, str]] = {
    "jti": "tokens",
    "user": "users",
    "session": "sessions",
    "client": "clients",
    "claim": "claims",
    "issuer": "issuers",
    "block": "blocks",
    "key": "signing keys",
}
"""Kinds of revocations in words, as the API names them."""


@dataclass(frozen=True, slots=True)
class IssuerState:
    """How it is with an issuer."""

    name: str
    iss: str
    keys: str
    well: bool
    revoked: list[str]


class Views:
    """The handlers of pages that change nothing."""

    def __init__(
        self,
        services: Services,
        health: Health,
        sources: Callable[[], Mapping[str, KeySource]],
        acting: Acting,
    ) -> None:
        self._services = services
        self._health = health
        self._sources = sources
        self._acting = acting
        self._bound: Final[Mapping[str, BoundEndpoint[Any]]] = {
            endpoint.path: endpoint.bind(services)
            for endpoint in (*administration.ENDPOINTS, *explain.ENDPOINTS, *feed_consumers.ENDPOINTS)
        }

    async def home(self, request: web.Request, visitor: Visitor) -> web.Response:
        """``GET /console``: find a user, or ask about a token."""
        only(_query(request))
        return self._page("home.html", visitor, title="Console", issuers=_issuers(visitor))

    async def user(self, request: web.Request, visitor: Visitor) -> web.Response:
        """``GET /console/user``: block, cutoffs and sessions of a user."""
        query = only(_query(request), "iss", "sub", "cursor")
        if not query.get("sub") or not query.get("iss"):
            raise InvalidRequest("Issuer and user are needed.")
        fields = {name: value for name, value in query.items() if name != "sub"}
        view = await self._ask(
            request,
            visitor,
            "/users/{sub}",
            {**fields, "limit": str(SESSIONS_ON_A_PAGE)},
            {"sub": query["sub"]},
        )
        sessions = self._services.sessions
        return self._page(
            "user.html",
            visitor,
            title=view.sub,
            view=view,
            keeps_sessions=sessions is not None and sessions.issuer.iss == view.iss,
            further_page=bool(query.get("cursor")),
            may_act=visitor.role >= Role.SUPPORT,
        )

    async def token(self, request: web.Request, visitor: Visitor) -> web.Response:
        """``GET /console/token``: the form for a token."""
        only(_query(request))
        return self._page("token.html", visitor, title="Why is a token not active?", explanation=None)

    async def explained(self, request: web.Request, visitor: Visitor, sent: dict[str, str]) -> web.Response:
        """``POST`` of the same: it changes nothing, and the token is in no URL."""
        token = sent.get("token", "").strip().removeprefix("Bearer ").strip()
        if not token:
            raise InvalidRequest("Paste a token.")
        bound = self._bound["/explain"]
        call = Call(visitor.caller, Introspect(token=token), self._peer(request), {})
        explanation: Any = await bound.carry_out(call)
        genuine = explanation.reason not in {"invalid", "foreign"}
        return self._page(
            "token.html",
            visitor,
            title="Why is a token not active?",
            explanation=explanation,
            meaning=MEANINGS.get(explanation.reason, explanation.reason),
            claims=self._claims(token) if genuine else None,
        )

    async def changes(self, request: web.Request, visitor: Visitor) -> web.Response:
        """``GET /console/changes``: what is revoked, the latest first."""
        query = only(_query(request), "kind", "iss", "cursor")
        if query.get("kind") not in {None, *get_args(Kind)}:
            raise InvalidRequest("There is no such kind of revocation.")
        listed = await self._ask(
            request, visitor, "/revocations", {**query, "limit": str(CHANGES_ON_A_PAGE)}, {}
        )
        return self._page(
            "changes.html",
            visitor,
            title="Recent changes",
            listed=listed,
            kinds=KINDS,
            issuers=_issuers(visitor),
            kind=query.get("kind", ""),
            iss=query.get("iss", ""),
            further_page=bool(query.get("cursor")),
        )

    async def larger(self, request: web.Request, visitor: Visitor) -> web.Response:
        """``GET /console/revoke``: what concerns a session alone, or more than one user."""
        only(_query(request))
        actions = [
            action
            for action in ACTIONS.values()
            if "sub" not in action.target and visitor.role >= action.role
        ]
        return self._page("revoke.html", visitor, title="Revoke", issuers=_issuers(visitor), actions=actions)

    async def state(self, request: web.Request, visitor: Visitor) -> web.Response:
        """``GET /console/state``: the store, the edges and the issuers."""
        only(_query(request))
        consumers = await self._ask(request, visitor, "/feed/consumers", {}, {})
        return self._page(
            "state.html",
            visitor,
            title="State",
            readiness=self._health.readiness(),
            running=len(self._services.store.instances.running),
            consumers=consumers.consumers,
            issuers=[self._state_of(issuer) for issuer in _issuers(visitor)],
        )

    async def _ask(
        self,
        request: web.Request,
        visitor: Visitor,
        path: str,
        fields: dict[str, str],
        named: Mapping[str, str],
    ) -> Any:
        """What an endpoint of the API answers that reads."""
        bound = self._bound[path]
        body = converted(fields, bound.endpoint.body)
        return await bound.carry_out(Call(visitor.caller, body, self._peer(request), named))

    def _page(self, template: str, visitor: Visitor, **values: Any) -> web.Response:
        return self._acting.page(template, visitor, **values)

    def _peer(self, request: web.Request) -> str:
        return self._services.authentication.client_address(request)

    def _claims(self, token: str) -> Claims | None:
        """The claims of a token that has just been verified."""
        try:
            payload = parse_token(token).payload
        except InvalidToken:
            return None
        issuer = self._services.issuers.get(payload.get("iss", ""))
        claims = origin_claims(payload, "", issuer.claim_names if issuer else None)
        return msgspec.structs.replace(claims, kid=None)

    def _state_of(self, issuer: Issuer) -> IssuerState:
        source = self._sources().get(issuer.name)
        revoked = sorted({*self._services.revoked_key_ids(issuer), *issuer.revoked_kids})
        if source is None:
            return IssuerState(issuer.name, issuer.iss, "none", False, revoked)
        keys = "loaded" if source.ready else f"never loaded: {source.fault or 'no answer yet'}"
        if source.stale:
            keys = f"not refreshed: {source.fault}"
        return IssuerState(issuer.name, issuer.iss, keys, source.ready and not source.stale, revoked)


def _issuers(visitor: Visitor) -> list[Issuer]:
    return list({issuer.name: issuer for issuer in visitor.caller.issuers.values()}.values())


def _query(request: web.Request) -> dict[str, str]:
    return name_values(request.rel_url.raw_query_string.encode())
