"""Replies of a form that the protocol does not have, as proxies and look-alikes of Redis give them."""

import asyncio
import contextlib
import types

import pytest
from aiohttp import encode_basic_auth

from revoker.errors import RevokerError
from revoker.store.transfer.exporting import Exporting
from revoker.store.transfer.importing import Importing
from revoker.store.transfer.records import Jti
from tests.rig import forge
from tests.rig.probes import eventually, has_problem, issued, metric, readiness
from tests.rig.reply_proxy import ReplyProxy, encode
from tests.rig.service import HANGS_S, SECRETS
from tests.rig.topologies import single_node_cluster
from tests.sessions.conftest import SESSIONS_ISSUER, sessions_section  # noqa: F401  # a fixture

REPLIES = {
    "nil": None,
    "an integer": 5,
    "a text": b"OK",
    "an empty list": [],
    "a list of one": [b"1"],
    "an odd list": [b"1", b"2", b"3", b"4", b"5"],
    "a nested list": [[b"master"], [b"1"], [b"2"]],
    "a list of nils": [None, None, None, None],
    "a list of integers": [1, 2, 3],
    "a refusal within a list": [RuntimeError("ERR no"), RuntimeError("ERR no")],
}
ANN = {"iss": forge.ISSUER, "sub": "ann"}
PATIENT = {"timeout": 2.0}
"""A machine that is slow by itself must not pass for a reply that is late."""

MASTER_WITH_ONE_REPLICA = encode([b"master", 1, [[b"127.0.0.1", b"1", b"1"]]])


@pytest.fixture
async def proxy(valkey):
    async with ReplyProxy.before(valkey.port) as made:
        yield made


async def status(running, path, body, caller="admin"):
    async with asyncio.timeout(HANGS_S):
        return (await running.post(path, body, caller=caller)).status


async def gives_verdicts(running):
    return await status(running, "/introspect", issued()) == 200


@pytest.mark.parametrize("command", ["ROLE", "TIME", "MGET"])
async def test_a_lookup_whose_reply_is_not_understood_gets_no_verdict_and_does_not_hang(
    start, proxy, command
):
    running = await start(proxy, redis=PATIENT)
    for name, reply in REPLIES.items():
        proxy.rules[command] = encode(reply)
        assert await status(running, "/introspect", issued()) == 503, name
        batch = {"tokens": [issued(), issued()]}
        assert await status(running, "/introspect/batch", batch) == 503, name
        proxy.rules.clear()
        await eventually(lambda: gives_verdicts(running))


async def test_a_role_with_fewer_elements_than_redis_has_does_not_hang(start, proxy):
    proxy.rules |= {"ROLE": MASTER_WITH_ONE_REPLICA, "WAIT": encode(1)}
    running = await start(proxy, redis=PATIENT | {"wait_replicas": 1})
    proxy.rules["ROLE"] = encode([b"master"])
    assert await status(running, "/introspect", issued()) == 503
    proxy.rules["ROLE"] = MASTER_WITH_ONE_REPLICA
    await eventually(lambda: gives_verdicts(running))


async def test_a_revocation_whose_reply_is_not_understood_is_answered_503(start, proxy):
    running = await start(proxy, redis=PATIENT)
    for name, reply in REPLIES.items():
        proxy.rules |= {"EVALSHA": encode(reply), "EVAL": encode(reply)}
        for path, body in {
            "/revoke": {"iss": forge.ISSUER, "jti": "a"},
            "/revoke-user": ANN,
            "/block-user": ANN,
            "/revoke-key": {"iss": forge.ISSUER, "kid": "k"},
        }.items():
            assert await status(running, path, body) == 503, (path, name)
        proxy.rules.clear()
        await eventually(lambda: confirmed(running))


async def test_a_confirmation_that_is_not_understood_confirms_nothing_and_does_not_hang(start, proxy):
    proxy.rules |= {"ROLE": MASTER_WITH_ONE_REPLICA, "WAIT": encode(1)}
    running = await start(proxy, redis=PATIENT | {"wait_replicas": 1})
    await eventually(lambda: confirmed(running))
    for name, reply in REPLIES.items():
        if isinstance(reply, int):
            continue  # so many replicas
        proxy.rules["WAIT"] = encode(reply)
        assert await status(running, "/revoke-user", ANN) == 503, name
    proxy.rules["WAIT"] = encode(1)
    await eventually(lambda: confirmed(running))


async def confirmed(running):
    return await status(running, "/revoke-user", ANN) == 200


async def test_a_login_whose_reply_is_not_understood_is_tried_again(start, proxy):
    running = await start(proxy, redis=PATIENT)
    for reply in REPLIES.values():
        proxy.rules |= {"PING": encode(reply), "INFO SERVER": encode(reply), "ROLE": encode(reply)}
        running.service.store.lookups.reconnect()
        assert await status(running, "/introspect", issued()) == 503
        proxy.rules.clear()
        await eventually(lambda: gives_verdicts(running))


@pytest.mark.parametrize("command", ["GET", "HGETALL", "HSCAN", "ZRANGE", "INFO", "CONFIG"])
async def test_the_watch_survives_replies_that_are_not_understood(start, proxy, command):
    running = await start(proxy, redis=PATIENT)
    watch = running.service.store.watch
    for reply in REPLIES.values():
        proxy.rules[command] = encode(reply)
        await watch.beat()
        proxy.rules.clear()
        await watch.beat()
        assert "unexpected_reply" not in watch.problems


async def test_a_reply_that_is_not_understood_is_a_problem_of_its_own(start, proxy):
    running = await start(proxy)
    proxy.rules["ZRANGE"] = encode(5)
    await eventually(lambda: has_problem(running, "unexpected_reply"))
    assert (await readiness(running))[0] == 200
    assert await metric(running, 'revoker_problem{problem="unexpected_reply"}') == 1
    proxy.rules.clear()
    await eventually(lambda: shows_none(running))


async def shows_none(running):
    return await readiness(running) == (200, set())


async def test_a_field_of_info_that_is_no_number_is_not_taken_for_a_good_one(start, proxy):
    running = await start(proxy)
    fields = b"# Stats\r\nrun_id:a\r\nevicted_keys:many\r\nuptime_in_seconds:-\r\naof_enabled:maybe\r\n"
    proxy.rules |= {
        f"INFO {section}": encode(fields)
        for section in ("SERVER", "MEMORY", "PERSISTENCE", "STATS", "REPLICATION")
    }
    problems = await running.service.store.dangers()
    assert "evicted" in problems["unchecked"]
    await running.service.store.watch.beat()


@pytest.fixture
async def cluster_of_one(tmp_path):
    """A proxy before the only node of a cluster, which is found at the proxy."""
    with single_node_cluster(tmp_path / "node") as server:
        async with ReplyProxy.before(server.port) as proxy:
            slots = [[0, 16383, [b"127.0.0.1", proxy.port, b"id"]]]
            proxy.rules["CLUSTER SLOTS"] = encode(slots)
            yield proxy


async def answers_of_all_endpoints(running, session):
    """The statuses of what reads or writes the store in its own way, by path."""
    form = {"grant_type": "refresh_token", "refresh_token": session.json["refresh_token"]}
    sid = session.json["sid"]
    sub = {"sub": "cid", "client_id": "app"}
    headers = {"Authorization": encode_basic_auth("admin", SECRETS["admin"])}

    async def get(path):
        return await running.ask("GET", path, headers=headers)

    async with asyncio.timeout(HANGS_S):
        answers = {
            "/revocations": await get("/revocations"),
            "/revocations of keys": await get("/revocations?kind=key"),
            "/explain": await running.post("/explain", issued()),
            "/users/": await get(f"/users/cid?iss={SESSIONS_ISSUER}"),
            "/sessions of a user": await get("/sessions?sub=cid"),
            "/sessions": await running.post("/sessions", sub),
            "/token": await running.post("/token", form=form, caller=None),
            "/elevate": await running.post(f"/sessions/{sid}/elevate", {"acr": "mfa"}),
            "DELETE": await running.ask("DELETE", f"/sessions/{sid}", headers=headers),
        }
    return {path: answer.status for path, answer in answers.items()}


@pytest.mark.parametrize(
    "command", ["SCAN", "MGET", "GET", "PTTL", "ZRANGEBYSCORE", "XREVRANGE", "TIME", "EVALSHA"]
)
async def test_no_endpoint_takes_a_reply_for_a_fault_of_its_own(
    start,
    proxy,
    sessions_section,  # noqa: F811
    command,
):
    running = await start(proxy, redis=PATIENT, sessions=sessions_section())
    await store_some_revocations(running)
    for name, reply in REPLIES.items():
        session = await running.post("/sessions", {"sub": "cid", "client_id": "app"})
        proxy.rules[command] = encode(reply)
        statuses = await answers_of_all_endpoints(running, session)
        assert 500 not in statuses.values(), (name, statuses)
        proxy.rules.clear()
        await eventually(lambda: gives_verdicts(running))
    session = await running.post("/sessions", {"sub": "cid", "client_id": "app"})
    statuses = await answers_of_all_endpoints(running, session)
    assert set(statuses.values()) <= {200, 201, 204}, statuses


async def store_some_revocations(running):
    for path, body in {
        "/revoke": {"iss": forge.ISSUER, "jti": "a"},
        "/revoke-user": ANN,
        "/revoke-key": {"iss": forge.ISSUER, "kid": "k"},
    }.items():
        assert await status(running, path, body) == 200, path


@pytest.mark.parametrize("command", ["SCAN", "DBSIZE", "GET", "MGET", "PTTL", "TIME", "EVAL"])
async def test_checks_exports_and_imports_fail_with_an_error_of_their_own(start, proxy, command):
    running = await start(proxy, redis=PATIENT)
    await store_some_revocations(running)
    store = running.service.store
    for reply in REPLIES.values():
        proxy.rules[command] = encode(reply)
        assert isinstance((await store.check()).ok, bool)
        with contextlib.suppress(RevokerError):
            exporting = Exporting(store)
            await exporting.size()
            async for _ in exporting.steps():
                pass
        with contextlib.suppress(RevokerError):
            importing = Importing(store)
            await importing.begin()
            await importing.in_effect([importing.change(Jti(iss=forge.ISSUER, jti="a"))])
        proxy.rules.clear()
    await eventually(lambda: gives_verdicts(running))
    lines = [line async for step in Exporting(store).steps() for line in step.lines]
    assert len(lines) == 3


@pytest.mark.parametrize("command", ["EVALSHA", "SCAN", "CLUSTER SLOTS"])
async def test_no_endpoint_of_a_cluster_takes_a_reply_for_a_fault_of_its_own(
    start,
    cluster_of_one,
    sessions_section,  # noqa: F811
    command,
):
    proxy = cluster_of_one
    rules = dict(proxy.rules)
    of_cluster = types.SimpleNamespace(url=f"redis+cluster://127.0.0.1:{proxy.port}")
    running = await start(of_cluster, redis=PATIENT, sessions=sessions_section())
    odd = REPLIES | {
        "no address": RuntimeError("MOVED 1"),
        "an address without a port": RuntimeError("MOVED 1 127.0.0.1"),
        "a slot too far": [[0, 99999, [b"127.0.0.1", proxy.port, b"id"]]],
        "a port that is none": [[0, 16383, [b"127.0.0.1", b"x", b"id"]]],
    }
    for name, reply in odd.items():
        session = await running.post("/sessions", {"sub": "cid", "client_id": "app"})
        proxy.rules[command] = encode(reply)
        running.service.store.source.reconnect()
        statuses = await answers_of_all_endpoints(running, session)
        assert 500 not in statuses.values(), (name, statuses)
        proxy.rules.clear()
        proxy.rules |= rules
        await eventually(lambda: gives_verdicts(running))


@pytest.mark.parametrize("command", ["ROLE", "TIME", "MGET"])
async def test_a_lookup_in_a_cluster_whose_reply_is_not_understood_does_not_hang(
    start, cluster_of_one, command
):
    proxy = cluster_of_one
    of_cluster = types.SimpleNamespace(url=f"redis+cluster://127.0.0.1:{proxy.port}")
    running = await start(of_cluster, redis=PATIENT)
    for name, reply in REPLIES.items():
        proxy.rules[command] = encode(reply)
        assert await status(running, "/introspect", issued()) == 503, name
        del proxy.rules[command]
        await eventually(lambda: gives_verdicts(running))
