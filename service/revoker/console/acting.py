"""Previews and makes changes: with the functions of the API, once for each form."""

import functools
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from revoker.api.bodies import BODY_LIMIT, converted, name_values, read
from revoker.api.dry_run import DryRun
from revoker.api.endpoint import BoundEndpoint, Call
from revoker.api.envelope import has_gone
from revoker.api.fields import MAX_REASON
from revoker.api.receipts import Edges, WaitsForEdges
from revoker.api.services import Services
from revoker.console.actions import ACTIONS, DURATIONS, Action, action_named
from revoker.console.drafts import Draft, Drafts
from revoker.console.forms import FORM_FIELD, UNKNOWN_AFTER_MS, Forms, Outcome, StaleForm
from revoker.console.pages import link, page, redirect
from revoker.console.sessions import Visitor
from revoker.errors import InvalidRequest, NoVerdict, RevokerError, StoreUnavailable, Unconfirmed

TYPED_FIELDS: Final = ("reason", "for")
"""What people type or choose in the form of an action; a confirmation has to be typed again."""


class Acting:
    """The handlers of changes."""

    def __init__(self, services: Services, forms: Forms, drafts: Drafts) -> None:
        self._services = services
        self._forms = forms
        self._drafts = drafts
        self._bound: Final[Mapping[str, BoundEndpoint[Any]]] = {
            name: action.endpoint.bind(services) for name, action in ACTIONS.items()
        }

    async def preview(self, request: web.Request, visitor: Visitor) -> web.Response:
        """``GET /console/act/{action}``: what would happen, and the form that makes it happen."""
        action = action_named(request.match_info["action"])
        visitor.require(action.role)
        parameters = action.parameters(_query(request))
        typed = await self._drafts.typed(visitor.session, _target(action, parameters))
        return await self._preview(request, visitor, action, parameters, typed)

    async def act(self, request: web.Request, visitor: Visitor, sent: dict[str, str]) -> web.Response:
        """``POST`` of the same: make it happen, unless the form was sent before."""
        action = action_named(request.match_info["action"])
        visitor.require(action.role)
        parameters = action.parameters(sent)
        try:
            name = self._forms.name(visitor, action.name, parameters, sent.get(FORM_FIELD, ""), self._now_s)
        except StaleForm as error:
            return await self._preview(
                request,
                visitor,
                action,
                parameters,
                sent,
                problem=f"{error} Look at the effect again.",
                status=403,
            )
        if problem := _problem(action, parameters, sent):
            return await self._preview(
                request, visitor, action, parameters, sent, problem=problem, status=400
            )
        done = redirect(link(f"/done/{name}"))
        outcome = Outcome(
            session=visitor.session, action=action.name, parameters=parameters, began=self._now_ms
        )
        try:
            if not await self._forms.consume(name, outcome):
                return done
        except RevokerError as error:
            return await self._failed(request, visitor, sent, f"Nothing was done: {error}", error)
        try:
            await self._carry_out(request, visitor, action, parameters, sent)
        except RevokerError as error:
            unknown = isinstance(error, Unconfirmed)
            problem = f"{'It may or may not have happened' if unknown else 'Nothing was done'}: {error}"
            await self._note(name, msgspec.structs.replace(outcome, state="failed", sentence=problem))
            return await self._failed(request, visitor, sent, problem, error)
        await self._note(name, msgspec.structs.replace(outcome, state="done", sentence=action.done))
        await self._drafts.discard(visitor.session, _target(action, parameters))
        return done

    async def _failed(
        self,
        request: web.Request,
        visitor: Visitor,
        sent: dict[str, str],
        problem: str,
        error: RevokerError,
    ) -> web.Response:
        """The page with a new form; without a verdict there may be none."""
        action = action_named(request.match_info["action"])
        status = 503 if isinstance(error, NoVerdict) else 400
        try:
            return await self._preview(
                request, visitor, action, action.parameters(sent), sent, problem=problem, status=status
            )
        except NoVerdict:
            raise StoreUnavailable(problem) from error

    async def done(self, request: web.Request, visitor: Visitor) -> web.Response:
        """``GET /console/done/{form}``: what became of a form, however often it was sent."""
        outcome = await self._forms.outcome(request.match_info["form"], visitor)
        if outcome is None:
            raise InvalidRequest(
                "Nothing is known of this form any more. Look at the user to see what is in effect."
            )
        return self.page(
            "done.html",
            visitor,
            title=ACTIONS[outcome.action].title,
            outcome=outcome,
            unknown=outcome.state == "running" and self._now_ms - outcome.began > UNKNOWN_AFTER_MS,
            edges=await self._edges(request, visitor) if outcome.state == "done" else None,
            parameters=outcome.parameters,
            target=await self._whom(ACTIONS[outcome.action], outcome.parameters),
            act=_target(ACTIONS[outcome.action], outcome.parameters),
        )

    def page(self, template: str, visitor: Visitor, **values: Any) -> web.Response:
        """A page with the button to sign out."""
        return page(template, visitor, sign_out=self.sign_out_form(visitor), **values)

    def sign_out_form(self, visitor: Visitor) -> str:
        return self._forms.new(visitor, "sign-out", {}, self._now_s)

    def check_sign_out(self, visitor: Visitor, sent: str) -> None:
        """Raises ``StaleForm``."""
        self._forms.name(visitor, "sign-out", {}, sent, self._now_s)

    @property
    def _now_s(self) -> float:
        return float(self._services.clocks.now())

    @property
    def _now_ms(self) -> int:
        return self._services.clocks.store_ms or int(self._now_s * 1000)

    async def _edges(self, request: web.Request, visitor: Visitor) -> Edges | None:
        """How many edges have confirmed all that was acknowledged until now; it waits two seconds for all."""
        peer = self._services.authentication.client_address(request)
        gone = functools.partial(has_gone, request)
        call = Call(visitor.caller, WaitsForEdges(wait_edges=True), peer, {}, client_gone=gone)
        return await self._services.receipts.of(call)

    async def _note(self, name: str, outcome: Outcome) -> None:
        """What has happened stays so if it cannot be noted: the page says then that it is not known."""
        try:
            await self._forms.finish(name, outcome)
        except NoVerdict:
            return

    async def _preview(
        self,
        request: web.Request,
        visitor: Visitor,
        action: Action,
        parameters: dict[str, str],
        typed: Mapping[str, str],
        *,
        problem: str = "",
        status: int = 200,
    ) -> web.Response:
        answer: Any = await self._handle(request, visitor, action, {**parameters, "dry_run": "true"})
        effect: DryRun = answer.dry_run
        return self.page(
            "act.html",
            visitor,
            status=status,
            title=action.title,
            action=action,
            parameters=parameters,
            target=await self._whom(action, parameters),
            effect=effect,
            counted=self._services.issuers[parameters["iss"]].own,
            durations=DURATIONS,
            typed={name: typed.get(name, "") for name in TYPED_FIELDS},
            problem=problem,
            form=self._forms.new(visitor, action.name, parameters, self._now_s),
            max_reason=MAX_REASON,
        )

    async def _whom(self, action: Action, parameters: Mapping[str, str]) -> dict[str, str]:
        """To whom or what it is done, with the user of a session that this service holds.

        A ``sub`` that came beside a session is nothing but the way back: nobody has checked it.
        """
        target = {name: parameters[name] for name in action.target}
        sessions = self._services.sessions
        if "sid" in target and sessions is not None and sessions.issuer.iss == target["iss"]:
            session = await sessions.reader.peek(target["sid"])
            if session is not None:
                target["sub"] = session.sub
        return target

    async def _carry_out(
        self,
        request: web.Request,
        visitor: Visitor,
        action: Action,
        parameters: dict[str, str],
        sent: Mapping[str, str],
    ) -> None:
        fields = dict(parameters)
        if reason := sent.get("reason", "").strip():
            fields["reason"] = reason
        if action.timed and (seconds := DURATIONS[sent["for"]][1]):
            fields["until"] = str(self._now_ms / 1000 + seconds)
        await self._handle(request, visitor, action, fields)

    async def _handle(
        self, request: web.Request, visitor: Visitor, action: Action, fields: dict[str, str]
    ) -> Any:
        bound = self._bound[action.name]
        visitor.caller.require(bound.endpoint.scope)
        peer = self._services.authentication.client_address(request)
        body = converted(fields, bound.endpoint.body)
        return await bound.carry_out(Call(visitor.caller, body, peer, {}))


def draft_of(request: web.Request, sent: Mapping[str, str]) -> Draft | None:
    """What somebody had typed into the form of an action; None: it is another form."""
    action, owner = ACTIONS.get(request.match_info.get("action", "")), Forms.owner(sent.get(FORM_FIELD, ""))
    if action is None or owner is None:
        return None
    fields = {name: sent[name] for name in TYPED_FIELDS if name in sent}
    return Draft(owner, _target(action, action.parameters(sent)), fields)


async def sent_form(request: web.Request) -> dict[str, str]:
    """The fields of a form; raises ``InvalidRequest`` for anything else."""
    fields, _ = await read(request, BODY_LIMIT)
    if fields is None:
        raise InvalidRequest("a form is needed")
    return fields


def _problem(action: Action, parameters: Mapping[str, str], sent: Mapping[str, str]) -> str:
    """What the person has to correct; empty: nothing."""
    if len(sent.get("reason", "")) > MAX_REASON:
        return f"The reason has more than {MAX_REASON} characters. Nothing was done."
    if action.timed and sent.get("for") not in DURATIONS:
        return "Choose how long. Nothing was done."
    if action.typed and sent.get("confirm", "") != parameters[action.typed]:
        return f"What you typed is not the {action.typed} above. Nothing was done."
    return ""


def _target(action: Action, parameters: Mapping[str, str]) -> str:
    return link(f"/act/{action.name}", **dict(sorted(parameters.items())))


def _query(request: web.Request) -> dict[str, str]:
    return name_values(request.rel_url.raw_query_string.encode())
