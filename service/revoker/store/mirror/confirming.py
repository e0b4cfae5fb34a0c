"""Says to the upstream how far an edge has come."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

_log = structlog.get_logger("store")

CONFIRM_S: Final = 1.0
"""How often an edge confirms how far it has come without being asked."""

CONFIRM_PAUSE_S: Final = 0.1
"""Between two confirmations, at least: all that is asked for meanwhile is confirmed together."""


class Confirming:
    """Confirms when the upstream asks for it, and from time to time.

    Attributes:
        asked: To be set when somebody may wait for a confirmation.
    """

    def __init__(self, confirm: Callable[[], Awaitable[None]]) -> None:
        """``confirm`` confirms what is there at that moment."""
        self._confirm: Final = confirm
        self.asked: Final = asyncio.Event()

    async def run(self) -> None:
        """Confirm until cancelled; an upstream that does not take it is asked less often."""
        failed = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONFIRM_S):
                    await self.asked.wait()
            self.asked.clear()
            try:
                await self._confirm()
            except Exception as error:  # noqa: BLE001  # nothing that an upstream answers may end this
                if not failed:
                    _log.info("not_confirmed", problem=str(error) or repr(error))
                failed = True
            else:
                failed = False
            await asyncio.sleep(CONFIRM_S if failed else CONFIRM_PAUSE_S)
