"""Servers and proxies that refuse ``ROLE``: ``INFO replication`` shows whether a server is the primary."""

import asyncio
import os
import types

import pytest

from revoker.store.rights import commands_of, sentinel_commands
from revoker.store.source import ServerSettings
from tests.rig.network import Network
from tests.rig.probes import RestrictedUser, answers, eventually, has_problem, issued, readiness, revoke
from tests.rig.reply_proxy import ReplyProxy, encode
from tests.rig.servers import Valkey
from tests.rig.topologies import NO_FAILOVER, Cluster, Replicated, Sentinels
from tests.store.conftest import store_on


async def problem(revoker, name):
    await revoker.service.store.watch.beat()
    return revoker.service.store.problems.get(name, "")


async def gives_no_verdict(revoker):
    return (await revoker.post("/introspect", issued(), caller="gateway")).status == 503


async def revokes(revoker):
    """Whether it gives verdicts and revokes; a token is inactive as soon as it is revoked."""
    token = issued()
    if (await revoke(revoker, token)).status != 200:
        return False
    answers = [await revoker.post("/introspect", claims, caller="gateway") for claims in (token, issued())]
    if any(answer.status != 200 for answer in answers):
        return False
    assert [answer.json["active"] for answer in answers] == [False, True]
    return True


async def test_a_user_who_may_not_ask_for_the_role_gets_verdicts(start, own_valkey):
    revoker = await start(RestrictedUser(own_valkey, "+@all", "-role"))
    assert await revokes(revoker)
    assert await readiness(revoker) == (200, set())


async def test_a_server_without_the_command_gives_verdicts(start, tmp_path):
    server = Valkey(tmp_path / "renamed", "--rename-command", "ROLE", "").start()
    try:
        assert await revokes(await start(server))
    finally:
        server.kill()


async def test_a_replica_gives_no_verdicts_whichever_command_shows_it(start, own_valkey):
    revoker = await start(RestrictedUser(own_valkey, "+@all", "-role"))
    with own_valkey.client() as client:
        client.replicaof("127.0.0.1", "1")
        assert await gives_no_verdict(revoker)
        await eventually(lambda: has_problem(revoker, "store_not_primary"))
        client.replicaof("NO", "ONE")
    await eventually(lambda: answers(revoker))


@pytest.mark.parametrize("again", ["-role", "-info"])
async def test_rights_that_change_while_it_runs_are_noticed(start, own_valkey, again):
    user = RestrictedUser(own_valkey, "+@all", "-role" if again == "-info" else "+role")
    revoker = await start(user)
    user.allow("+role", again)
    await eventually(lambda: answers(revoker))
    assert await revokes(revoker)


async def test_a_user_who_may_ask_neither_gets_no_verdicts_and_both_commands_are_named(start, own_valkey):
    declaring = store_on(own_valkey, "rv")
    assert await declaring.init()
    await declaring.close()
    user = RestrictedUser(own_valkey, "+@all", "-role", "-info")
    revoker = await start(user, prefix="rv", new=False, ready=False)
    message = await problem(revoker, "store_unreachable")
    assert "ROLE (NOPERM " in message
    assert "INFO replication (NOPERM " in message
    assert await gives_no_verdict(revoker)
    user.allow("+role")
    await eventually(lambda: answers(revoker))


async def test_a_reply_without_a_role_is_none(start, own_valkey):
    declaring = store_on(own_valkey, "rv")
    assert await declaring.init()
    await declaring.close()
    async with ReplyProxy.before(own_valkey.port) as proxy:
        proxy.rules |= {
            "ROLE": encode(RuntimeError("ERR no")),
            "INFO REPLICATION": encode(b"# Replication\r\n"),
        }
        revoker = await start(proxy, prefix="rv", new=False, ready=False)
        assert "INFO replication (it has no role)" in await problem(revoker, "store_unreachable")
        proxy.rules["INFO REPLICATION"] = encode(b"role:slave\r\nconnected_slaves:0\r\n")
        await eventually(lambda: has_problem(revoker, "store_not_primary"))


async def test_replicas_confirm_where_only_info_shows_them(start, tmp_path):
    with Network() as network:
        servers = Replicated(network, tmp_path / "replicated", replicas=1)
        try:
            servers.start()
            user = RestrictedUser(servers.primary, "+@all", "-role")
            revoker = await start(user, redis={"wait_replicas": 1})
            await eventually(lambda: revokes(revoker))  # replicas count as fresh for two seconds
            servers.replicas[0].kill()
            await eventually(lambda: gives_no_verdict(revoker))
        finally:
            servers.stop()


async def test_the_rights_for_a_cluster_are_enough_there_even_without_the_role(start, tmp_path):
    with Network() as network:
        cluster = Cluster(network, tmp_path / "cluster", primaries=2, replicas=0, options=NO_FAILOVER)
        try:
            cluster.start()
            hosts = cluster.url.partition("://")[2]
            of_user = types.SimpleNamespace(url=f"redis+cluster://app:secret@{hosts}")
            rules = store_on(of_user, "rv").acl_rules().replace(" +role", "").split(" ")
            for node in cluster.nodes:
                with node.client() as client:
                    client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">secret", *rules)
            running = await start(of_user, prefix="rv")
            assert await revokes(running)
            report = await running.service.store.check()
            assert report.ok, report.problems
            assert len(report.servers) == 2
        finally:
            cluster.stop()


async def test_the_printed_rights_are_enough_behind_sentinels_with_a_user_of_their_own(start, tmp_path):
    """They fail over, and the servers show their role by ``INFO`` alone."""
    with Network() as network:
        network.assign_process(os.getpid(), "service")
        servers = Sentinels(network, tmp_path / "servers", replicas=1)
        try:
            servers.start()
            settings = ServerSettings(servers.url, 1, 1, wait_fsync=False)
            for node in servers.nodes:
                RestrictedUser(node, "-@all", *(f"+{name}" for name in commands_of(settings)), "-role")
            for sentinel in servers.sentinels:
                with sentinel.client() as client:
                    allowed = [f"+{name}" for name in sentinel_commands()]
                    client.execute_command("ACL", "SETUSER", "watcher", "on", ">sentinel", "-@all", *allowed)
            url = servers.url.replace("://", "://app:secret@")
            access = {"sentinel_username": "watcher", "sentinel_password": "sentinel"}
            revoker = await start(types.SimpleNamespace(url=url), redis={"wait_replicas": 1, **access})
            await eventually(lambda: revokes(revoker))  # likewise
            report = await revoker.service.store.check()
            assert report.ok, report.problems
            await asyncio.to_thread(servers.fail_over, servers.primary)
            await eventually(lambda: answers(revoker))
        finally:
            servers.stop()
