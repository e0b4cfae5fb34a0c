"""`revoker export` and `revoker import`: all revocations as lines of JSON, out of one store and into another.

What counts metrics is imported only where it is used, as `revoker.server.workers.Plan` wants it.
"""

import asyncio
import collections
import contextlib
import dataclasses
import functools
import getpass
import os
import signal
import stat
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final

import structlog
import typer

from revoker.cli.operations import ConfigOption, with_store
from revoker.cli.progress import Progress
from revoker.errors import InvalidRequest
from revoker.store.transfer import records

if TYPE_CHECKING:
    from revoker.store.store import Store
    from revoker.store.transfer.importing import Change

_audit = structlog.get_logger("audit")

_CHUNK: Final = 1 << 16
_LONGEST: Final = 1 << 17
"""Bytes of a line: a ``sub`` of 16,384 characters, all of them escaped, and the rest."""

_AT_ONCE: Final = 64
"""Lines that are read without giving way to what else there is to do."""

_PATIENCE_S: Final = 5.0
"""For one round trip, which carries hundreds of lines."""

_PLACE_EVERY: Final = 100
"""Steps of an export between two lines that say how far it has come."""


def export(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PATH", help="Where to; else standard output.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an output that an earlier export has begun.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Write out all that is revoked, one JSON object a line (docs/export-import.md). Sessions are not."""
    if resume and output is None:
        raise typer.BadParameter("needs --output", param_hint="--resume")
    try:
        with _opened(output, resume=resume) as file:
            unreadable = with_store(
                config, lambda store: _export(store, file, resume=resume), patience=_PATIENCE_S
            )
    except OSError as error:
        sys.stderr.write(f"{output or 'standard output'}: {error.strerror}\n")
        raise typer.Exit(1) from None
    if unreadable:
        raise typer.Exit(1)


@contextlib.contextmanager
def _opened(output: Path | None, *, resume: bool) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
        return
    descriptor = os.open(output, os.O_RDWR | (0 if resume else os.O_CREAT | os.O_EXCL), 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        yield file


async def _export(store: "Store", file: IO[bytes], *, resume: bool) -> int:
    from revoker.store.transfer.exporting import SCANNED, Exporting, Place  # noqa: PLC0415

    since, count, unreadable = None, 0, 0
    if resume:
        place = _last_place(file)
        since, count = Place(place.servers, place.at, place.cursor), place.lines
    else:
        at = min(reading.now for reading in (await store.readings()).values())
        file.write(records.write(records.Begin(format=records.FORMAT, at=at / 1000)))
        count = 1
    exporting = Exporting(store)
    progress = Progress("exported", await exporting.size())
    steps = 0
    async for step in exporting.steps(since):
        steps += 1
        file.write(b"".join(step.lines))
        count += len(step.lines)
        for key in step.unreadable:
            progress.clear()
            sys.stderr.write(f"{key}: holds nothing that this version can read\n")
        unreadable += len(step.unreadable)
        if steps % _PLACE_EVERY == 0:
            count += 1
            file.write(records.write(records.Place(**dataclasses.asdict(step.place), lines=count)))
            file.flush()
        progress.tell(count, steps * SCANNED)
    file.write(records.write(records.End(lines=count)))
    file.flush()
    progress.tell(count, progress.total, last=True)
    epoch = await store.epoch()
    if epoch is not None and epoch.finding == "refused":
        sys.stderr.write(
            "the store has lost data, and nobody has accepted that: what it lost is missing here\n"
        )
    _audit.info("exported", operator=getpass.getuser(), lines=count, unreadable=unreadable)
    return unreadable


def _last_place(file: IO[bytes]) -> records.Place:
    """How far an export had come; what it wrote after that is cut off."""
    last, end, offset = None, 0, 0
    for line in file:
        offset += len(line)
        if line.startswith(b'{"kind":"place",') and line.endswith(b"\n"):
            last, end = records.read(line), offset
    if not isinstance(last, records.Place):
        raise InvalidRequest("the output does not say how far it had come: export again from the start")
    file.seek(end)
    file.truncate()
    return last


def import_(
    source: Annotated[
        str,
        typer.Argument(metavar="FILE", help="What `revoker export` or a person wrote; -: standard input."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be hit, and write nothing.")
    ] = False,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Tell of each bad line and go on; the status is 1 all the same."),
    ] = False,
    from_line: Annotated[
        int, typer.Option("--from-line", min=1, metavar="N", help="Pass over the lines before it.")
    ] = 1,
    config: ConfigOption = None,
) -> None:
    """Revoke all that a file says, one JSON object a line (docs/export-import.md); repeating it is safe."""
    try:
        with sys.stdin.buffer if source == "-" else Path(source).open("rb") as file:
            run = functools.partial(
                _Import, file.fileno(), dry_run=dry_run, keep_going=keep_going, first=from_line
            )
            done = with_store(config, lambda store: _import(run(store), source), patience=_PATIENCE_S)
    except OSError as error:
        sys.stderr.write(f"{source}: {error.strerror}\n")
        raise typer.Exit(1) from None
    for line in done.told():
        typer.echo(line)
    if done.problems:
        raise typer.Exit(1)


async def _import(work: "_Import", source: str) -> "_Import":
    this, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert this is not None  # noqa: S101  # this is a coroutine
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, this.cancel)
    whole = False
    try:
        whole = await work.run()
    except asyncio.CancelledError:
        raise typer.Exit(130) from None
    finally:
        if not work.dry_run:
            if not whole:
                sys.stderr.write(
                    f"lines up to {work.stored} are stored; the rest: --from-line {work.stored + 1}\n"
                )
            _audit.info(
                "imported",
                operator=getpass.getuser(),
                source=source,
                lines=work.stored,
                whole=whole and not work.problems,
                **{f"of_{kind}": count for kind, count in work.counts.items()},
            )
    return work


class _Import:
    """One run over the lines of a file; while the store writes some of them the next are read.

    Attributes:
        counts: Lines by kind.
        stored: All lines up to this one are stored and acknowledged, or passed over.
        problems: Lines that were not understood, and what is missing at the end.
    """

    def __init__(
        self, descriptor: int, store: "Store", *, dry_run: bool, keep_going: bool, first: int
    ) -> None:
        from revoker.store.transfer.importing import Importing  # noqa: PLC0415

        self.dry_run: Final = dry_run
        self.counts: Counter[str] = Counter()
        self.stored = first - 1
        self.problems = 0
        self._standing: Counter[str] = Counter()
        self._over: Counter[str] = Counter()
        self._descriptor = descriptor
        self._keep_going = keep_going
        self._first = first
        self._importing = Importing(store)
        self._begun = 0
        self._under_way: collections.deque[tuple[asyncio.Task[None], int]] = collections.deque()
        size = os.fstat(descriptor).st_size
        self._progress = Progress("read" if dry_run else "stored", size)

    async def run(self) -> bool:
        """Read to the end, or to the first bad line; returns whether it was the end.

        Raises:
            StoreUnavailable: not all could be stored.
            StoreRefused: the store may not be written to, or has lost what was.
        """
        await self._importing.begin()
        whole = False
        try:
            async for number, lines, done in _numbered(self._descriptor):
                changes, last = await self._changes(number, lines)
                await self._settled(1)
                self._under_way.append((asyncio.create_task(self._put(changes)), last))
                self._progress.tell(last, done)
                if self.problems and not self._keep_going:
                    break
            else:
                whole = True
                if self._begun:
                    self._tell("the export is cut off: its last line is missing")
            await self._settled(0)
            await self._importing.end()
            return whole
        finally:
            self._count_stored()
            for each, _ in self._under_way:
                each.cancel()
            self._progress.tell(self.stored, self._progress.total, last=True)

    async def _settled(self, most: int) -> None:
        """Wait until no more than so many batches are under way."""
        while len(self._under_way) > most:
            await asyncio.shield(self._under_way[0][0])
            self._count_stored()

    def _count_stored(self) -> None:
        """Batches are stored in any order; counted are those before which none is missing."""
        while self._under_way:
            task, last = self._under_way[0]
            if not task.done() or task.cancelled() or task.exception() is not None:
                return
            self._under_way.popleft()
            self.stored = max(self.stored, last)

    async def _put(self, changes: "Sequence[Change]") -> None:
        if self.dry_run:
            standing = await self._importing.standing(changes)
            for change, stands in zip(changes, standing, strict=True):
                if change.till is not None and change.till <= self._importing.now:
                    self._over[change.kind] += 1
                elif stands:
                    self._standing[change.kind] += 1
        else:
            await self._importing.store(changes)
        self.counts.update(change.kind for change in changes)

    async def _changes(self, number: int, lines: Sequence[bytes]) -> "tuple[list[Change], int]":
        """What lines ask for, and the last of them before which none is bad.

        Gives way as it goes, so that what was read before leaves for the store, which writes meanwhile.
        """
        changes = []
        for place, line in enumerate(lines, number):
            if place % _AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                record = self._read(place, line)
                if record is not None:
                    changes.append(self._importing.change(record))
            except InvalidRequest as error:
                self._tell(f"line {place}: {error}")
                if not self._keep_going:
                    return changes, place - 1
        return changes, number + len(lines) - 1

    def _read(self, place: int, line: bytes) -> records.Record | None:
        """A revocation; None for a line that says something else or nothing, or was stored before."""
        if not line.strip():
            return None
        if len(line) > _LONGEST:
            raise InvalidRequest("too long")
        if place < self._first and not line.startswith((b'{"kind":"export",', b'{"kind":"end",')):
            return None
        match records.read(line):
            case records.Begin():
                self._begun = place
            case records.End(lines=count):
                if not self._begun or place - self._begun != count:
                    raise InvalidRequest("the export is not whole: lines before this one are missing")
                self._begun = 0
            case records.Place():
                pass
            case record:
                return record
        return None

    def _tell(self, problem: str) -> None:
        self.problems += 1
        self._progress.clear()
        sys.stderr.write(f"{problem}\n")

    def told(self) -> Iterator[str]:
        """What was done, or would be, by kind."""
        for kind in records.KINDS:
            count = self.counts[kind]
            if not count:
                continue
            if self.dry_run:
                standing, over = self._standing[kind], self._over[kind]
                new = count - standing - over
                yield f"{kind:8}{count:>12,}: {new:,} new, {standing:,} stand already, {over:,} have expired"
            else:
                yield f"{kind:8}{count:>12,}"


async def _numbered(descriptor: int) -> AsyncIterator[tuple[int, list[bytes], int]]:
    """Lines as they come, with the number of the first of them, and how much was read.

    Of one that is too long only as much is kept as shows it.
    """
    rest, number, done = b"", 1, 0
    while chunk := await _read(descriptor):
        done += len(chunk)
        *whole, rest = (rest + chunk).split(b"\n")
        rest = rest[: _LONGEST + 1]
        if whole:
            yield number, whole, done
            number += len(whole)
    if rest:
        yield number, [rest], done


async def _read(descriptor: int) -> bytes:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        with contextlib.suppress(PermissionError):  # what is always readable can't be watched
            loop.add_reader(descriptor, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(descriptor)
    return os.read(descriptor, _CHUNK)
