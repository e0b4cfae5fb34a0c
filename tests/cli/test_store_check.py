"""`revoker store check` and `revoker store rights`: what an operator reads and types."""

import asyncio
import contextlib
import json
import re
from pathlib import Path

import pytest

from revoker.store import rights
from revoker.store.source import ServerSettings
from tests.cli.test_export_and_import import Revoker, prefix, valkey  # noqa: F401  # fixtures
from tests.cli.test_odd_stores import reached_by, remember
from tests.rig import feed, forge
from tests.rig.probes import RestrictedUser, issued, readiness, revoke
from tests.rig.reply_proxy import ReplyProxy, encode
from tests.rig.servers import Valkey, free_port
from tests.rig.topologies import single_node_cluster, until
from tests.sessions.conftest import sessions_section  # noqa: F401  # a fixture
from tests.store.test_sentinels import naming


@pytest.fixture
def revoker(tmp_path, valkey, prefix):  # noqa: F811
    return Revoker(tmp_path, valkey, prefix)


def checked(revoker):
    """Status, and the report as JSON."""
    status, out, err = revoker.run("store", "check", "--json")
    assert err == ""
    return status, json.loads(out)


def names(report):
    return {problem["name"] for problem in report["problems"]}


def test_a_sound_store_is_ok_and_the_report_says_what_was_seen(revoker):
    status, out, err = revoker.run("store", "check")
    assert (status, err) == (0, "")
    assert out.endswith("\nok\n")
    for line in ("maxmemory-policy: noeviction", "append-only file: yes", "replicas: 0", "evicted keys: 0"):
        assert f"  {line}\n" in out
    status, report = checked(revoker)
    assert (status, report["ok"], report["problems"], report["refused"]) == (0, True, [], [])
    assert report["epoch"]["finding"] == "new"
    assert re.fullmatch(r"(valkey|redis) \d+\.\d+\.\d+", report["servers"][0])


def test_a_check_leaves_nothing_in_the_store(revoker):
    with revoker.valkey.client() as client:
        keys = set(client.scan_iter("*", 1000))
        revoker.run("store", "check")
        left = set(client.scan_iter("*", 1000)) - keys
        assert all(0 < client.pttl(key) <= 10_000 for key in left)


def test_every_problem_says_what_it_means_and_what_to_do(revoker, tmp_path):
    with revoker.valkey.client() as client:
        client.config_set("maxmemory-policy", "volatile-ttl")
        client.config_set("appendonly", "no")
    remember(revoker, "idp")
    status, report = checked(revoker)
    assert (status, names(report)) == (1, {"eviction_policy", "no_persistence", "settings_conflict"})
    assert all(problem["means"] and problem["do"] for problem in report["problems"])
    _, out, _ = revoker.run("store", "check")
    assert "do: `CONFIG SET maxmemory-policy noeviction`" in out
    assert out.endswith("problems: 3\n")


def test_a_store_without_an_epoch_says_how_it_is_declared(revoker):
    with revoker.valkey.client() as client:
        client.flushall()
    status, report = checked(revoker)
    assert (status, names(report)) == (1, {"no_epoch"})
    assert "revoker store init" in report["problems"][0]["do"]


def test_a_store_that_is_not_there_is_a_problem_and_no_traceback(revoker):
    reached_by(revoker, f"redis://:hidden@127.0.0.1:{free_port()}/0")
    status, out, err = revoker.run("store", "check")
    assert (status, err) == (1, "")
    assert "unreachable: the store can't be reached" in out
    assert "hidden" not in out


USELESS = ("TIME", "MGET", "EVAL", "INFO", "ROLE", "CONFIG")


async def test_replies_of_any_form_end_the_check_with_a_status_and_no_traceback(revoker):
    odd = [[b"master", 1, [], b"x", 5], [[b"master"]], 5, None, b"evicted_keys:many\r\n"]
    async with ReplyProxy.before(revoker.valkey.port) as proxy:
        reached_by(revoker, proxy.url)
        for place, command in enumerate(USELESS):
            proxy.rules = {command: encode(odd[place % len(odd)])}
            status, out, err = await asyncio.to_thread(revoker.run, "store", "check", "--json")
            assert "Traceback" not in err
            assert all(line.startswith("{") for line in err.splitlines())  # the log
            assert json.loads(out)["ok"] is (status == 0)


async def test_a_server_whose_role_could_not_be_read_is_not_called_a_primary(revoker):
    async with ReplyProxy.before(revoker.valkey.port) as proxy:
        reached_by(revoker, proxy.url)
        proxy.rules = {"MGET": b"-LOADING the dataset in memory\r\n"}
        status, report = await asyncio.to_thread(checked, revoker)
    assert status == 1
    assert "refused_for_now" in names(report)
    assert report["checked"]["reachable, logged in"] == "yes"
    assert not any("primary" in what for what in report["checked"])


async def test_a_command_at_which_a_proxy_ends_the_connection_is_refused_for_good(revoker):
    async with ReplyProxy.before(revoker.valkey.port) as proxy:
        reached_by(revoker, proxy.url)
        proxy.rules = {"XREAD": b""}
        status, report = await asyncio.to_thread(checked, revoker)
    assert (status, names(report)) == (1, {"refused_commands"})
    assert [(one["command"], one["words"]) for one in report["refused"]] == [
        ("XREAD", "the server ended the connection")
    ]


FORBIDDEN = {
    "evalsha": "EVALSHA",
    "hgetall": "HGETALL in scripts",
    "incrby": "INCRBY in scripts",
    "zrange": "ZRANGE",
    "wait": "WAIT",
    "mget": "MGET",
}
"""Rights, and how the report names the command that cannot be used without each."""


def test_every_command_that_serving_needs_is_tried_and_named(revoker):
    user = RestrictedUser(revoker.valkey, "+@all", *(f"-{name}" for name in FORBIDDEN))
    path = revoker.folder / "revoker.toml"
    path.write_text(path.read_text().replace("[redis]", "[redis]\nwait_replicas = 1"))
    reached_by(revoker, user.url)
    status, report = checked(revoker)
    assert status == 1
    assert "refused_commands" in names(report)
    by_command = {refusal["command"]: refusal for refusal in report["refused"]}
    assert set(FORBIDDEN.values()) <= set(by_command)
    for refusal in by_command.values():
        assert "permission" in refusal["words"] or "can't run this command" in refusal["words"]
        assert refusal["needed_for"]
    _, out, _ = revoker.run("store", "check")
    for command, refusal in by_command.items():
        assert f"  {command}: {refusal['words']} (needed for " in out


@pytest.mark.parametrize(("forbidden", "named"), [("-eval", "EVAL"), ("-hscan -hgetall", "HSCAN or HGETALL")])
def test_what_has_no_substitute_is_named(revoker, forbidden, named):
    reached_by(revoker, RestrictedUser(revoker.valkey, "+@all", *forbidden.split(" ")).url)
    status, report = checked(revoker)
    assert status == 1
    assert named in {refusal["command"] for refusal in report["refused"]}


def test_a_renamed_command_is_named_too(tmp_path, prefix):  # noqa: F811
    server = Valkey(tmp_path / "server", "--rename-command", "EVALSHA", "", "--rename-command", "CONFIG", "")
    try:
        server.start()
        with server.client() as client:
            client.set(f"{prefix}:epoch", "e 0 0 new")
        revoker = Revoker.__new__(Revoker)
        revoker.folder, revoker.valkey, revoker.prefix = tmp_path, server, prefix
        revoker.configure()
        status, report = checked(revoker)
        assert status == 1
        assert [refusal["command"] for refusal in report["refused"]] == ["EVALSHA"]
        assert "unknown command" in report["refused"][0]["words"]
    finally:
        server.kill()


def forms_in(lua, call):
    """The commands that a script runs, with the options of each."""
    calls = re.findall(rf"{call}\('([A-Z]+)'((?:[^()]|\([^()]*\))*)\)", lua)
    return {(name, tuple(re.findall(r"'([A-Z]+|~)'", rest))) for name, rest in calls}


def test_the_trial_runs_every_command_that_a_script_uses_in_every_form():
    folder = Path(rights.__file__).parent / "lua"
    used = set().union(*(forms_in(path.read_text(), r"redis\.call") for path in folder.glob("*.lua")))
    tried = forms_in((folder / "try_commands.lua").read_text(), r"try(?:_on_key)?")
    assert ("SET", ("NX", "PXAT")) in used
    assert used <= tried
    assert {name for name, _ in used} == {name for name, _ in tried}


def test_a_replica_is_named_as_one_and_no_right_is_asked_for(revoker, tmp_path):
    replica = Valkey(tmp_path / "replica", "--replicaof", f"127.0.0.1 {revoker.valkey.port}").start()
    try:
        reached_by(revoker, replica.url)
        status, report = checked(revoker)
        assert (status, names(report), report["refused"]) == (1, {"not_primary"}, [])
    finally:
        replica.kill()


def test_a_full_server_is_full_and_lacks_no_right(tmp_path, own_valkey, prefix):  # noqa: F811
    revoker = Revoker(tmp_path, own_valkey, prefix)
    with own_valkey.client() as client:
        client.config_set("maxmemory", 1)
    status, report = checked(revoker)
    assert (status, names(report), report["refused"]) == (1, {"refused_for_now"}, [])
    assert "SET: OOM command not allowed" in report["problems"][0]["detail"]


def test_a_repair_that_goes_on_is_a_problem(revoker):
    with revoker.valkey.client() as client:
        client.set(f"{revoker.prefix}:epoch", "e 0 0 repairing")
    status, report = checked(revoker)
    assert (status, names(report)) == (1, {"data_loss_repairing"})


def test_a_replica_that_does_not_confirm_is_noticed(tmp_path, own_valkey, prefix):  # noqa: F811
    """It follows the primary, but has nothing on disk."""
    replica = Valkey(
        tmp_path / "replica", "--replicaof", f"127.0.0.1 {own_valkey.port}", "--appendonly", "no"
    )
    replica.start()
    try:
        revoker = Revoker(tmp_path, own_valkey, prefix)
        path = revoker.folder / "revoker.toml"
        with_replica = path.read_text().replace("[redis]", "[redis]\nwait_replicas = 1")
        path.write_text(with_replica)
        with own_valkey.client() as client:
            until(lambda: client.info("replication")["connected_slaves"] == 1, "the replica follows")
            until(lambda: client.wait(1, 100) == 1, "the replica confirms")
        status, report = checked(revoker)
        assert (status, report["checked"]["a write that replicas confirm"]) == (0, "yes")
        path.write_text(with_replica.replace("wait_replicas = 1", "wait_replicas = 1\nwait_fsync = true"))
        status, report = checked(revoker)
        assert (status, names(report)) == (1, {"not_confirmed"})
    finally:
        replica.kill()


async def test_keys_of_several_slots_are_tried_in_scripts_too(tmp_path, prefix):  # noqa: F811
    """A cluster that does not say that it is one."""
    with single_node_cluster(tmp_path / "node") as server:
        async with ReplyProxy.before(server.port) as proxy:
            proxy.rules["INFO SERVER"] = encode(b"# Server\r\nredis_mode:standalone\r\n")
            revoker = Revoker.__new__(Revoker)
            revoker.folder, revoker.valkey, revoker.prefix = tmp_path, server, prefix
            revoker.configure()
            reached_by(revoker, proxy.url)
            status, report = await asyncio.to_thread(checked, revoker)
    assert status == 1
    words = {refusal["command"]: refusal["words"] for refusal in report["refused"]}
    assert words.keys() >= {"MGET", "EVAL"}
    assert words["EVAL"].startswith("CROSSSLOT")


async def test_a_sentinel_that_is_down_or_refuses_is_a_problem_although_most_name_the_primary(revoker):
    refused = encode(RuntimeError("NOPERM this user has no permissions"))
    async with contextlib.AsyncExitStack() as stack:
        proxies = []
        for _ in range(2):
            proxies.append(await stack.enter_async_context(ReplyProxy.before(revoker.valkey.port)))
            proxies[-1].rules |= naming(revoker.valkey.port)
        absent = free_port()
        hosts = ",".join(f"127.0.0.1:{port}" for port in (*(proxy.port for proxy in proxies), absent))
        reached_by(revoker, f"redis+sentinel://{hosts}/main")
        status, report = await asyncio.to_thread(checked, revoker)
        assert (status, names(report)) == (1, {"sentinels"})
        detail = report["problems"][0]["detail"]
        assert detail == f"the Sentinel at 127.0.0.1:{absent} can't be reached"
        proxies[0].rules["SENTINEL MASTER"] = refused
        _, report = await asyncio.to_thread(checked, revoker)
        detail = report["problems"][0]["detail"]
        assert f"the Sentinel at 127.0.0.1:{proxies[0].port} does not describe the primary" in detail


async def test_the_rights_that_are_printed_are_enough_for_everything(start, revoker, sessions_section):  # noqa: F811

    status, out, _ = revoker.run("store", "rights")
    assert status == 0
    [line] = [text for text in out.splitlines() if text.startswith("ACL SETUSER revoker ")]
    assert "+@" not in line
    with revoker.valkey.client() as client:
        client.execute_command(*line.replace(">PASSWORD", ">secret").split(" "))
    reached_by(revoker, f"redis://revoker:secret@127.0.0.1:{revoker.valkey.port}/0")
    status, report = await asyncio.to_thread(checked, revoker)
    assert (status, report["problems"]) == (0, [])
    user = type("Server", (), {"url": f"redis://revoker:secret@127.0.0.1:{revoker.valkey.port}/0"})
    running = await start(
        user,
        prefix=revoker.prefix,
        new=False,
        sessions=sessions_section(max_sessions_per_user=1),
    )
    ann = {"iss": forge.ISSUER, "sub": "ann"}
    for path, body in {
        "/revoke-user": ann | {"except_sid": "s"},
        "/revoke-session": {"iss": forge.ISSUER, "sid": "s"},
        "/revoke-client": {"iss": forge.ISSUER, "client_id": "web"},
        "/revoke-claim": {"iss": "https://other.example.com", "claim": "grant_id", "value": "1"},
        "/revoke-issuer": {"iss": "https://other.example.com"},
        "/revoke-key": {"iss": forge.ISSUER, "kid": "k"},
        "/block-user": ann,
        "/unblock-user": ann,
    }.items():
        answer = await running.post(path, body)
        assert answer.status == 200, (path, answer.body)
    token = issued(sub="bob")
    assert await running.active({"claims": token, "header": {"kid": "main-1"}})
    assert (await revoke(running, token)).status == 200
    assert not await running.active({"claims": token, "header": {"kid": "main-1"}})
    for _ in range(2):
        session = await running.post("/sessions", {"sub": "cid", "client_id": "app"})
        assert session.status == 201, session.body
    form = {"grant_type": "refresh_token", "refresh_token": session.json["refresh_token"]}
    refreshed = await running.post("/token", form=form, caller=None)
    assert refreshed.status == 200, refreshed.body
    sid = session.json["sid"]
    elevated = await running.post(f"/sessions/{sid}/elevate", {"acr": "mfa"})
    assert elevated.status == 200, elevated.body
    consumer = feed.Consumer(await feed.snapshot(running))
    async with feed.stream(running, consumer.cursor) as stream:
        consumer.take(await stream.until("fresh"))
    running.service.store.lookups.reconnect()
    await running.service.store.watch.beat()
    assert await readiness(running) == (200, set())
    for arguments in (("export",), ("keys", "forget", "k"), ("cutoff", "lift", "client", "web")):
        status, _, err = await asyncio.to_thread(revoker.run, *arguments)
        assert status in {0, 1}, err
        assert "NOPERM" not in err


def test_the_rights_follow_the_configuration():
    plain = set(rights.commands_of(ServerSettings("redis://h", 1, 0, wait_fsync=False)))
    assert not plain & {"wait", "waitaof", "cluster|slots"}
    confirmed = set(rights.commands_of(ServerSettings("redis://h", 1, 1, wait_fsync=False)))
    assert confirmed - plain == {"wait"}
    on_disk = set(rights.commands_of(ServerSettings("redis://h", 1, 1, wait_fsync=True)))
    assert on_disk - plain == {"waitaof"}
    clustered = set(rights.commands_of(ServerSettings("redis+cluster://h", 1, 0, wait_fsync=False)))
    assert clustered - plain == {"cluster|info", "cluster|nodes", "cluster|slots", "asking"}


def test_the_rights_of_sentinels_are_printed_where_there_are_any(revoker):
    reached_by(revoker, "redis+sentinel://app@h1:26379,h2:26379,h3:26379/main")
    status, out, _ = revoker.run("store", "rights")
    assert status == 0
    assert "ACL SETUSER app reset on >PASSWORD resetchannels ~" in out
    assert "+sentinel|get-master-addr-by-name +sentinel|master" in out
