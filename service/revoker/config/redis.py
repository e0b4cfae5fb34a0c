"""The section ``[redis]``."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from revoker.config.section import Section
from revoker.config.value_types import Name, RedisUrl, loadable, readable, reject


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

    @field_validator("sentinel_tls", "sentinel_username", "sentinel_password")
    @classmethod
    def _needs_sentinels(cls, value: str, info: ValidationInfo) -> str:
        return _for_sentinels(value, info)

    @field_validator("sentinel_password_file", "sentinel_ca_file", "sentinel_cert_file", "sentinel_key_file")
    @classmethod
    def _is_readable(cls, value: str, info: ValidationInfo) -> str:
        if _for_sentinels(value, info):
            readable(value)
        return value

    @field_validator("sentinel_ca_file", "sentinel_cert_file")
    @classmethod
    def _needs_tls(cls, value: str, info: ValidationInfo) -> str:
        url, tls = info.data.get("url", ""), info.data.get("sentinel_tls")
        without_tls = tls == "off" or (tls == "" and url and not url.startswith("rediss"))
        if value and without_tls:
            raise reject('needs TLS for the Sentinels: redis.sentinel_tls = "on"')
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
