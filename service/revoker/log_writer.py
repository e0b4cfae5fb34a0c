"""Writes lines to a file descriptor from its own thread, so that logging never waits for the reader.

Lines are queued in order; the queue is bounded in bytes. Lines that do not fit are dropped and counted. Part
of the queue is reserved for lines of the audit log.
"""

import asyncio
import collections
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

QUEUE_BYTES: Final = 1024 * 1024
"""Of queued lines; some thousands of lines."""

AUDIT_BYTES: Final = 2 * 1024 * 1024
"""Reserved for audit lines; some ten thousand lines."""

AUDIT_SECONDS: Final = 1.0
"""The longest that a request waits for room for its audit line, counted from now and from the last write."""

_POLL_SECONDS: Final = 0.01
_SPARE_BYTES: Final = 64 * 1024
"""Of the reserve, for the lines of requests that found room at the same time."""


class Dropped(NamedTuple):
    """How many lines were not written."""

    audit: int = 0
    other: int = 0


class _Entry(NamedTuple):
    line: bytes
    audit: bool


class LineWriter:
    """A queue and the thread that writes it; a forked process starts with both empty."""

    def __init__(
        self,
        descriptor: int,
        report: Callable[[Dropped], bytes],
        *,
        limit: int = QUEUE_BYTES,
        reserve: int = AUDIT_BYTES,
    ) -> None:
        """Start the thread with the first line.

        Args:
            descriptor: To write to; the caller owns it.
            report: Makes the line that reports dropped lines, written once writing works again.
            limit: Bytes of queued lines.
            reserve: Bytes of queued audit lines beyond ``limit``.
        """
        self._descriptor: Final = descriptor
        self._report: Final = report
        self._limit: Final = limit
        self._reserve: Final = reserve
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # Reentrant, since a signal handler may log while this thread is logging.
        self._changed = threading.Condition(threading.RLock())
        self._entries: collections.deque[_Entry] = collections.deque()
        self._bytes = 0
        self._thread: threading.Thread | None = None
        self._idle = True
        self._wrote_at = time.monotonic()
        self._dropped = Dropped()
        self._reported = Dropped()
        self._line_is_torn = False

    @property
    def dropped(self) -> Dropped:
        """Lines that this process has dropped so far."""
        return self._dropped

    def put(self, line: bytes, *, audit: bool = False) -> None:
        """Queue a line, newline included, or drop it if there is no room; never waits for a write."""
        with self._changed:
            room = self._limit + (self._reserve if audit else 0) - self._bytes
            if len(line) > room or not self._runs():
                self._count_dropped([_Entry(line, audit)])
                return
            if self._idle:
                self._idle = False
                self._wrote_at = time.monotonic()
            self._entries.append(_Entry(line, audit))
            self._bytes += len(line)
            self._changed.notify_all()

    def has_audit_room(self) -> bool:
        return self._bytes <= self._limit + self._reserve - _SPARE_BYTES

    async def wait_for_audit_room(self, seconds: float = AUDIT_SECONDS) -> None:
        """Wait for room, but at most so many seconds from now, and from the last write.

        Otherwise a reader slower than the log would delay a request for as long as others log.
        """
        end = time.monotonic() + seconds
        while (  # noqa: ASYNC110  # the thread that makes room knows no event loop
            not self.has_audit_room() and time.monotonic() < min(end, self._wrote_at + seconds)
        ):
            await asyncio.sleep(_POLL_SECONDS)

    def flush(self, seconds: float) -> bool:
        """Wait up to ``seconds`` until all lines are written; returns whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: self._idle, seconds)

    def _runs(self) -> bool:
        """Start the thread if it is not running, after any fork; returns whether it runs."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the main thread handles them
        while True:
            with self._changed:
                self._idle = not self._entries
                if self._idle:
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._entries)
                taken = self._take()
            data = b"".join(entry.line for entry in taken)
            written = self._write(data)
            with self._changed:
                self._bytes -= len(data)
                if written:
                    self._wrote_at = time.monotonic()
                else:
                    self._count_dropped(taken)
                dropped, reported = self._dropped, self._reported
            if written and dropped != reported:
                missing = Dropped(dropped.audit - reported.audit, dropped.other - reported.other)
                if self._write(self._report(missing)):
                    self._reported = dropped

    def _take(self) -> list[_Entry]:
        """Take lines that the kernel writes to a pipe atomically, whoever else writes to it."""
        taken = [self._entries.popleft()]
        size = len(taken[0].line)
        while self._entries and size + len(self._entries[0].line) <= select.PIPE_BUF:
            size += len(self._entries[0].line)
            taken.append(self._entries.popleft())
        return taken

    def _write(self, data: bytes) -> bool:
        """Returns whether all was written; blocks while nobody reads."""
        rest = memoryview(b"\n" + data if self._line_is_torn else data)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:  # another program made the shared pipe or terminal non-blocking
                    writable = select.poll()
                    writable.register(self._descriptor, select.POLLOUT)
                    writable.poll()
                else:
                    self._line_is_torn = bool(rest)
        except OSError:  # EPIPE, EBADF or a full disk; the next write may succeed
            return False
        return True

    def _count_dropped(self, entries: list[_Entry]) -> None:
        audit = sum(entry.audit for entry in entries)
        self._dropped = Dropped(self._dropped.audit + audit, self._dropped.other + len(entries) - audit)
