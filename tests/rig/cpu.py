"""Which cores processes run on, and the CPU time that they take (Linux)."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cores:
    """The cores of the server under load, and those of everything else.

    With one core for all, figures are of little use; with two, store and load generator share one.
    """

    server: frozenset[int]
    others: frozenset[int]

    @classmethod
    def of_this_machine(cls) -> Self:
        first, *rest = sorted(os.sched_getaffinity(0))
        return cls(frozenset({first}), frozenset(rest or {first}))


@contextlib.contextmanager
def inherited_affinity(cores: frozenset[int] | None) -> Iterator[None]:
    """Child processes that are started in this block run on these cores; None: on all of this thread's."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if cores is None else cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def seconds(pid: int) -> float:
    """User and system time that a process and its children have taken until now."""
    family = [pid]
    for parent in family:
        with contextlib.suppress(OSError):
            family += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return sum(map(_own_seconds, family))


def _own_seconds(pid: int) -> float:
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(after_name[11]) + int(after_name[12])) * _TICK_S
