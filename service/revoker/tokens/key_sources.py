"""Where an issuer's keys come from."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

from revoker.config.issuers import IssuerSettings
from revoker.metrics import Metrics
from revoker.tokens.key_fetching import JwksByUrl
from revoker.tokens.key_files import HmacFile, JwksFile
from revoker.tokens.key_sets import KeySource

__all__ = ["KeySource", "key_source"]


def key_source(
    issuer: IssuerSettings,
    metrics: Metrics,
    clock: Callable[[], float] = time.monotonic,
    trace_configs: Sequence[aiohttp.TraceConfig] = (),
) -> KeySource:
    """The source that an issuer's settings name, not started yet.

    The settings guarantee one source, a safe URL and algorithms that fit the kind of key.

    Raises:
        ConfigError: the shared secret can't be read, or is unusable.
    """
    name, algorithms = issuer.name, issuer.algorithms
    if issuer.hmac_secret_file:
        return HmacFile(name, Path(issuer.hmac_secret_file), algorithms, metrics)
    if issuer.jwks_file:
        return JwksFile(name, Path(issuer.jwks_file), algorithms, metrics)
    return JwksByUrl(name, issuer.jwks_uri, algorithms, metrics, clock=clock, trace_configs=trace_configs)
