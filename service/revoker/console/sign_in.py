"""Signing in and out: by the identity provider, or in development by the secret of a caller."""

import hmac
import re
import secrets
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog
from aiohttp import web

from revoker.api.bodies import BODY_LIMIT, name_values, read
from revoker.api.services import Services
from revoker.auth import Credentials, FailureLimit, digest
from revoker.config.console import ConsoleSettings
from revoker.console.forms import refuse_other_sites
from revoker.console.pages import PREFIX, page, redirect
from revoker.console.provider import Provider, SignInFailed
from revoker.console.roles import role_of_claims, role_of_scopes
from revoker.console.sessions import Draft, Sessions, SignedIn, new_name
from revoker.errors import InvalidClient, InvalidRequest, TooManyFailures, TooManyRequests
from revoker.models import Verdict
from revoker.store.console_records import ConsoleRecords

_audit = structlog.get_logger("audit")

SIGN_IN_S: Final = 600
"""How long somebody may take to sign in."""

MAX_DRAFT: Final = 8192
"""Characters that are remembered of what somebody had typed, when the sign-in had expired."""

_ERROR_CODE: Final = re.compile(r"[a-z_]{1,64}").fullmatch

_NO_ROLE: Final = (
    "You are signed in at the identity provider, but it gives you no role here. Ask for one of: viewer, "
    "support, admin."
)

_REVOKED: Final = ("revoked", "Your sign-in was revoked a moment ago, or you are blocked.")
_REFUSALS: Final[Mapping[Verdict, tuple[str, str]]] = {
    Verdict.ISSUED_IN_FUTURE: (
        "dated ahead",
        "The identity provider dates its tokens ahead of the store's clock. Set the clocks.",
    ),
    Verdict.EXPIRED: (
        "old login",
        "Your login at the identity provider is too old. Sign out there, and sign in again.",
    ),
}
"""Why an ID token lets nobody in: for the audit log, and for the page."""


class SignIn(msgspec.Struct, frozen=True, kw_only=True):
    """What the store has of a sign-in in progress; the browser has its name in a cookie.

    Attributes:
        target: The page that was asked for: a path of the console.
        draft: What had been typed there.
        state: Of the request to the provider, as are ``nonce`` and ``verifier``; empty: none was sent.
    """

    target: str = PREFIX
    draft: Draft | None = None
    state: str = ""
    nonce: str = ""
    verifier: str = ""


class SignInPages:
    """The handlers of sign-in and sign-out."""

    def __init__(
        self,
        settings: ConsoleSettings,
        services: Services,
        sessions: Sessions,
        records: ConsoleRecords,
        provider: Provider | None,
    ) -> None:
        """``provider``: None where the secrets of callers are used."""
        self._settings = settings
        self._services = services
        self._sessions = sessions
        self._records = records
        self._provider = provider
        self._attempts = FailureLimit(time.monotonic)
        """Requests of peers that are not signed in and make the store remember something."""

    async def ask(self, request: web.Request, draft: Draft | None = None) -> web.Response:
        """Send somebody who is not signed in to the page for that; where they wanted to go is remembered."""
        target = draft.target if draft else request.rel_url.raw_path_qs
        if request.method != "GET" and draft is None:
            target = PREFIX
        response = redirect(f"{PREFIX}/sign-in")
        if target.startswith(PREFIX) and target != PREFIX and len(target) <= MAX_DRAFT:
            await self._remember(request, response, SignIn(target=target, draft=draft))
        return response

    async def show(self, _: web.Request) -> web.Response:
        """``GET /console/sign-in``."""
        return self._page()

    async def by_secret(self, request: web.Request) -> web.Response:
        """``POST /console/sign-in``: the name and secret of a caller, in development."""
        refuse_other_sites(request, self._settings.url)
        if self._provider is not None:
            raise InvalidRequest("Sign in by the identity provider.")
        fields, _ = await read(request, BODY_LIMIT)
        sent = fields or {}
        peer = self._services.authentication.client_address(request)
        name, secret = sent.get("name", ""), sent.get("secret", "")
        if not name or not secret:
            return self._page("Name and secret are needed.", 400)
        try:
            caller = self._services.authentication.callers.authenticate(
                Credentials(client_id=name, client_secret=secret, peer=peer)
            )
        except InvalidClient:
            _audit.warning("console_sign_in_refused", peer=peer, why="wrong credentials")
            return self._page("Name or secret is wrong.", 403)
        role = role_of_scopes(caller.scopes)
        if role is None or caller.client_id:
            return self._refused(peer, "no role", _NO_ROLE)
        started = await self._started(request)
        return await self._enter(
            request,
            peer,
            SignedIn(
                sub=caller.name,
                name=caller.name,
                role=role,
                claims=None,
                secret=digest(digest(secret)),
                form_key=new_name(),
                began=self._services.clocks.store_ms or int(self._services.clocks.now() * 1000),
                draft=started.draft,
            ),
            started,
        )

    async def begin(self, request: web.Request) -> web.Response:
        """``GET /console/sign-in/begin``: go to the provider."""
        if self._provider is None:
            return redirect(f"{PREFIX}/sign-in")
        before = await self._in_progress(request)
        started = msgspec.structs.replace(
            before or SignIn(), state=new_name(), nonce=new_name(), verifier=secrets.token_urlsafe(48)
        )
        response = redirect(f"{PREFIX}/sign-in")
        response.headers["Location"] = self._provider.authorization_url(
            state=started.state, nonce=started.nonce, verifier=started.verifier
        )
        await self._remember(request, response, started)
        return response

    async def come_back(self, request: web.Request) -> web.Response:
        """``GET /console/callback``: the provider has sent the browser back."""
        peer = self._services.authentication.client_address(request)
        if self._provider is None:
            return redirect(f"{PREFIX}/sign-in")
        query = name_values(request.rel_url.raw_query_string.encode())
        started = await self._started(request)
        try:
            self._check_answer(query, started)
            genuine = await self._provider.id_token(
                query["code"], nonce=started.nonce, verifier=started.verifier
            )
        except SignInFailed as error:
            return self._refused(peer, "refused", str(error), 503 if error.again else 403)
        claims = self._provider.claims(genuine)
        sub = claims.sub or ""
        role = role_of_claims(genuine.payload, self._settings)
        if role is None:
            return self._refused(peer, "no role", _NO_ROLE, sub=sub)
        login = await self._sessions.check(claims, genuine.issuer)
        if login.verdict is not Verdict.ACTIVE:
            return self._refused(peer, *_REFUSALS.get(login.verdict, _REVOKED), sub=sub)
        name = genuine.payload.get("name") or genuine.payload.get("preferred_username")
        signed_in = SignedIn(
            sub=sub,
            name=name[:100] if isinstance(name, str) else sub,
            role=role,
            claims=msgspec.structs.replace(claims, jti=None),  # whose revocation does not last so long
            secret="",
            form_key=new_name(),
            began=login.now,
            draft=started.draft,
        )
        return await self._enter(request, peer, signed_in, started)

    async def leave(self, request: web.Request) -> web.Response:
        """End the session, once its form was checked."""
        response = redirect(f"{PREFIX}/sign-in")
        await self._sessions.end(request, response)
        return response

    def _check_answer(self, query: dict[str, str], started: SignIn) -> None:
        """Refuse an answer of the provider that is not to a request which this browser began."""
        if not started.state or not hmac.compare_digest(
            query.get("state", "").encode(), started.state.encode()
        ):
            raise SignInFailed("This sign-in was not started in this browser, or has taken too long.")
        assert self._provider is not None  # noqa: S101  # there is an answer
        if query.get("iss") not in {None, self._provider.issuer.iss}:  # RFC 9207
            raise SignInFailed("The answer is of another identity provider.")
        if "code" not in query:
            code = query.get("error", "")
            raise SignInFailed(
                f"The identity provider refused the sign-in: {code}."
                if _ERROR_CODE(code)
                else "The identity provider refused the sign-in."
            )

    async def _enter(
        self, request: web.Request, peer: str, signed_in: SignedIn, started: SignIn
    ) -> web.Response:
        response = redirect(started.target)
        await self._sessions.begin(request, response, signed_in, peer)
        self._sessions.cookies.remove(response, self._sessions.cookies.sign_in)
        return response

    async def _in_progress(self, request: web.Request) -> SignIn | None:
        name = self._sessions.cookies.read(request, self._sessions.cookies.sign_in)
        return None if name is None else await self._records.read("sign-in", name, SignIn)

    async def _started(self, request: web.Request) -> SignIn:
        """The sign-in of this browser, which is over by that: an answer cannot be used twice."""
        name = self._sessions.cookies.read(request, self._sessions.cookies.sign_in)
        found = await self._in_progress(request)
        if name is None or found is None or not await self._records.remove("sign-in", name):
            return SignIn()
        return found

    async def _remember(self, request: web.Request, response: web.StreamResponse, started: SignIn) -> None:
        """Remember a sign-in under a new name; raises ``TooManyRequests`` for a peer that begins too many."""
        try:
            self._attempts.count(self._services.authentication.client_address(request))
        except TooManyFailures:
            raise TooManyRequests("Too many sign-ins were begun from your address: wait a minute.") from None
        name = new_name()
        await self._records.write("sign-in", name, started, SIGN_IN_S * 1000)
        self._sessions.cookies.set(response, self._sessions.cookies.sign_in, name)

    def _refused(
        self, peer: str, why: str, sentence: str, status: int = 403, *, sub: str = ""
    ) -> web.Response:
        _audit.warning("console_sign_in_refused", peer=peer, why=why, **({"sub": sub} if sub else {}))
        return self._page(sentence, status)

    def _page(self, sentence: str = "", status: int = 200) -> web.Response:
        provider = self._provider
        return page(
            "sign_in.html",
            None,
            status=status,
            sentence=sentence,
            provider=None
            if provider is None
            else urlsplit(provider.issuer.iss).netloc or provider.issuer.iss,
        )
