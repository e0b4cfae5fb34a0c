"""Whether traces are exported, and how, by the standard variables ``OTEL_*``.

Nothing of OpenTelemetry is imported before traces are asked for. Unlike the SDK, the service exports nothing
while neither an exporter nor an endpoint is configured.
"""

import contextlib
import importlib
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from revoker.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from revoker.tracing.export import BackgroundExport
    from revoker.tracing.spans import Spans

_EXPORTER: Final = "OTEL_TRACES_EXPORTER"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

_HTTP: Final = "http/protobuf"
_MODULES: Final = {
    _HTTP: "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
_PACKAGES: Final = {
    _HTTP: "the extra otel (pip install 'revoker[otel]')",
    "grpc": "the package opentelemetry-exporter-otlp-proto-grpc beside the extra otel",
}


def check(environ: Mapping[str, str]) -> None:
    """Refuse variables with which no trace could be exported; starts nothing.

    Raises:
        ConfigError: a value is not supported, or a library is missing.
    """
    if (protocol := _protocol(environ)) is None:
        return
    if protocol == _HTTP:
        provider, _ = _export(environ, protocol)
        provider.shutdown()
    elif not _is_installed(_MODULES[protocol]):  # its libraries must not run before the workers are forked
        raise _missing(environ, protocol)


def spans_for(environ: Mapping[str, str]) -> "Spans | None":
    """The spans of this process, which exports them from a thread; None: no traces are asked for.

    Raises:
        ConfigError: as :func:`check`.
    """
    if (protocol := _protocol(environ)) is None:
        return None
    provider, export = _export(environ, protocol)
    from revoker.tracing.spans import Spans  # noqa: PLC0415  # its libraries are an extra

    return Spans(provider, export)


def _protocol(environ: Mapping[str, str]) -> str | None:
    """The protocol of the exporter; None: no traces are asked for."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    exporter = environ.get(_EXPORTER, "").strip().lower()
    if exporter == "none" or not (exporter or _first(environ, _ENDPOINTS)[1]):
        return None
    if exporter not in {"", "otlp"}:
        raise ConfigError([f"{_EXPORTER}: must be otlp or none"])
    name, protocol = _first(environ, _PROTOCOLS)
    if (protocol or _HTTP) not in _MODULES:
        raise ConfigError([f"{name}: must be {' or '.join(_MODULES)}"])
    return protocol or _HTTP


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """The first of these variables that has a value."""
    values = ((name, environ.get(name, "").strip()) for name in names)
    return next(((name, value) for name, value in values if value), (names[-1], ""))


def _export(environ: Mapping[str, str], protocol: str) -> "tuple[TracerProvider, BackgroundExport]":
    try:
        module = importlib.import_module(_MODULES[protocol])
    except ImportError:
        raise _missing(environ, protocol) from None
    from revoker.tracing.export import in_batches  # noqa: PLC0415  # its libraries are an extra

    try:
        return in_batches(module.OTLPSpanExporter())
    except Exception as error:  # of the SDK, which reads many variables
        raise ConfigError([f"OTEL_*: {error}"]) from error


def _is_installed(module: str) -> bool:
    with contextlib.suppress(ImportError):
        return importlib.util.find_spec(module) is not None
    return False


def _missing(environ: Mapping[str, str], protocol: str) -> ConfigError:
    name = _EXPORTER if environ.get(_EXPORTER, "").strip() else _first(environ, _ENDPOINTS)[0]
    return ConfigError([f"{name}: exporting traces needs {_PACKAGES[protocol]}"])
