"""Logs: JSON on standard output, one event a line, of this service and of its libraries alike.

Every line has ``timestamp``, ``level``, ``logger`` and ``event``, and ``request_id`` where one was
bound (`structlog.contextvars`). The logger ``audit`` tells every change of state and ignores the
level. No token, secret or password gets through, not even in a traceback.
"""

import functools
import json
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TextIO

import structlog

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
"""Where it finds nothing, none of the patterns would: most values are cleared by one search."""

_is_secret: Final = functools.lru_cache(1024)(SECRET_NAMES.search)
_json: Final = json.JSONEncoder(default=str).encode


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send every log of this process to ``stream``, by default standard output."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
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
    handler = logging.StreamHandler(stream or sys.stdout)
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
    # Nothing that a line does not show is worth looking for: callers, threads, processes.
    logging._srcfile = None  # noqa: SLF001  # as the standard library's documentation advises
    logging.logThreads = logging.logProcesses = False
    logging.logMultiprocessing = False


def _rendered(_: Any, __: str, event: Mapping[str, Any]) -> str:
    return _json(event)


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Put a line in order, and what looks like a credential out of it."""
    first = {name: event.pop(name, None) for name in ("timestamp", "level", "logger", "event")}
    return {name: _redacted(name, value) for name, value in (first | dict(event)).items()}


def _redacted(name: str, value: Any) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case _ if _is_secret(name):
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
