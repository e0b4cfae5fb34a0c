"""Decides when a server that this process has not met may be trusted.

A server that has come back, or was promoted, may lack the last moments. Who acknowledged something then knows
of it, even if this process had not read it. So no reading of a new server counts before all running processes
have looked there. docs/reliability.md has the argument.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final, Protocol, TypeVar

from revoker.store.consistency.epoch import Epoch
from revoker.store.consistency.losses import Losses
from revoker.store.consistency.repair import contributions_to
from revoker.store.consistency.steps import Contributes, Pauses, RepairProgress, Step, polling_pauses

_PROMPT_S: Final = 0.5
"""A look at a server that takes longer may have been held up for the other processes, too."""

T = TypeVar("T")


class Others(Protocol):
    """The other processes that write to a data set."""

    @property
    def seconds(self) -> float:
        """How long they may take to look at a new server."""

    def leave_all_but(self, server: str) -> None:
        """End what leads to other servers, so that nothing is acknowledged there any more."""

    async def not_at(self, server: str) -> Collection[str]:
        """Say that this process has found at a server all that it knew; returns those that have not said so.

        Raises:
            StoreUnavailable: the server did not answer.
        """


class _Reached:
    """For how long a server could be reached without a break."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock: Final = clock
        self._server: str | None = None
        self._since = 0.0

    def after_look(self, server: str, began: float) -> float:
        """The time (s), after a look at the server that began then."""
        present = self._clock()
        if server != self._server:
            self._server, self._since = server, present
        elif present - began > _PROMPT_S:
            self._since += present - began
        return present - self._since


class NewServer:
    """Waits at a new server for the other processes that write to its data set.

    Attributes:
        trusted: The id of the last server at which they have looked; empty before the first.
        awaits_others: Whether some of them have not looked yet at the server that is waited for.
    """

    def __init__(self, others: Others, losses: Losses, clock: Callable[[], float]) -> None:
        """``clock`` measures how long they could look, in seconds."""
        self._others: Final = others
        self._losses: Final = losses
        self._clock: Final = clock
        self.trusted = ""
        self.awaits_others = False
        self.begin()

    def begin(self) -> None:
        """Count the time from zero again: what ended the last attempt may have kept the others away, too."""
        self._reached = _Reached(self._clock)
        self._reached_after_repair = _Reached(self._clock)
        self._repairing: set[str] = set()

    async def count(self, server: str, step: Step, carrying_out: Awaitable[T]) -> T:
        """Carry out a step of a settlement, the time of which counts, too.

        Who is not heard in a repair need not be waited for once more after it. Who contributes to it cannot
        say before its end that it has looked at the server, and has all the time from then on.

        Args:
            server: The id of the server.
            step: The step.
            carrying_out: What carries it out.
        """
        began = self._clock()
        given = await carrying_out
        if not isinstance(step, Pauses):
            self._reached.after_look(server, began)
        if isinstance(step, Contributes) and isinstance(given, RepairProgress):
            self._repairing |= contributions_to(Epoch.parse(step.epoch).id, given.contributions).keys()
            self._reached_after_repair = _Reached(self._clock)
        return given

    async def is_checked(self, server: str, lacks_nothing: Callable[[], Awaitable[bool]]) -> bool:
        """Wait until no running process can have acknowledged what a server lacks; it is then trusted.

        Who does not look is given up after a time, of which only those moments count in which the server
        could be reached.

        Args:
            server: The id of the server.
            lacks_nothing: Reads it: whether it is this server, and has all that this process has seen.

        Returns:
            False if the data set is to be settled again.

        Raises:
            StoreUnavailable: the server did not answer.
        """
        pauses = polling_pauses()
        while True:
            began = self._clock()
            # first: what other servers still answer is acknowledged before the reading
            self._others.leave_all_but(server)
            if not await lacks_nothing():
                return False
            absent = await self._others.not_at(server)
            reached = self._reached.after_look(server, began)
            after_repair = self._reached_after_repair.after_look(server, began)
            if not self._repairing.isdisjoint(absent):
                reached = after_repair
            if not absent or reached >= self._others.seconds:
                if absent:
                    self._losses.not_heard(absent)
                self.trusted = server
                return True
            self.awaits_others = True
            await asyncio.sleep(next(pauses))
