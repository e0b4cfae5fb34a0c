"""Stores as managed services and other programs offer them: the table of docs/managed-stores.md.

Each is emulated by what its documentation says: commands removed, rights missing, other replies.
"""

import contextlib

import pytest

from tests.rig.probes import RestrictedUser, answers, eventually, issued, readiness, revoke
from tests.rig.reply_proxy import ReplyProxy, encode
from tests.rig.servers import Valkey


def without(*commands):
    return [option for name in commands for option in ("--rename-command", name, "")]


AWS = without("BGREWRITEAOF", "BGSAVE", "CONFIG", "DEBUG", "MIGRATE", "REPLICAOF", "SAVE", "SHUTDOWN", "SYNC")
MEMORYSTORE = without(
    "ACL", "BGREWRITEAOF", "BGSAVE", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DEBUG", "LASTSAVE", "MIGRATE",
    "MONITOR", "OBJECT", "SHUTDOWN", "REPLICAOF", "SAVE",
)  # fmt: skip
AIVEN = without(
    "BGREWRITEAOF", "CLUSTER", "COMMAND", "DEBUG", "FAILOVER", "MIGRATE", "ROLE", "ACL", "BGSAVE", "CONFIG",
    "LASTSAVE", "MONITOR", "REPLICAOF", "SAVE", "SHUTDOWN",
)  # fmt: skip


async def serves(running):
    token = issued()
    assert (await revoke(running, token)).status == 200
    assert not await running.active(token)
    assert await running.active(issued())


async def report_of(running):
    return await running.service.store.check()


def names(report):
    return {problem.name for problem in report.problems}


@pytest.mark.parametrize("options", [AWS, MEMORYSTORE, AIVEN], ids=["AWS", "Memorystore", "Aiven"])
async def test_commands_that_a_managed_service_removes_are_not_needed(start, tmp_path, options):
    server = Valkey(tmp_path / "managed", *options).start()
    try:
        running = await start(server)
        await serves(running)
        assert await readiness(running) == (200, set())
        report = await report_of(running)
        assert report.ok, report.problems
        assert report.checked["maxmemory-policy"] == "noeviction"
    finally:
        server.kill()


async def test_where_there_is_no_append_only_file_as_at_elasticache_persistence_is_unchecked(start, tmp_path):
    server = Valkey(tmp_path / "managed", *AWS, "--appendonly", "no").start()
    try:
        running = await start(server)
        await serves(running)
        report = await report_of(running)
        assert names(report) == {"unchecked"}
        assert report.problems[0].detail.startswith("the server does not say whether it saves snapshots;")
    finally:
        server.kill()


@pytest.mark.parametrize("options", [AWS, AIVEN], ids=["AWS", "Aiven"])
async def test_their_default_to_evict_is_reported(start, tmp_path, options):
    server = Valkey(tmp_path / "managed", *options, "--maxmemory-policy", "volatile-lru").start()
    try:
        report = await report_of(await start(server))
        assert names(report) == {"eviction_policy"}
    finally:
        server.kill()


@pytest.fixture
async def proxied(start, own_valkey):
    """Start a service behind a proxy with these replies."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(rules, **settings):
            proxy = await stack.enter_async_context(ReplyProxy.before(own_valkey.port))
            proxy.rules |= {name: encode(reply) for name, reply in rules.items()}
            return await start(proxy, **settings), proxy

        yield begin


async def test_replicas_count_where_the_role_has_no_offset_as_in_dragonfly(proxied):
    role = [b"master", [[b"127.0.0.1", b"6380", b"stable_sync"]]]
    running, proxy = await proxied({"ROLE": role, "WAIT": 1}, redis={"wait_replicas": 1})
    await serves(running)
    proxy.rules["ROLE"] = encode([b"master", []])
    await eventually(lambda: gives_none(running))
    proxy.rules["ROLE"] = encode([b"replica", b"127.0.0.1", b"6379", b"stable_sync"])
    await eventually(lambda: gives_none(running))
    proxy.rules["ROLE"] = encode(role)
    await eventually(lambda: answers(running))


async def gives_none(running):
    return not await answers(running)


async def test_sections_of_info_that_are_empty_as_at_upstash_are_unchecked(proxied):
    empty = {f"INFO {name}": f"# {name}\r\n".encode() for name in ("PERSISTENCE", "REPLICATION")}
    running, _ = await proxied(empty | {"CONFIG": RuntimeError("ERR Command is not available: 'CONFIG'")})
    await serves(running)
    report = await report_of(running)
    assert names(report) == {"unchecked"}
    [problem] = report.problems
    assert "append-only file" in problem.detail
    assert "Command is not available" in problem.detail
    assert report.checked["maxmemory-policy"] == "noeviction"


async def test_configuration_that_a_service_does_not_show_as_at_redis_cloud(proxied):
    running, _ = await proxied({"CONFIG": RuntimeError("ERR Unsupported CONFIG parameter")})
    await serves(running)
    assert (await report_of(running)).ok


async def test_a_service_without_scripts_as_sharded_oci_cache_is_named(start, own_valkey):
    user = RestrictedUser(own_valkey, "+@all", "-eval", "-evalsha")
    running = await start(user, ready=False)
    report = await report_of(running)
    assert {"EVAL", "EVALSHA"} <= {refusal.command for refusal in report.refused}
    assert "refused_commands" in names(report)
