"""Caches bounded in bytes: their arguments come from clients and may be as long as a request body."""

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

CACHED_CHARACTERS: Final = 256
"""The longest claim that is cached; longer than real names."""

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def cached_where_short(
    maxsize: int, longest: int, size: Callable[[Any], int]
) -> Callable[[Callable[[Argument], Result]], Callable[[Argument], Result]]:
    """An LRU cache of ``maxsize`` results that skips arguments longer than ``longest``."""

    def decorate(function: Callable[[Argument], Result]) -> Callable[[Argument], Result]:
        cached = functools.lru_cache(maxsize)(function)

        @functools.wraps(function)
        def call(argument: Argument) -> Result:
            return cached(argument) if size(argument) <= longest else function(argument)

        return call

    return decorate
