"""A real Prometheus, two real instances: alerts fire when their fault is made, and are silent otherwise."""

import contextlib
import json
import time
import urllib.request

import pytest

from tests.monitoring.conftest import (
    FAULTY,
    FORGETFUL,
    LATE,
    MONITORING,
    Canary,
    Edge,
    Instance,
    Prometheus,
    meanwhile,
    ordinary_traffic,
)
from tests.monitoring.test_alert_rules import ALERTS
from tests.rig import forge
from tests.rig.processes import until
from tests.rig.servers import Valkey

SLOW_MACHINE = {"RevokerLatencyBudgetBurnsFast", "RevokerLatencyBudgetBurnsSlowly"}
"""What fires rightly beside anything else where the machine is busy."""

SLOW_S = 0.025
"""Introspections that take longer count as slow."""

LONG_ENOUGH = 18.0
"""Seconds in which every hurried window is full and every alert that was to fire has."""


@contextlib.contextmanager
def watched(folder, *instances, ready=True, beside=()):
    """The instances run and are scraped, and so are edges and canaries that start one after the other."""
    with contextlib.ExitStack() as stack:
        for instance in instances:
            instance.declare_store_new()
        for instance in instances:
            stack.enter_context(instance)
            if ready:
                until(instance.ready)
        for process in beside:
            stack.enter_context(process)
            until(lambda process=process: is_ready(process.address))
        scraped = [process.address for process in (*instances, *beside)]
        prometheus = Prometheus(folder / "prometheus", scraped)
        yield stack.enter_context(prometheus)


def is_ready(address):
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(f"{address}/readyz", timeout=60).status == 200
    return False


def pair(folder, valkey, keys, **sections):
    return [Instance(folder / name, valkey.url, keys.url, **sections) for name in "ab"]


def fired(prometheus, *names):
    """Wait until all of these fire; says what fires beside them."""
    try:
        until(lambda: set(names) <= prometheus.firing(), f"the alerts {names}")
        beside = prometheus.firing() - set(names) - SLOW_MACHINE
    except AssertionError as fault:
        fault.add_note(prometheus.state())
        raise
    if beside:
        print(prometheus.state())
    return beside


def use_sessions(instance, sub):
    """A login and two refreshes; the tokens that came of them."""
    status, sessions = instance.post("/sessions", {"sub": sub, "client_id": "web"})
    assert status == 201, sessions
    tokens = [sessions["refresh_token"]]
    for _ in range(2):
        status, refreshed = instance.post(
            "/token",
            {"grant_type": "refresh_token", "refresh_token": tokens[-1], "client_id": "web"},
            secret=None,
            form=True,
        )
        assert status == 200, refreshed
        tokens.append(refreshed["refresh_token"])
    return tokens


@pytest.fixture(scope="module")
def all_is_well(tmp_path_factory, keys):
    """Two instances with everything that ordinary use is made of, scraped for a while."""
    folder = tmp_path_factory.mktemp("well")
    valkey = Valkey(folder / "valkey").start()
    first, second = pair(folder, valkey, keys)
    edge = Edge(folder / "edge", first.address, keys.url)
    targets = [{"name": name, "url": url} for name, url in (("a", first.address), ("edge", edge.address))]
    canary = Canary(folder / "canary", second.address, *targets, patience=4)
    with watched(folder, first, second, beside=(edge, canary)) as prometheus:
        until(lambda: len(prometheus.query("revoker_build_info")) == 3)
        until(lambda: len(prometheus.query("revoker_canary_last_success_timestamp_seconds > 0")) == 2)
        seen, ever, prometheus.took = set(), set(), []
        with meanwhile(lambda: ordinary_traffic(second, 1, took=prometheus.took)):
            end = time.monotonic() + LONG_ENOUGH
            while time.monotonic() < end:
                seen |= set(ordinary_traffic(first, 0.5, took=prometheus.took))
                seen.add(second.post("/revoke-user", {"sub": "gone", "iss": forge.ISSUER})[0])
                use_sessions(second, "alice")
                ever |= prometheus.firing()
            until(prometheus.scrapes_all, "a scrape of every target")
            prometheus.at = time.time()  # the tests come later, when nobody asks any more
        assert seen == {200}
        if ever:
            print(prometheus.state())
        prometheus.ever_fired = ever
        yield prometheus
    valkey.kill()


@pytest.mark.parametrize("name", sorted(ALERTS.keys() - SLOW_MACHINE))
def test_an_alert_is_silent_while_all_is_well(all_is_well, name):
    assert name not in all_is_well.ever_fired


@pytest.mark.parametrize("name", sorted(SLOW_MACHINE))
def test_an_alert_on_slow_answers_is_silent_unless_callers_see_them(all_is_well, name):
    slow = sum(seconds > SLOW_S for seconds in all_is_well.took) / len(all_is_well.took)
    assert slow > 0.01 or name not in all_is_well.ever_fired


def test_every_rule_is_evaluated_without_an_error(all_is_well):
    groups = all_is_well.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= len(ALERTS)
    assert {rule["health"] for rule in rules} == {"ok"}, [rule.get("lastError") for rule in rules]


@pytest.mark.parametrize(
    "record",
    [
        "job:revoker_requests:rate5m",
        "job:revoker_no_verdicts:ratio5m",
        "job:revoker_introspection_seconds:p99",
        "job:revoker_slow_introspections:ratio6h",
        "job:revoker_refused_callers:rate5m",
    ],
)
def test_recording_rules_have_values(all_is_well, record):
    (sample,) = all_is_well.query(record)
    assert float(sample["value"][1]) >= 0


SCRAPED = {"$__rate_interval": "6s", "[5m]": "[10s]", "[1h]": "[10s]", "$namespace": ".*", "$job": "revoker"}
"""What stands for the dashboard's variables here: "All" of the namespaces, since these targets have none."""


def queries():
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield pytest.param(filled(target["expr"]), id=f"{panel['title']}-{target['refId']}")


def filled(expression):
    for variable, value in SCRAPED.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize("expression", list(queries()))
def test_every_query_of_the_dashboard_returns_data(all_is_well, expression):
    samples = all_is_well.query(expression)
    assert samples
    assert any(sample["value"][1] != "NaN" for sample in samples)


def test_the_top_row_of_the_dashboard_shows_that_all_is_well(all_is_well):
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]

    def panel_value(title):
        (panel,) = [panel for panel in panels if panel["title"] == title]
        (sample,) = all_is_well.query(filled(panel["targets"][0]["expr"]))
        return float(sample["value"][1])

    assert panel_value("Store") == 1
    assert panel_value("No verdict") == 0
    assert panel_value("Data lost") == 0
    assert panel_value("Instances") == 3, "the canary is none"
    assert panel_value("Introspections") > 1
    assert panel_value("Slowest of a hundred") < max(1, *all_is_well.took)


# Faults


def test_a_store_that_is_down_is_reported_with_the_missing_verdicts_until_it_is_back(
    tmp_path, own_valkey, keys
):
    first, second = pair(tmp_path, own_valkey, keys)
    with watched(tmp_path, first, second) as prometheus:
        ordinary_traffic(first, 2)
        own_valkey.kill()
        with meanwhile(lambda: ordinary_traffic(first, 1)):
            beside = fired(prometheus, "RevokerStoreDown", "RevokerNoVerdicts")
        assert beside <= {"RevokerReplicasDisagree"}
        for instance in (first, second):
            instance.process.kill()
        fired(prometheus, "RevokerAbsent", "RevokerJobAbsent")


def test_a_store_that_hangs_is_down_as_well(tmp_path, own_valkey, keys):
    first, second = pair(tmp_path, own_valkey, keys)
    with watched(tmp_path, first, second) as prometheus:
        own_valkey.hang()
        fired(prometheus, "RevokerStoreDown")
        own_valkey.resume()
        until(lambda: "RevokerStoreDown" not in prometheus.firing())


def test_tokens_that_pass_unchecked_are_reported(tmp_path, own_valkey, keys):
    first, second = pair(tmp_path, own_valkey, keys, revocation={"store_outage": "allow"})
    with watched(tmp_path, first, second) as prometheus:
        ordinary_traffic(first, 1)
        own_valkey.kill()
        with meanwhile(lambda: ordinary_traffic(first, 1)):
            fired(prometheus, "RevokerUncheckedVerdicts", "RevokerStoreDown")


def test_lost_data_is_reported_until_it_is_accepted(tmp_path, own_valkey, keys):
    first, second = pair(tmp_path, own_valkey, keys, revocation={"repair_seconds": 0})
    with watched(tmp_path, first, second) as prometheus:
        with own_valkey.client() as client:
            client.flushall()
        beside = fired(prometheus, "RevokerDataLost")
        assert beside <= {"RevokerReplicasDisagree"}
        first.on_store("accept")
        until(lambda: "RevokerDataLost" not in prometheus.firing())


def test_a_fault_of_its_own_is_reported(tmp_path, own_valkey, keys):
    first = Instance(tmp_path / "a", own_valkey.url, keys.url, program=("-c", FAULTY))
    second = Instance(tmp_path / "b", own_valkey.url, keys.url)
    with watched(tmp_path, first, second) as prometheus:
        until(lambda: len(prometheus.query("revoker_build_info")) == 2)
        with meanwhile(lambda: ordinary_traffic(first, 1)):  # one scrape alone shows no increase
            assert fired(prometheus, "RevokerFails") == set()
        assert 500 in ordinary_traffic(first, 0.1)


def test_writes_that_fail_are_reported(tmp_path, own_valkey, keys):
    first, second = pair(tmp_path, own_valkey, keys)
    with watched(tmp_path, first, second) as prometheus:
        with own_valkey.client() as client:
            client.config_set("min-replicas-to-write", 1)
        statuses = []

        def revoke():
            statuses.append(first.post("/revoke-user", {"sub": "u", "iss": forge.ISSUER})[0])
            time.sleep(0.1)

        with meanwhile(revoke):
            fired(prometheus, "RevokerRevocationsFail")
        assert 503 in statuses


def test_slow_answers_are_reported_by_both_speeds_of_burning(tmp_path, own_valkey, keys):
    first, second = pair(tmp_path, own_valkey, keys)
    with watched(tmp_path, first, second) as prometheus, own_valkey.client() as client:

        def hold_up():
            client.execute_command("CLIENT", "PAUSE", 60, "ALL")
            time.sleep(0.07)

        with meanwhile(hold_up), meanwhile(lambda: ordinary_traffic(first, 1)):
            fired(prometheus, "RevokerLatencyBudgetBurnsFast", "RevokerLatencyBudgetBurnsSlowly")


def test_a_store_that_evicts_and_is_not_persistent_is_reported(tmp_path, keys):
    valkey = Valkey(tmp_path / "valkey", "--appendonly", "no", "--maxmemory-policy", "allkeys-lru").start()
    try:
        with watched(tmp_path, *pair(tmp_path, valkey, keys)) as prometheus:
            beside = fired(prometheus, "RevokerEvictionUnsafe", "RevokerStoreNotPersistent")
            assert beside == set()
    finally:
        valkey.kill()


def test_a_replica_that_confirms_nothing_is_reported(tmp_path, own_valkey, keys):
    replica = Valkey(tmp_path / "replica", "--replicaof", "127.0.0.1", str(own_valkey.port)).start()
    try:
        with own_valkey.client() as client:
            until(lambda: client.info("replication")["connected_slaves"] == 1)
        with watched(tmp_path, *pair(tmp_path, own_valkey, keys)) as prometheus:
            assert fired(prometheus, "RevokerReplicasUnsafe") == set()
    finally:
        replica.kill()


def test_an_issuer_whose_name_is_no_longer_that_of_the_store_is_reported(tmp_path, own_valkey, keys):
    first, second = pair(tmp_path, own_valkey, keys)
    with watched(tmp_path, first, second) as prometheus:
        with own_valkey.client() as client:
            records = json.loads(client.get("rv:settings"))
            client.set("rv:settings", json.dumps({"idp": records.pop("main"), **records}))
        assert fired(prometheus, "RevokerSettingsConflict") == set()


def test_revocations_that_are_dropped_from_memory_are_reported_for_an_hour(tmp_path, own_valkey, keys):
    first = Instance(tmp_path / "a", own_valkey.url, keys.url, program=("-c", FORGETFUL))
    second = Instance(tmp_path / "b", own_valkey.url, keys.url)
    with watched(tmp_path, first, second) as prometheus:
        until(lambda: len(prometheus.query("revoker_build_info")) == 2)
        for instance in (first, second):
            for number in range(5):
                assert instance.post("/revoke-user", {"sub": f"u{number}", "iss": forge.ISSUER})[0] == 200
        assert fired(prometheus, "RevokerRevocationsForgotten") == set()
        until(lambda: "RevokerRevocationsForgotten" not in prometheus.firing())


def test_keys_that_cannot_be_fetched_are_reported(tmp_path, own_valkey, keys):
    keys.broken = True
    first, second = pair(tmp_path, own_valkey, keys)
    with watched(tmp_path, first, second, ready=False) as prometheus:
        assert fired(prometheus, "RevokerKeysStale") == set()


def test_wrong_secrets_are_reported(tmp_path, own_valkey, keys):
    first, second = pair(tmp_path, own_valkey, keys)
    with watched(tmp_path, first, second) as prometheus:

        def guess():
            assert first.post("/introspect", {"token": "x"}, secret="guessed")[0] in {401, 429}
            time.sleep(0.05)

        with meanwhile(guess):
            assert fired(prometheus, "RevokerCallersRefused") == set()


def test_used_refresh_tokens_are_reported(tmp_path, own_valkey, keys):
    first, second = pair(tmp_path, own_valkey, keys)
    with watched(tmp_path, first, second) as prometheus:
        until(lambda: len(prometheus.query("revoker_build_info")) == 2)
        stolen = [use_sessions(first, f"user-{number}")[0] for number in range(30)]
        for token in stolen:  # one right after the other: ten in eight seconds are needed
            answer = first.post(
                "/token",
                {"grant_type": "refresh_token", "refresh_token": token, "client_id": "web"},
                secret=None,
                form=True,
            )
            assert answer[0] == 400
        assert fired(prometheus, "RevokerRefreshReuse") == set()


def test_instances_that_see_different_data_sets_are_reported(tmp_path, own_valkey, keys):
    first = Instance(tmp_path / "a", own_valkey.url, keys.url)
    second = Instance(tmp_path / "b", own_valkey.url, keys.url, redis={"key_prefix": "other"})
    with watched(tmp_path, first, second) as prometheus:
        assert fired(prometheus, "RevokerReplicasDisagree") == set()


def test_a_clock_that_is_wrong_is_reported(tmp_path, own_valkey, keys):
    first = Instance(tmp_path / "a", own_valkey.url, keys.url, program=("-c", LATE))
    second = Instance(tmp_path / "b", own_valkey.url, keys.url)
    with watched(tmp_path, first, second) as prometheus:
        assert fired(prometheus, "RevokerClocksApart") == set()


def test_targets_that_accept_what_was_revoked_and_canaries_without_a_figure_are_reported(
    tmp_path, own_valkey, keys
):
    first, second = pair(tmp_path, own_valkey, keys)
    gateway = {"name": "gateway", "kind": "http", "url": f"{first.address}/livez"}
    gone = {"name": "gone", "url": "http://127.0.0.1:1"}
    canary = Canary(tmp_path / "canary", second.address, gateway, gone)
    with watched(tmp_path, first, second, beside=(canary,)) as prometheus:
        assert fired(prometheus, "RevokerCanaryLate", "RevokerCanarySilent") == set()
