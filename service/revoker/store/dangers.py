"""Finds configuration of the servers that would lose revocations silently, or prevent them."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from revoker.store.source import ServerSettings, Source
from revoker.store.wire.connection import Command, parse_info, printable, replicas_in, unavailable_on_failure

_SECTIONS: Final = ("server", "memory", "persistence", "stats", "replication")
_INFO: Final = tuple(("INFO", section) for section in _SECTIONS)
_CONFIG: Final = tuple(("CONFIG", "GET", name) for name in ("maxmemory-policy", "appendonly", "save"))
_ROLE: Final = ("ROLE",)


class _Facts:
    """What one server reports of itself; None for what it does not report.

    Attributes:
        refusals: The server's errors, by the commands that it refused.
    """

    def __init__(self, commands: Iterable[Command], replies: Iterable[Any]) -> None:
        self.refusals: dict[str, str] = {}
        self._fields: dict[str, str] = {}
        self._configured: dict[str, str] = {}
        self._replicas_by_role: int | None = None
        for command, reply in zip(commands, replies, strict=False):
            if isinstance(reply, Exception):
                self.refusals[" ".join(command)] = printable(str(reply))
            elif command[0] == "INFO":
                self._fields |= parse_info(reply)
            elif command[0] == "CONFIG" and _is_pair(reply):
                self._configured[command[2]] = reply[1].decode(errors="replace")
            elif command == _ROLE and isinstance(reply, list) and reply[:1] == [b"master"]:
                with contextlib.suppress(LookupError):
                    self._replicas_by_role = replicas_in(reply)

    def number(self, name: str) -> int | None:
        """A number in the reply to ``INFO``."""
        return number_in(self._fields, name)

    @property
    def eviction_policy(self) -> str | None:
        return self._fields.get("maxmemory_policy") or self._configured.get("maxmemory-policy")

    @property
    def appends(self) -> bool | None:
        """Whether it writes an append-only file."""
        enabled = self.number("aof_enabled")
        if enabled is not None:
            return enabled != 0
        configured = self._configured.get("appendonly")
        return None if configured is None else configured == "yes"

    @property
    def saves(self) -> bool | None:
        """Whether it writes snapshots by itself."""
        configured = self._configured.get("save")
        return None if configured is None else configured != ""

    @property
    def replicas(self) -> int | None:
        connected = self.number("connected_slaves")
        return self._replicas_by_role if connected is None else connected

    @property
    def program(self) -> str:
        name = self._fields.get("server_name", "redis")
        version = self._fields.get(f"{name}_version") or self._fields.get("redis_version")
        return f"{name} {version}" if version else "a server that does not say its version"

    def seen(self) -> dict[str, str]:
        """What it reports, in words."""
        evicted, replicas = self.number("evicted_keys"), self.replicas
        found = {
            "maxmemory-policy": self.eviction_policy,
            "evicted keys": None if evicted is None else str(evicted),
            "append-only file": _yes_or_no(self.appends),
            "snapshots": _yes_or_no(self.saves),
            "replicas": None if replicas is None else str(replicas),
        }
        return {name: value for name, value in found.items() if value is not None}

    def unseen(self) -> list[str]:
        """What it does not report, in words."""
        missing = []
        if self.eviction_policy is None:
            missing.append("its maxmemory-policy")
        if self.number("evicted_keys") is None:
            missing.append("whether it has evicted keys")
        if self.appends is None and not self.saves:
            missing.append("whether it keeps an append-only file")
        if self.saves is None and not self.appends:
            missing.append("whether it saves snapshots")
        if self.replicas is None:
            missing.append("how many replicas it has")
        return missing


async def dangers(source: Source, servers: ServerSettings) -> dict[str, str]:
    """Problems of the servers: a sentence for each name of :data:`revoker.metrics.PROBLEMS`.

    ``unchecked`` says which checks could not be made, and why.
    """
    return (await inspect(source, servers)).dangers


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the servers say of their configuration.

    Attributes:
        dangers: As :func:`dangers`.
        seen: What every server shows, by what was looked for; of several servers all values.
        servers: Program, version and mode of every primary.
    """

    dangers: dict[str, str]
    seen: dict[str, str]
    servers: list[str]


async def inspect(source: Source, servers: ServerSettings) -> Configuration:
    """Read the configuration of the servers."""
    commands: list[Command] = [*_INFO, *_CONFIG, _ROLE]
    read = len(commands)
    if servers.wait_fsync:
        commands.append(("WAITAOF", 1, 0, 1))  # answers at once as every confirmation would be answered
    async with unavailable_on_failure():
        answers = await source.on_every_primary(commands)
    found: dict[str, str] = {}
    unseen: dict[str, None] = {}
    refusals: dict[str, str] = {}
    seen: dict[str, dict[str, None]] = {}
    programs = []
    for parts, replies in answers:
        facts = _Facts(commands[:read], replies[:read])
        programs.append(facts.program)
        for name, value in facts.seen().items():
            seen.setdefault(name, {})[value] = None
        at_server = _dangers_of(facts, servers.wait_replicas)
        if servers.wait_fsync and isinstance(replies[-1], Exception):
            at_server["no_fsync"] = (
                f"redis.wait_fsync can't be kept, nothing can be acknowledged: {printable(str(replies[-1]))}"
            )
        where = f" (the primary of slot {parts[0]})" if len(answers) > 1 and parts else ""
        for name, problem in at_server.items():
            found.setdefault(name, problem + where)
        if missing := facts.unseen():
            unseen |= dict.fromkeys(missing)
            refusals |= facts.refusals
    if unseen:
        found["unchecked"] = _unchecked(list(unseen), refusals)
    return Configuration(found, {name: ", ".join(values) for name, values in seen.items()}, programs)


def number_in(fields: dict[str, str], name: str) -> int | None:
    """A number in a reply to ``INFO``; None if it is absent or no number."""
    text = fields.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def _dangers_of(facts: _Facts, wait_replicas: int) -> dict[str, str]:
    found = {}
    policy, replicas = facts.eviction_policy, facts.replicas
    if policy is not None and policy != "noeviction":
        found["eviction_policy"] = (
            f"maxmemory-policy is {policy}: it must be noeviction, or revocations are dropped"
        )
    if facts.appends is False and facts.saves is False:
        found["no_persistence"] = "the server keeps nothing on disk: a restart loses revocations"
    if replicas is not None and replicas > wait_replicas:
        found["unconfirmed_replicas"] = (
            f"of {replicas} replicas only {wait_replicas} confirm (redis.wait_replicas): the promotion of"
            " another can lose acknowledged revocations"
        )
    if replicas is not None and replicas < wait_replicas:
        found["too_few_replicas"] = (
            f"{wait_replicas} replicas must confirm (redis.wait_replicas), {replicas} are connected:"
            " nothing can be acknowledged"
        )
    return found


def _unchecked(unseen: list[str], refusals: dict[str, str]) -> str:
    by_words: dict[str, list[str]] = {}
    for command, words in refusals.items():
        by_words.setdefault(words, []).append(command)
    reasons = [f"it answered {', '.join(commands)} with: {words}" for words, commands in by_words.items()]
    return "; ".join([f"the server does not say {', '.join(unseen)}", *reasons])


def _yes_or_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _is_pair(reply: Any) -> bool:
    return isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], bytes)
