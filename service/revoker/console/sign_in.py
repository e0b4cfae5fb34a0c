"""Signing in and out: by the identity provider, or in development by the secret of a caller."""

import re
import secrets
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import msgspec
import structlog
from aiohttp import web

from revoker.api.bodies import BODY_LIMIT, name_values, read
from revoker.api.services import Services
from revoker.auth import Credentials, FailureLimit, digest
from revoker.config.console import ConsoleSettings
from revoker.console.drafts import SIGN_IN_S, Draft, Drafts, owner_of
from revoker.console.forms import refuse_other_sites
from revoker.console.pages import PREFIX, page, redirect
from revoker.console.provider import Provider, SignInFailed
from revoker.console.roles import role_of_claims, role_of_scopes
from revoker.console.sessions import Cookies, Sessions, SignedIn, new_name
from revoker.errors import InvalidClient, InvalidRequest, TooManyFailures, TooManyRequests
from revoker.models import Verdict
from revoker.store.console_records import ConsoleRecords

_audit = structlog.get_logger("audit")

_PAGE: Final = re.compile(
    rf"{PREFIX}(/(user|token|changes|revoke|state|act/[a-z-]{{1,32}}|done/[A-Za-z0-9_-]{{22}}))?(\?[!-~]*)?"
).fullmatch
"""A page to which a sign-in may lead."""

_MAX_TARGET: Final = 3000
"""Characters of the cookie that remembers it; browsers take 4096 with its name."""

_STATE: Final = re.compile(r"[A-Za-z0-9_-]{43}").fullmatch
_ERROR_CODE: Final = re.compile(r"[a-z_]{1,64}").fullmatch

_NO_ROLE: Final = (
    "You are signed in at the identity provider, but it gives you no role here. Ask for one of: viewer, "
    "support, admin."
)

_NOT_REMEMBERED: Final = (
    "Your sign-in has expired, and nothing was done. What you typed cannot be remembered: copy it from here."
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
    """What the store has of a sign-in in progress, under the browser's name and the ``state`` of the request.

    Attributes:
        target: The page that was asked for.
        nonce: Of the request to the provider, as is ``verifier``.
    """

    target: str
    nonce: str
    verifier: str


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
        self._drafts = Drafts(records)
        self._sign_ins = FailureLimit(time.monotonic)
        """Sign-ins of peers: each is stored."""
        self._remembered = FailureLimit(time.monotonic)
        """Drafts of peers: of their own, since everybody behind a proxy may be one peer."""

    def ask(self, request: web.Request) -> web.Response:
        """Send somebody who is not signed in to the page for that; a cookie says where they wanted to go."""
        response = redirect(f"{PREFIX}/sign-in")
        target = quote(request.rel_url.raw_path_qs, safe="")
        if request.method == "GET" and len(target) <= _MAX_TARGET:
            self._cookies.set(response, self._cookies.target, target, seconds=SIGN_IN_S)
        return response

    async def ask_again(self, request: web.Request, draft: Draft | None, reason: str) -> web.Response:
        """As :meth:`ask`, for somebody who has sent a form: what was typed is remembered, or shown."""
        if draft is None and not reason:
            return self.ask(request)
        try:
            self._remembered.count(self._services.authentication.client_address(request))
            fits = draft is not None and draft.fits
        except TooManyFailures:
            fits = False
        if draft is None or not fits:
            return self._page(_NOT_REMEMBERED, 403, reason=reason)
        browser = self._browser(request) or new_name()
        await self._drafts.add(browser, draft)
        response = redirect(f"{PREFIX}/sign-in")
        self._cookies.set(response, self._cookies.sign_in, browser, seconds=SIGN_IN_S)
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
            ),
            self._target(request),
        )

    async def begin(self, request: web.Request) -> web.Response:
        """``GET /console/sign-in/begin``: go to the provider."""
        if self._provider is None:
            return redirect(f"{PREFIX}/sign-in")
        try:
            self._sign_ins.count(self._services.authentication.client_address(request))
        except TooManyFailures:
            raise TooManyRequests("Too many sign-ins were begun from your address: wait a minute.") from None
        browser, state = self._browser(request) or new_name(), new_name()
        started = SignIn(target=self._target(request), nonce=new_name(), verifier=secrets.token_urlsafe(48))
        await self._records.write("sign-in", f"{browser}.{state}", started, SIGN_IN_S * 1000)
        response = redirect(f"{PREFIX}/sign-in")
        response.headers["Location"] = self._provider.authorization_url(
            state=state, nonce=started.nonce, verifier=started.verifier
        )
        self._cookies.set(response, self._cookies.sign_in, browser, seconds=SIGN_IN_S)
        return response

    async def come_back(self, request: web.Request) -> web.Response:
        """``GET /console/callback``: the provider has sent the browser back."""
        peer = self._services.authentication.client_address(request)
        if self._provider is None:
            return redirect(f"{PREFIX}/sign-in")
        query = name_values(request.rel_url.raw_query_string.encode())
        started = await self._started(request, query.get("state", ""))
        if started is None:  # anybody can send this without an end: it is not in the audit log
            return self._page("This sign-in was not started in this browser, or has taken too long.", 403)
        try:
            self._check_answer(query)
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
            claims=msgspec.structs.replace(claims, jti=None),  # whose revocation ends earlier
            secret="",
            form_key=new_name(),
            began=login.now,
        )
        return await self._enter(request, peer, signed_in, started.target)

    async def leave(self, request: web.Request) -> web.Response:
        """End the session, once its form was checked."""
        response = redirect(f"{PREFIX}/sign-in")
        await self._sessions.end(request, response)
        return response

    def _check_answer(self, query: dict[str, str]) -> None:
        """Refuse an answer that holds no code of the provider."""
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

    async def _enter(self, request: web.Request, peer: str, signed_in: SignedIn, target: str) -> web.Response:
        response = redirect(target)
        session = await self._sessions.begin(request, response, signed_in, peer)
        self._cookies.remove(response, self._cookies.target)
        if browser := self._browser(request):  # its cookie stays, for sign-ins begun in other tabs
            owner = owner_of(signed_in.claims.iss if signed_in.claims else None, signed_in.sub)
            response.headers["Location"] = await self._drafts.hand_over(browser, session, owner) or target
        return response

    @property
    def _cookies(self) -> Cookies:
        return self._sessions.cookies

    def _browser(self, request: web.Request) -> str | None:
        """The name that this browser has for signing in."""
        return self._cookies.read(request, self._cookies.sign_in)

    def _target(self, request: web.Request) -> str:
        """The page that was asked for before the sign-in, as the cookie says; it may be anybody's word."""
        target = unquote(request.cookies.get(self._cookies.target, "")[:_MAX_TARGET])
        return target if _PAGE(target) else PREFIX

    async def _started(self, request: web.Request, state: str) -> SignIn | None:
        """The sign-in that this browser has begun with a state; that ends it: an answer is good once."""
        browser = self._browser(request)
        if browser is None or not _STATE(state):
            return None
        name = f"{browser}.{state}"
        found = await self._records.read("sign-in", name, SignIn)
        return found if found is not None and await self._records.remove("sign-in", name) else None

    def _refused(
        self, peer: str, why: str, sentence: str, status: int = 403, *, sub: str = ""
    ) -> web.Response:
        _audit.warning("console_sign_in_refused", peer=peer, why=why, **({"sub": sub} if sub else {}))
        return self._page(sentence, status)

    def _page(self, sentence: str = "", status: int = 200, *, reason: str = "") -> web.Response:
        provider = self._provider
        return page(
            "sign_in.html",
            None,
            status=status,
            sentence=sentence,
            reason=reason,
            provider=None
            if provider is None
            else urlsplit(provider.issuer.iss).netloc or provider.issuer.iss,
        )
