"""Looks at new primaries of a cluster at once.

A server that was promoted, or has restarted, may lack the last moments. The process that acknowledged what is
missing finds that at its next look. Until then another process may say active for it.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from revoker.errors import NoVerdict
from revoker.store.cluster.settling import SlotSettling
from revoker.store.cluster.slots import SLOTS_AT_ONCE, Slots
from revoker.store.cluster.topology import Node, Topology
from revoker.store.consistency.data_set import SuspectReading
from revoker.store.wire.connection import FAILURES, reads_replies
from revoker.store.wire.login import ServerAddress

_log = structlog.get_logger("store")

_REPEAT_S: Final = 1.0
"""Minimum between two looks at the slots that a server lacks something of, while these are being settled."""

_REFUSED_PAUSE_S: Final = 0.2
_REFUSALS: Final = 50
"""A primary that has restarted refuses commands for some seconds, until the other nodes accept it."""


class _Looked:
    """What was seen at one server.

    Attributes:
        server: The id of the server.
        slots: Those that it was found to have, with all that this process has seen of them.
        began: When the last look began, by the loop's clock.
    """

    def __init__(self, server: str) -> None:
        self.server: Final = server
        self.slots: set[int] = set()
        self.began = 0.0


class NewPrimaries:
    """Compares the slots of a primary that is another server than before with what was seen of them."""

    def __init__(self, topology: Topology, slots: Slots, settling: SlotSettling) -> None:
        """Nothing is read before :meth:`look`."""
        self._topology: Final = topology
        self._slots: Final = slots
        self._settling: Final = settling
        self._looked: dict[ServerAddress, _Looked] = {}
        self._tasks: dict[ServerAddress, asyncio.Task[None]] = {}
        self._closed = False

    async def close(self) -> None:
        """Cancel all looks, and begin no more."""
        self._closed = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def look(self) -> None:
        """Look at new primaries in the background, and settle what is missing there.

        The next call continues a look that failed, and looks at slots that a primary has got since.
        """
        nodes = {node.address: node for node in self._topology.nodes}
        # one that was demoted meanwhile may lack something when it is promoted again
        self._looked = {address: looked for address, looked in self._looked.items() if address in nodes}
        now = asyncio.get_running_loop().time()
        for address, node in nodes.items():
            looked = self._looked.get(address)
            if looked is not None and looked.server == node.reads.server:
                looked.slots.intersection_update(node.slots)
                if now - looked.began < _REPEAT_S or not self._unlooked(node, looked):
                    continue
            if address not in self._tasks and not self._closed:
                self._tasks[address] = asyncio.get_running_loop().create_task(self._look_at(node))

    async def _look_at(self, node: Node) -> None:
        try:
            for _ in range(_REFUSALS):
                if await self._look_once(node) or node not in self._topology.nodes:
                    break
                await asyncio.sleep(_REFUSED_PAUSE_S)
        except (*FAILURES, NoVerdict):
            pass  # the next connection looks again, or the next beat
        except Exception:  # noqa: BLE001  # lookups find what is missing, only later
            _log.exception("look_at_new_primary_failed")
        finally:
            del self._tasks[node.address]

    async def _look_once(self, node: Node) -> bool:
        """Look at the slots of a primary that were not found there yet; False if it refuses to serve any."""
        await node.reads.execute("PING")  # it must be known which server answers
        looked = self._looked.get(node.address)
        if looked is None or looked.server != node.reads.server:
            looked = self._looked[node.address] = _Looked(node.reads.server)
        looked.began = asyncio.get_running_loop().time()
        slots = self._unlooked(node, looked)
        for start in range(0, len(slots), SLOTS_AT_ONCE):
            if not await self._look_among(node, looked, slots[start : start + SLOTS_AT_ONCE]):
                return False
        return True

    def _unlooked(self, node: Node, looked: _Looked) -> list[int]:
        """Slots that were not found at a primary yet, first those in which only this process may know all."""
        own: list[int] = []
        others: list[int] = []
        for slot in node.slots:
            if slot not in looked.slots:
                watermark = self._slots.data_set(slot).watermark
                if watermark is None:  # nothing was seen of it: nothing can be missing
                    looked.slots.add(slot)
                else:
                    (own if watermark.share else others).append(slot)
        return own + others

    @reads_replies()
    async def _look_among(self, node: Node, looked: _Looked, slots: Sequence[int]) -> bool:
        """Look at some slots; False if none of them could be read."""
        suspects, readings = {}, await self._slots.read_at(node, slots, lambda _: ())
        for found in readings:
            data = self._slots.data_set(found.slot)
            if data.confirms_reading(found.before, found.reading):
                if found.reading.server == looked.server:
                    looked.slots.add(found.slot)
            else:
                suspects[data] = SuspectReading(found.before, found.reading)
        self._settling.begin_to_settle_found(suspects)
        return bool(readings)
