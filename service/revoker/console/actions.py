"""What can be done in the console: every action is an endpoint of the API, by the same function."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from revoker.api import blocks, cutoffs, revoked_keys
from revoker.api.endpoint import Endpoint
from revoker.console.roles import Role
from revoker.errors import InvalidRequest

_ENDPOINTS: Final[Mapping[str, Endpoint[Any]]] = {
    endpoint.path: endpoint for endpoint in (*cutoffs.ENDPOINTS, *blocks.ENDPOINTS, *revoked_keys.ENDPOINTS)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One kind of change.

    Attributes:
        name: The last part of its path.
        title: On its page.
        button: On its button.
        done: What has happened afterwards.
        role: Who may do it.
        target: The parameters that name to whom or what it is done; all are required.
        typed: Of these, the one that has to be typed again, because more than one user is concerned.
        timed: Whether it asks for how long.
        warning: What one has to know before.
    """

    name: str
    title: str
    button: str
    done: str
    role: Role
    target: tuple[str, ...]
    typed: str = ""
    timed: bool = False
    warning: str = ""

    @property
    def endpoint(self) -> Endpoint[Any]:
        """Of the API."""
        return _ENDPOINTS[f"/{self.name}"]

    def parameters(self, sent: Mapping[str, str]) -> dict[str, str]:
        """Those of the page of this action; ``sub`` may also lead back to the user of a session.

        Raises:
            InvalidRequest: one is missing, or nobody could see it.
        """
        for name in self.target:
            if not sent.get(name, "").strip():
                raise InvalidRequest(f"{name} is missing.")
        names = {*self.target, *(("sub",) if self.name == "revoke-session" else ())}
        return {name: value for name, value in sent.items() if name in names and value}


ACTIONS: Final[Mapping[str, Action]] = {
    action.name: action
    for action in (
        Action(
            name="revoke-user",
            title="Log out everywhere",
            button="Log out everywhere",
            done="The user is logged out everywhere.",
            role=Role.SUPPORT,
            target=("iss", "sub"),
            warning="Every token and session of the user ends now. The user can log in again.",
        ),
        Action(
            name="revoke-session",
            title="End one session",
            button="End the session",
            done="The session has ended.",
            role=Role.SUPPORT,
            target=("iss", "sid"),
            warning="The tokens of this session end now. Other sessions of the user continue.",
        ),
        Action(
            name="block-user",
            title="Block the user",
            button="Block the user",
            done="The user is blocked.",
            role=Role.SUPPORT,
            target=("iss", "sub"),
            timed=True,
            warning="No token of the user is active during a block, however new it is.",
        ),
        Action(
            name="unblock-user",
            title="End the block",
            button="End the block",
            done="The user is not blocked any more.",
            role=Role.SUPPORT,
            target=("iss", "sub"),
            warning="What was revoked stays revoked. The user can log in again.",
        ),
        Action(
            name="revoke-client",
            title="Revoke everything of a client",
            button="Revoke everything of the client",
            done="Everything that the client was given is revoked.",
            role=Role.ADMIN,
            target=("iss", "client_id"),
            typed="client_id",
            warning="All users are logged out of this client.",
        ),
        Action(
            name="revoke-claim",
            title="Revoke by the value of a claim",
            button="Revoke everything with this value",
            done="Everything with this value is revoked.",
            role=Role.ADMIN,
            target=("iss", "claim", "value"),
            typed="value",
            warning="Everybody whose token has this value in this claim is logged out.",
        ),
        Action(
            name="revoke-issuer",
            title="Revoke everything of an issuer",
            button="Log out all users",
            done="Everything of the issuer is revoked.",
            role=Role.ADMIN,
            target=("iss",),
            typed="iss",
            warning="All users of the issuer are logged out: you too, if it is the one by which you sign in.",
        ),
        Action(
            name="revoke-key",
            title="Revoke a signing key",
            button="Revoke the key for good",
            done="The key is revoked.",
            role=Role.ADMIN,
            target=("iss", "kid"),
            typed="kid",
            warning="No token that this key has signed is active again. Only a command can undo that.",
        ),
    )
}

DURATIONS: Final[Mapping[str, tuple[str, int]]] = {
    "hour": ("for an hour", 3600),
    "day": ("for a day", 86400),
    "week": ("for a week", 7 * 86400),
    "good": ("until somebody ends the block", 0),
}
"""How long a block lasts, in words and in seconds; 0: for good."""


def action_named(name: str) -> Action:
    """Raises ``InvalidRequest`` for a name of no action."""
    if name not in ACTIONS:
        raise InvalidRequest("There is no such action.")
    return ACTIONS[name]
