"""Logs: JSON on standard output, one event per line, of this service and of its libraries.

Every line has ``timestamp``, ``level``, ``logger`` and ``event``, ``request_id`` if one is bound
(`structlog.contextvars`), and ``trace_id`` and ``span_id`` where the request has a span. The logger ``audit``
logs every change of state and ignores the level. Tokens, secrets and passwords are redacted, even in
tracebacks.

The service logs in the background (:mod:`revoker.log_writer`): if standard output is not read, only the log
stops. Other commands write synchronously.
"""

import functools
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, TextIO

import structlog

from revoker.log_writer import Dropped, LineWriter

SECRET_NAMES: Final = re.compile(
    r"authorization|cookie|password|passwd|secret|assertion|(^|_)token$|^tokens$", re.IGNORECASE
)
SECRETS: Final = (
    # A compact JWS or JWE: its header is a JSON object, so in base64url it begins with ew or ey.
    (re.compile(r"\be[wy][\w-]{6,}(?:\.[\w-]*){2,4}"), "[token]"),
    (re.compile(r"\b(bearer|basic|dpop)\s+[\w.~+/=-]{8,}", re.IGNORECASE), r"\1 [credential]"),
    (re.compile(r"(://[^\s:/@]*:)[^\s/@]+@"), r"\1[password]@"),
)


_SUSPECT: Final = re.compile(r"e[wy]|bearer|basic|dpop|://", re.IGNORECASE)
"""Matches whenever one of ``SECRETS`` might, so that one search clears most values."""

_CACHED_NAME: Final = 64
"""Characters; names of our own log members are shorter, longer ones come from clients."""

_is_secret: Final = functools.lru_cache(1024)(SECRET_NAMES.search)
_json: Final = json.JSONEncoder(default=str).encode

FLUSH_SECONDS: Final = 2.0
"""At the end of a process, for queued lines."""

_background: LineWriter | None = None
"""Set in a process that logs in the background, and in its forks."""

_trace: Callable[[], Mapping[str, str]] | None = None
"""Set in a process that has traces."""


def configure(level: str = "info", stream: TextIO | None = None, *, background: bool = False) -> None:
    """Send every log of this process to ``stream``, by default standard output.

    Args:
        level: The lowest level that is logged; the audit log always is.
        stream: Written to synchronously.
        background: Write to standard output from a thread, without ever waiting for it.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_trace,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    global _background  # noqa: PLW0603  # the log is the process's, as logging's root logger is
    _background = LineWriter(_own_standard_output(), _dropped_line) if background else None
    handler: logging.Handler = (
        logging.StreamHandler(stream or sys.stdout) if _background is None else _QueueHandler(_background)
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact,
                _rendered,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("audit").setLevel(logging.INFO)
    logging.captureWarnings(True)
    # Callers, threads and processes are not logged, so do not look them up.
    logging._srcfile = None  # noqa: SLF001  # as the standard library's documentation advises
    logging.logThreads = logging.logProcesses = False
    logging.logMultiprocessing = False


def name_traces(members: Callable[[], Mapping[str, str]]) -> None:
    """Add to every line from now on what this returns: the ids of the current trace and span."""
    global _trace  # noqa: PLW0603  # as _background
    _trace = members


def _with_trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if _trace is not None:
        event.update(_trace())
    return event


def write_text(text: str) -> None:
    """Write to standard output as the log is written, in order with it."""
    if _background is None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    else:
        _background.put(f"{text}\n".encode(errors="backslashreplace"))


def flush() -> None:
    """Wait up to ``FLUSH_SECONDS`` until the log is written; to be called before ``os._exit``."""
    if _background is not None:
        _background.flush(FLUSH_SECONDS)


def dropped() -> Dropped:
    """How many lines of this process were dropped: the queue was full, or writing failed."""
    return Dropped() if _background is None else _background.dropped


def audit_lines_have_room() -> bool:
    """Whether the queue has room for an audit line."""
    return _background is None or _background.has_audit_room()


async def wait_for_audit_room() -> None:
    """Wait a bounded time until the queue has room for an audit line."""
    if _background is not None:
        await _background.wait_for_audit_room()


class _QueueHandler(logging.Handler):
    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001  # logging must not raise
            line = _line("error", record.name, "log_record_unreadable", error=type(error).__name__)
        self._writer.put(f"{line}\n".encode(errors="backslashreplace"), audit=record.name == "audit")

    def flush(self) -> None:
        """Called when the interpreter ends."""
        self._writer.flush(FLUSH_SECONDS)


def _own_standard_output() -> int:
    """A duplicate of standard output.

    If descriptors 0 to 2 are closed at the start, they are opened on ``/dev/null`` first: otherwise
    a connection or file gets one of these numbers, and output is written to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    return os.dup(1)


def _dropped_line(lines: Dropped) -> bytes:
    line = _line("error", "service", "log_lines_dropped", audit=lines.audit, other=lines.other)
    return f"{line}\n".encode()


def _line(level: str, logger: str, event: str, **members: Any) -> str:
    now = time.time()
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06}Z"
    return _json({"timestamp": at, "level": level, "logger": logger, "event": event, **members})


def _rendered(_: Any, __: str, event: Mapping[str, Any]) -> str:
    return _json(event)


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Order the members of a line, and replace what looks like a credential."""
    first = {name: event.pop(name, None) for name in ("timestamp", "level", "logger", "event")}
    return {name: _redacted(name, value) for name, value in (first | dict(event)).items()}


def _redacted(name: str, value: Any) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case _ if (_is_secret if len(name) <= _CACHED_NAME else SECRET_NAMES.search)(name):
            return "[redacted]"
        case str() if not _SUSPECT.search(value):
            return value
        case Mapping():
            return {str(key): _redacted(str(key), item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_redacted("", item) for item in value]
        case _:
            text = str(value)
            for pattern, replacement in SECRETS:
                text = pattern.sub(replacement, text)
            return text
