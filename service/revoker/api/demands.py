"""What a route demands of a token beyond being active: ``X-Revoker-Require`` (RFC 6750, RFC 9470)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from revoker.bounded_cache import cached_where_short
from revoker.tokens.claims import scope_words

_DEMAND: Final = re.compile(
    r"""[ \t]*(?P<name>scope|acr|max_age)[ \t]*=[ \t]*
        (?:"(?P<quoted>[\x20\x21\x23-\x5b\x5d-\x7e]*)"|(?P<plain>[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+))
        [ \t]*(?:[;,]|$)""",
    re.VERBOSE,
)
_LONGEST: Final = 4096
_CACHED_CHARACTERS: Final = 1024


@dataclass(frozen=True, slots=True)
class Demands:
    """All must be met.

    Attributes:
        scopes: Each of which the token must have.
        acrs: Sets of which the token's ``acr`` must be in each.
        max_age: Seconds that may have passed since the user proved who they are; None: any.
    """

    scopes: tuple[str, ...] = ()
    acrs: tuple[tuple[str, ...], ...] = ()
    max_age: int | None = None


def _length(headers: tuple[str, ...]) -> int:
    return sum(map(len, headers))


@cached_where_short(1024, _CACHED_CHARACTERS, _length)
def understood(headers: tuple[str, ...]) -> Demands | None:
    """What the headers demand together; None where one of them can't be understood.

    ``scope="a b"; acr=mfa; max_age=300``: quoted or not, in any order, repeated at will. Of several
    values of one ``acr`` any will do.
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
    return Demands(tuple(scopes), tuple(acrs), min(ages, default=None))


def _pairs(header: str) -> Sequence[tuple[str, str]] | None:
    if len(header) > _LONGEST or not header.strip():
        return None
    pairs = []
    place = 0
    while place < len(header):
        match = _DEMAND.match(header, place)
        if match is None:
            return None
        quoted = match["quoted"]
        pairs.append((match["name"], match["plain"] if quoted is None else quoted))
        place = match.end()
    return pairs
