"""What `revoker store check` reports: what was checked, what is wrong, what that means, and what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from revoker.errors import NoVerdict
from revoker.store.consistency.epoch import REPAIRING, Epoch
from revoker.store.rights import Refusal


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong.

    Attributes:
        name: In one word.
        detail: What was seen, with the server's words.
        means: What follows from it.
        do: What to type or to set.
    """

    name: str
    detail: str
    means: str
    do: str


@dataclass(slots=True)
class Report:
    """The state of a store.

    Attributes:
        servers: Every primary, in words.
        checked: What was seen, by what was checked.
        refused: Commands that the servers refuse.
    """

    servers: list[str] = field(default_factory=list)
    checked: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    epoch: Epoch | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, name: str, detail: str) -> None:
        """Add a problem."""
        means, advice = _ADVICE[name]
        self.problems.append(Problem(name, detail, means, advice))

    def add_all(self, found: Mapping[str, str]) -> None:
        """Add problems, by their names."""
        for name, detail in found.items():
            self.add(name, detail)

    def add_epoch(self, epochs: Sequence[Epoch | None]) -> None:
        """Add the epochs of all data sets; None: a data set has none."""
        self.epoch = worst(epochs)
        absent = list(epochs).count(None)
        if absent == len(epochs):
            self.add("no_epoch", "the store has no epoch")
        elif absent:
            self.add("no_epoch", f"{absent} of {len(epochs)} slots have no epoch")
        if any(epoch is not None and epoch.finding == "refused" for epoch in epochs):
            self.add("data_loss_refused", "the store has lost data, and nobody has accepted that")
        if any(epoch is not None and epoch.finding == REPAIRING for epoch in epochs):
            self.add("data_loss_repairing", "the store has lost data, which is being repaired")

    def add_failure(self, checked: str, error: NoVerdict) -> None:
        """A check that failed."""
        self.add("check_failed", f"{checked}: {error}")


def worst(epochs: Sequence[Epoch | None]) -> Epoch | None:
    """The epoch that says most of a store; None where a data set has none."""
    found = [epoch for epoch in epochs if epoch is not None]
    if len(found) < len(epochs) or not found:
        return None
    return max(
        found, key=lambda epoch: (epoch.finding == "refused", epoch.finding == REPAIRING, epoch.noticed)
    )


_RIGHTS: Final = "`revoker store rights` prints the rights that Revoker's user needs"
_SETTINGS: Final = "noeviction, persistence, replicas"

_ADVICE: Final[Mapping[str, tuple[str, str]]] = {
    "unreachable": (
        "Nothing was checked. The service gives no verdicts and stores no revocation.",
        "Correct [redis] as the message says, or start the server.",
    ),
    "check_failed": (
        "This was not checked, and the service meets the same failure.",
        "Correct what the message names. Where it names a command: " + _RIGHTS + ".",
    ),
    "not_primary": (
        "No revocation is stored, and there are no verdicts.",
        "Write the primary's address, or those of Sentinels, in redis.url: docs/reliability.md.",
    ),
    "refused_for_now": (
        "Until that has changed, no revocation is stored, or there are no verdicts.",
        "Act on the server's words: OOM, memory; MISCONF, disk; NOREPLICAS, replicas; LOADING, wait.",
    ),
    "not_confirmed": (
        "No revocation is acknowledged: every request to revoke gets 503.",
        "Look at the replicas: they must follow in time, and for redis.wait_fsync have `appendonly yes`.",
    ),
    "refused_commands": (
        "The service does not start, or gives no verdicts, or stores no revocation: see each command.",
        _RIGHTS + ".",
    ),
    "no_epoch": (
        "The store, or this part of a cluster, is empty: new, or everything in it is lost.",
        "`revoker store init` if the store is new. If not, start the service: it treats this as a loss.",
    ),
    "data_loss_repairing": (
        "No verdicts and no revocations until it is repaired, or revocation.repair_seconds are over.",
        "Check again. If it stays, see the log of the instances: docs/reliability.md, Repair.",
    ),
    "data_loss_refused": (
        "Data was lost, and revocation.data_loss is `refuse`: no verdicts until somebody accepts the data.",
        "Find the cause, then `revoker store accept`: docs/runbook.md, RevokerDataLost.",
    ),
    "eviction_policy": (
        "When its memory is full, the server drops revocations: revoked tokens work again.",
        "`CONFIG SET maxmemory-policy noeviction`, and the same where the server or service is configured.",
    ),
    "no_persistence": (
        "A restart of the server loses all revocations: everybody is logged out (revocation.data_loss).",
        "`CONFIG SET appendonly yes`, and the same where the server or service is configured.",
    ),
    "no_fsync": (
        "No revocation is acknowledged: every request to revoke gets 503.",
        "A server with WAITAOF (Redis 7.2, Valkey) and `appendonly yes`, or redis.wait_fsync = false.",
    ),
    "unconfirmed_replicas": (
        "A promoted replica may lack the last revocations: that is a loss (revocation.data_loss).",
        "Set redis.wait_replicas to the number of replicas that could be promoted.",
    ),
    "too_few_replicas": (
        "No revocation is acknowledged, and there are no verdicts.",
        "Bring the replicas back, or lower redis.wait_replicas.",
    ),
    "unchecked": (
        "Whether the server keeps revocations is not known. The service notices only losses of its own.",
        f"Allow `+info +config|get` ({_RIGHTS}), or check at the managed service: {_SETTINGS}.",
    ),
    "sentinels": (
        "If more of them fail, nobody finds the primary. After a failover verdicts may wait for a replica.",
        "Correct what each line names; `revoker store rights` prints the rights that Sentinels must grant.",
    ),
    "settings_conflict": (
        "Revocations of this issuer would not be found: the service does not start with these settings.",
        "docs/runbook.md, RevokerSettingsConflict.",
    ),
}
