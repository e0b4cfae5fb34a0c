"""Who is signed in to the console: found by a cookie, and judged by this service's own cutoffs and blocks.

The cookie holds a random name, of which the store has only the digest. It is a new one at every sign-in.
"""

import hmac
import secrets
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import structlog
from aiohttp import web

from revoker import rules
from revoker.api.services import Services
from revoker.auth import Caller, digest
from revoker.config.console import ConsoleSettings
from revoker.console.drafts import owner_of
from revoker.console.roles import SCOPES, Role, role_of_scopes
from revoker.errors import AccessDenied, StoreRefused
from revoker.models import Claims, Issuer, Verdict
from revoker.store.console_records import ConsoleRecords

_audit = structlog.get_logger("audit")

CALLER_PREFIX: Final = "console:"
"""Of the name by which changes are in the audit log and beside revocations; the user's ``sub`` follows."""

_NAME_CHARACTERS: Final = 43
"""32 random bytes in base64url."""


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    """What the store has of one session of the console.

    Attributes:
        sub: Of the user, or the name of the caller whose secret was used.
        name: By which the user is greeted; the provider's word, and no more.
        claims: Of the ID token, on which cutoffs and blocks depend; None: a caller's secret was used.
        secret: Digest of the caller's digest, so that a replaced secret ends the session; else empty.
        form_key: By which the forms of this session are signed; it never leaves the service.
        began: By the store's clock (ms).
    """

    sub: str
    name: str
    role: int
    claims: Claims | None
    secret: str
    form_key: str
    began: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Whether an ID token lets somebody be signed in now.

    Attributes:
        now: By the store's clock (ms).
        ends: When it does so no longer (ms), whatever happens: cutoffs that cover it are stored until then.
    """

    verdict: Verdict
    now: int
    ends: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who sends a request.

    Attributes:
        session: The digest of the session's name: names the session, and does not open it.
        caller: As whom changes are made.
    """

    session: str
    signed_in: SignedIn
    role: Role
    caller: Caller

    @property
    def owner(self) -> str:
        """Names the person, whatever the session."""
        claims = self.signed_in.claims
        return owner_of(None if claims is None else claims.iss, self.signed_in.sub)

    def require(self, role: Role) -> None:
        """Raise ``AccessDenied`` for a lower role."""
        if self.role < role:
            raise AccessDenied(f"This needs the role {role.label}; you have the role {self.role.label}.")


class Cookies:
    """Sets and removes the cookies of the console."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self._secure: Final = settings.url.startswith("https:")
        prefix = "__Host-" if self._secure else ""
        self.session: Final = f"{prefix}revoker-console"
        self.sign_in: Final = f"{prefix}revoker-sign-in"
        self.target: Final = f"{prefix}revoker-target"

    @staticmethod
    def read(request: web.Request, cookie: str) -> str | None:
        """The name in a cookie; None where it cannot be one."""
        value = request.cookies.get(cookie, "")
        return value if len(value) == _NAME_CHARACTERS and value.isascii() else None

    def set(
        self, response: web.StreamResponse, cookie: str, value: str, *, seconds: int | None = None
    ) -> None:
        """Lax, since a provider redirects to the console from another site; POST never comes with it."""
        response.set_cookie(
            cookie, value, max_age=seconds, path="/", secure=self._secure, httponly=True, samesite="Lax"
        )

    def remove(self, response: web.StreamResponse, cookie: str) -> None:
        response.del_cookie(cookie, path="/", secure=self._secure, httponly=True, samesite="Lax")


def new_name() -> str:
    """A name that nobody can guess (256 random bits)."""
    return secrets.token_urlsafe(32)


class Sessions:
    """Begins, finds and ends sessions of the console."""

    def __init__(self, settings: ConsoleSettings, services: Services, records: ConsoleRecords) -> None:
        self._settings = settings
        self._services = services
        self._records = records
        self.cookies: Final = Cookies(settings)

    async def begin(
        self, request: web.Request, response: web.StreamResponse, signed_in: SignedIn, peer: str
    ) -> str:
        """Begin a session under a new name; one that the browser has already is ended, and never used.

        Returns:
            The digest of the name.
        """
        await self._remove(request)
        name = new_name()
        await self._records.write("session", name, signed_in, self._idle_ms)
        self.cookies.set(response, self.cookies.session, name)
        _audit.info(
            "console_signed_in",
            caller=CALLER_PREFIX + signed_in.sub,
            peer=peer,
            role=Role(signed_in.role).label,
            sid=signed_in.claims.sid if signed_in.claims else None,
        )
        return digest(name)

    async def end(self, request: web.Request, response: web.StreamResponse) -> None:
        await self._remove(request)
        self.cookies.remove(response, self.cookies.session)

    async def find(self, request: web.Request) -> Visitor | None:
        """Who sends a request; None: nobody who is signed in.

        Raises:
            StoreUnavailable: the store does not say whether the user may still be signed in.
            StoreRefused: likewise.
        """
        name = self.cookies.read(request, self.cookies.session)
        signed_in = None if name is None else await self._records.read("session", name, SignedIn)
        if name is None or signed_in is None:
            return None
        left = await self._ms_left(signed_in)
        if left <= 0:
            await self._records.remove("session", name)
            return None
        self._records.prolong("session", name, min(left, self._idle_ms))
        return Visitor(
            session=digest(name),
            signed_in=signed_in,
            role=Role(signed_in.role),
            caller=self._acts_as(signed_in).spend_request(),
        )

    def issuer(self) -> Issuer | None:
        """By which people sign in; None: by the secrets of callers."""
        name = self._settings.issuer
        return next((one for one in self._services.issuers.values() if name and one.name == name), None)

    @property
    def _idle_ms(self) -> int:
        return self._settings.idle_timeout * 1000

    async def _remove(self, request: web.Request) -> None:
        if name := self.cookies.read(request, self.cookies.session):
            await self._records.remove("session", name)
            await self._records.remove("draft", digest(name))

    async def _ms_left(self, signed_in: SignedIn) -> int:
        """How long a session may still last; at most 0 if something has ended it meanwhile."""
        absolute = signed_in.began + self._settings.absolute_timeout * 1000
        if signed_in.claims is None:
            now = self._services.clocks.store_ms or int(self._services.clocks.now() * 1000)
            return absolute - now if self._caller(signed_in) else 0
        issuer = self.issuer()
        if issuer is None or signed_in.claims.iss not in {issuer.iss, *issuer.aliases}:
            return 0
        login = await self.check(signed_in.claims, issuer, began=signed_in.began)
        return min(absolute, login.ends) - login.now if login.verdict is Verdict.ACTIVE else 0

    async def check(self, claims: Claims, issuer: Issuer, *, began: int | None = None) -> Login:
        """Judge an ID token by the cutoffs, blocks and revoked keys in the store.

        Args:
            claims: Of the ID token.
            issuer: Of the same.
            began: When the session began that the ID token has begun (ms by the store); None: it begins now.

        Raises:
            As :meth:`find`.
        """
        store = self._services.store
        found = await store.lookups.find(store.keys.of_token(claims, issuer))
        old = store.issuer_records.old_limits.get(issuer.name)
        if old is not None and old.conflict is not None:
            raise StoreRefused(old.conflict)
        return Login(
            verdict=rules.judge_login(claims, issuer, found.state, old, store_now=found.now, began=began),
            now=found.now,
            ends=rules.login_end(claims, issuer, old),
        )

    def _caller(self, signed_in: SignedIn) -> Caller | None:
        """The caller whose secret was used, if it is still the caller's, with the scopes of the role."""
        caller = self._services.authentication.callers.named(signed_in.sub)
        if not self._settings.secret_sign_in or caller is None or caller.client_id:
            return None
        if (role_of_scopes(caller.scopes) or 0) < signed_in.role:
            return None
        secrets_of = map(digest, caller.digests)
        return caller if any(hmac.compare_digest(signed_in.secret, one) for one in secrets_of) else None

    def _acts_as(self, signed_in: SignedIn) -> Caller:
        """As whom somebody makes changes; with the limits of the caller whose secret was used."""
        name, scopes = CALLER_PREFIX + signed_in.sub, SCOPES[Role(signed_in.role)]
        caller = None if signed_in.claims else self._caller(signed_in)
        if caller is not None:
            return replace(caller, name=name, digests=(), scopes=scopes)
        issuers = self._services.issuers if signed_in.claims else {}
        return Caller(name=name, digests=(), scopes=scopes, issuers=issuers, default_issuer=None)
