"""Where an issuer's keys come from, as its settings say."""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from revoker.errors import ConfigError
from revoker.metrics import Metrics
from revoker.tokens.jwk import HMAC_BYTES, PUBLIC_KEY_ALGORITHMS
from revoker.tokens.key_fetching import JwksByUrl
from revoker.tokens.key_files import HmacFile, JwksFile
from revoker.tokens.key_sets import KeySource

__all__ = ["KeySource", "key_source"]


class KeySettings(Protocol):
    """What the settings of an issuer say about its keys; exactly one of the three places is set."""

    @property
    def name(self) -> str: ...
    @property
    def algorithms(self) -> Collection[str]: ...
    @property
    def jwks_uri(self) -> object: ...
    @property
    def jwks_file(self) -> object: ...
    @property
    def hmac_secret_file(self) -> object: ...
    @property
    def jwks_insecure(self) -> bool: ...


def key_source(issuer: KeySettings, metrics: Metrics) -> KeySource:
    """The source that an issuer's settings ask for, not started yet.

    Raises:
        ConfigError: the settings are unsafe, or contradict each other.
    """
    name, algorithms = issuer.name, frozenset(issuer.algorithms)
    places = [bool(issuer.jwks_uri), bool(issuer.jwks_file), bool(issuer.hmac_secret_file)]
    if sum(places) != 1:
        raise _wrong(name, "exactly one of jwks_uri, jwks_file and hmac_secret_file is needed")
    fitting = frozenset(HMAC_BYTES) if issuer.hmac_secret_file else PUBLIC_KEY_ALGORITHMS
    if not algorithms or algorithms - fitting:
        raise _wrong(name, f"algorithms: with keys of this kind, only {', '.join(sorted(fitting))}")
    if issuer.hmac_secret_file:
        return HmacFile(name, Path(str(issuer.hmac_secret_file)), algorithms, metrics)
    if issuer.jwks_file:
        return JwksFile(name, Path(str(issuer.jwks_file)), algorithms, metrics)
    url = str(issuer.jwks_uri)
    if urlsplit(url).scheme not in (("https", "http") if issuer.jwks_insecure else ("https",)):
        raise _wrong(name, "jwks_uri: https only (http where jwks_insecure is set)")
    return JwksByUrl(name, url, algorithms, metrics)


def _wrong(name: str, problem: str) -> ConfigError:
    return ConfigError([f"issuer {name}: {problem}"])
