"""Exports spans from a thread, reports when that fails and when it works again, and ends in bounded time."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Sequence
from typing import Final

import structlog
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from revoker import __version__

FLUSH_SECONDS: Final = 3.0
"""At the end of a process, for spans that are not exported yet."""

_log = structlog.get_logger("service")


class _LastMessage(logging.Handler):
    """Holds the last thing that the SDK logged: it logs every failure, as often as it tries."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


class ReportingExporter(SpanExporter):
    """An exporter of which the log has a line when it begins to fail, and one when it works again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter: Final = exporter
        self._message = _LastMessage()
        self._lost = 0

    def replace_log_of_sdk(self) -> None:
        """Log nothing else of the SDK from now on."""
        sdk = logging.getLogger("opentelemetry")
        sdk.handlers[:] = [self._message]
        sdk.propagate = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001  # whatever the exporter does, the thread must continue
            self._message.text = type(error).__name__
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                _log.info("traces_exported_again", lost=self._lost)
            self._lost = 0
        else:
            if not self._lost:
                _log.warning("traces_not_exported", problem=self._message.text)
            self._lost += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class BackgroundExport:
    """What a process must end before it exits."""

    def __init__(self, provider: TracerProvider, exporter: SpanExporter) -> None:
        self._provider = provider
        self._exporter = exporter

    async def close(self) -> None:
        """Export what is left, for ``FLUSH_SECONDS`` at most."""
        loop = asyncio.get_running_loop()
        flushed = asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop has ended without waiting
                loop.call_soon_threadsafe(flushed.set)

        # A daemon: the SDK waits for an exporter for much longer, and the process must not.
        threading.Thread(target=flush, name="trace-flush", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await flushed.wait()
        except TimeoutError:
            self._exporter.shutdown()


def in_batches(exporter: SpanExporter) -> tuple[TracerProvider, BackgroundExport]:
    """A provider that exports in the background; call it in the process that serves, after any fork."""
    reporting = ReportingExporter(exporter)
    provider = provider_of(BatchSpanProcessor(reporting))
    reporting.replace_log_of_sdk()
    return provider, BackgroundExport(provider, exporter)


def provider_of(processor: SpanProcessor) -> TracerProvider:
    """A provider with sampler, limits and resource by the standard variables."""
    ours = Resource.create({"service.name": "revoker", "service.version": __version__})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider
