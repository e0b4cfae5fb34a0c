"""Every metric, declared once, on a registry that is passed in.

Names follow Prometheus: prefix ``revoker_``, base units, ``_total`` for counters. No label takes a
value that clients control: verdicts, endpoints, issuers and callers are closed sets.
"""

import bisect
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.registry import Collector

from revoker.models import Verdict

LATENCY_BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
)  # fmt: skip

CANARY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

REVOCATION_KINDS: Final = (
    "token", "user", "session", "client", "claim", "issuer", "key", "block", "unblock", "lift", "forget",
)  # fmt: skip
NO_VERDICT_CAUSES: Final = ("store_unavailable", "store_refused", "keys_unavailable", "overload")
REFUSALS: Final = ("wrong_credentials", "insufficient_scope", "access_denied", "throttled", "rate_limited")
SESSION_EVENTS: Final = ("begun", "ended", "elevated", "displaced")
REFRESH_OUTCOMES: Final = (
    "rotated", "repeated", "unknown", "ended", "revoked", "blocked", "scope", "ahead",
    "reused_previous", "reused_older",
)  # fmt: skip
FEED_RELOADS: Final = ("trimmed", "data_set", "format")
FEED_SNAPSHOTS: Final = ("complete", "broken_off")
WAITS_FOR_EDGES: Final = ("reached", "late")
LOG_LINES: Final = ("audit", "other")
CANARY_FAILURES: Final = (
    "late", "no_verdict", "not_accepted", "not_revoked", "refuses_all", "unreachable",
)  # fmt: skip
EDGE_RELOADS: Final = ("first", "reload", "failed")
PROBLEMS: Final = (
    "store_unreachable", "store_not_primary", "data_lost", "data_loss_refused", "eviction_policy",
    "evicted_keys", "no_persistence", "no_fsync", "unconfirmed_replicas", "too_few_replicas", "stale_primary",
    "unchecked", "unexpected_reply", "settings_conflict", "clock_offset", "keys_never_loaded", "keys_stale",
    "upstream_unreachable", "stale",
)  # fmt: skip


class DeferredMetrics(Collector):
    """Buffers observations of the hot paths until the scrape.

    Buffering costs a tenth of a counter, which locks, or of a histogram, which searches its buckets. Buffers
    are flushed whenever the registry is read. Several workers share a folder that one of them reads, so each
    calls :meth:`flush` a few times a second, too. To be used by one thread.
    """

    def __init__(self) -> None:
        self._durations: dict[Histogram, list[float]] = {}
        self._counts: dict[Counter, _Calls] = {}

    def observing(self, histogram: Histogram) -> Callable[[float], None]:
        """A function that buffers a value of a histogram."""
        return self._durations.setdefault(histogram, []).append

    def counting(self, counter: Counter) -> Callable[[], object]:
        """A function that buffers an increment of a counter by one."""
        return self._counts.setdefault(counter, _Calls()).call

    def flush(self) -> None:
        """Add the buffered observations to the metrics."""
        for histogram, values in self._durations.items():
            if values:
                _observe_all(histogram, values)
                values.clear()
        for counter, calls in self._counts.items():
            if increment := calls.since_last():
                counter.inc(increment)

    def collect(self) -> list[Metric]:
        """Registered first, so called first when the registry is read; has no metrics of its own."""
        self.flush()
        return []

    def describe(self) -> list[Metric]:
        return []


class _Calls:
    """Counts the calls of :attr:`call`."""

    def __init__(self) -> None:
        self.call: Final = itertools.count().__next__
        self._total = 0

    def since_last(self) -> int:
        """The number of calls since the last time; this one counts itself out."""
        previous, self._total = self._total, self.call() + 1
        return self._total - 1 - previous


def _observe_all(histogram: Histogram, values: list[float]) -> None:
    values.sort()
    counted = 0
    for bound, bucket in zip(histogram._upper_bounds, histogram._buckets, strict=True):  # noqa: SLF001
        below = bisect.bisect_right(values, bound)
        if below > counted:
            bucket.inc(below - counted)
            counted = below
    histogram._sum.inc(sum(values))  # noqa: SLF001


class Metrics:
    """One attribute per metric; every label value of a closed set starts at 0."""

    def __init__(self, registry: CollectorRegistry, issuers: Iterable[str] = ()) -> None:
        self.registry = registry
        self.deferred: Final = DeferredMetrics()
        registry.register(self.deferred)
        counter = functools.partial(Counter, registry=registry)
        gauge = functools.partial(Gauge, registry=registry)
        histogram = functools.partial(Histogram, buckets=LATENCY_BUCKETS, registry=registry)
        self.verdicts = counter("revoker_verdicts", "Tokens judged, by verdict.", ["verdict"])
        self.no_verdicts = counter(
            "revoker_no_verdicts", "Requests answered 503 because there was no verdict, by cause.", ["cause"]
        )
        self.unchecked_verdicts = counter(
            "revoker_unchecked_verdicts",
            "Tokens let through unchecked while the store was down, with store_outage = allow.",
        )
        self.introspection_seconds = histogram(
            "revoker_introspection_seconds", "Time from the request's headers to the answer of /introspect."
        )
        self.requests = counter(
            "revoker_http_requests",
            "Requests answered, by endpoint (a route, or other) and status; for /introspect usually only"
            " overload (503) and failures (500).",
            ["endpoint", "status"],
        )
        self.request_seconds = histogram(
            "revoker_http_request_seconds",
            "Time to answer, by endpoint; /introspect has its own metric.",
            ["endpoint"],
        )
        self.requests_in_progress = gauge(
            "revoker_http_requests_in_progress",
            "Requests in progress, without those of /introspect.",
            multiprocess_mode="livesum",
        )
        self.lookup_seconds = histogram("revoker_store_lookup_seconds", "Round trip of one batch of lookups.")
        self.lookup_batch = histogram(
            "revoker_store_lookup_batch_requests",
            "Lookups sent together in one batch.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
        )
        self.lookup_errors = counter("revoker_store_lookup_errors", "Batches of lookups that failed.")
        self.write_seconds = histogram(
            "revoker_store_write_seconds",
            "Round trip of one script that writes to the store, by outcome (ok, error).",
            ["outcome"],
        )
        self.token_cache = counter(
            "revoker_token_cache",
            "Lookups in the cache of verified tokens, by result (hit, miss).",
            ["result"],
        )
        self.jwks_refreshes = counter(
            "revoker_jwks_refreshes",
            "Attempts to fetch or read an issuer's keys, by issuer and outcome (ok, error).",
            ["issuer", "outcome"],
        )
        self.jwks_refreshed = gauge(
            "revoker_jwks_refreshed_timestamp_seconds",
            "When an issuer's keys were last fetched or read successfully.",
            ["issuer"],
            multiprocess_mode="mostrecent",
        )
        self.revocations = counter(
            "revoker_revocations", "Changes stored and acknowledged, by kind.", ["kind"]
        )
        self.sessions = counter(
            "revoker_sessions", "Sessions begun, ended, elevated, or displaced by newer ones.", ["event"]
        )
        self.refreshes = counter(
            "revoker_refreshes",
            "Refresh tokens presented, by outcome; reused_* ended the session.",
            ["outcome"],
        )
        self.refreshed: Final = {
            outcome: self.deferred.counting(self.refreshes.labels(outcome)) for outcome in REFRESH_OUTCOMES
        }
        self.refused_callers = counter(
            "revoker_refused_callers", "Requests refused because of their caller, by reason.", ["reason"]
        )
        self.store_up = gauge(
            "revoker_store_up", "1 while the store answers, 0 while it does not.", multiprocess_mode="livemin"
        )
        self.repaired_losses = counter(
            "revoker_repaired_losses",
            "Data losses that the running processes have repaired, so that nobody was logged out.",
        )
        self.data_losses = counter(
            "revoker_data_losses",
            "Data losses that this process detected or learned of, and that were not repaired.",
        )
        self.remembered_revocations = gauge(
            "revoker_remembered_revocations",
            "Revocations of this process that it can restore to a store that has lost data.",
            multiprocess_mode="livesum",
        )
        self.forgotten_revocations = counter(
            "revoker_forgotten_revocations",
            "Revocations of this process that it can no longer restore, since its memory for them is full.",
        )
        self.refilled_revocations = counter(
            "revoker_refilled_revocations", "Revocations written back to a store that had lost data."
        )
        self.store_epoch = gauge(
            "revoker_store_epoch_timestamp_seconds",
            "When the data set was declared new, or its last data loss was detected, by the store's clock;"
            " the same for all instances that share a store.",
            multiprocess_mode="mostrecent",
        )
        self.problems = gauge(
            "revoker_problem",
            "1 while /readyz reports the problem.",
            ["problem"],
            multiprocess_mode="livemax",
        )
        self.clock_offset = gauge(
            "revoker_store_clock_offset_seconds",
            "How far this machine's clock is ahead of the store's.",
            multiprocess_mode="mostrecent",
        )
        self.dropped_log_lines = counter(
            "revoker_dropped_log_lines",
            "Log lines dropped because standard output was not read, by kind (audit, other).",
            ["kind"],
        )
        self.feed_consumers = gauge(
            "revoker_feed_consumers",
            "Consumers of the feed: open streams, and names that have polled lately.",
            multiprocess_mode="livesum",
        )
        self.feed_dropped = counter(
            "revoker_feed_dropped_consumers", "Consumers of the feed disconnected because they did not read."
        )
        self.feed_reloads = counter(
            "revoker_feed_reloads", "Consumers of the feed sent back to a snapshot, by reason.", ["reason"]
        )
        self.feed_snapshots = counter(
            "revoker_feed_snapshots",
            "Snapshots for the feed, by outcome (complete, broken_off).",
            ["outcome"],
        )
        self.waited_for_edges = counter(
            "revoker_waited_for_edges",
            "Requests that waited for edges to confirm a change, by outcome: enough have (reached), or not in"
            " time (late).",
            ["outcome"],
        )
        self.edge_staleness = gauge(
            "revoker_edge_staleness_seconds",
            "The greatest age that an edge's knowledge of revocations can have; infinite without any.",
            multiprocess_mode="livemax",
        )
        self.edge_entries = gauge(
            "revoker_edge_entries",
            "Entries that an edge holds, by kind: revoked tokens, and all others together.",
            ["kind"],
            multiprocess_mode="livemax",
        )
        self.edge_reloads = counter(
            "revoker_edge_reloads",
            "Snapshots that an edge has loaded, by cause: at its start (first), because the feed could not"
            " continue (reload), or in vain (failed).",
            ["cause"],
        )
        self.edge_connected = gauge(
            "revoker_edge_connected",
            "1 while an edge receives the feed of an upstream, by the place (from 0) in upstream.url.",
            ["upstream"],
            multiprocess_mode="livemax",
        )
        self.edge_propagation_seconds = histogram(
            "revoker_edge_propagation_seconds",
            "Time from a revocation to its arrival at an edge, by the store's clock.",
        )
        self.info = gauge(
            "revoker_build_info", "1; the version is in the label.", ["version"], multiprocess_mode="max"
        )
        self._start_at_zero(issuers)

    def _start_at_zero(self, issuers: Iterable[str]) -> None:
        for verdict in Verdict:
            self.verdicts.labels(verdict.value)
        for cause in NO_VERDICT_CAUSES:
            self.no_verdicts.labels(cause)
        for result in ("hit", "miss"):
            self.token_cache.labels(result)
        for kind in REVOCATION_KINDS:
            self.revocations.labels(kind)
        for event in SESSION_EVENTS:
            self.sessions.labels(event)
        for reason in REFUSALS:
            self.refused_callers.labels(reason)
        for kind in LOG_LINES:
            self.dropped_log_lines.labels(kind)
        for problem in PROBLEMS:
            self.problems.labels(problem).set(0)
        for reason in FEED_RELOADS:
            self.feed_reloads.labels(reason)
        for outcome in FEED_SNAPSHOTS:
            self.feed_snapshots.labels(outcome)
        for outcome in WAITS_FOR_EDGES:
            self.waited_for_edges.labels(outcome)
        for kind in ("token", "other"):
            self.edge_entries.labels(kind)
        for cause in EDGE_RELOADS:
            self.edge_reloads.labels(cause)
        for outcome in ("ok", "error"):
            self.write_seconds.labels(outcome)
            for issuer in issuers:
                self.jwks_refreshes.labels(issuer, outcome)


class CanaryMetrics:
    """The metrics of a canary, which has no others: by those it would count as an instance of the service."""

    def __init__(self, registry: CollectorRegistry, targets: Iterable[str] = ()) -> None:
        self.registry = registry
        self.seconds = Histogram(
            "revoker_canary_seconds",
            "Time from the acknowledgement of a revocation until a target has refused the token; of all its"
            " addresses, the slowest that did so in time.",
            ["target"],
            buckets=CANARY_BUCKETS,
            registry=registry,
        )
        self.last_success = Gauge(
            "revoker_canary_last_success_timestamp_seconds",
            "When a target, all its addresses included, last refused a revoked token in time; 0: not yet.",
            ["target"],
            registry=registry,
        )
        self.failures = Counter(
            "revoker_canary_failures",
            "Rounds in which a target, or an address of it, has no figure. By target and reason: the token"
            " was not accepted before its revocation (not_accepted), not revoked (not_revoked),"
            " accepted until the end (late), or refused like one that is not revoked (refuses_all);"
            " no verdict (no_verdict); no answer (unreachable).",
            ["target", "reason"],
            registry=registry,
        )
        for target in targets:
            self.seconds.labels(target)
            self.last_success.labels(target)
            for reason in CANARY_FAILURES:
                self.failures.labels(target, reason)
