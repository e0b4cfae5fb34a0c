"""Puts the console together: every path, who may use it, and what happens where somebody may not."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

from aiohttp import web

from revoker.api.envelope import count_error
from revoker.api.prebuilt import Handler
from revoker.api.probes import Health
from revoker.api.served_paths import Port, ServedPath
from revoker.api.services import Services
from revoker.config.console import ConsoleSettings
from revoker.console.acting import Acting, draft_of, sent_form
from revoker.console.drafts import Drafts
from revoker.console.forms import FORM_FIELD, Forms, StaleForm, refuse_other_sites
from revoker.console.pages import PREFIX, STATIC_FILES, error_page, static_file
from revoker.console.provider import Provider
from revoker.console.roles import Role
from revoker.console.sessions import Sessions, Visitor
from revoker.console.sign_in import SignInPages
from revoker.console.views import Views
from revoker.errors import AccessDenied, RevokerError
from revoker.store.console_records import ConsoleRecords
from revoker.tokens.key_sources import KeySource

Show = Callable[[web.Request, Visitor], Awaitable[web.Response]]
Act = Callable[[web.Request, Visitor, dict[str, str]], Awaitable[web.Response]]


class Console:
    """The console of one process; it does no I/O before a request."""

    def __init__(
        self,
        settings: ConsoleSettings,
        services: Services,
        health: Health,
        sources: Callable[[], Mapping[str, KeySource]],
    ) -> None:
        """``sources`` gives the keys of the issuers, by their names."""
        records = ConsoleRecords(services.store)
        self._settings = settings
        self._services = services
        self._sessions = Sessions(settings, services, records)
        issuer = self._sessions.issuer()
        self._provider = None
        if issuer is not None:
            self._provider = Provider(
                settings,
                issuer,
                services.verifier,
                revoked_key_ids=services.revoked_key_ids,
                clocks=services.clocks,
            )
        forms = Forms(records, keep_ms=settings.absolute_timeout * 1000)
        self._acting: Final = Acting(services, forms, Drafts(records))
        self._views: Final = Views(services, health, sources, self._acting)
        self._sign_in: Final = SignInPages(settings, services, self._sessions, records, self._provider)

    async def close(self) -> None:
        """Close the connections to the provider."""
        if self._provider is not None:
            await self._provider.close()

    def paths(self) -> Iterator[ServedPath]:
        """On the port for operations, where there is one: that is where administrators come."""
        views, acting, sign_in = self._views, self._acting, self._sign_in
        pages: dict[str, tuple[Role, Show]] = {
            "": (Role.VIEWER, views.home),
            "/user": (Role.VIEWER, views.user),
            "/token": (Role.VIEWER, views.token),
            "/changes": (Role.VIEWER, views.changes),
            "/revoke": (Role.SUPPORT, views.larger),
            "/state": (Role.VIEWER, views.state),
            "/act/{action}": (Role.SUPPORT, acting.preview),  # some actions need more
            "/done/{form}": (Role.SUPPORT, acting.done),
        }
        for path, (role, show) in pages.items():
            yield _path("GET", path, self._showing(role, show))
        sent: dict[str, tuple[Role, Act]] = {
            "/token": (Role.VIEWER, views.explained),
            "/act/{action}": (Role.SUPPORT, acting.act),
            "/sign-out": (Role.VIEWER, self._sign_out),
        }
        for path, (role, act) in sent.items():
            yield _path("POST", path, self._acting_on(role, act))
        yield _path("GET", "/sign-in", self._open(sign_in.show))
        yield _path("POST", "/sign-in", self._open(sign_in.by_secret))
        yield _path("GET", "/sign-in/begin", self._open(sign_in.begin))
        yield _path("GET", "/callback", self._open(sign_in.come_back))
        for name in STATIC_FILES:
            yield _path("GET", f"/{name}", static_file(name))

    def _open(self, handle: Callable[[web.Request], Awaitable[web.Response]]) -> Handler:
        """A page for which nobody has to be signed in."""

        async def respond(request: web.Request) -> web.Response:
            try:
                return await handle(request)
            except RevokerError as error:
                return self._error(error, None)

        return respond

    def _showing(self, role: Role, show: Show) -> Handler:
        """A page for those who are signed in and have a role; whoever has it may use what the page needs."""

        async def respond(request: web.Request) -> web.Response:
            visitor = None
            try:
                visitor = await self._sessions.find(request)
                if visitor is None:
                    return self._sign_in.ask(request)
                visitor.require(role)
                return await show(request, visitor)
            except RevokerError as error:
                return self._error(error, visitor)

        return respond

    def _acting_on(self, role: Role, act: Act) -> Handler:
        """What takes a form of those who are signed in and have a role."""

        async def respond(request: web.Request) -> web.Response:
            visitor, sent = None, {}
            try:
                refuse_other_sites(request, self._settings.url)
                sent = await sent_form(request)
                visitor = await self._sessions.find(request)
                if visitor is None:
                    return await self._sign_in.ask_again(
                        request, draft_of(request, sent), sent.get("reason", "")
                    )
                visitor.require(role)
                return await act(request, visitor, sent)
            except RevokerError as error:
                return self._error(error, visitor, sent.get("reason", ""))

        return respond

    async def _sign_out(self, request: web.Request, visitor: Visitor, sent: dict[str, str]) -> web.Response:
        try:
            self._acting.check_sign_out(visitor, sent.get(FORM_FIELD, ""))
        except StaleForm as error:
            raise AccessDenied(str(error)) from error
        return await self._sign_in.leave(request)

    def _error(self, error: RevokerError, visitor: Visitor | None, reason: str = "") -> web.Response:
        count_error(error, self._services.metrics)
        sign_out = "" if visitor is None else self._acting.sign_out_form(visitor)
        return error_page(error, visitor, sign_out=sign_out, reason=reason)


def _path(method: str, path: str, handle: Handler) -> ServedPath:
    return ServedPath(method=method, path=f"{PREFIX}{path}", handle=handle, port=Port.OPS)
