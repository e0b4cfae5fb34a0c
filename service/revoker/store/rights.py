"""The commands that the store must allow: for a list of rights, and to try them."""

import importlib.resources
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from revoker.errors import NoVerdict, ReplyNotUnderstood
from revoker.store.consistency.epoch import new_id
from revoker.store.keys import Keys
from revoker.store.source import ServerSettings, Source
from revoker.store.wire.addresses import is_cluster
from revoker.store.wire.connection import (
    FAILURES,
    Command,
    ConnectionLost,
    Replies,
    printable,
    public_message,
    unavailable_on_failure,
    understood,
)

_LUA: Final = importlib.resources.files("revoker.store") / "lua"
_TRIAL: Final = (_LUA / "try_commands.lua").read_text(encoding="utf-8")

_IN_SCRIPTS: Final = tuple(sorted(set(re.findall(r"try(?:_on_key)?\('([A-Z]+)'", _TRIAL))))
"""The commands that the trial's script runs; a test compares them with those of all scripts."""

_STATES: Final = frozenset(
    ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY")
)
"""First words of errors that say in which state a server is."""

_NO_ANSWER: Final = public_message(TimeoutError())

_LOGIN: Final = ("auth", "ping", "select")
_VERDICTS: Final = ("time", "mget", "role", "info")
_WATCH: Final = ("get", "zrange", "hscan", "config|get")
_CHANGES: Final = ("eval", "evalsha", "set", "pexpire")
_EXPORT: Final = ("scan", "dbsize", "pttl")
_FEED: Final = ("xread", "xrange", "xrevrange", "hgetall")
_CLUSTER: Final = ("cluster|info", "cluster|nodes", "cluster|slots", "asking")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A command that a server refuses.

    Attributes:
        words: The server's error.
        needed_for: What does not work without it.
    """

    command: str
    words: str
    needed_for: str

    @property
    def is_for_now(self) -> bool:
        """Whether the server refuses it because of its present state, not for lack of a right."""
        return self.words.lstrip("-").partition(" ")[0] in _STATES or self.words == _NO_ANSWER


def commands_of(servers: ServerSettings) -> list[str]:
    """The commands of the service and of all subcommands of ``revoker``, by their names in ACL rules."""
    names = {*_LOGIN, *_VERDICTS, *_WATCH, *_CHANGES, *_EXPORT, *_FEED, *map(str.lower, _IN_SCRIPTS)}
    if is_cluster(servers.url):
        names |= set(_CLUSTER)
    if servers.wait_replicas:
        names.add("waitaof" if servers.wait_fsync else "wait")
    return sorted(names)


def sentinel_commands() -> list[str]:
    """What a user of the Sentinels needs."""
    return ["auth", "info", "ping", "role", "sentinel|get-master-addr-by-name", "sentinel|master"]


def acl_rules(servers: ServerSettings, prefix: str) -> str:
    """Rules that allow the service everything that it needs, and nothing else."""
    return " ".join([f"~{prefix}:*", "-@all", *(f"+{name}" for name in commands_of(servers))])


_Trial = tuple[Command, str]
"""A command, and what it is needed for. Each is harmless."""


def _trials(keys: Keys, servers: ServerSettings, trial_keys: Sequence[str], part: int) -> list[_Trial]:
    key = trial_keys[0]
    places = keys.in_part(part)
    verdicts, changes = "verdicts", "revocations, and everything else that is stored"
    trials: list[_Trial] = [
        (("TIME",), verdicts),
        (("MGET", *trial_keys), verdicts),
        (("GET", key), "the start, and exports"),
        (("XRANGE", key, "-", "+", "COUNT", 1), "the feed"),
        (("XREVRANGE", key, "+", "-", "COUNT", 1), "the feed, and lists of revocations"),
        (("XREAD", "COUNT", 1, "STREAMS", key, "0-0"), "the feed"),
        (("HGETALL", key), "wait_edges, and the list of consumers of the feed"),
        (("SET", key, 1, "PX", 10_000), "revoker store init, and heartbeats"),
        (("PEXPIRE", key, 10_000), "processes that store nothing for a day"),
        (("ZRANGE", places.lifted, 0, -1), "the watch, and so the start"),
        (("SCAN", 0, "MATCH", key, "COUNT", 1), "revoker export, and lists of revocations"),
        (("DBSIZE",), "revoker export"),
        (("PTTL", key), "revoker export, and lists of revocations"),
    ]
    if keys.clustered:
        trials += [(("CLUSTER", "INFO"), "the start"), (("CLUSTER", "SLOTS"), "the start")]
        trials.append((("CLUSTER", "NODES"), "snapshots for the feed"))
        trials.append((("ASKING",), "slots that are being moved"))
    if servers.wait_replicas and not servers.wait_fsync:  # WAITAOF has a problem of its own: `no_fsync`
        trials.append((("WAIT", 0, 1), changes))
    return trials


async def refused_commands(source: Source, keys: Keys, servers: ServerSettings) -> list[Refusal]:
    """Try all that the service needs, on every primary; raises ``StoreUnavailable`` where none answers."""
    found: dict[str, Refusal] = {}
    async with unavailable_on_failure():
        primaries = await source.on_every_primary([("PING",)])
    for parts, _ in primaries:
        part = parts[0] if parts else 0
        trial = keys.in_part(part).beat(f"trial-{new_id()}")
        trial_keys = [trial] if keys.clustered else [trial, keys.beat(f"trial-{new_id()}")]
        for refusal in await _refused_at(source, keys, servers, trial_keys, part):
            found.setdefault(refusal.command, refusal)
    return list(found.values())


async def _refused_at(
    source: Source, keys: Keys, servers: ServerSettings, trial_keys: Sequence[str], part: int
) -> list[Refusal]:
    trials, key = _trials(keys, servers, trial_keys, part), trial_keys[0]
    refused = [
        Refusal(_name_of(command), printable(str(reply)), needed_for)
        for (command, needed_for), reply in zip(
            trials, await _replies(source, key, [command for command, _ in trials]), strict=True
        )
        if isinstance(reply, Exception)
    ]
    blocks = keys.in_part(part).blocks
    paged, whole = await _replies(source, key, [("HSCAN", blocks, 0, "COUNT", 1), ("HGETALL", blocks)])
    if isinstance(paged, Exception) and isinstance(whole, Exception):
        refused.append(Refusal("HSCAN or HGETALL", printable(str(paged)), "the watch, and so the start"))
    return refused + await _refused_in_scripts(source, trial_keys)


async def _refused_in_scripts(source: Source, trial_keys: Sequence[str]) -> list[Refusal]:
    needed_for = "revocations, and everything else that is stored"
    unknown, given = "0" * 40, (len(trial_keys), *trial_keys)
    commands: list[Command] = [("EVALSHA", unknown, *given), ("EVAL", _TRIAL, *given)]
    by_digest, by_text = await _replies(source, trial_keys[0], commands)
    refused = []
    if isinstance(by_digest, Exception) and not str(by_digest).startswith("NOSCRIPT"):
        refused.append(Refusal("EVALSHA", printable(str(by_digest)), needed_for))
    if isinstance(by_text, Exception):
        return [*refused, Refusal("EVAL", printable(str(by_text)), needed_for)]
    try:
        with understood():
            texts = [text.decode(errors="replace") for text in by_text]
            found = list(zip(texts[::2], texts[1::2], strict=True))
    except ReplyNotUnderstood:
        return [*refused, Refusal("EVAL", "a reply that is not understood", needed_for)]
    refused += [Refusal(f"{command} in scripts", printable(words), needed_for) for command, words in found]
    return refused


async def _replies(source: Source, key: str, commands: Sequence[Command]) -> Replies:
    """The replies to commands that are sent one by one: some servers end the connection after a refusal."""
    replies: Replies = []
    for command in commands:
        try:
            replies += await source.change_unconfirmed(key, *command)
        except ConnectionLost:  # as proxies answer what they do not know
            replies.append(RuntimeError("the server ended the connection"))
        except (*FAILURES, NoVerdict) as error:
            replies.append(RuntimeError(public_message(error)))
    return replies


def _name_of(command: Command) -> str:
    return " ".join(command[:2]) if command[0] == "CLUSTER" else str(command[0])
