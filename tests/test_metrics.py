"""Deferred observations give what counters and histograms would have counted at once."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from revoker.metrics import LATENCY_BUCKETS, DeferredMetrics, Metrics

BUCKETS = (0.5, 1.0, 2.0)


def _samples(registry):
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 1e9]))))
def test_flushed_values_are_in_the_buckets_where_a_histogram_puts_them(readings):
    at_once, later, deferred = CollectorRegistry(), CollectorRegistry(), DeferredMetrics()
    later.register(deferred)
    observe = Histogram("seconds", "s", buckets=BUCKETS, registry=at_once).observe
    record = deferred.observing(Histogram("seconds", "s", buckets=BUCKETS, registry=later))
    for values in readings:
        for value in values:
            observe(value)
            record(value)
        assert _samples(later) == _samples(at_once)


def test_calls_are_counted_whenever_the_registry_is_read_and_only_once():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    count = metrics.deferred.counting(metrics.token_cache.labels("hit"))
    again = metrics.deferred.counting(metrics.token_cache.labels("hit"))

    def hits():
        return registry.get_sample_value("revoker_token_cache_total", {"result": "hit"})

    assert hits() == 0
    count()
    again()
    assert hits() == 2
    assert hits() == 2
    count()
    metrics.token_cache.labels("hit").inc()
    assert hits() == 4


def test_observers_of_the_same_histogram_are_flushed_together():
    deferred = DeferredMetrics()
    histogram = Histogram("seconds", "s", buckets=LATENCY_BUCKETS, registry=None)
    for _ in range(3):
        deferred.observing(histogram)(0.01)
    deferred.flush()
    registry = CollectorRegistry()
    registry.register(histogram)
    assert registry.get_sample_value("seconds_count") == 3
