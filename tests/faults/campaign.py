"""Servers, instances of the service and clients on a network, and the history of requests and faults."""

import contextlib
import json
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from revoker.auth import digest
from revoker.store.keys import user_tag
from tests.faults import clocks, mutants
from tests.faults.clients import Clients, Rates
from tests.faults.edge_clients import EdgeClients
from tests.faults.edge_history import EdgeAbsent, EdgeRecord, Loss, StoreClock
from tests.faults.history import Absent, Cutoff, Fault, Isolated, Kind, Record, Revoked
from tests.faults.instances import CONFIG, EDGE_CONFIG, MAX_STALENESS_S, Edge, Instance
from tests.rig import forge
from tests.rig.network import Network
from tests.rig.servers import free_port
from tests.rig.service import SECRETS
from tests.rig.topologies import Cluster, Node, Replicated, Sentinels


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a campaign is made of.

    Attributes:
        topology: ``single``, ``replicated``, ``sentinel`` or ``cluster``.
        replicas: Of each primary.
        mutant: A way in which the service is broken (:mod:`tests.faults.mutants`); empty: none.
        clients: Of each instance, which revoke and introspect at random.
        rates: What clients ask beside some hundred requests a second.
        edges: How many follow the instances; every second one asks them where it knows too little.
    """

    topology: str
    replicas: int = 1
    wait_replicas: int = 1
    data_loss: str = "cutoff"
    repair_seconds: float = 3
    instances: int = 2
    seed: int = 0
    mutant: str = ""
    clients: int = 3
    rates: Rates | None = None
    edges: int = 0


class Campaign:
    """Everything that faults act on: servers, network, instances, edges; and clients that record the history.

    Attributes:
        store_clock: The file with the seconds by which the feed has the store's clock ahead.
    """

    def __init__(self, plan: Plan, network: Network, folder: Path) -> None:
        self.plan = plan
        self.network = network
        self.folder = folder
        self.rng = random.Random(f"{plan.seed} nemesis")
        self.history: list[Record] = []
        self.edge_history: list[EdgeRecord] = []
        self.store_clock = folder / "store.clock"
        clocks.put_ahead(self.store_clock, 0.0)
        self._jwks = folder / "main.jwks"
        self._jwks.write_text(json.dumps(forge.jwks(forge.ec_key("main-1"))))
        self.topology = _topology(plan, network, folder)
        self._mutant = plan.mutant or ("none" if plan.edges else "")
        self.instances = [self._instance(name) for name in "abcdefgh"[: plan.instances]]
        self.clients = Clients(
            {instance.name: instance.url for instance in self.instances},
            rng=random.Random(f"{plan.seed} clients"),
            history=self.history,
            per_instance=plan.clients,
            rates=plan.rates,
        )
        asking = frozenset(f"edge-{number}" for number in range(1, plan.edges, 2))
        upstreams = [
            f"http://127.0.0.1:{network.relay(port_of(instance.url), party=instance.name)}"
            for instance in self.instances
            if plan.edges
        ]
        self.edges = [
            self._edge(f"edge-{number}", upstreams, asks=f"edge-{number}" in asking)
            for number in range(plan.edges)
        ]
        self.edge_clients = EdgeClients(
            {edge.name: edge.url for edge in self.edges},
            asking=asking,
            clients=self.clients,
            rng=random.Random(f"{plan.seed} edges"),
            history=self.edge_history,
        )

    def _instance(self, name: str) -> Instance:
        port = free_port()
        config = CONFIG.format(
            port=port,
            url=self.topology.url,
            wait_replicas=self.plan.wait_replicas,
            data_loss=self.plan.data_loss,
            repair_seconds=self.plan.repair_seconds,
            **self._shared(),
            **{name: digest(SECRETS[name]) for name in ("admin", "edge")},
        )
        environ = {
            mutants.REPLICA: f"redis://127.0.0.1:{self.topology.nodes[-1].port}/0",
            clocks.STORE: str(self.store_clock),
        }
        url = f"http://127.0.0.1:{port}"
        return Instance(
            name, self.network, self.folder, config=config, url=url, mutant=self._mutant, environ=environ
        )

    def _edge(self, name: str, upstreams: list[str], *, asks: bool) -> Edge:
        port = free_port()
        secret = self.folder / "edge.secret"
        secret.write_text(SECRETS["edge"])
        config = EDGE_CONFIG.format(
            port=port,
            name=name,
            upstreams=json.dumps(upstreams),
            secret=secret,
            max_staleness=MAX_STALENESS_S,
            beyond="ask" if asks else "refuse",
            **self._shared(),
        )
        url = f"http://127.0.0.1:{port}"
        return Edge(name, self.network, self.folder, config=config, url=url, mutant=self._mutant)

    def _shared(self) -> dict[str, Any]:
        """What instances and edges have in common."""
        return {
            "issuer": forge.ISSUER,
            "audience": forge.AUDIENCE,
            "jwks": self._jwks,
            "gateway": digest(SECRETS["gateway"]),
        }

    def start(self) -> None:
        self.compare_clocks()
        self.topology.start()
        self.instances[0].init()
        programs = (*self.instances, *self.edges)
        for program in programs:
            program.launch()
        for program in programs:
            program.await_start()

    def stop(self) -> None:
        for instance in (*self.edges, *self.instances):
            with contextlib.suppress(Exception):
                instance.send_signal(signal.SIGCONT)
            instance.kill()
        self.topology.stop()

    def compare_clocks(self, *, ahead: float = 0.0) -> None:
        """Note how far the store's clock is ahead of the history's; it is on this machine."""
        now = time.monotonic()
        self.edge_history.append(StoreClock(now, time.time() - now + ahead))

    def set_store_clock(self, old: float, new: float) -> None:
        """Put the store's clock ahead by so many seconds, in the feeds of all instances."""
        self.edge_history.append(
            StoreClock(time.monotonic() - IN_FLIGHT_S, time.time() - time.monotonic() + old)
        )
        clocks.put_ahead(self.store_clock, new)
        self.compare_clocks(ahead=new)

    async def note_losses(self) -> None:
        """Note the cutoffs for lost data that are in effect."""
        headers = {"Authorization": f"Bearer {SECRETS['edge']}"}
        async with self.clients.http.get(
            f"{self.instances[0].url}/feed/snapshot", headers=headers
        ) as response:
            lines = [json.loads(line) for line in (await response.text()).splitlines()]
        self.edge_history += [Loss(line["before"]) for line in lines if line.get("kind") == "loss"]

    @contextlib.asynccontextmanager
    async def fault(self, name: str, *, loses: bool, node: Node | None = None) -> AsyncIterator["Deed"]:
        """Record a fault: the block breaks something and repairs it; then the service must recover.

        Args:
            name: Its kind.
            loses: As that of :class:`Fault`.
            node: As that of :class:`Deed`.
        """
        deed = Deed(start=time.monotonic(), node=node)
        yield deed
        healed = time.monotonic()
        try:
            names = {instance.name for instance in self.instances if instance.running}
            recovered = await self.clients.recovered(names, healed, RECOVERY_S)
            await self.edge_clients.recovered(healed, RECOVERY_S)
        except TimeoutError:
            recovered = float("inf")
        self.history.append(Fault(name, deed.start, healed, recovered, deed.promoted, loses, deed.of_ended))

    @contextlib.contextmanager
    def absent(self, instance: Instance) -> Any:
        """An instance may leave requests unanswered in this block, and shortly after."""
        start = time.monotonic()
        try:
            yield
        finally:
            ended = instance.ended if instance.ended >= start else None
            self.history.append(Absent(instance.name, start, time.monotonic() + 0.5, ended))

    @contextlib.contextmanager
    def edge_absent(self, edge: Edge) -> Any:
        """As :meth:`absent`, of an edge."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.edge_history.append(EdgeAbsent(edge.name, start, time.monotonic() + 0.5))

    @contextlib.contextmanager
    def isolated(self, *instances: Instance) -> Any:
        """In this block these instances may acknowledge nothing."""
        start = time.monotonic()
        yield
        self.history.extend(Isolated(instance.name, start, time.monotonic()) for instance in instances)

    def holds_of_ended(self, node: Node) -> bool:
        """Whether a server has anything that a process has revoked, or tried to, which has ended since."""
        keys = {
            store_key(record.kind, record.value)
            for record in self.history
            if isinstance(record, Revoked)
            for instance in self.instances
            if record.instance == instance.name and record.start < instance.ended
        }
        with node.client() as client, client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.exists(key)
            replies = pipeline.execute(raise_on_error=False)  # of keys of another server: an error
        return any(reply == 1 for reply in replies)

    def note_cutoffs(self) -> None:
        """Add to the history what instances logged about lost data."""
        ahead = time.time() - time.monotonic()
        for instance in self.instances:
            for line in instance.lines():
                if line.get("cutoff_ms"):
                    at = datetime.fromisoformat(line["timestamp"]).timestamp() - ahead
                    finding = str(line.get("policy") or line.get("finding"))
                    cutoff = line["cutoff_ms"] / 1000
                    self.history.append(Cutoff(at, cutoff, finding, cutoff - ahead))


def store_key(kind: Kind, value: str) -> str:
    """Where the store has what revokes all that has a value."""
    match kind:
        case "jti":
            return f"rv:jti:main:{value}"
        case "sub":
            return f"rv:{{{user_tag(forge.ISSUER, value)}}}:user"
        case "sid":
            return f"rv:session-cutoff:main:{value}"
        case "client_id":
            return f"rv:client-cutoff:main:{value}"
        case "grant_id":
            return f"rv:claim-cutoff:main:grant_id:{value}"


def port_of(url: str) -> int:
    """Of a URL that has one."""
    return int(url.rpartition(":")[2])


IN_FLIGHT_S = 1.0
"""How long ago an instance may have read the time to which it adds that by which it is ahead."""

RECOVERY_S = 120.0
"""Within which the service must work again after a fault was repaired."""


@dataclass
class Deed:
    """A fault that is under way.

    Attributes:
        node: The server that it happens to, where it happens to all of them in turn.
        promoted: As that of :class:`Fault`.
        of_ended: Likewise.
    """

    start: float
    node: Node | None = None
    promoted: float | None = None
    of_ended: bool = False


def _topology(plan: Plan, network: Network, folder: Path) -> Replicated | Sentinels | Cluster:
    match plan.topology:
        case "single":
            return Replicated(network, folder)
        case "replicated":
            return Replicated(network, folder, replicas=plan.replicas)
        case "sentinel":
            return Sentinels(network, folder, replicas=plan.replicas)
        case "cluster":
            return Cluster(network, folder, replicas=plan.replicas)
    raise ValueError(plan.topology)
