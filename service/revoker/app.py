"""Composition root: settings → services → dispatchers; nothing else wires them."""

import asyncio
import functools
import math
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import CollectorRegistry

from revoker import __version__, logs
from revoker.api import dispatch
from revoker.api.admission import Admission
from revoker.api.batch import BatchIntrospection
from revoker.api.client_address import ClientAddresses
from revoker.api.consumers import Consumers
from revoker.api.credentials import Authentication
from revoker.api.dry_run import DryRuns
from revoker.api.envelope import Dispatcher
from revoker.api.feed import Feed
from revoker.api.feed_snapshot import FeedSnapshot
from revoker.api.forward_auth import ForwardAuth
from revoker.api.introspection import Introspection, IntrospectReader
from revoker.api.probes import Health
from revoker.api.receipts import Receipts
from revoker.api.served_paths import Port
from revoker.api.services import Services
from revoker.api.session_services import SessionCutoffs, SessionServices
from revoker.api.verdicts import Verdicts
from revoker.config.edge import AnySettings
from revoker.config.schema import Settings
from revoker.config.sessions import SessionSettings
from revoker.elapsed_time import Clock
from revoker.errors import ConfigError, StoreUnavailable
from revoker.from_settings import callers_of, issuers_of, lifetimes_of, store_of, trusted_issuers
from revoker.log_writer import Dropped
from revoker.metrics import LOG_LINES, Metrics
from revoker.models import Issuer
from revoker.store import embedded
from revoker.store.journal.shared_consumers import SharedConsumers
from revoker.store.journal.tail import JournalTail
from revoker.store.listing import Listing
from revoker.tokens.access_tokens import Minter
from revoker.tokens.key_sets import KEY_PROBLEMS, key_problems
from revoker.tokens.key_sources import KeySource, key_source
from revoker.tokens.logout_tokens import LogoutTerms
from revoker.tokens.refresh_tokens import RefreshKeyFile, RefreshTokens
from revoker.tokens.signing import SigningKeys
from revoker.tokens.verifying import TrustedIssuer, Verifier

if TYPE_CHECKING:
    from revoker.api.ext_authz import ExtAuthz
    from revoker.console.console import Console
    from revoker.tracing.spans import Spans

_log = structlog.get_logger("service")

FLUSH_INTERVAL_S: Final = 0.25
"""How old the shared metrics of a worker may be; so few values are sorted in half a millisecond."""

KEYS_WAIT_S: Final = 10.0
"""How long after the start an issuer whose keys cannot be loaded delays readiness."""


class Service:
    """The service of one process; it does no I/O before :meth:`start`.

    Attributes:
        main: Serves the main port: all paths, but for those of ``ops``.
        ops: Serves health, metrics and documentation on ``ops_port``; None where that is not set.
        ext_authz: Answers on ``grpc_port``; None where that is not set.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock = time.time,
        monotonic: Clock = time.monotonic,
        spans: "Spans | None" = None,
    ) -> None:
        self._spans = spans
        if spans is not None:
            logs.name_traces(spans.log_members)
        self._settings = settings
        self._monotonic = monotonic
        self._issuers = issuers_of(settings)
        registry = CollectorRegistry()
        metrics = Metrics(registry, [issuer.name for issuer in self._issuers.values()])
        metrics.info.labels(__version__).set(1)
        fetches = () if spans is None else (spans.of_fetches(),)
        self._sources: dict[str, KeySource] = {
            issuer.name: key_source(issuer, metrics, monotonic, fetches) for issuer in settings.issuers
        }
        self._metrics = metrics
        self.store: Final = store_of(settings, self._issuers, metrics, clock, spans)
        trusted = trusted_issuers(settings, self._issuers, self._sources)
        sessions = None
        if settings.sessions is not None:
            sessions = self._session_services(settings.sessions, clock)
            trusted.append(
                TrustedIssuer(
                    issuer=sessions.issuer,
                    keys=sessions.signing_keys,
                    audiences=sessions.audiences,
                    require_typ="at+jwt",
                )
            )
        verifier = Verifier(trusted, metrics)
        addresses = ClientAddresses(settings.server.trusted_proxies)
        listing = Listing(self.store)
        consumers = Consumers(metrics, SharedConsumers(self.store))
        tail = JournalTail(self.store, asked=consumers.somebody_waits)
        self._services = Services(
            admission=Admission(settings.server.max_in_progress),
            authentication=Authentication(
                callers_of(settings, self._issuers),
                client_certificates=bool(settings.server.tls_client_ca_file),
                addresses=addresses,
            ),
            clocks=self.store.clocks,
            consumers=consumers,
            dry_runs=DryRuns(self.store, listing, sessions),
            issuers=self._issuers,
            listing=listing,
            logout_terms={
                iss: LogoutTerms(issuer.backchannel_audience, ends_user=issuer.backchannel_ends == "user")
                for issuer in settings.issuers
                if issuer.backchannel_audience
                for iss in (issuer.issuer, *issuer.issuer_aliases)
            },
            metrics=metrics,
            receipts=Receipts(
                consumers=consumers,
                tail=tail,
                metrics=metrics,
                patience=2 * settings.redis.timeout,
            ),
            revocations=self.store.revocations,
            revoked_key_ids=self._revoked_key_ids,
            sessions=sessions,
            store=self.store,
            tail=tail,
            verdicts=Verdicts(
                verifier=verifier,
                store=self.store,
                clock=clock,
                metrics=metrics,
                allow_outage=settings.revocation.store_outage == "allow",
            ),
            verifier=verifier,
        )
        self._forward_auth = ForwardAuth(
            authentication=self._services.authentication,
            verdicts=self._services.verdicts,
            admission=self._services.admission,
        )
        self.ext_authz: Final = self._ext_authz(addresses) if settings.server.grpc_port else None
        self.health: Final = Health(self._problems, self.started)
        self._console = self._make_console() if settings.console.enabled else None
        self._was_started = False
        self._keys_due = math.inf
        self.main, self.ops = self._dispatchers(self._services, separate_ops=settings.server.ops_port != 0)
        self._flush_timer: asyncio.TimerHandle | None = None
        self._dropped_log_lines = Dropped()

    def _dispatchers(self, services: Services, *, separate_ops: bool) -> tuple[Dispatcher, Dispatcher | None]:
        admission, metrics, verdicts = services.admission, services.metrics, services.verdicts
        reader = IntrospectReader(self._issuers.values())
        introspection = Introspection(
            authentication=services.authentication,
            reader=reader,
            sessions=services.sessions,
            verdicts=verdicts,
            admission=admission,
        )
        introspect_batch = BatchIntrospection(
            authentication=services.authentication,
            reader=reader,
            sessions=services.sessions,
            verifier=services.verifier,
            verdicts=verdicts,
            admission=admission,
        )
        forward_auth = self._forward_auth
        feed = Feed(
            authentication=services.authentication,
            consumers=services.consumers,
            tail=services.tail,
            metrics=metrics,
            patience=2 * self._settings.redis.timeout,
        )
        snapshot = FeedSnapshot(
            authentication=services.authentication,
            store=services.store,
            tail=services.tail,
            metrics=metrics,
        )
        paths = list(
            dispatch.paths(
                services,
                self.health,
                introspect=introspection.respond,
                introspect_batch=introspect_batch.respond,
                authorize_forward=forward_auth.respond,
                send_feed=feed.respond,
                send_snapshot=snapshot.respond,
                introspection_seconds=metrics.deferred.observing(metrics.introspection_seconds),
            )
        )
        if self._console is not None:
            paths += self._console.paths()
        paths += dispatch.documentation(paths, separate_ops=separate_ops)
        serve = functools.partial(
            self._dispatcher(),
            admission=admission,
            metrics=metrics,
            client_address=services.authentication.client_address,
        )
        if not separate_ops:
            return serve(paths), None
        main = [path for path in paths if path.port is Port.MAIN]
        return serve(main), serve(path for path in paths if path.port is Port.OPS)

    def _dispatcher(self) -> Callable[..., Dispatcher]:
        if self._spans is None:
            return Dispatcher
        from revoker.api.traced import TracedDispatcher  # noqa: PLC0415  # its libraries are an extra

        return functools.partial(TracedDispatcher, spans=self._spans)

    def _ext_authz(self, addresses: ClientAddresses) -> "ExtAuthz":
        from revoker.api.ext_authz import ExtAuthz  # noqa: PLC0415  # its libraries are an extra

        make: Callable[..., ExtAuthz] = ExtAuthz
        if self._spans is not None:
            from revoker.api.traced_ext_authz import TracedExtAuthz  # noqa: PLC0415  # likewise

            make = functools.partial(TracedExtAuthz, spans=self._spans)
        return make(
            forward_auth=self._forward_auth,
            addresses=addresses,
            admission=self._services.admission,
            metrics=self._metrics,
        )

    def _make_console(self) -> "Console":
        from revoker.console.console import Console  # noqa: PLC0415  # its libraries are an extra

        return Console(self._settings.console, self._services, self.health, lambda: self._sources)

    async def start(self) -> None:
        """Begin to connect and to load keys; what needs either is answered 503 until then."""
        self._keys_due = self._monotonic() + KEYS_WAIT_S
        self._flush_metrics()
        await self._declare_new_store()
        self.store.open()
        await asyncio.gather(*(source.start() for source in self._sources.values()))

    async def close(self) -> None:
        """Close every connection, and end every task."""
        if self._console is not None:
            await self._console.close()
        await self._services.receipts.close()
        await self._services.consumers.close()
        await self._services.tail.close()
        await self.store.close()
        await asyncio.gather(*(source.close() for source in self._sources.values()))
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        self._metrics.deferred.flush()
        if self._spans is not None:
            await self._spans.close()

    def _flush_metrics(self) -> None:
        try:
            self._metrics.deferred.flush()
            self._count_dropped_log_lines()
        finally:
            self._flush_timer = asyncio.get_running_loop().call_later(FLUSH_INTERVAL_S, self._flush_metrics)

    def _count_dropped_log_lines(self) -> None:
        dropped = logs.dropped()
        if dropped != self._dropped_log_lines:
            for kind, now, before in zip(LOG_LINES, dropped, self._dropped_log_lines, strict=True):
                self._metrics.dropped_log_lines.labels(kind).inc(now - before)
            self._dropped_log_lines = dropped

    def drain(self) -> None:
        """Report not ready, and end the streams of the feed; requests that still come are answered."""
        self.health.draining = True
        self._services.consumers.draining = True
        self._services.tail.wake()

    def reload(self, settings: AnySettings) -> None:
        """Use the callers of new settings; everything else needs a restart."""
        self._services.authentication.callers = callers_of(settings, self._issuers)
        self._services.consumers.checks += 1
        self._services.tail.wake()
        _log.info("callers_reloaded", callers=len(settings.callers))

    def started(self) -> bool:
        """Whether store and keys have been reached; this never becomes False again.

        Keys that cannot be loaded delay it only for a while: otherwise no new process would start while one
        of several issuers is down.
        """
        if not self._was_started and self.store.reached:
            missing = [source for source in self._sources.values() if not source.ready]
            if not missing or self._monotonic() >= self._keys_due:
                self._was_started = True
                for source in missing:
                    _log.warning(
                        "ready without issuer keys",
                        issuer=source.name,
                        place=source.place,
                        fault=source.fault or "no answer yet",
                    )
        return self._was_started

    def conflicts(self) -> list[str]:
        """Why the settings contradict the data in the store, as far as it was read; one line each."""
        try:
            self.store.issuer_records.refuse_conflicts()
        except ConfigError as error:
            return error.problems
        return []

    def _problems(self) -> dict[str, str]:
        of_keys = key_problems(self._sources.values())
        for problem in KEY_PROBLEMS:
            self._metrics.problems.labels(problem).set(problem in of_keys)
        return self.store.problems | of_keys

    def _session_services(self, settings: SessionSettings, clock: Clock) -> SessionServices:
        issuer = self._issuers[settings.issuer]
        keys = SigningKeys(issuer.name, Path(settings.signing_keys_dir), self._metrics, clock=clock)
        self._sources[issuer.name] = keys
        sessions = self.store.sessions(issuer, lifetimes_of(settings))
        return SessionServices(
            issuer=issuer,
            audiences=frozenset(settings.audiences),
            store=sessions,
            reader=sessions.reader,
            cutoffs=SessionCutoffs(issuer, self.store),
            minter=Minter(
                iss=issuer.iss,
                audiences=settings.audiences,
                lifetime=settings.access_token_lifetime,
                keys=keys,
                revoked=functools.partial(self._revoked_key_ids, issuer),
            ),
            refresh_tokens=RefreshTokens(RefreshKeyFile(Path(settings.refresh_key_file)).keys, clock=clock),
            signing_keys=keys,
        )

    def _revoked_key_ids(self, issuer: Issuer) -> Collection[str]:
        return self.store.revocations.remembered.keys[issuer.name]

    async def _declare_new_store(self) -> None:
        """An embedded store whose folder was just made is new, and not one that has lost its data."""
        url = self._settings.redis.url
        if not url.startswith("embedded:"):
            return
        folder = embedded.folder_of(url)
        if embedded.is_new(folder):
            for attempt in range(40):
                try:
                    await self.store.init()
                except StoreUnavailable:
                    if attempt == 39:
                        raise
                    await asyncio.sleep(0.05)
                else:
                    break
            embedded.mark_initialised(folder)
