"""Refuses JSON objects with duplicate member names, which two readers may understand differently."""

from typing import Any


class DuplicateMember(ValueError):
    """An object has two members of the same name."""


def unique_members(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``object_pairs_hook`` of :mod:`json`; raises :class:`DuplicateMember`."""
    made = dict(members)
    if len(made) != len(members):
        raise DuplicateMember("a member appears twice")
    return made
