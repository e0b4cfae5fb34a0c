"""What a route requires of an active token: the header ``X-Revoker-Require`` (RFC 6750, RFC 9470)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from revoker.bounded_cache import cached_where_short
from revoker.tokens.claims import scope_words

_REQUIREMENT: Final = re.compile(
    r"""[ \t]*(?P<name>scope|acr|max_age)[ \t]*=[ \t]*
        (?:"(?P<quoted>[\x20\x21\x23-\x5b\x5d-\x7e]*)"|(?P<plain>[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+))
        [ \t]*(?:[;,]|$)""",
    re.VERBOSE,
)
_MAX_LENGTH: Final = 4096
_CACHED_CHARACTERS: Final = 1024


@dataclass(frozen=True, slots=True)
class Requirements:
    """A token must meet all.

    Attributes:
        scopes: The token must have all of them.
        acrs: The token's ``acr`` must be in every one of these sets.
        max_age: Seconds since the user authenticated, at most; None: any.
    """

    scopes: tuple[str, ...] = ()
    acrs: tuple[tuple[str, ...], ...] = ()
    max_age: int | None = None


def _length(headers: tuple[str, ...]) -> int:
    return sum(map(len, headers))


@cached_where_short(1024, _CACHED_CHARACTERS, _length)
def parse_requirements(headers: tuple[str, ...]) -> Requirements | None:
    """The requirements of all headers together; None: one of them is malformed.

    ``scope="a b"; acr=mfa; max_age=300``: quoted or not, in any order, repeated or not. Of several values of
    one ``acr`` the token needs one.
    """
    scopes: dict[str, None] = {}
    acrs: list[tuple[str, ...]] = []
    ages: list[int] = []
    for header in headers:
        found = _pairs(header)
        if found is None:
            return None
        for name, value in found:
            words = scope_words(value)
            if not words:
                return None
            if name == "scope":
                scopes |= dict.fromkeys(words)
            elif name == "acr":
                acrs.append(tuple(words))
            elif re.fullmatch(r"[0-9]{1,9}", value):
                ages.append(int(value))
            else:
                return None
    return Requirements(tuple(scopes), tuple(acrs), min(ages, default=None))


def _pairs(header: str) -> Sequence[tuple[str, str]] | None:
    if len(header) > _MAX_LENGTH or not header.strip():
        return None
    pairs = []
    position = 0
    while position < len(header):
        match = _REQUIREMENT.match(header, position)
        if match is None:
            return None
        quoted = match["quoted"]
        pairs.append((match["name"], match["plain"] if quoted is None else quoted))
        position = match.end()
    return pairs
