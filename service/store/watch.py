"""Looks after the store beside the requests.

Once a second for what must not be missed, every 30 s for what would lose revocations silently.
"""

import asyncio
from typing import Final

import msgspec
import structlog

from service.errors import NoVerdict, StoreRefused
from service.metrics import PROBLEMS, Metrics
from service.models import Issuer, Mark
from service.store.addresses import Address, info
from service.store.clocks import DEGRADED_S, Clocks
from service.store.connection import Command, fence
from service.store.epoch import DataSet, Reading, decode
from service.store.keys import Keys
from service.store.lookups import Lookups, revoked_keys
from service.store.revocations import Revocations
from service.store.servers import Servers

_log = structlog.get_logger("store")

_BEAT_S: Final = 1.0
_CHECK_EVERY: Final = 30
_DAY_MS: Final = 86_400_000


class Watch:
    """Keeps an eye on one store.

    Attributes:
        problems: What is wrong now: names of :data:`service.metrics.PROBLEMS`, each with a sentence.
        reached: Whether the store has ever given a reading that counts.
    """

    def __init__(
        self,
        servers: Servers,
        address: Address,
        keys: Keys,
        share: str,
        issuers: list[Issuer],
        *,
        lookups: Lookups,
        data: DataSet,
        revocations: Revocations,
        clocks: Clocks,
        metrics: Metrics,
        wait_replicas: int,
    ) -> None:
        self._servers = servers
        self._address = address
        self._keys = keys
        self._share = share
        self._issuers = issuers
        self._lookups = lookups
        self._data = data
        self._remembered: Final = revocations.remembered
        self._acknowledged: Final = revocations.acknowledged
        self._clocks = clocks
        self._metrics = metrics
        self._wait_replicas = wait_replicas
        self._evicted: dict[str, int] = {}
        self._looked_at = 0.0
        self._beats = 0
        self.problems: dict[str, str] = {}
        self.reached = False

    async def run(self) -> None:
        """Beat once a second until cancelled."""
        while True:
            try:
                await self.beat()
            except Exception:  # noqa: BLE001  # the watch outlives whatever happens to it
                _log.exception("watch_failed")
            await asyncio.sleep(_BEAT_S)

    async def beat(self) -> None:
        """Read the store once, remember what must be remembered, and say what is wrong."""
        unreachable = not_primary = None
        try:
            if not await self._remember():
                await self._data.settle()
                await self._remember()
            if await self._address.moved():
                _log.warning("primary_moved")
                self._lookups.hang_up()
                self._servers.hang_up()
            await self._look_for_evictions()
            if self._beats % _CHECK_EVERY == 0:
                await self._check_configuration()
            self._beats += 1
            await self._lookups.touch()
            self.reached = True
        except StoreRefused as error:
            if "primary" in str(error):
                not_primary = str(error)
            self.reached = self.reached or self._data.epoch is not None
        except NoVerdict as error:
            unreachable = str(error)
        self._say("store_unreachable", unreachable)
        self._say("store_not_primary", not_primary)
        self._say_what_is_known()

    async def _remember(self) -> bool:
        """Take over the blocks and revoked keys of all processes, and what was lifted.

        Returns:
            Whether the data set is the known one; nothing is taken over from any other.
        """
        known, changes = self._data.known, self._remembered.changes
        ages = self._data.share_ages()
        commands: list[Command] = [
            ("HGETALL", self._keys.blocks),
            ("MGET", *map(self._keys.revoked_keys, self._issuers)),
            ("ZRANGE", self._keys.lifted, 0, -1),
            ("TIME",),
            ("MGET", self._keys.epoch, self._keys.seq, self._share),  # after what it vouches for
            ("ROLE",),
        ]
        if ages:
            commands.append(("PEXPIRE", self._share, _DAY_MS))
        async with fence():
            replies = await self._servers.read(self._keys.epoch, commands)
        blocks, keys, lifted, stamp, values, role = replies[:6]
        reading = decode([stamp, values, role])
        if not self._data.confirms(known, values[0], values[1], values[2], reading.now):
            return False
        if ages:
            self._data.renewed()
        self._acknowledged.forget(_lifted(each) for each in lifted)
        if changes == self._remembered.changes:
            live = self._live_blocks(dict(zip(blocks[::2], blocks[1::2], strict=True)), reading)
            lists = [_keys_of(text) for text in keys]
            self._remembered.blocks = live
            for issuer, revoked in zip(self._issuers, lists, strict=True):
                self._remembered.keys[issuer.name] = revoked
        return True

    @staticmethod
    def _live_blocks(blocks: dict[bytes, bytes], reading: Reading) -> dict[str, int]:
        live = {tag: int(until) for tag, until in blocks.items() if int(until) > reading.now}
        return {tag.decode(): until for tag, until in live.items()}

    async def _look_for_evictions(self) -> None:
        async with fence():
            [[text]] = await self._servers.each([("INFO", "everything")])
        told = info(text)
        run_id, evicted = told.get("run_id", ""), int(told.get("evicted_keys", 0))
        looked_at = asyncio.get_running_loop().time()
        young = int(told.get("uptime_in_seconds", 0)) <= looked_at - self._looked_at
        before = self._evicted.get(run_id, 0 if self._evicted and young else evicted)
        if evicted > before:
            now = int(told.get("server_time_usec", self._clocks.now() * 1_000_000)) // 1000
            await self._data.settle(since=now, cause="the server has evicted keys")
        self._evicted = {run_id: evicted}
        self._looked_at = looked_at
        self._say("evicted_keys", f"the server has evicted {evicted} keys" if evicted else None)

    async def _check_configuration(self) -> None:
        found = await dangers(self._servers, self._wait_replicas)
        for problem in ("eviction_policy", "no_persistence", "unconfirmed_replicas", "too_few_replicas"):
            self._say(problem, found.get(problem))

    def _say_what_is_known(self) -> None:
        epoch = self._data.epoch
        lost = epoch is not None and epoch.finding in {"cutoff", "ignored"}
        self._say("data_lost", f"data was found missing ({epoch.finding})" if lost and epoch else None)
        self._say("data_loss_refused", self._data.refusal)
        ahead = self._clocks.ahead
        self._metrics.clock_offset.set(ahead)
        self._say(
            "clock_offset",
            f"this clock is {ahead:+.1f} s off the store's" if abs(ahead) > DEGRADED_S else None,
        )

    def _say(self, problem: str, sentence: str | None) -> None:
        assert problem in PROBLEMS  # noqa: S101  # a typo would hide a problem
        if sentence is None:
            if self.problems.pop(problem, None) is not None:
                _log.info("problem_ended", problem=problem)
        else:
            if problem not in self.problems:
                _log.warning("problem", problem=problem, detail=sentence)
            self.problems[problem] = sentence
        self._metrics.problems.labels(problem).set(0 if sentence is None else 1)


async def dangers(servers: Servers, wait_replicas: int) -> dict[str, str]:
    """What about the servers would lose revocations silently, in words, by the names of problems."""
    async with fence():
        answers = await servers.each([("INFO", "everything"), ("CONFIG", "GET", "save")])
    found = {}
    for text, saves in answers:
        told = info(text)
        policy = told.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            found["eviction_policy"] = (
                f"maxmemory-policy is {policy}: it must be noeviction, or revocations are dropped"
            )
        never_saves = isinstance(saves, list) and saves[1:] == [b""]  # else this user may not ask
        if not int(told.get("aof_enabled", 0)) and never_saves:
            found["no_persistence"] = "the server keeps nothing on disk: a restart loses revocations"
        replicas = int(told.get("connected_slaves", 0))
        if replicas > wait_replicas:
            found["unconfirmed_replicas"] = (
                f"of {replicas} replicas only {wait_replicas} confirm (redis.wait_replicas): the promotion of"
                " another can lose acknowledged revocations"
            )
        if replicas < wait_replicas:
            found["too_few_replicas"] = (
                f"{wait_replicas} replicas must confirm (redis.wait_replicas), {replicas} are connected:"
                " nothing can be acknowledged"
            )
    return found


def _lifted(text: bytes) -> tuple[int, str]:
    seq, _, key = text.decode().partition(" ")
    return int(seq), key


def _keys_of(text: bytes | None) -> dict[str, Mark]:
    try:
        return {} if text is None else dict(revoked_keys(text))
    except msgspec.MsgspecError as error:
        raise StoreRefused("the store holds revoked keys that can't be read") from error
