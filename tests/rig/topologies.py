"""Sets of Valkey servers on a network that can be partitioned: a primary with replicas, Sentinel, a cluster.

Servers and clients reach every server by the port of its relay (``Node.public``), so the network can hold
back everything that passes between two of them. The names of the servers are the network's parties.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import redis

from tests.rig import processes
from tests.rig.network import Network
from tests.rig.servers import BUS, Valkey, free_port

NAME = "main"
"""The name of the primary that Sentinel monitors."""

T = TypeVar("T")

_SLOTS = 16384


def until(condition: Callable[[], T | None], what: str, seconds: float = 120) -> T:
    """The first true value of ``condition``; false while a server does not answer."""
    return processes.until(condition, what, seconds, ignored=(redis.RedisError, OSError))


class Node(Valkey):
    """A server with a name in the network.

    Attributes:
        public: The port of its relay, where everybody else finds it.
        bus: The same for the bus of a cluster; 0 where there is none.
        follows: The primary that it replicates when it starts.
    """

    def __init__(
        self, network: Network, name: str, folder: Path, *options: str, port: int | None = None
    ) -> None:
        super().__init__(folder / name, port=port)
        self._network = network
        self.name = name
        self.public = network.relay(self.port, party=name)
        self.bus = 0
        self.follows: Node | None = None
        self.options = (
            *("--replica-announce-ip", "127.0.0.1", "--replica-announce-port", str(self.public)),
            *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--repl-timeout", "5"),
            *options,
        )

    def on_start(self, pid: int) -> None:
        self._network.assign_process(pid, self.name)

    def arguments(self) -> list[str]:
        replicaof = ["--replicaof", "127.0.0.1", str(self.follows.public)] if self.follows else []
        return [*super().arguments(), *replicaof]

    def info(self, section: str) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.info(section))

    @property
    def up(self) -> bool:
        return self.process is not None

    @property
    def primary(self) -> bool:
        """Whether it takes itself for a primary."""
        return str(self.info("replication")["role"]) == "master"

    @property
    def in_sync(self) -> bool:
        """Whether it is a replica that has received its primary's data."""
        replication = self.info("replication")
        return (replication["role"], replication.get("master_link_status")) == ("slave", "up")


class Replicated:
    """A primary and replicas without automatic failover: the test promotes, and ``url`` follows."""

    def __init__(
        self, network: Network, folder: Path, *, replicas: int = 0, options: tuple[str, ...] = ()
    ) -> None:
        self.network = network
        self.folder = folder
        self.nodes = [Node(network, f"store-{place}", folder, *options) for place in range(1 + replicas)]
        self.primary = self.nodes[0]
        self._front = network.relay(self.primary.port, party=self.primary.name)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._front}/0"

    @property
    def replicas(self) -> list[Node]:
        return [node for node in self.nodes if node is not self.primary]

    def start(self) -> None:
        self._start_nodes()
        self.await_health()

    def _start_nodes(self) -> None:
        for node in self.nodes:
            node.follows = None if node is self.primary else self.primary
            node.start()

    def await_health(self, seconds: float = 240) -> None:
        """Wait until all servers are up and every replica is in sync."""
        until(
            lambda: self.primary.primary and all(node.in_sync for node in self.replicas),
            "replicas in sync",
            seconds,
        )

    def promote(self, node: Node) -> None:
        """Make a replica the primary, to which ``url`` leads from now on; the old primary must be down."""
        with node.client() as client:
            client.replicaof("NO", "ONE")
        self.primary = node
        for other in self.replicas:
            other.follows = node
            if other.up:
                with other.client() as client:
                    client.replicaof("127.0.0.1", str(node.public))
        node.follows = None
        self.network.redirect(self._front, node.port, party=node.name)

    def lead_to(self, port: int) -> None:
        """Let ``url`` lead to a proxy before the primary; connections are reset."""
        self.network.redirect(self._front, port, party=self.primary.name)

    def replace(self, node: Node) -> None:  # noqa: ARG002  # where others elect, they need it
        """Promote the replica that has most of the data of a primary that is down."""
        replicas = [replica for replica in self.replicas if replica.up]
        self.promote(max(replicas, key=lambda replica: int(replica.info("replication")["slave_repl_offset"])))

    def fail_over(self, primary: Node) -> None:
        """Planned failover (``FAILOVER``): a replica takes over once it has all that the primary has."""
        heir = self.replicas[0]
        with primary.client() as client:
            client.execute_command("FAILOVER", "TO", "127.0.0.1", heir.public)
        until(lambda: heir.primary, "promotion")
        self.promote(heir)

    def revive(self, node: Node) -> None:
        """Start a server that was killed; it replicates the present primary."""
        node.follows = None if node is self.primary else self.primary
        node.start()

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


class _Sentinel(Valkey):
    def __init__(self, network: Network, name: str, folder: Path, watched: Node) -> None:
        super().__init__(folder / name)
        self.name = name
        self.public = network.relay(self.port, party=name)
        self._network = network
        self._watched = watched

    def on_start(self, pid: int) -> None:
        self._network.assign_process(pid, self.name)

    def arguments(self) -> list[str]:
        config = self.folder / "sentinel.conf"
        if not config.exists():  # afterwards it is the server's own
            config.write_text(
                f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\nlogfile log\n"
                f"sentinel monitor {NAME} 127.0.0.1 {self._watched.public} 2\n"
                f"sentinel down-after-milliseconds {NAME} {Sentinels.DOWN_AFTER_MS}\n"
                f"sentinel failover-timeout {NAME} 3000\n"
                f"sentinel announce-ip 127.0.0.1\nsentinel announce-port {self.public}\n"
            )
        return [str(config), "--sentinel"]


class Sentinels(Replicated):
    """A primary and replicas, and three Sentinels that elect the primary."""

    DOWN_AFTER_MS = 2500

    def __init__(
        self, network: Network, folder: Path, *, replicas: int = 1, options: tuple[str, ...] = ()
    ) -> None:
        super().__init__(network, folder, replicas=replicas, options=options)
        self.sentinels = [_Sentinel(network, f"sentinel-{place}", folder, self.primary) for place in range(3)]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.public}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{NAME}"

    def start(self) -> None:
        self._start_nodes()
        for sentinel in self.sentinels:
            sentinel.start()
        self.await_health()

    def await_health(self, seconds: float = 240) -> None:
        """Wait until every replica is in sync and the Sentinels know each other and all servers.

        On a slow machine they may have elected another primary meanwhile.
        """
        until(self._healthy, "Sentinels and replicas agree", seconds)

    def _healthy(self) -> bool:
        self.primary = self.elected()
        return self.primary.primary and all(node.in_sync for node in self.replicas) and self._agreed()

    def _agreed(self) -> bool:
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                masters: dict[str, Any] = client.sentinel_masters()
            [primary] = masters.values()
            if primary["num-other-sentinels"] < 2 or primary["num-slaves"] < len(self.nodes) - 1:
                return False
            if primary["flags"] != "master" or primary["port"] != self.primary.public:
                return False
        return True

    def elected(self) -> Node:
        """The primary as most Sentinels name it."""
        votes = []
        for sentinel in self.sentinels:
            with contextlib.suppress(redis.RedisError), sentinel.client() as client:
                address = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
                votes.append(int(address[1]))
        port = max(votes, key=votes.count)
        return next(node for node in self.nodes if node.public == port)

    def replace(self, node: Node) -> None:
        """Wait until another server is primary, and the Sentinels say so."""

        def promoted() -> Node | None:
            elected = self.elected()
            return elected if elected is not node and elected.primary else None

        self.primary = until(promoted, "promotion")

    def fail_over(self, primary: Node, *options: str) -> None:
        """Planned failover (``SENTINEL FAILOVER``), repeated: a Sentinel may refuse it or give it up."""
        with self.sentinels[0].client() as client:

            def moved() -> bool:
                address = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
                if int(address[1]) == primary.public:
                    client.execute_command(
                        "SENTINEL", "FAILOVER", NAME, *options
                    )  # an error while one is under way
                    return False
                return True

            until(moved, "failover")
        self.replace(primary)

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.kill()
        super().stop()


NO_FAILOVER = ("--cluster-node-timeout", "15000")
"""Options of a cluster in which no failover may happen, however long a busy machine keeps it waiting."""


class Cluster:
    """Three primaries with a replica each."""

    NODE_TIMEOUT_MS = 2000

    def __init__(
        self,
        network: Network,
        folder: Path,
        *,
        primaries: int = 3,
        replicas: int = 1,
        options: tuple[str, ...] = (),
    ) -> None:
        self.network = network
        self.folder = folder
        self._primaries = primaries
        self._options = options
        self._made = 0
        self.nodes = [self._node() for _ in range(primaries * (1 + replicas))]

    def _node(self) -> Node:
        node = Node(self.network, f"store-{self._made}", self.folder, port=free_port(above=BUS))
        self._made += 1
        node.bus = self.network.relay(node.port + BUS, party=node.name)
        node.options = (
            *node.options,
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
            *("--cluster-node-timeout", str(self.NODE_TIMEOUT_MS), "--cluster-announce-ip", "127.0.0.1"),
            *("--cluster-announce-port", str(node.public), "--cluster-announce-bus-port", str(node.bus)),
            *("--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration", "no"),
            *self._options,
        )
        return node

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.public}" for node in self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        first, *others = self.nodes
        for place, node in enumerate(self.nodes):
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
        for node in others:
            self._meet(first, node)
        share = _SLOTS // self._primaries
        for place, node in enumerate(self.nodes[: self._primaries]):
            last = _SLOTS if place == self._primaries - 1 else share * (place + 1)
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(share * place, last))
        until(lambda: all(len(self.seen_by(node)) == len(self.nodes) for node in self.nodes), "all nodes met")
        for place, node in enumerate(self.nodes[self._primaries :]):
            self.follow(node, self.nodes[place % self._primaries])
        self.await_health()

    def _meet(self, node: Node, other: Node) -> None:
        with node.client() as client:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.public, other.bus)

    def follow(self, node: Node, primary: Node) -> None:
        with node.client() as client:
            until(lambda: client.execute_command("CLUSTER", "REPLICATE", self.id_of(primary)), "replicates")

    def id_of(self, node: Node) -> str:
        with node.client() as client:
            return str(client.execute_command("CLUSTER", "MYID"))

    def seen_by(self, node: Node) -> dict[int, dict[str, Any]]:
        """``CLUSTER NODES`` of a node, by public port."""
        with node.client() as client:
            nodes = client.execute_command("CLUSTER NODES")
        return {int(address.rpartition(":")[2]): seen for address, seen in nodes.items()}

    def primaries(self, witness: Node | None = None) -> list[Node]:
        """Those that own slots, as the witness sees them: a node that is up and in the majority."""
        witness = witness or next(node for node in self.nodes if node.up)
        seen = self.seen_by(witness)
        return [
            node
            for node in self.nodes
            if (entry := seen.get(node.public)) and "master" in entry["flags"] and entry["slots"]
            and "fail" not in entry["flags"].split(",")
        ]  # fmt: skip

    def replicas_of(self, primary: Node) -> list[Node]:
        seen = self.seen_by(primary)
        own = seen[primary.public]["node_id"]
        return [node for node in self.nodes if seen.get(node.public, {}).get("master_id") == own]

    def await_health(self, seconds: float = 240) -> None:
        """Wait until all nodes say that all slots are served, and every replica is in sync."""
        until(lambda: all(self._healthy(node) for node in self.nodes), "cluster ok", seconds)

    def _healthy(self, node: Node) -> bool:
        with node.client() as client:
            info = client.execute_command("CLUSTER INFO")
        if info["cluster_state"] != "ok" or int(info["cluster_slots_ok"]) != _SLOTS:
            return False
        seen = self.seen_by(node)
        if len(seen) < len(self.nodes) or any("fail" in entry["flags"] for entry in seen.values()):
            return False
        return node.primary or node.in_sync

    def replace(self, node: Node) -> None:
        """Wait until one of its replicas has taken the place of a primary."""
        witnesses = [other for other in self.nodes if other is not node and other.up]

        def promoted() -> bool:
            for witness in witnesses:
                primaries, seen = self.primaries(witness), self.seen_by(witness)
                served = [slots for primary in primaries for slots in _ranges(seen[primary.public])]
                if node in primaries or sum(last - first + 1 for first, last in served) < _SLOTS:
                    return False
            return True

        until(promoted, "promotion")

    def fail_over(self, primary: Node) -> None:
        """Manual failover (``CLUSTER FAILOVER``): no data is lost."""
        replica, again_at = self.replicas_of(primary)[0], 0.0
        with replica.client() as client:

            def promoted() -> bool:
                """The server gives an attempt up after 5 s."""
                nonlocal again_at
                if "master" in self.seen_by(replica)[replica.public]["flags"]:
                    return True
                if time.monotonic() > again_at:
                    with contextlib.suppress(redis.ResponseError):  # it has been promoted since
                        client.execute_command("CLUSTER", "FAILOVER")
                    again_at = time.monotonic() + 6
                return False

            until(promoted, "promotion")
        self.replace(primary)

    def move_slots(self, source: Node, target: Node, slots: Iterable[int]) -> None:
        """Move slots with all their keys, one after the other, as ``--cluster reshard`` does."""
        ids = self.id_of(source), self.id_of(target)
        others = [node for node in self.primaries(target) if node not in {source, target}]
        with contextlib.ExitStack() as stack:
            there, here, *rest = (stack.enter_context(node.client()) for node in (target, source, *others))
            for slot in slots:
                there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
                here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
                while keys := here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                    here.execute_command("MIGRATE", "127.0.0.1", target.public, "", 0, 5000, "KEYS", *keys)
                for client in there, here, *rest:
                    client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])

    def migrate_slots(self, source: Node, target: Node, ranges: Iterable[tuple[int, int]]) -> None:
        """Move ranges of slots at once (``CLUSTER MIGRATESLOTS``, from Valkey 9 on)."""
        slots = [slot for limits in ranges for slot in limits]
        with source.client() as client:
            # by default, slots move only when no write is on its way: on a slow machine, with load, never
            client.config_set("slot-migration-max-failover-repl-bytes", -1)
            client.execute_command(
                "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *slots, "NODE", self.id_of(target)
            )

            migrations: list[dict[str, Any]] = []

            def ended() -> bool:
                migrations[:] = client.execute_command("CLUSTER", "GETSLOTMIGRATIONS")
                states = {migration["state"] for migration in migrations}
                assert not states & {"failed", "cancelled"}, migrations
                return states == {"success"}

            try:
                until(ended, "slots moved", 600)
            except AssertionError as error:
                error.add_note(f"the migrations: {migrations}")
                raise

    def slots_of(self, node: Node) -> list[tuple[int, int]]:
        """The ranges of slots that a node says it owns: first and last."""
        return _ranges(self.seen_by(node)[node.public])

    def join(self, primary: Node | None = None) -> Node:
        """Start one more node: a primary without slots, or a replica of another."""
        node = self._node()
        node.start()
        self.nodes.append(node)
        self._meet(self.nodes[0], node)
        self.await_health()
        if primary is not None:
            self.follow(node, primary)
            self.await_health()
        return node

    def leave(self, node: Node) -> None:
        """Remove a node without slots and replicas from the cluster, and end it."""
        name = self.id_of(node)
        self.nodes.remove(node)
        for other in self.nodes:
            with other.client() as client:
                client.execute_command("CLUSTER", "FORGET", name)
        node.kill()

    def revive(self, node: Node) -> None:
        node.start()

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


def _ranges(entry: dict[str, Any]) -> list[tuple[int, int]]:
    """The slots of a node in ``CLUSTER NODES``, without those that are being moved."""
    return [(int(limits[0]), int(limits[-1])) for limits in entry["slots"]]


@contextlib.contextmanager
def single_node_cluster(folder: Path) -> Iterator[Valkey]:
    """The only node of a cluster, which has all slots."""
    server = Valkey(folder, "--cluster-enabled", "yes").start()
    try:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, _SLOTS - 1)
            until(lambda: client.cluster("INFO")["cluster_state"] == "ok", "cluster ok")
        yield server
    finally:
        server.kill()
