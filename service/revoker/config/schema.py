"""Every setting, once: what it means, its default, and what a sound value is.

Read from one TOML file and from the environment (``REVOKER_<SECTION>__<KEY>``). All that is wrong
is reported at once, each line named as the setting stands in the file and without the value
itself: a value may be a secret.
"""

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, unquote

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from revoker.config import loading as configuring
from revoker.config.value_types import (
    HMAC_KEY_BYTES,
    CallerName,
    Digest,
    Host,
    Name,
    NotEmpty,
    Port,
    ReadableFile,
    RedisUrl,
    Seconds,
    Text,
    Texts,
    http_url,
    reject,
    secret_of_size,
)
from revoker.errors import ConfigError

SESSIONS_NAME: Final = "sessions"
"""The issuer name, a part of Redis keys, of the sessions kept here."""

Scope = Literal["introspect", "revoke", "revoke-all", "sessions"]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    "HS256", "HS384", "HS512",
]  # fmt: skip


class _Section(BaseModel):
    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


class ServerSettings(_Section):
    """The listener and the processes behind it."""

    host: Host = "127.0.0.1"
    """Address or name to listen on; `0.0.0.0` or `::` for all."""

    port: Port = 8080
    """Port to listen on; 0 takes a free one and logs it."""

    ops_port: Port = 0
    """Port for probes, `/metrics`, `/openapi.json` and `/docs`; 0: the same as `port`."""

    workers: Annotated[int, Field(ge=1, le=128)] = 1
    """Processes on this machine that share the port."""

    tls_cert_file: ReadableFile = ""
    """Certificate chain (PEM) of the listener; with `tls_key_file`. Empty: plain HTTP."""

    tls_key_file: ReadableFile = ""
    """Private key (PEM) of the certificate, without a passphrase."""

    tls_client_ca_file: ReadableFile = ""
    """Authorities (PEM) of client certificates: asks callers for one, insists on none."""

    max_in_progress: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    """Requests for verdicts and for refreshed tokens under way in one process; more than that for longer
    than a second are refused with 503 at once. Not counted are revocations, and requests that wait for an
    issuer's keys.
    """

    drain_seconds: Annotated[float, Field(ge=0, le=300)] = 5
    """After SIGTERM: so long `/readyz` says 503 and requests are still answered."""

    @field_validator("ops_port")
    @classmethod
    def _is_another_port(cls, value: int, info: ValidationInfo) -> int:
        if value and value == info.data.get("port"):
            raise reject("must differ from server.port; 0 serves both on one port")
        return value

    @field_validator("tls_key_file")
    @classmethod
    def _comes_with_certificate(cls, value: str, info: ValidationInfo) -> str:
        certificate = info.data.get("tls_cert_file")
        if certificate and not value:
            raise reject("is missing; server.tls_cert_file needs its key")
        if value and certificate == "":
            raise reject("is missing; server.tls_key_file needs its certificate", at="tls_cert_file")
        return value

    @field_validator("tls_client_ca_file")
    @classmethod
    def _needs_tls(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("tls_cert_file") == "":
            raise reject("needs server.tls_cert_file and server.tls_key_file")
        return value


class RedisSettings(_Section):
    """The store."""

    url: RedisUrl = "embedded:"
    """`embedded:` or `embedded:/path/to/data`, `redis://`, `rediss://`, `unix://`,
    `redis+sentinel://host:26379,host:26379/name-of-primary` or `redis+cluster://host:6379,host:6379`
    (TLS: `rediss+sentinel://`, `rediss+cluster://`).

    Once loaded it is whole: it holds the password, from wherever that came.
    """

    url_file: str = ""
    """File that holds `url`, for a URL with a password in it."""

    password_file: str = ""
    """File that holds the password alone, for a `url` without one."""

    key_prefix: Name = "rv"
    """First part of every key: services that share a server keep apart by it."""

    timeout: Annotated[float, Field(gt=0, le=30)] = 0.25
    """Seconds for one round trip; later there is no verdict."""

    wait_replicas: Annotated[int, Field(ge=0, le=16)] = 0
    """A revocation is acknowledged only when this many replicas have it: all that could be promoted."""

    wait_fsync: bool = False
    """These replicas, and the primary, must have it on disk (`WAITAOF`: Redis 7.2, Valkey).

    Needs `wait_replicas` of at least 1.
    """

    @field_validator("wait_fsync")
    @classmethod
    def _needs_replicas(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("wait_replicas") == 0:
            raise reject("needs redis.wait_replicas of at least 1")
        return value


class RevocationSettings(_Section):
    """What holds for every issuer."""

    leeway: Annotated[int, Field(ge=0, le=300)] = 30
    """Seconds after its `exp` in which a token still counts."""

    max_token_lifetime: Seconds = 86400
    """Seconds; a token whose `exp - iat` is longer is never active."""

    store_outage: Literal["refuse", "allow"] = "refuse"
    """While the store can't be reached: no verdict (503), or as if nothing were revoked."""

    data_loss: Literal["cutoff", "refuse", "ignore"] = "cutoff"
    """When the store has lost data: log everyone out (`cutoff`), give no verdict until
    `revoker store accept` (`refuse`), or only say so (`ignore`)."""


class IssuerSettings(_Section):
    """An identity provider whose tokens are judged."""

    name: Name
    """Short and stable: part of Redis keys. A store refuses an issuer that has changed its name."""

    issuer: Text
    """The `iss` claim of its tokens, to the letter."""

    audiences: Annotated[Texts, NotEmpty]
    """A token must be meant for at least one of these (`aud`)."""

    algorithms: Annotated[tuple[Algorithm, ...], Strict(False), NotEmpty] = ("RS256",)
    """Signature algorithms that are accepted; what a token's header asks for doesn't matter."""

    jwks_insecure: bool = False
    """Lets `jwks_uri` be plain http."""

    jwks_uri: str = ""
    """Where its keys are fetched; or `jwks_file`, or `hmac_secret_file`: exactly one is given."""

    jwks_file: str = ""
    """File with its keys as a JSON Web Key Set; read again when it changes."""

    hmac_secret_file: str = ""
    """File with the secret shared with it (HS algorithms); a newline at its end doesn't count."""

    revoked_kids: Texts = ()
    """Keys revoked for good, whatever the store knows."""

    cutoff_claim: Literal["iat", "auth_time"] = "iat"
    """What cutoffs are compared with; `auth_time` reaches through refresh."""

    max_session_lifetime: Annotated[int, Field(ge=0, le=10 * 366 * 86400)] = 0
    """Seconds; with `cutoff_claim = "auth_time"` the longest `exp - auth_time` of a token."""

    clock_skew: Annotated[int, Field(ge=0, le=300)] = 2
    """Seconds by which its clock may run ahead."""

    require_jti: bool = True
    """Whether a token without `jti` is never active."""

    require_typ: Literal["", "at+jwt"] = ""
    """`at+jwt`: RFC 9068 to the letter."""

    backchannel_audience: str = ""
    """Set: logout tokens for this audience are accepted."""

    @field_validator("jwks_uri")
    @classmethod
    def _is_safe(cls, value: str, info: ValidationInfo) -> str:
        if value:
            http_url(value, schemes=("https", "http"))
            if value.startswith("http:") and info.data.get("jwks_insecure") is False:
                raise reject("must be https; jwks_insecure = true lets plain http through")
        return value

    @field_validator("hmac_secret_file")
    @classmethod
    def _is_the_one_source(cls, value: str, info: ValidationInfo) -> str:
        others = (info.data.get("jwks_uri"), info.data.get("jwks_file"))
        if None not in others and [*map(bool, others), bool(value)].count(True) != 1:
            raise reject("give exactly one of jwks_uri, jwks_file and hmac_secret_file", at="jwks_uri")
        algorithms = info.data.get("algorithms", ())
        if value and any(algorithm not in HMAC_KEY_BYTES for algorithm in algorithms):
            raise reject("must be HS256, HS384 or HS512 only, with hmac_secret_file", at="algorithms")
        if any(others) and any(algorithm in HMAC_KEY_BYTES for algorithm in algorithms):
            raise reject("must not be HS256, HS384 or HS512, with keys that are public", at="algorithms")
        if value:
            secret_of_size(value, max((HMAC_KEY_BYTES.get(name, 0) for name in algorithms), default=32))
        return value

    @field_validator("max_session_lifetime")
    @classmethod
    def _bounds_the_claim(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("cutoff_claim") == "auth_time" and not value:
            raise reject('must be set: cutoff_claim = "auth_time" needs the longest life of a login')
        return value


class CallerSettings(_Section):
    """Who may call, and for what."""

    name: CallerName
    """The name it gives (Basic, `client_id`); stands in the audit log."""

    secret_sha256: Annotated[tuple[Digest, ...], Strict(False), Field(max_length=2)] = ()
    """SHA-256 of its secret, in hex (`revoker secret` makes both); two while one is replaced."""

    scopes: Annotated[tuple[Scope, ...], Strict(False), NotEmpty]
    """What it may do: `introspect`, `revoke`, `revoke-all`, `sessions`."""

    audiences: Texts = ()
    """Tokens for other audiences are not active to it. Empty: all."""

    issuers: Texts = ()
    """Names of the issuers it may ask about. Empty: all."""

    client_id: str = ""
    """It may only revoke this client's tokens. Empty: anything its scopes allow."""

    rate_limit: Annotated[float, Field(ge=0, le=1_000_000)] = 0
    """Requests a second to one process, each token of a batch counted; more are answered 429. 0: no limit."""


class SessionSettings(_Section):
    """Sessions kept and tokens minted here; on when the section is present."""

    issuer: Text
    """The `iss` claim of the tokens minted here: an https URL without query and fragment."""

    audiences: Annotated[Texts, NotEmpty]
    """The `aud` claim of the tokens minted here."""

    access_token_lifetime: Seconds = 900
    """Seconds; at most `revocation.max_token_lifetime`."""

    idle_timeout: Seconds = 1209600
    """Seconds without a refresh after which a session ends."""

    absolute_timeout: Seconds = 7776000
    """Seconds after which a session ends in any case."""

    refresh_grace: Annotated[int, Field(ge=0, le=60)] = 10
    """Seconds in which a repeated refresh returns the same successor; 0: strict."""

    max_sessions_per_user: Annotated[int, Field(ge=0)] = 0
    """Beyond it the oldest session ends; 0: unlimited."""

    signing_keys_dir: Text = "keys"
    """Folder with one private key a file (PEM or JWK); the newest usable one signs."""

    refresh_key_file: Text = "refresh.key"
    """File with the key that refresh tokens are made with."""

    @property
    def name(self) -> str:
        return SESSIONS_NAME

    @field_validator("issuer")
    @classmethod
    def _is_an_issuer(cls, value: str) -> str:
        http_url(value, schemes=("https",))
        if "?" in value or "#" in value:
            raise reject("must have neither query nor fragment (RFC 8414 §2)")
        return value

    @field_validator("idle_timeout")
    @classmethod
    def _outlasts_a_token(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("access_token_lifetime", 0):
            raise reject("must be at least sessions.access_token_lifetime")
        return value

    @field_validator("absolute_timeout")
    @classmethod
    def _outlasts_idleness(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("idle_timeout", 0):
            raise reject("must be at least sessions.idle_timeout")
        return value


class Settings(_Section):
    """All of it."""

    server: ServerSettings = ServerSettings()
    redis: RedisSettings = RedisSettings()
    revocation: RevocationSettings = RevocationSettings()
    issuers: Annotated[tuple[IssuerSettings, ...], Strict(False)] = ()
    callers: Annotated[tuple[CallerSettings, ...], Strict(False)] = ()
    sessions: SessionSettings | None = None


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the file, if there is one, and the environment over it.

    Raises:
        ConfigError: with every problem of file and environment.
    """
    return settle(_read(path) if path else {}, environ)


def settle(values: dict[str, Any], environ: Mapping[str, str]) -> Settings:
    """Settings of ``values``, shaped like the file, with the environment over it.

    Raises:
        ConfigError: with every problem of both.
    """
    values = deepcopy(values)
    problems = [
        *configuring.overlay(values, environ, Settings),
        *_read_secrets(values),
        *_cross_checks(values),
    ]
    _name_issuers(values)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += [
            configuring.line(details, Settings)
            for details in error.errors(include_url=False, include_input=False)
        ]
    else:
        if not problems:
            return settings
    raise ConfigError(list(dict.fromkeys(problems)))


def describes_service(environ: Mapping[str, str]) -> bool:
    """Whether the environment says by itself whose tokens are judged or who may call."""
    sections = {path[0] for _, path in configuring.variables(environ)}
    return not sections.isdisjoint({"issuers", "callers", "sessions"})


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            [f"{path}: can't be read ({error.strerror}); check --config or REVOKER_CONFIG"]
        ) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not UTF-8"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: is nested too deeply"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: is not TOML: {error}"]) from None


# Secrets by file


def _read_secrets(values: dict[str, Any]) -> Iterator[str]:
    """Read ``redis.url_file`` and ``redis.password_file`` into ``redis.url``."""
    redis = values.get("redis")
    if not isinstance(redis, dict):
        return
    if path := redis.get("url_file"):
        if "url" in redis:
            yield "redis.url_file: give either redis.url or redis.url_file"
        elif isinstance(path, str):
            try:
                redis["url"] = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                yield "redis.url_file: can't be read; give the path of a readable file"
    if path := redis.get("password_file"):
        url = redis.get("url", "embedded:")
        if not isinstance(path, str) or not isinstance(url, str):
            return
        try:
            password = Path(path).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError):
            yield "redis.password_file: can't be read; give the path of a readable file"
            return
        scheme, separator, rest = url.partition("://")
        authority, slash, tail = rest.partition("/")
        user, at, host = authority.rpartition("@")
        if not separator:
            yield "redis.password_file: the embedded store has no password"
        elif ":" in user:
            yield "redis.password_file: redis.url has a password already"
        else:
            name = quote(unquote(user), safe="") if at else ""
            redis["url"] = f"{scheme}://{name}:{quote(password, safe='')}@{host}{slash}{tail}"


# What holds between sections: judged on raw values, so that it is said beside all other problems


def _tables(values: dict[str, Any], section: str) -> list[dict[str, Any]]:
    tables = values.get(section)
    return [table if isinstance(table, dict) else {} for table in tables] if isinstance(tables, list) else []


def _cross_checks(values: dict[str, Any]) -> Iterator[str]:
    issuers, callers = _tables(values, "issuers"), _tables(values, "callers")
    sessions = values.get("sessions")
    if not values.get("issuers") and sessions is None:
        yield "issuers: at least one [[issuers]] or [sessions] is needed"
    own = [sessions] if isinstance(sessions, dict) else []
    yield from _repeated(
        [("sessions", SESSIONS_NAME) for _ in own] + _named(issuers, "issuers", "name"),
        "stands for two issuers; names are unique ([sessions] is named sessions)",
    )
    yield from _repeated(
        [("sessions.issuer", table.get("issuer")) for table in own] + _named(issuers, "issuers", "issuer"),
        "stands for two issuers; give each iss once",
    )
    yield from _repeated(_named(callers, "callers", "name"), "stands for two callers; names are unique")
    yield from _digest_checks(values, callers)
    yield from _lifetime_checks(values)
    known = {SESSIONS_NAME for _ in own} | {
        text
        for table in [*issuers, *own]
        for text in (table.get("name"), table.get("issuer"))
        if isinstance(text, str)
    }
    for index, caller in enumerate(callers):
        for place, issuer in enumerate(_list(caller.get("issuers"))):
            if isinstance(issuer, str) and issuer not in known:
                yield f"callers[{index}].issuers[{place}]: names no issuer of this configuration"


def _lifetime_checks(values: dict[str, Any]) -> Iterator[str]:
    """Whether the tokens minted here keep the bound without which none is active."""
    sessions, revocation = values.get("sessions"), values.get("revocation", {})
    if not isinstance(sessions, dict) or not isinstance(revocation, dict):
        return
    of_session, of_revocation = SessionSettings.model_fields, RevocationSettings.model_fields
    lives = sessions.get("access_token_lifetime", of_session["access_token_lifetime"].default)
    most = revocation.get("max_token_lifetime", of_revocation["max_token_lifetime"].default)
    if type(lives) is int and type(most) is int and lives > most:
        yield "sessions.access_token_lifetime: must be at most revocation.max_token_lifetime"


def _named(tables: list[dict[str, Any]], section: str, key: str) -> list[tuple[str, Any]]:
    return [(f"{section}[{index}].{key}", table.get(key)) for index, table in enumerate(tables)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _repeated(values: list[tuple[str, Any]], problem: str) -> Iterator[str]:
    """A problem for each place whose text stands at an earlier one too."""
    seen: Counter[str] = Counter()
    for place, text in values:
        if isinstance(text, str):
            seen[text] += 1
            if seen[text] > 1:
                yield f"{place}: {problem}"


def _digest_checks(values: dict[str, Any], callers: list[dict[str, Any]]) -> Iterator[str]:
    digests: list[tuple[str, Any]] = []
    server = values.get("server")
    by_certificate = bool(isinstance(server, dict) and server.get("tls_client_ca_file"))
    for index, caller in enumerate(callers):
        own = _list(caller.get("secret_sha256"))
        name = f"callers[{index}].secret_sha256"
        if not own and not by_certificate and caller.get("secret_sha256", []) == []:
            yield f"{name}: give a digest (see revoker secret), or set server.tls_client_ca_file"
        digests += [
            (f"{name}[{i}]", item.lower() if isinstance(item, str) else None) for i, item in enumerate(own)
        ]
    yield from _repeated(digests, "stands twice; every secret is one caller's, and given once")


def _name_issuers(values: dict[str, Any]) -> None:
    """Turn issuer URLs in callers' ``issuers`` into names."""
    names = {table.get("issuer"): table.get("name") for table in _tables(values, "issuers")
             if isinstance(table.get("issuer"), str)}  # fmt: skip
    sessions = values.get("sessions")
    if isinstance(sessions, dict) and isinstance(sessions.get("issuer"), str):
        names[sessions["issuer"]] = SESSIONS_NAME
    for caller in _tables(values, "callers"):
        if isinstance(caller.get("issuers"), list):
            caller["issuers"] = [
                (names.get(issuer) or issuer) if isinstance(issuer, str) else issuer
                for issuer in caller["issuers"]
            ]
