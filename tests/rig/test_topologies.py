"""The topologies of the fault tests fail over as those in production do."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig.network import Network
from tests.rig.topologies import Cluster, Replicated, Sentinels

Begin = Callable[..., Any]


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture
def begin(network: Network, tmp_path: Path) -> Iterator[Begin]:
    """Start one topology, of any kind."""
    started: list[Any] = []

    def begin(kind: type[Any], **options: Any) -> Any:
        topology = kind(network, tmp_path, **options)
        started.append(topology)
        topology.start()
        return topology

    yield begin
    for topology in started:
        topology.stop()


def test_a_replica_takes_the_place_of_its_primary_and_clients_find_it(begin: Begin) -> None:
    store = begin(Replicated, replicas=1)
    first = store.primary
    with first.client() as client:
        client.set("key", "value")
        assert client.wait(1, 60_000) == 1
    first.kill()
    store.replace(first)
    store.revive(first)
    store.await_health()
    assert not first.primary
    with first.client() as client:
        assert client.get("key") == "value"


def test_sentinels_elect_another_primary_when_the_first_can_not_be_reached(
    begin: Begin, network: Network
) -> None:
    store = begin(Sentinels, replicas=2)
    first = store.primary
    network.between("*", first.name, "hold")
    network.between(first.name, "*", "hold")
    store.replace(first)
    assert first.primary, "it is partitioned and can't know"
    network.heal()
    store.await_health()
    assert [node for node in store.nodes if node.primary] == [store.primary]


def test_a_cluster_fails_over_and_moves_slots_with_their_keys(begin: Begin) -> None:
    store = begin(Cluster)
    first, second, _ = store.primaries()
    first.kill()
    store.replace(first)
    store.revive(first)
    store.await_health()
    third = store.primaries()[-1]
    with second.client() as client:
        slot = int(store.seen_by(second)[second.public]["slots"][0][0])
        key = next(
            f"k{n}" for n in range(10**6) if client.execute_command("CLUSTER KEYSLOT", f"k{n}") == slot
        )
        client.set(key, "value")
    store.move_slots(second, third, range(slot, slot + 1))
    with third.client() as client:
        assert client.get(key) == "value"
    store.await_health()
