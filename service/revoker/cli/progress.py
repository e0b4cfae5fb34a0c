"""How far a command over many lines has come, on standard error."""

import sys
import time
from typing import Final


class Progress:
    """Says on stderr how far it is: on a terminal a bar that moves, elsewhere a line now and then.

    Attributes:
        total: How much there is to do; 0: unknown.
    """

    _WIDTH: Final = 30

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self.total = total
        self._terminal = sys.stderr.isatty()
        self._every = 0.2 if self._terminal else 10.0
        self._began = self._told = time.monotonic()
        self._shown = False

    def tell(self, lines: int, done: int, *, last: bool = False) -> None:
        """Show a number of lines, and how much of the total that is."""
        now = time.monotonic()
        if now - self._told < self._every and not (last and self._shown):
            return
        self._told, self._shown = now, True
        rate = lines / (now - self._began)
        share = min(1.0, done / self.total) if self.total else 0.0
        told = f"{self._what} {lines:,} lines, {rate:,.0f} a second"
        if self.total:
            told += f", {share:.0%}"
        if not self._terminal:
            sys.stderr.write(f"{told}\n")
            return
        filled = round(share * self._WIDTH)
        bar = f"[{'#' * filled}{'.' * (self._WIDTH - filled)}] " if self.total else ""
        sys.stderr.write(f"\r\x1b[K{bar}{told}" + ("\n" if last else ""))
        sys.stderr.flush()

    def clear(self) -> None:
        """Make room for something else to be said."""
        if self._terminal and self._shown:
            sys.stderr.write("\r\x1b[K")
