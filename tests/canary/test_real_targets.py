"""Rounds with a real service, a real edge, and gateways that ask them."""

import asyncio
import json

import pytest
from aiohttp import ClientSession, TCPConnector, web
from aiohttp.test_utils import TestServer

from revoker.canary.asking import Answer, Target, Token
from revoker.config.schema import settle
from revoker.server.lifecycle import tls_context
from tests.canary.conftest import CANARY_SECRET, KEY, callers, guarded_by, issuers
from tests.rig import forge
from tests.rig.certificates import Authority
from tests.rig.servers import free_port
from tests.rig.service import SECRETS
from tests.rig.upstream import SECRET as EDGE_SECRET


def introspect(running, name="edge", **terms):
    return {"name": name, "url": running.url, **terms}


def page(url, name="gateway"):
    return {"name": name, "kind": "http", "url": url}


async def test_service_edge_and_gateway_refuse_what_was_revoked(
    service, edge, serve_page, configure, run_round
):
    settings = configure(
        service.url,
        introspect(service, "service"),
        introspect(edge),
        page(await serve_page(guarded_by(edge))),
    )
    outcomes = await run_round(settings)
    assert {name: outcome.failures for name, outcome in outcomes.items()} == {
        "service": (),
        "edge": (),
        "gateway": (),
    }, outcomes
    assert all(0 < outcome.seconds <= 60 for outcome in outcomes.values())


async def test_a_gateway_that_asks_nobody_is_late(service, serve_page, configure, run_round):
    async def open_to_all(_):
        return web.Response(text="the page")

    url = await serve_page(open_to_all)
    outcomes = await run_round(
        configure(service.url, page(url), introspect(service, "service"), timeout_seconds=5.0)
    )
    assert outcomes["gateway"].seconds is None
    assert [failure.reason for failure in outcomes["gateway"].failures] == ["late"]
    assert "status 200" in outcomes["gateway"].failures[0].problem


@pytest.mark.parametrize("status", [401, 403])
async def test_a_gateway_that_limits_the_canary_does_not_refuse_by_the_revocation(
    service, serve_page, configure, run_round, status
):
    asked = []

    async def limited(_):
        asked.append(status)
        return web.Response(status=200 if len(asked) == 1 else status)

    settings = configure(service.url, page(await serve_page(limited)), timeout_seconds=5.0)
    outcome = (await run_round(settings))["gateway"]
    assert outcome.seconds is None
    assert [failure.reason for failure in outcome.failures] == ["refuses_all"]
    assert f"status {status}" in outcome.failures[0].problem


async def test_a_target_that_is_down_is_unreachable_and_the_others_have_their_figure(
    service, configure, run_round
):
    down = {"name": "edge", "url": f"http://127.0.0.1:{free_port()}"}
    outcomes = await run_round(configure(service.url, down, introspect(service, "service")))
    assert outcomes["edge"].failures[0].reason == "unreachable"
    assert outcomes["service"].seconds is not None


async def test_a_gateway_without_a_verdict_neither_accepts_nor_refuses(
    service, serve_page, configure, run_round
):
    ask, seen = guarded_by(service), []

    async def sometimes(request):
        answer = await ask(request)
        seen.append(answer.status)
        return web.Response(status=503) if seen.count(401) in {1, 2} else answer

    settings = configure(service.url, page(await serve_page(sometimes)))
    outcome = (await run_round(settings))["gateway"]
    assert outcome.failures == ()
    assert seen.count(401) == 3

    async def never(_):
        return web.Response(status=503)

    outcome = (await run_round(configure(service.url, page(await serve_page(never)))))["gateway"]
    assert outcome.seconds is None
    assert [failure.reason for failure in outcome.failures] == ["no_verdict"]
    assert "before the revocation" in outcome.failures[0].problem


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, Answer.ACCEPTED),
        (204, Answer.ACCEPTED),
        (404, Answer.ACCEPTED),
        (401, Answer.REFUSED),
        (403, Answer.REFUSED),
        (302, Answer.NO_VERDICT),
        (400, Answer.NO_VERDICT),
        (429, Answer.NO_VERDICT),
        (502, Answer.NO_VERDICT),
    ],
)
async def test_what_the_status_of_a_page_means(serve_page, configure, status, answer):
    async def respond(request):
        assert request.headers["Authorization"] == "Bearer the.token"
        return web.Response(status=status, headers={"Location": "/canary"} if status == 302 else {})

    settings = configure("http://127.0.0.1:1", page(await serve_page(respond)))
    async with ClientSession() as http:
        (place,) = await Target(http, settings.targets[0], settings.upstream).places(1.0)
        reply = await place.ask(Token("the.token", "iss", "jti", 0), 60.0)
    assert reply.answer is answer


@pytest.mark.parametrize("body", [b"", b"{}", b'{"active": 1}', b'{"active": "no"}', b"[" * 70_000])
async def test_an_introspection_that_is_not_understood_is_no_refusal(configure, body):
    async def respond(_):
        return web.Response(body=body, content_type="application/json")

    application = web.Application()
    application.router.add_post("/introspect", respond)
    async with TestServer(application) as server, ClientSession() as http:
        settings = configure("http://127.0.0.1:1", {"name": "edge", "url": str(server.make_url(""))})
        (place,) = await Target(http, settings.targets[0], settings.upstream).places(1.0)
        reply = await place.ask(Token("the.token", "iss", "jti", 0), 60.0)
    assert reply.answer is Answer.NONE


async def test_a_revocation_that_the_service_refuses_gives_no_figure(service, tmp_path, configure, run_round):
    target = introspect(service, "service", secret_file=str(tmp_path / "canary.secret"))
    outcome = (await run_round(configure(service.url, target, secret="wrong.secret")))["service"]
    assert outcome.seconds is None
    assert [failure.reason for failure in outcome.failures] == ["not_revoked"]
    assert "status 401" in outcome.failures[0].problem


async def test_a_wrong_secret_at_a_target_is_no_refusal(service, tmp_path, configure, run_round):
    target = introspect(service, "service", secret_file=str(tmp_path / "wrong.secret"))
    outcome = (await run_round(configure(service.url, target)))["service"]
    assert outcome.seconds is None
    assert [failure.reason for failure in outcome.failures] == ["no_verdict"]
    assert "status 401" in outcome.failures[0].problem


async def test_a_token_that_is_refused_before_its_revocation_gives_no_figure(
    start, valkey, tmp_path, configure, run_round
):
    another = issuers(tmp_path, forge.ec_key("canary-2"))
    service = await start(valkey, callers=callers(), issuers=another)
    outcome = (await run_round(configure(service.url, introspect(service, "service"))))["service"]
    assert outcome.seconds is None
    assert [failure.reason for failure in outcome.failures] == ["not_accepted"]
    assert "before the revocation: inactive" in outcome.failures[0].problem


async def test_tokens_of_a_canary_are_worthless_to_callers_that_do_not_name_its_issuer(service):
    token = forge.token(
        KEY, iss="urn:revoker:canary", aud="urn:revoker:canary", sub="alice", jti="1", sid=forge.ABSENT
    )
    for secret, active in ((CANARY_SECRET, True), (SECRETS["gateway"], False), (EDGE_SECRET, True)):
        headers = {"Authorization": f"Bearer {secret}"}
        answer = await service.ask("POST", "/introspect", json={"token": token}, headers=headers)
        assert answer.json["active"] is active, secret
    headers = {"Authorization": f"Bearer {EDGE_SECRET}"}
    stated = {"sub": "bob", "jti": "2", "iat": 1_700_000_000, "exp": 4_000_000_000}
    answer = await service.ask("POST", "/introspect", json=stated, headers=headers)
    assert answer.status == 200, "there is one issuer for an edge that names none"
    answer = await service.post("/revoke-user", {"sub": "bob"}, caller="admin")
    assert answer.status == 200, "there is still one issuer for a caller that names none"


@pytest.mark.parametrize(
    ("host", "terms"), [("edges.internal", {}), ("edge-pods.internal", {"server_name": "edges.internal"})]
)
async def test_every_address_of_a_host_is_asked_by_the_name_in_its_certificate(
    tmp_path, configure, host, terms
):
    authority = Authority(tmp_path / "authority")
    listener = settle(
        {
            "server": authority.server_settings("edges.internal"),
            "sessions": {"issuer": "https://sessions.example.com", "audiences": ["a"]},
        },
        {},
    ).server
    asked = []

    async def respond(request):
        asked.append((request.host, request.transport.get_extra_info("sockname")[0]))
        return web.Response(body=json.dumps({"active": True}), content_type="application/json")

    application = web.Application()
    application.router.add_post("/introspect", respond)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    for address in ("127.0.0.2", "127.0.0.3"):
        await web.TCPSite(runner, address, port, ssl_context=tls_context(listener)).start()

    async def look_up(*wanted):
        assert wanted == (host, port)
        return ["127.0.0.2", "127.0.0.3"]

    target = {
        "name": "edges",
        "url": f"https://{host}:{port}",
        "ca_file": str(authority.certificate),
        "all_addresses": True,
        **terms,
    }
    settings = configure("http://127.0.0.1:1", target)
    try:
        async with ClientSession(connector=TCPConnector(force_close=True)) as http:
            places = await Target(http, settings.targets[0], settings.upstream, look_up).places(60.0)
            replies = await asyncio.gather(
                *(place.ask(Token("the.token", "iss", "jti", 0), 60.0) for place in places)
            )
    finally:
        await runner.cleanup()
    assert [reply.answer for reply in replies] == [Answer.ACCEPTED] * 2, replies
    assert sorted(asked) == [
        (f"edges.internal:{port}", "127.0.0.2"),
        (f"edges.internal:{port}", "127.0.0.3"),
    ]


async def test_the_addresses_of_a_host_are_looked_up(configure):
    settings = configure(
        "http://127.0.0.1:1", {"name": "edges", "url": "http://127.0.0.1:9", "all_addresses": True}
    )
    async with ClientSession() as http:
        assert len(await Target(http, settings.targets[0], settings.upstream).places(60.0)) == 1
