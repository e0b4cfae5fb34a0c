"""What an edge answers while it knows too little, and how it says so."""

import asyncio
import re
import time

import pytest

from tests.edge.conftest import claims, is_inactive, is_ready, until
from tests.rig import forge
from tests.rig.edge import STALE_S


async def readiness(edge):
    answer = await edge.ask("GET", "/readyz")
    return answer.status, answer.json["status"], {problem["problem"] for problem in answer.json["problems"]}


async def forwarded(edge, token):
    """Status and headers of /forward-auth."""
    headers = {"X-Revoker-Key": "gateway-secret", "Authorization": f"Bearer {token}"}
    async with edge.http.get(edge.url + "/forward-auth", headers=headers) as response:
        return response.status, response.headers


async def test_too_old_means_no_verdict_anywhere_and_not_ready(start_edge, feed, clock):
    edge = await start_edge(feed)
    token = edge.token()
    await feed.close()
    clock.ahead += STALE_S
    for path, body in [("/introspect", {"token": token}), ("/introspect/batch", {"tokens": [claims()]})]:
        answer = await edge.post(path, body, caller="gateway")
        assert answer.error == (503, "temporarily_unavailable")
        assert int(answer.headers["Revoker-As-Of"]) > 0
    assert (await forwarded(edge, token))[0] == 503
    status, word, problems = await readiness(edge)
    assert (status, word) == (503, "stale")
    assert {"stale", "upstream_unreachable"} <= problems

    await feed.open()

    await until(lambda: is_ready(edge), "it is ready again")
    assert feed.requests.count("/feed/snapshot") == 1, "it continues from its cursor"
    assert await edge.active(token)
    status, headers = await forwarded(edge, token)
    assert status == 200
    assert int(headers["Revoker-As-Of"]) > 0


async def test_an_upstream_that_cannot_read_its_store_keeps_no_edge_fresh(start_edge, feed, clock):
    edge = await start_edge(feed)
    feed.reads = False
    clock.ahead += STALE_S
    answer = await edge.post("/introspect", claims(), caller="gateway")
    assert answer.status == 503
    feed.reads = True
    await until(lambda: is_ready(edge), "it is ready again")


async def test_an_edge_that_may_ask_asks(start_edge, feed, clock):
    edge = await start_edge(feed, upstream={"beyond": "ask"})
    token, stated = edge.token(), claims()
    await until(lambda: edge.service.mirror.fresh, "it need not ask")
    assert await edge.active(token)
    assert not feed.asked
    feed.reads = False
    clock.ahead += STALE_S
    assert (await readiness(edge))[:2] == (200, "degraded")
    assert await edge.active(token)
    assert await edge.active(stated)
    form = await edge.post("/introspect", form={"token": token}, caller="gateway")
    assert form.json["active"]
    assert (await forwarded(edge, token))[0] == 200
    assert len(feed.asked) == 4
    feed.active = False
    assert not await edge.active(token)
    assert not await edge.active(stated)
    assert (await forwarded(edge, token))[0] == 401
    asked = len(feed.asked)
    foreign = claims(aud="api://billing")
    assert not await edge.active(foreign, caller="orders-only")
    assert not await edge.active(edge.token(aud="api://elsewhere"))
    assert not await edge.active(forge.token(forge.rsa_key("nobody"), jti="1"))
    assert len(feed.asked) == asked
    await feed.close()
    assert (await edge.post("/introspect", stated, caller="gateway")).status == 503
    assert (await forwarded(edge, token))[0] == 503


async def test_an_edge_does_not_ask_before_its_first_snapshot(start_edge, feed):
    feed.sends_snapshots.clear()
    edge = await start_edge(feed, ready=False, upstream={"beyond": "ask"})
    for body in (claims(), claims(exp=1), {"token": edge.token()}):
        assert (await edge.post("/introspect", body, caller="gateway")).status == 503
    assert (await forwarded(edge, edge.token()))[0] == 503
    assert not feed.asked
    feed.sends_snapshots.set()
    await until(lambda: is_ready(edge), "it is ready")
    assert await edge.active(claims())


async def test_what_was_asked_is_not_dated_by_what_arrives_meanwhile(start_edge, feed, clock):
    edge = await start_edge(feed, upstream={"beyond": "ask"})
    token = claims()
    feed.reads = False
    clock.ahead += STALE_S
    feed.answers.clear()
    asked = asyncio.create_task(edge.post("/introspect", token, caller="gateway"))
    await until(lambda: feed.asked, "it asks")
    revoked_at = feed.now
    feed.jti(token["jti"], issuer=forge.ISSUER)
    feed.reads = True
    await until(lambda: edge.service.mirror.as_of > revoked_at, "the revocation arrives")
    feed.answers.set()
    answer = await asked
    assert answer.json["active"]
    assert int(answer.headers["Revoker-As-Of"]) <= revoked_at


async def test_an_edge_that_asks_applies_its_own_rules_as_well(start_edge, feed, clock):
    """The service may be configured later than the edge: that must not allow a key or a lifetime."""
    rules = {"revoked_kids": ["stolen"], "max_token_lifetime": 3600}
    edge = await start_edge(feed, upstream={"beyond": "ask"}, main=rules)
    feed.reads = False
    clock.ahead += STALE_S
    await until(lambda: not edge.service.mirror.fresh, "it must ask")
    now = int(time.time())
    stolen, long = {"header": {"kid": "stolen"}}, {"iat": now, "exp": now + 7200}
    assert await edge.active({"claims": claims(), "header": {"kid": "main-1"}})
    assert await edge.active(edge.token())
    asked = len(feed.asked)
    assert asked == 2
    assert not await edge.active({"claims": claims(), **stolen})
    assert not await edge.active({"claims": claims(**long), "header": {"kid": "main-1"}})
    assert not await edge.active(edge.token(**long))
    assert not await edge.active(claims(exp=now - 600))


async def test_an_edge_that_asks_does_not_allow_a_key_that_it_refuses(start_edge, feed, clock):
    edge = await start_edge(feed, upstream={"beyond": "ask"}, main={"revoked_kids": ["main-1"]})
    feed.reads = False
    clock.ahead += STALE_S
    await until(lambda: not edge.service.mirror.fresh, "it must ask")
    assert not await edge.active(edge.token())
    assert (await forwarded(edge, edge.token()))[0] == 401


async def test_the_stores_clock_may_be_set(start_edge, feed):
    edge = await start_edge(feed)
    token = claims()
    for step in (20_000, -25_000):
        feed.ahead += step
        await until(lambda: abs(edge.service.mirror.now - feed.now) < 2_000, "the step is noticed")
        await until(lambda: is_ready(edge), "it answers")
        assert await edge.active(token)
    feed.jti(token["jti"], issuer=forge.ISSUER)
    await until(lambda: is_inactive(edge, token), "the revocation arrives")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/revoke"),
        ("POST", "/revoke-user"),
        ("POST", "/revoke-claim"),
        ("POST", "/block-user"),
        ("POST", "/revoke-key"),
        ("POST", "/explain"),
        ("POST", "/token"),
        ("POST", "/sessions"),
        ("POST", "/backchannel-logout"),
        ("GET", "/feed"),
        ("GET", "/feed/snapshot"),
        ("GET", "/feed/consumers"),
    ],
)
async def test_what_only_the_service_does_is_refused_with_its_address(start_edge, feed, method, path):
    edge = await start_edge(feed, ready=False)
    answer = await edge.ask(method, path)
    assert answer.error == (404, "invalid_request")
    assert f"{feed.url}{path}" in answer.json["error_description"]


async def test_metrics_say_how_old_it_is_and_whom_it_follows(start_edge, feed, another_feed):
    edge = await start_edge(feed, another_feed)
    feed.jti("1", issuer=forge.ISSUER)

    async def metrics():
        async with edge.http.get(edge.url + "/metrics") as response:
            text = await response.text()
        return {name: float(value) for name, value in re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE)}

    async def counted():
        return (await metrics())['revoker_edge_entries{kind="token"}'] == 1

    await until(counted, "the entry is counted")
    seen = await metrics()
    assert 0 <= seen["revoker_edge_staleness_seconds"] < 60
    assert seen['revoker_edge_connected{upstream="0"}'] == 1
    assert seen['revoker_edge_connected{upstream="1"}'] == 0
    assert seen['revoker_edge_reloads_total{cause="first"}'] == 1
