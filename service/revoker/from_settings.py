"""What the settings describe: issuers, callers, and the store, which is not opened yet."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from revoker.auth import Caller, Callers, RateLimit
from revoker.config.callers import CallerSettings
from revoker.config.edge import AnySettings
from revoker.config.issuers import IssuerSettings
from revoker.config.redis import RedisSettings
from revoker.config.schema import Settings
from revoker.config.sessions import SessionSettings
from revoker.elapsed_time import Clock
from revoker.metrics import Metrics
from revoker.models import STANDARD_NAMES, ClaimNames, Issuer
from revoker.store import embedded
from revoker.store.sessions import Lifetimes
from revoker.store.store import Store
from revoker.store.wire.addresses import SentinelAccess
from revoker.tokens.key_sources import KeySource
from revoker.tokens.verifying import TrustedIssuer

if TYPE_CHECKING:
    from revoker.tracing.spans import Spans


def issuers_of(settings: AnySettings) -> dict[str, Issuer]:
    """The issuers by ``iss``; one with aliases is there several times."""
    issuers = {
        iss: issuer
        for issuer in (_issuer(configured, settings) for configured in settings.issuers)
        for iss in (issuer.iss, *issuer.aliases)
    }
    if (sessions := settings.sessions) is not None:
        longest = settings.revocation.max_token_lifetime
        issuers[sessions.issuer] = Issuer(
            name=sessions.name,
            iss=sessions.issuer,
            own=True,
            claim_names=ClaimNames(revocable=sessions.revocable) if sessions.revocable else None,
            leeway=settings.revocation.leeway,
            max_token_lifetime=longest,
            horizon=max(longest, sessions.absolute_timeout),
        )
    return issuers


def _issuer(configured: IssuerSettings, settings: AnySettings) -> Issuer:
    longest = horizon = configured.max_token_lifetime or settings.revocation.max_token_lifetime
    if configured.cutoff_claim == "auth_time":
        horizon = max(longest, configured.max_session_lifetime)
    console = settings.console if isinstance(settings, Settings) else None
    if console is not None and console.enabled and console.issuer == configured.name:
        horizon = max(horizon, console.absolute_timeout)  # its sessions outlive the ID tokens
    names = ClaimNames(**configured.claims.model_dump())
    return Issuer(
        name=configured.name,
        iss=configured.issuer,
        aliases=configured.issuer_aliases,
        claim_names=None if names == STANDARD_NAMES else names,
        clock_skew=configured.clock_skew,
        iat_backdated=configured.iat_backdated,
        leeway=settings.revocation.leeway,
        max_token_lifetime=longest,
        cutoff_claim=configured.cutoff_claim,
        max_session_lifetime=configured.max_session_lifetime,
        horizon=horizon,
        require_jti=configured.require_jti,
        revoked_kids=frozenset(configured.revoked_kids),
    )


def trusted_issuers(
    settings: AnySettings, issuers: Mapping[str, Issuer], sources: Mapping[str, KeySource]
) -> list[TrustedIssuer]:
    """Whose tokens are verified, but for ``[sessions]``; issuers by ``iss``, keys by name."""
    return [
        TrustedIssuer(
            issuer=issuers[issuer.issuer],
            keys=sources[issuer.name],
            audiences=frozenset(issuer.audiences),
            client_ids=frozenset(issuer.client_ids),
            require_typ=issuer.require_typ,
            id_tokens=issuer.accept_id_tokens,
        )
        for issuer in settings.issuers
    ]


def lifetimes_of(settings: SessionSettings) -> Lifetimes:
    """How long sessions last."""
    return Lifetimes(
        idle=settings.idle_timeout,
        absolute=settings.absolute_timeout,
        grace=settings.refresh_grace,
        most=settings.max_sessions_per_user,
    )


def store_of(
    settings: Settings,
    issuers: Mapping[str, Issuer],
    metrics: Metrics,
    clock: Clock = time.time,
    spans: "Spans | None" = None,
) -> Store:
    """The store of these settings, not opened yet."""
    url = settings.redis.url
    if url.startswith("embedded:"):
        url = embedded.url_of(embedded.folder_of(url))
    return Store(
        url=url,
        prefix=settings.redis.key_prefix,
        timeout=settings.redis.timeout,
        wait_replicas=settings.redis.wait_replicas,
        wait_fsync=settings.redis.wait_fsync,
        password_file=settings.redis.password_file,
        sentinels=_sentinels_of(settings.redis),
        policy=settings.revocation.data_loss,
        repair_seconds=settings.revocation.repair_seconds,
        issuers=issuers,
        metrics=metrics,
        now=clock,
        keep_entries=settings.feed.keep_entries,
        keep_seconds=settings.feed.keep_seconds,
        spans=spans,
    )


def _sentinels_of(redis: RedisSettings) -> SentinelAccess:
    return SentinelAccess(
        username=redis.sentinel_username,
        password=redis.sentinel_password,
        password_file=redis.sentinel_password_file,
        tls={"": None, "on": True, "off": False}[redis.sentinel_tls],
        ca_file=redis.sentinel_ca_file,
        cert_file=redis.sentinel_cert_file,
        key_file=redis.sentinel_key_file,
    )


def callers_of(settings: AnySettings, issuers: Mapping[str, Issuer]) -> Callers:
    """The callers of these settings."""
    return Callers(
        (_caller(caller, settings, issuers) for caller in settings.callers), monotonic=time.monotonic
    )


def _caller(configured: CallerSettings, settings: AnySettings, issuers: Mapping[str, Issuer]) -> Caller:
    restricted = {issuer.name for issuer in settings.issuers if issuer.restricted}
    follows = "feed" in configured.scopes  # an edge asks for callers of its own, whose rights it checks
    allowed = {
        iss: issuer
        for iss, issuer in issuers.items()
        if iss in configured.issuers
        or issuer.name in configured.issuers
        or not (configured.issuers or (issuer.name in restricted and not follows))
    }
    with_keys = {issuer.issuer for issuer in settings.issuers}
    usable = [issuer for iss, issuer in allowed.items() if iss in with_keys or not with_keys]
    if not configured.issuers:
        usable = [issuer for issuer in usable if issuer.name not in restricted]
    return Caller(
        name=configured.name,
        digests=tuple(configured.secret_sha256),
        scopes=frozenset(configured.scopes),
        audiences=frozenset(configured.audiences),
        issuers=allowed,
        default_issuer=usable[0] if len(usable) == 1 else None,
        client_id=configured.client_id,
        rate_limit=_limit_of(configured),
        confirmation_limit=_limit_of(configured),
    )


def _limit_of(configured: CallerSettings) -> RateLimit | None:
    if not configured.rate_limit:
        return None
    return RateLimit(configured.rate_limit, monotonic=time.monotonic)
