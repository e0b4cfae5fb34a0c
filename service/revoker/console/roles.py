"""What people may do in the console."""

import enum
from collections.abc import Collection, Mapping
from typing import Any, Final

from revoker.config.console import ConsoleSettings


class Role(enum.IntEnum):
    """Each may do what those before it may do."""

    VIEWER = 1
    SUPPORT = 2
    ADMIN = 3

    @property
    def label(self) -> str:
        return self.name.lower()


SCOPES: Final[Mapping[Role, frozenset[str]]] = {
    Role.VIEWER: frozenset({"read"}),
    Role.SUPPORT: frozenset({"read", "revoke"}),
    Role.ADMIN: frozenset({"read", "revoke", "revoke-all"}),
}
"""The scopes of the API that a role amounts to."""


def role_of_claims(payload: Mapping[str, Any], settings: ConsoleSettings) -> Role | None:
    """The highest role that an ID token gives, whose signature was verified; None: no role."""
    value: Any = payload
    for name in settings.roles_claim:
        value = value.get(name) if isinstance(value, dict) else None
    values = (
        {value} if isinstance(value, str) else set(filter(_is_text, value)) if type(value) is list else set()
    )
    for role, names in (
        (Role.ADMIN, settings.admin_roles),
        (Role.SUPPORT, settings.support_roles),
        (Role.VIEWER, settings.viewer_roles),
    ):
        if not values.isdisjoint(names):
            return role
    return None


def role_of_scopes(scopes: Collection[str]) -> Role | None:
    """The highest role whose scopes a caller has."""
    return max((role for role, needed in SCOPES.items() if needed <= set(scopes)), default=None)


def _is_text(value: object) -> bool:
    return type(value) is str
