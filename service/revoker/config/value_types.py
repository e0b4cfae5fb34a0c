"""Types of values in the settings, and the error message for a value that is not valid.

A message never contains the value: it may be a secret.
"""

import hashlib
import ipaddress
import re
import ssl
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, Strict, StringConstraints
from pydantic_core import PydanticCustomError

HMAC_KEY_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The minimum size of each algorithm's secret (RFC 7518 §3.2)."""

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts that only this machine reaches."""


def reject(problem: str, *, at: str = "") -> PydanticCustomError:
    """A problem of the field under validation, or of its neighbour ``at``."""
    return PydanticCustomError("setting", "{problem}", {"problem": problem, "at": at})


def readable(path: str) -> str:
    if path:
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise reject(f"can't be read ({error.strerror}); give the path of a readable file") from None
    return path


def http_url(url: str, *, schemes: tuple[str, ...]) -> None:
    wanted = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(url)
        sound = parts.scheme in schemes and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    else:
        if parts.username is not None or parts.password is not None:
            raise reject("must not hold a user name or password; it is shown in logs")
    if not sound or not url.isascii() or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise reject(f"must be an absolute URL that begins with {wanted}")


def crosses_network_in_clear(url: str) -> bool:
    """Whether a request to this URL is plain http to another machine."""
    return url.startswith("http:") and urlsplit(url).hostname not in LOOPBACK


def file_with_secret(path: str) -> str:
    try:
        empty = not Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise reject("can't be read; give the path of a readable file") from None
    if empty:
        raise reject("is empty")
    return path


def authorities(path: str) -> str:
    """Refuse a file without CA certificates; empty: those of the system."""
    if path:
        loadable("ca_file", path)
    return path


def _matching(pattern: str, advice: str) -> AfterValidator:
    """A check by pattern; ``advice`` says what to write instead."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise reject(advice)
        return text

    return AfterValidator(check)


def _not_empty(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise reject("must not be empty")
    return values


NotEmpty = AfterValidator(_not_empty)
Text = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024),
    _matching(r"[^\x00-\x1f\x7f]*", "must not hold control characters"),
]
Texts = Annotated[tuple[Text, ...], Strict(False)]
ClaimNames = Annotated[Texts, Field(max_length=8)]
Name = Annotated[str, _matching(r"[a-z0-9-]{1,32}", "must be 1 to 32 of a-z, 0-9 and -")]
CallerName = Annotated[
    str,
    StringConstraints(max_length=128),
    _matching(r"[A-Za-z0-9._~-]+", "must be letters, digits and . _ ~ - only"),
]
EdgeName = Annotated[
    str, _matching(r"[A-Za-z0-9._~-]{0,64}", "must be at most 64 letters, digits and . _ ~ - only")
]
_DIGESTS_OF_NOTHING: Final = {hashlib.sha256(text).hexdigest() for text in (b"", b"\n", b"\r\n")}


def _not_of_empty_secret(sha256: str) -> str:
    if sha256 in _DIGESTS_OF_NOTHING:
        raise reject("is the digest of an empty secret; see revoker secret")
    return sha256


Digest = Annotated[
    str,
    _matching(r"[0-9A-Fa-f]{64}", "must be a SHA-256 in hex, 64 digits; see revoker secret"),
    AfterValidator(str.lower),
    AfterValidator(_not_of_empty_secret),
]
OptionalHostName = Annotated[
    str,
    StringConstraints(max_length=253),
    _matching(r"([A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]+|", "must be a host name, without a port"),
]
Host = Annotated[str, _matching(r"[^\s/]+", "must be an address or a host name")]


def proxy_network(text: str) -> str:
    """Refuse what is no network, or is every network: anybody could then write any address into the log."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise reject("must be a network as 10.0.0.0/8 or 2001:db8::/32, or one address") from None
    if "%" in text:
        raise reject("must have no zone (%)")
    if network.prefixlen == 0:
        raise reject("trusts everybody; give the networks of the proxies only")
    if "/" in text and ipaddress.ip_interface(text).ip != network.network_address:
        raise reject(f"has bits set after its prefix; the network is {network}")
    return text


ProxyNetworks = Annotated[
    tuple[Annotated[str, AfterValidator(proxy_network)], ...], Strict(False), Field(max_length=256)
]
ReadableFile = Annotated[str, AfterValidator(readable)]
AuthoritiesFile = Annotated[str, AfterValidator(readable), AfterValidator(authorities)]
SecretFile = Annotated[Text, AfterValidator(file_with_secret)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[int, Field(gt=0, le=10 * 366 * 86400)]


_REDIS_TLS_QUERY: Final = (
    "ssl_ca_certs",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
)
REDIS_QUERY: Final = frozenset({"db", *_REDIS_TLS_QUERY})


def loadable(name: str, ca_file: str, cert_file: str = "", key_file: str = "") -> None:
    """Refuse files that TLS cannot use: authorities, or a certificate and its key (empty: in its file)."""
    for path in filter(None, (ca_file, cert_file, key_file)):
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise reject(
                f"{name} can't be read ({error.strerror}); give the path of a readable file"
            ) from None
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        if cert_file:
            context.load_cert_chain(cert_file, key_file or None, password=b"")
    except (OSError, ValueError):  # SSLError is an OSError
        what = "a certificate in PEM with its key" if cert_file else "certificates in PEM"
        raise reject(f"{name} can't be used; give a file of {what}") from None


def _check_redis_tls(scheme: str, query: str) -> None:
    options = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    given = sorted(options.keys() & set(_REDIS_TLS_QUERY))
    if given and not scheme.startswith("rediss"):
        raise reject(f"{', '.join(given)} need TLS: write rediss instead of redis")
    if "ssl_ca_certs" in options:
        loadable("ssl_ca_certs", options["ssl_ca_certs"])
    if "ssl_certfile" in options:
        loadable("ssl_certfile, ssl_keyfile", "", options["ssl_certfile"], options.get("ssl_keyfile", ""))
    elif "ssl_keyfile" in options:
        raise reject("ssl_keyfile needs ssl_certfile")
    if options.get("ssl_check_hostname", "true") not in {"true", "false"}:
        raise reject("ssl_check_hostname must be true or false")
    if options.get("ssl_cert_reqs", "required") not in {"required", "none"}:
        raise reject("ssl_cert_reqs must be required or none")


def redis_url(url: str) -> str:
    """Refuse URLs that the store can't connect to; no message contains the URL, which may hold a password."""
    if url == "embedded:" or (url.startswith("embedded:") and not url.startswith("embedded://")):
        return url
    try:
        parts = urlsplit(url)
        scheme = parts.scheme
        if scheme.endswith(("+sentinel", "+cluster")):
            hosts = [host.rpartition(":") for host in parts.netloc.rpartition("@")[2].split(",")]
            addressed = all(host or (name and not name.isdigit()) for host, _, name in hosts)
        else:
            addressed = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise reject("is not a URL; write e.g. redis://host:6379/0") from None
    match scheme:
        case "redis" | "rediss":
            if not addressed:
                raise reject(f"must name a host and, if any, a port from 1 to 65535: {scheme}://host:6379/0")
            if not re.fullmatch(r"(/\d{0,5})?", parts.path):
                raise reject(f"must end in a database number, if in anything: {scheme}://host:6379/0")
        case "unix":
            if parts.hostname or not re.match(r"/[^/]", parts.path):
                raise reject("must hold an absolute path: unix:///run/valkey.sock")
        case "redis+sentinel" | "rediss+sentinel":
            if not addressed or not re.fullmatch(r"/[A-Za-z0-9._-]+", parts.path):
                raise reject(f"must be {scheme}://host:26379,host:26379/name-of-primary")
        case "redis+cluster" | "rediss+cluster":
            if not addressed or parts.path not in {"", "/", "/0"}:
                raise reject(f"must be {scheme}://host:7000,host:7001; a cluster has no database but 0")
        case _:
            raise reject(
                "must begin with embedded:, redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
            )
    unknown = {pair.partition("=")[0] for pair in parts.query.split("&") if pair} - REDIS_QUERY
    if unknown or parts.fragment:
        raise reject(f"may have after a ? only {', '.join(sorted(REDIS_QUERY))}, and nothing after a #")
    _check_redis_tls(scheme, parts.query)
    return url


RedisUrl = Annotated[str, AfterValidator(redis_url), Field(repr=False)]


def secret_of_size(path: str, minimum: int) -> None:
    try:
        secret = Path(path).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise reject(f"can't be read ({error.strerror}); give the path of a readable file") from None
    if len(secret) < minimum:
        raise reject(f"must hold at least {minimum * 8} random bits ({minimum} bytes)")
