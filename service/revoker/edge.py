"""Composition root of an edge: the code that serves verdicts, over a mirror of the store."""

import asyncio
import contextvars
import functools
import math
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import CollectorRegistry

from revoker import __version__
from revoker.api import dispatch
from revoker.api.admission import Admission
from revoker.api.batch import BatchIntrospection
from revoker.api.beyond import AskedVerdicts, AskingIntrospection
from revoker.api.client_address import ClientAddresses
from revoker.api.credentials import Authentication
from revoker.api.envelope import Dispatcher
from revoker.api.forward_auth import ForwardAuth
from revoker.api.introspection import Introspection, IntrospectReader
from revoker.api.probes import Health
from revoker.api.served_paths import Port
from revoker.api.verdicts import Verdicts
from revoker.app import FLUSH_INTERVAL_S, KEYS_WAIT_S
from revoker.config.edge import AnySettings, EdgeSettings
from revoker.elapsed_time import Clock, elapsed
from revoker.from_settings import callers_of, issuers_of, trusted_issuers
from revoker.metrics import Metrics
from revoker.models import Issuer
from revoker.store.keys import Keys
from revoker.store.mirror.follower import Follower, Sleep
from revoker.store.mirror.mirror import Mirror
from revoker.store.mirror.upstream_requests import UpstreamAccess
from revoker.tokens.key_fetching import JwksByUrl
from revoker.tokens.key_sets import KEY_PROBLEMS, key_problems
from revoker.tokens.key_sources import KeySource, key_source
from revoker.tokens.verifying import TrustedIssuer, Verifier

if TYPE_CHECKING:
    from revoker.store.revocations import Revocations

_log = structlog.get_logger("service")

_SIGNING_ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
"""With which the service may sign tokens of its sessions."""


_asked_as_of: Final = contextvars.ContextVar("asked_as_of", default=0)
"""The earliest time (ms by the store) as of which the upstream can answer; 0: it is not asked."""


@dataclass(frozen=True, slots=True)
class MirroredStore:
    """What verdicts use of a store, from a mirror."""

    keys: Keys
    lookups: Mirror

    @property
    def issuer_records(self) -> Mirror:
        return self.lookups

    @property
    def revocations(self) -> "Revocations":
        raise AttributeError("an edge does not know what is remembered elsewhere")


def _name(settings: EdgeSettings) -> str:
    """The name by which the upstream lists this process.

    If two edges had the same name, one that confirms a change would seem to confirm it for both. So every
    name gets a random suffix.
    """
    name = settings.upstream.name or re.sub(r"[^A-Za-z0-9._~-]", "", socket.gethostname()) or "edge"
    return f"{name[:55]}-{secrets.token_hex(4)}"


def _new_metrics(issuers: Iterable[Issuer]) -> Metrics:
    metrics = Metrics(CollectorRegistry(), [issuer.name for issuer in issuers])
    metrics.info.labels(__version__).set(1)
    metrics.store_up.set(1)  # there is none that could be down
    return metrics


class Edge:
    """An edge, of one process; attributes as :class:`revoker.app.Service`."""

    def __init__(
        self,
        settings: EdgeSettings,
        *,
        clock: Clock = time.time,
        monotonic: Clock = elapsed,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Nothing connects before :meth:`start`; ``sleep`` makes the pauses between attempts."""
        self._monotonic = monotonic
        self._issuers = issuers_of(settings)
        metrics = self._metrics = _new_metrics(self._issuers.values())
        self._sources: dict[str, KeySource] = {
            issuer.name: key_source(issuer, metrics, monotonic) for issuer in settings.issuers
        }
        upstream = settings.upstream
        keys = Keys("edge")
        self.mirror: Final = Mirror(
            keys, self._issuers, max_staleness=upstream.max_staleness, monotonic=monotonic, wall=clock
        )
        self.follower: Final = Follower(
            self.mirror,
            UpstreamAccess(
                urls=upstream.url,
                secret_file=upstream.secret_file,
                name=_name(settings),
                ca_file=upstream.ca_file,
            ),
            metrics,
            monotonic=monotonic,
            sleep=sleep,
        )
        trusted = trusted_issuers(settings, self._issuers, self._sources)
        if settings.sessions is not None:
            own = self._issuers[settings.sessions.issuer]
            jwks = settings.sessions.jwks_uri or f"{upstream.url[0]}/.well-known/jwks.json"
            source = self._sources[own.name] = JwksByUrl(
                own.name, jwks, _SIGNING_ALGORITHMS, metrics, clock=monotonic
            )
            audiences = frozenset(settings.sessions.audiences)
            trusted.append(TrustedIssuer(issuer=own, keys=source, audiences=audiences, require_typ="at+jwt"))
        verifier = Verifier(trusted, metrics)
        server = settings.server
        addresses = ClientAddresses(server.trusted_proxies)
        authentication = self._authentication = Authentication(
            callers_of(settings, self._issuers),
            client_certificates=bool(server.tls_client_ca_file),
            addresses=addresses,
        )
        admission = Admission(server.max_in_progress)
        store = MirroredStore(keys, self.mirror)
        self._asks: Final = upstream.beyond == "ask"
        make_verdicts: Callable[..., Verdicts] = Verdicts
        if self._asks:
            make_verdicts = functools.partial(
                AskedVerdicts,
                ask=self._ask,
                may_ask=lambda: self.mirror.copy is not None,
                estimated_now=lambda: self.mirror.now,
            )
        verdicts = make_verdicts(
            verifier=verifier, store=store, clock=clock, metrics=metrics, allow_outage=False
        )
        reader = IntrospectReader(self._issuers.values())
        introspection = Introspection(
            authentication=authentication,
            reader=reader,
            sessions=None,
            verdicts=verdicts,
            admission=admission,
        )
        introspect = introspection.respond
        if isinstance(verdicts, AskedVerdicts):
            introspect = AskingIntrospection(
                introspection, authentication, reader, verdicts, lambda: self.mirror.fresh
            ).respond
        batch = BatchIntrospection(
            authentication=authentication,
            reader=reader,
            sessions=None,
            verifier=verifier,
            verdicts=verdicts,
            admission=admission,
        )
        forward_auth = ForwardAuth(authentication=authentication, verdicts=verdicts, admission=admission)
        self.ext_authz = None
        if server.grpc_port:
            from revoker.api.ext_authz import ExtAuthz  # noqa: PLC0415  # its libraries are an extra

            self.ext_authz = ExtAuthz(
                forward_auth=forward_auth, addresses=addresses, admission=admission, metrics=metrics
            )
        self.health: Final = Health(
            self._problems, self.started, stale=lambda: not (self._asks or self.mirror.fresh)
        )
        self._was_started = False
        self._keys_due = math.inf
        self._flush_timer: asyncio.TimerHandle | None = None
        paths = list(
            dispatch.edge_paths(
                dispatch.verdict_paths(
                    introspect=introspect,
                    introspect_batch=batch.respond,
                    authorize_forward=forward_auth.respond,
                    introspection_seconds=metrics.deferred.observing(metrics.introspection_seconds),
                ),
                self.health,
                metrics,
                service=upstream.url[0],
            )
        )
        serve = functools.partial(
            Dispatcher, admission=admission, metrics=metrics, client_address=authentication.client_address
        )
        self.ops: Dispatcher | None = None
        if server.ops_port:
            self.ops = serve(path for path in paths if path.port is Port.OPS)
            paths = [path for path in paths if path.port is Port.MAIN]
        self.main: Final = serve(paths)
        self.main.as_of = lambda: _asked_as_of.get() or self.mirror.as_of

    async def start(self) -> None:
        """Begin to follow the upstream and to load keys; what needs either is answered 503 until then."""
        self._keys_due = self._monotonic() + KEYS_WAIT_S
        self._flush_metrics()
        await self.follower.start()
        await asyncio.gather(*(source.start() for source in self._sources.values()))

    async def close(self) -> None:
        """Close every connection, and end every task."""
        await self.follower.close()
        await asyncio.gather(*(source.close() for source in self._sources.values()))
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        self._metrics.deferred.flush()

    async def _ask(self, body: bytes) -> bool:
        """As :meth:`revoker.store.mirror.follower.Follower.ask`.

        The verdict may be long under way, and the mirror learn of later changes meanwhile. So the answer is
        dated by what the mirror has before it asks, which is noted in the context of the request.
        """
        _asked_as_of.set(self.mirror.as_of)
        return await self.follower.ask(body)

    def _flush_metrics(self) -> None:
        self._metrics.deferred.flush()
        self._metrics.edge_staleness.set(self.mirror.staleness)
        self._problems()
        if (copy := self.mirror.copy) is not None:
            self._metrics.edge_entries.labels("token").set(copy.tokens)
            self._metrics.edge_entries.labels("other").set(copy.others)
        for place, connected in enumerate(self.follower.connected_to):
            self._metrics.edge_connected.labels(str(place)).set(connected)
        self._flush_timer = asyncio.get_running_loop().call_later(FLUSH_INTERVAL_S, self._flush_metrics)

    def drain(self) -> None:
        """Report not ready; requests that still come are answered."""
        self.health.draining = True

    def reload(self, settings: AnySettings) -> None:
        """Use the callers of new settings; everything else needs a restart."""
        self._authentication.callers = callers_of(settings, self._issuers)
        _log.info("callers_reloaded", callers=len(settings.callers))

    def started(self) -> bool:
        """Whether a snapshot was complete and keys have been loaded; this never becomes False again."""
        if not self._was_started and self.mirror.copy is not None:
            missing = [source.name for source in self._sources.values() if not source.ready]
            self._was_started = not missing or self._monotonic() >= self._keys_due
            if missing and self._was_started:
                _log.warning("ready without issuer keys", issuers=missing)
        return self._was_started

    def conflicts(self) -> list[str]:
        """None stop an edge: the service may be changed to fit while it runs."""
        return []

    def _problems(self) -> dict[str, str]:
        problems = {}
        if self.follower.fault:
            problems["upstream_unreachable"] = self.follower.fault
        if not self.mirror.fresh:
            problems["stale"] = "what this edge knows is too old for verdicts"
        conflicts = [old.conflict for old in self.mirror.old_limits.values() if old.conflict is not None]
        if conflicts:
            problems["settings_conflict"] = "; ".join(conflicts)
        problems |= key_problems(self._sources.values())
        for problem in ("upstream_unreachable", "stale", "settings_conflict", *KEY_PROBLEMS):
            self._metrics.problems.labels(problem).set(problem in problems)
        return problems
