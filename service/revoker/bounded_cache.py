"""Caches that are bounded in bytes, since what they are asked for may be as long as a body."""

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

CACHED_CHARACTERS: Final = 256
"""Of a claim in a cache; longer than the names that people use."""

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def cached_where_short(
    maxsize: int, longest: int, size: Callable[[Any], int]
) -> Callable[[Callable[[Argument], Result]], Callable[[Argument], Result]]:
    """Remember the last ``maxsize`` results of a function, but of no argument longer than ``longest``."""

    def decorate(function: Callable[[Argument], Result]) -> Callable[[Argument], Result]:
        cached = functools.lru_cache(maxsize)(function)

        @functools.wraps(function)
        def call(argument: Argument) -> Result:
            return cached(argument) if size(argument) <= longest else function(argument)

        return call

    return decorate
