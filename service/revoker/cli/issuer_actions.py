"""What can be revoked with the tokens of an issuer, and by which of their claims."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from revoker.cli.identity_providers import of_profile
from revoker.cli.issuer_terms import Terms
from revoker.cli.pasted_token import is_machine, present
from revoker.models import STANDARD_NAMES

Answer = Literal["yes", "no", "after setup"]


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Whether something can be done with the tokens of an issuer, and by which claim."""

    works: Answer
    claim: str | None = None
    note: str = ""


def actions_with(payload: dict[str, Any], terms: Terms, logout_tokens: bool | None) -> dict[str, Action]:
    """What can be done with the tokens of an issuer, by what it does.

    Args:
        payload: Of one of its tokens.
        terms: Of the issuer.
        logout_tokens: Whether the provider says that it sends logout tokens; None: it says nothing.
    """
    names, provider = terms.issuer.claim_names or STANDARD_NAMES, of_profile(terms.profile)
    sub, sid = present(names.sub, payload), present(names.sid, payload)
    client, jti = present(names.client_id, payload), present(names.jti, payload)
    machine = is_machine(payload, names)
    adding_sid = "have the provider add a claim for the session, and name it in claims.sid"
    if machine:
        adding_sid = "the token is of a program, which has no session"
    elif provider is not None:
        adding_sid = provider.adding_sid
    without_jti = f"the token has {none_of(names.jti)}: log out its user instead"
    if not names.jti:
        without_jti = "no claim identifies the token: log out its user"
    of_program = "the token is of a program, not of a user" if machine else ""
    actions = {
        "log out everywhere": _by(sub, of_program, without=f"the token has {none_of(names.sub)}"),
        "one session": _by(sid, without=adding_sid),
        "one client": _by(client, without=f"the token has {none_of(names.client_id)}"),
        "one token": _by(jti, without=without_jti),
    }
    for name in names.revocable:
        found = None if payload.get(name) is None else name
        actions[f"by {name}"] = _by(found, without="the token does not have this claim")
    if machine:
        actions["back-channel logout"] = Action(works="no", note="the token is of a program")
    elif not terms.issuer.own:
        sends = provider.sends_logout_tokens if logout_tokens is None and provider else logout_tokens
        actions["back-channel logout"] = _back_channel_logout(terms, sends, sub, sid)
    return actions


def _by(claim: str | None, note: str = "", *, without: str) -> Action:
    """Something that a claim makes possible; ``without`` says what is wrong where the token has none."""
    return Action(works="yes", claim=claim, note=note) if claim else Action(works="no", note=without)


def _back_channel_logout(terms: Terms, sends: bool | None, sub: str | None, sid: str | None) -> Action:
    if sends is False and not terms.logout_audience:
        return Action(works="no", note="this provider sends no logout tokens")
    ends_user = terms.logout_ends == "user"
    claim = sub if ends_user else sid or sub
    ends = "the user" if ends_user or sid is None else "the session"
    warning = ""
    if not ends_user and sid is None:
        warning = '; set backchannel_ends = "user", since the token names no session'
    if terms.logout_audience:
        works: Answer = "no" if warning else "yes"
        return Action(works=works, claim=None if warning else claim, note=f"ends {ends}{warning}")
    note = (
        "set backchannel_audience to the client_id at the provider, and register /backchannel-logout there; "
        f"it ends {ends}{warning}"
    )
    if sends is None:
        note += "; whether the provider sends logout tokens, only --discover or its documentation says"
    return Action(works="after setup", claim=claim, note=note)


def none_of(names: Sequence[str]) -> str:
    """What a token has that lacks these claims."""
    return f"none of {', '.join(names) or '(no claim)'}"
