"""`revoker export` and `revoker import`: all revocations of a store as lines of JSON."""

import asyncio
import collections
import contextlib
import functools
import getpass
import os
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final, Self

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress

from revoker.cli.configuration import ConfigOption, with_store
from revoker.errors import InvalidRequest
from revoker.store.transfer import records

if TYPE_CHECKING:
    from revoker.store.store import Store
    from revoker.store.transfer.importing import Change

_audit = structlog.get_logger("audit")

_READ_BYTES: Final = 1 << 16
_MAX_LINE_BYTES: Final = 1 << 17
"""A ``sub`` of 16,384 characters, all of them escaped, and the other members."""

_YIELD_EVERY: Final = 64
"""Lines that are parsed before other tasks get their turn of the event loop."""

_REPORT_EVERY_S: Final = 10.0


def export(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="The file to create. Default: standard output."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Write all revocations, one JSON object per line (docs/export-import.md). Sessions are not exported."""
    try:
        with _create(output) as file:
            unreadable = with_store(config, lambda store: _export(store, file))
    except OSError as error:
        sys.stderr.write(f"{output or 'standard output'}: {error.strerror}\n")
        raise typer.Exit(1) from None
    if unreadable:
        raise typer.Exit(1)


@contextlib.contextmanager
def _create(output: Path | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
        return
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file


async def _export(store: "Store", file: IO[bytes]) -> int:
    """Returns how many keys could not be read."""
    from revoker.store.transfer.exporting import KEYS_PER_STEP, Exporting  # noqa: PLC0415

    started_at = min(reading.now for reading in (await store.readings()).values())
    file.write(records.write(records.Begin(format=records.FORMAT, at=started_at / 1000)))
    count, unreadable, steps = 1, 0, 0
    exporting = Exporting(store)
    with _LineProgress("exported", await exporting.size()) as progress:
        async for step in exporting.steps():
            steps += 1
            file.write(b"".join(step.lines))
            count += len(step.lines)
            for key in step.unreadable:
                sys.stderr.write(f"{key}: this version cannot read its value\n")
            unreadable += len(step.unreadable)
            progress.update(count, steps * KEYS_PER_STEP)
        file.write(records.write(records.End(lines=count)))
        file.flush()
    epoch = await store.epoch()
    if epoch is not None and epoch.finding == "refused":
        sys.stderr.write(
            "the store has lost data and `revoker store accept` was not run: the export lacks what was lost\n"
        )
    _audit.info("exported", operator=getpass.getuser(), lines=count, unreadable=unreadable)
    return unreadable


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="What `revoker export` or a person has written; -: standard input."
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report what would change, and write nothing.")
    ] = False,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Report every bad line and continue; the exit status is still 1."),
    ] = False,
    from_line: Annotated[
        int, typer.Option("--from-line", min=1, metavar="N", help="Skip the lines before line N.")
    ] = 1,
    config: ConfigOption = None,
) -> None:
    """Store all revocations of a file, one JSON object per line (docs/export-import.md); idempotent."""
    try:
        with sys.stdin.buffer if source == "-" else Path(source).open("rb") as file:
            run = functools.partial(
                _Import, file.fileno(), dry_run=dry_run, keep_going=keep_going, first=from_line
            )
            finished = with_store(config, lambda store: _import(run(store), source))
    except OSError as error:
        sys.stderr.write(f"{source}: {error.strerror}\n")
        raise typer.Exit(1) from None
    for line in finished.summary():
        typer.echo(line)
    if finished.problems:
        raise typer.Exit(1)


async def _import(work: "_Import", source: str) -> "_Import":
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None  # noqa: S101  # this is a coroutine
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    complete = False
    try:
        complete = await work.run()
    except asyncio.CancelledError:
        raise typer.Exit(130) from None
    finally:
        if not work.dry_run:
            if not complete:
                sys.stderr.write(
                    f"lines up to {work.stored} are stored; the rest: --from-line {work.stored + 1}\n"
                )
            _audit.info(
                "imported",
                operator=getpass.getuser(),
                source=source,
                lines=work.stored,
                whole=complete and not work.problems,
                **{f"of_{kind}": count for kind, count in work.counts.items()},
            )
    return work


class _Import:
    """One run over the lines of a file; while the store writes one batch of lines, the next is read.

    Attributes:
        counts: Lines by kind.
        stored: All lines up to this one are stored and acknowledged, or skipped.
        problems: Lines that could not be parsed, and an export that has no end.
    """

    def __init__(
        self, descriptor: int, store: "Store", *, dry_run: bool, keep_going: bool, first: int
    ) -> None:
        from revoker.store.transfer.importing import Importing  # noqa: PLC0415

        self.dry_run: Final = dry_run
        self.counts: Counter[str] = Counter()
        self.stored = first - 1
        self.problems = 0
        self._already_stored: Counter[str] = Counter()
        self._expired: Counter[str] = Counter()
        self._positions = 0
        self._descriptor = descriptor
        self._keep_going = keep_going
        self._first = first
        self._importing = Importing(store)
        self._export_begins_at = 0
        self._batches: collections.deque[tuple[asyncio.Task[None], int]] = collections.deque()

    async def run(self) -> bool:
        """Read to the end, or to the first bad line; returns whether it was the end.

        Raises:
            StoreUnavailable: not all could be stored.
            StoreRefused: the store accepts no writes, or has lost data.
        """
        await self._importing.begin()
        complete = False
        size = os.fstat(self._descriptor).st_size
        with _LineProgress("read" if self.dry_run else "stored", size) as progress:
            try:
                async for number, lines, bytes_read in _numbered_lines(self._descriptor):
                    changes, last = await self._changes(number, lines)
                    await self._wait_until_at_most(1)
                    self._batches.append((asyncio.create_task(self._store(changes)), last))
                    progress.update(last, bytes_read)
                    if self.problems and not self._keep_going:
                        break
                else:
                    complete = True
                    if self._export_begins_at:
                        self._report("the export is cut off: its last line is missing")
                await self._wait_until_at_most(0)
                await self._importing.end()
            finally:
                self._count_stored()
                for task, _ in self._batches:
                    task.cancel()
        return complete

    async def _wait_until_at_most(self, count: int) -> None:
        """Wait until no more than ``count`` batches are in progress."""
        while len(self._batches) > count:
            await asyncio.shield(self._batches[0][0])
            self._count_stored()

    def _count_stored(self) -> None:
        """Batches finish in any order; only those before the first unfinished or failed one count."""
        while self._batches:
            task, last = self._batches[0]
            if not task.done() or task.cancelled() or task.exception() is not None:
                return
            self._batches.popleft()
            self.stored = max(self.stored, last)

    async def _store(self, changes: "Sequence[Change]") -> None:
        if self.dry_run:
            in_effect = await self._importing.in_effect(changes)
            for change, already in zip(changes, in_effect, strict=True):
                if change.expiry is not None and change.expiry <= self._importing.now:
                    self._expired[change.kind] += 1
                elif already:
                    self._already_stored[change.kind] += 1
        else:
            await self._importing.store(changes)
        self.counts.update(change.kind for change in changes)

    async def _changes(self, number: int, lines: Sequence[bytes]) -> "tuple[list[Change], int]":
        """The changes that lines ask for, and the number of the last line before the first bad one.

        It yields to the event loop now and then, so that the batch before is sent while this one is parsed.
        """
        changes = []
        for line_number, line in enumerate(lines, number):
            if line_number % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            try:
                record = self._parse(line_number, line)
                if record is not None:
                    changes.append(self._importing.change(record))
            except InvalidRequest as error:
                self._report(f"line {line_number}: {error}")
                if not self._keep_going:
                    return changes, line_number - 1
        return changes, number + len(lines) - 1

    def _parse(self, number: int, line: bytes) -> records.Record | None:
        """A revocation; None for a line that holds none, or that is skipped."""
        if not line.strip():
            return None
        if len(line) > _MAX_LINE_BYTES:
            raise InvalidRequest("too long")
        if number < self._first and not line.startswith((b'{"kind":"export",', b'{"kind":"end",')):
            return None
        match records.read(line):
            case records.Begin():
                self._export_begins_at = number
            case records.End(lines=count):
                if not self._export_begins_at or number - self._export_begins_at != count:
                    raise InvalidRequest("the export is incomplete: lines before this one are missing")
                self._export_begins_at = 0
            case records.Place():
                self._positions += 1
            case record:
                return record
        return None

    def _report(self, problem: str) -> None:
        self.problems += 1
        sys.stderr.write(f"{problem}\n")

    def summary(self) -> Iterator[str]:
        """What was done, or would be, by kind."""
        for kind in records.KINDS:
            count = self.counts[kind]
            if not count:
                continue
            if self.dry_run:
                stored, expired = self._already_stored[kind], self._expired[kind]
                new = count - stored - expired
                yield f"{kind:8}{count:>12,}: {new:,} new, {stored:,} stored already, {expired:,} expired"
            else:
                yield f"{kind:8}{count:>12,}"
        if self._positions:
            yield f"place   {self._positions:>12,}: skipped; older versions wrote them to resume an export"


async def _numbered_lines(descriptor: int) -> AsyncIterator[tuple[int, list[bytes], int]]:
    """Lines as they arrive, with the number of the first of them, and the bytes read so far.

    A line that is too long is cut off just beyond the limit, so that memory stays bounded.
    """
    rest, number, bytes_read = b"", 1, 0
    while chunk := await _read(descriptor):
        bytes_read += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[: _MAX_LINE_BYTES + 1]
        if lines:
            yield number, lines, bytes_read
            number += len(lines)
    if rest:
        yield number, [rest], bytes_read


async def _read(descriptor: int) -> bytes:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        with contextlib.suppress(PermissionError):  # epoll refuses what is always readable
            loop.add_reader(descriptor, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(descriptor)
    return os.read(descriptor, _READ_BYTES)


class _LineProgress:
    """Progress on standard error: a bar on a terminal, otherwise a line every ten seconds."""

    def __init__(self, action: str, total: int) -> None:
        """``total`` is 0 where the size is unknown."""
        console = Console(stderr=True)
        self._bar = Progress(
            BarColumn(),
            "{task.description}",
            console=console,
            disable=not console.is_terminal,
            refresh_per_second=5,
        )
        self._task = self._bar.add_task(action, total=total or None)
        self._action = action
        self._total = total
        self._started_at = self._reported_at = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, lines: int, completed: int) -> None:
        now = time.monotonic()
        share = f", {min(1.0, completed / self._total):.0%}" if self._total else ""
        text = f"{self._action} {lines:,} lines, {lines / (now - self._started_at):,.0f} a second{share}"
        self._bar.update(self._task, description=text, completed=completed)
        if self._bar.disable and now - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = now
            sys.stderr.write(f"{text}\n")
