"""Settles many slots together: what they ask of one node leaves in few writes.

A task of the event loop for each slot, and a future for each command, would take most of the time that a
repair may take. Here the coroutines of all slots are advanced directly: each asks for one thing at a time,
and the replies to one write advance all whose commands were in it.
"""

import asyncio
import collections
import contextlib
import functools
from collections.abc import Coroutine, Generator, Sequence
from typing import Any, Final

from revoker.errors import NoVerdict
from revoker.store.cluster.topology import Node, Topology
from revoker.store.wire.command_channel import CommandChannel
from revoker.store.wire.connection import FAILURES, Command, Refused, Replies, TooFewReplicas

_COMMANDS_AT_ONCE: Final = 512
"""In one write; the next one leaves when it is answered, so that no write comes near the time-out."""

_COROUTINES_AT_ONCE: Final = 8192
"""More than a shard of three; each takes some 5 KB."""

_REDIRECTIONS: Final = ("MOVED", "ASK", "TRYAGAIN")


class Call:
    """Commands for a slot; who awaits it gets the replies, once they have left with those of other slots."""

    __slots__ = ("changing", "commands", "slot")

    def __init__(self, slot: int, commands: Sequence[Command], *, changing: bool) -> None:
        self.slot = slot
        self.commands = commands
        self.changing = changing

    def __await__(self) -> "Generator[Call, Replies, Replies]":
        return (yield self)


class _Strand:
    """A coroutine that is advanced here, and the future of its end."""

    __slots__ = ("coroutine", "ended")

    def __init__(self, coroutine: Coroutine[Any, Any, None], ended: "asyncio.Future[None]") -> None:
        self.coroutine = coroutine
        self.ended = ended

    def cancel(self) -> None:
        """End the coroutine; it must not wait for anything then."""
        self.ended.cancel()
        with contextlib.suppress(asyncio.CancelledError, StopIteration):
            self.coroutine.throw(asyncio.CancelledError())


class Rounds:
    """Advances coroutines that await :class:`Call`, or futures of the event loop.

    Attributes:
        advancing: Whether the code that asks is one of these coroutines, and not a task of the event loop.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology: Final = topology
        self._waiting: collections.deque[_Strand] = collections.deque()
        self._running: set[_Strand] = set()
        self._asked: dict[Node, collections.deque[tuple[_Strand, Call]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.advancing = False

    def start(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Future[None]":
        """Run a coroutine; cancelling the future ends it at its next step."""
        strand = _Strand(coroutine, asyncio.get_running_loop().create_future())
        if len(self._running) < _COROUTINES_AT_ONCE:
            self._begin(strand)
        else:
            self._waiting.append(strand)
        return strand.ended

    async def close(self) -> None:
        """End all coroutines."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for strand in (*self._running, *self._waiting):
            strand.cancel()

    def _begin(self, strand: _Strand) -> None:
        self._running.add(strand)
        self._advance(strand, None)

    def _advance(self, strand: _Strand, replies: Replies | None, error: Exception | None = None) -> None:
        """Give a coroutine what it has waited for, and take what it asks for next."""
        if strand.ended.done():  # cancelled
            strand.cancel()
            self._end(strand)
            return
        self.advancing = True
        try:
            asked = strand.coroutine.send(replies) if error is None else strand.coroutine.throw(error)
        except StopIteration:
            strand.ended.set_result(None)
            self._end(strand)
            return
        except asyncio.CancelledError:
            strand.ended.cancel()
            self._end(strand)
            return
        except Exception as failure:  # noqa: BLE001  # whoever waits for the end gets it
            strand.ended.set_exception(failure)
            self._end(strand)
            return
        finally:
            self.advancing = False
        if isinstance(asked, Call):
            self._ask(strand, asked)
        elif asked is None:
            asyncio.get_running_loop().call_soon(self._advance, strand, None)
        else:  # as asyncio.Task does
            asked._asyncio_future_blocking = False  # noqa: SLF001
            asked.add_done_callback(functools.partial(self._resume, strand))

    def _resume(self, strand: _Strand, _: "asyncio.Future[Any]") -> None:
        self._advance(strand, None)  # the coroutine takes the result of the future itself

    def _end(self, strand: _Strand) -> None:
        self._running.discard(strand)
        if self._waiting:  # in another turn: it may end at once, too
            asyncio.get_running_loop().call_soon(self._begin, self._waiting.popleft())

    def _ask(self, strand: _Strand, call: Call) -> None:
        node = self._topology.node_of(call.slot)
        if node is None:
            self._start(self._ask_singly(strand, call))
        elif node in self._asked:
            self._asked[node].append((strand, call))
        else:
            self._asked[node] = collections.deque([(strand, call)])
            self._start(self._exchange_all(node))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _exchange_all(self, node: Node) -> None:
        """Send what is asked of a node until nothing more is asked."""
        asked = self._asked[node]
        await asyncio.sleep(0)  # for what else is asked in this turn
        while asked:
            taken: list[tuple[_Strand, Call]] = []
            size = 0
            while asked and (not taken or size + len(asked[0][1].commands) <= _COMMANDS_AT_ONCE):
                size += len(asked[0][1].commands)
                taken.append(asked.popleft())
            await asyncio.gather(
                self._exchange(node.reads, [(strand, call) for strand, call in taken if not call.changing]),
                self._exchange(node.changes, [(strand, call) for strand, call in taken if call.changing]),
            )
        del self._asked[node]

    async def _exchange(self, channel: CommandChannel, asked: Sequence[tuple[_Strand, Call]]) -> None:
        if not asked:
            return
        try:
            replies = await channel.ask_singly([command for _, call in asked for command in call.commands])
        except (*FAILURES, NoVerdict) as error:
            self._topology.learn_soon()
            for strand, _ in asked:
                self._advance(strand, None, error)
            return
        start = 0
        for strand, call in asked:
            own, start = replies[start : start + len(call.commands)], start + len(call.commands)
            failure = next((reply for reply in own if isinstance(reply, Exception)), None)
            if failure is None:
                self._advance(strand, own)
            elif isinstance(failure, TooFewReplicas):
                self._advance(strand, None, failure)
            elif (refused := Refused(str(failure))).code in _REDIRECTIONS:
                self._start(self._ask_singly(strand, call))
            else:
                self._advance(strand, None, refused)

    async def _ask_singly(self, strand: _Strand, call: Call) -> None:
        """Follow a slot that has moved."""
        try:
            replies = await self._topology.send(call.slot, call.commands, changing=call.changing)
        except (*FAILURES, NoVerdict) as error:
            self._advance(strand, None, error)
        else:
            self._advance(strand, replies)
