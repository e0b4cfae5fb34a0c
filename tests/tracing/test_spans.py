"""The spans of a service, by what clients send."""

import asyncio
import io
import json

import aiohttp
import grpc
import pytest
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id

from revoker import logs
from tests.rig import forge
from tests.rig.ext_authz import KEY, METHOD, Asker, listening
from tests.rig.servers import free_port
from tests.rig.service import HANGS_S, SECRETS

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
STORE_DOWN = "revoker.errors.StoreUnavailable"


@pytest.fixture
async def traced(start, valkey, memory):
    running = await start(valkey, spans=memory.spans)
    memory.clear()
    return running


async def introspect(running, token=None, headers=None):
    body = {"token": token or running.token()}
    return await running.post("/introspect", body, caller="gateway", headers=headers)


async def test_a_request_has_a_span_and_its_round_trip_is_a_child_of_it(traced, memory):
    await introspect(traced)

    request, round_trip = memory.only("POST /introspect"), memory.only("MGET")
    assert (request.kind, round_trip.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert request.parent is None
    assert round_trip.parent.span_id == request.context.span_id
    assert round_trip.context.trace_id == request.context.trace_id
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/introspect",
        "http.response.status_code": 200,
        "url.scheme": "http",
    }
    assert dict(round_trip.attributes) == {
        "db.system.name": "redis",
        "db.operation.name": "MGET",
        "revoker.lookups": 1,
    }
    assert len(memory.ended()) == 2
    assert {span.status.status_code for span in memory.ended()} == {StatusCode.UNSET}


async def test_a_traceparent_is_continued(traced, memory):
    await introspect(traced, headers={"traceparent": SAMPLED, "tracestate": "vendor=1"})

    request = memory.only("POST /introspect")
    assert format_trace_id(request.context.trace_id) == TRACE
    assert request.parent.span_id == int(PARENT, 16)
    assert request.parent.is_remote
    assert request.context.trace_state["vendor"] == "1"
    assert memory.only("MGET").context.trace_id == request.context.trace_id


@pytest.mark.parametrize(
    "sent",
    [
        [""],
        ["00"],
        ["x" * 100_00],
        [f"00-{TRACE}-{PARENT}"],
        [f"00-{TRACE}-{PARENT}-01-more"],
        [f"ff-{TRACE}-{PARENT}-01"],
        [f"00-{'0' * 32}-{PARENT}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE.upper()}-{PARENT}-01"],
        [f"00-{TRACE[:-1]}g-{PARENT}-01"],
        [f"00-{TRACE}-{PARENT}-0"],
        [f"00-{TRACE}-{PARENT}-01é"],
        [f"01-{TRACE}-{PARENT}-01-{'x' * 500}"],
        [SAMPLED, SAMPLED],
    ],
)
async def test_an_invalid_traceparent_is_ignored(traced, memory, sent):
    body = {"token": traced.token()}
    secret = aiohttp.encode_basic_auth("gateway", SECRETS["gateway"])
    headers = [("Authorization", secret), *(("traceparent", value) for value in sent)]
    answer = await traced.ask("POST", "/introspect", json=body, headers=headers)

    assert answer.json["active"] is True
    request = memory.only("POST /introspect")
    assert request.parent is None
    assert format_trace_id(request.context.trace_id) != TRACE


async def test_the_traceparent_of_a_later_version_is_continued(traced, memory):
    await introspect(traced, headers={"traceparent": f"01-{TRACE}-{PARENT}-01-what-is-new"})
    assert format_trace_id(memory.only("POST /introspect").context.trace_id) == TRACE


@pytest.mark.parametrize("tracestate", ["=", "a=1,a=2", "x" * 9000, "\t,,", "a=" + "b" * 300])
async def test_a_hostile_tracestate_costs_no_trace(traced, memory, tracestate):
    await introspect(traced, headers={"traceparent": SAMPLED, "tracestate": tracestate})
    assert format_trace_id(memory.only("POST /introspect").context.trace_id) == TRACE


async def test_the_flag_of_a_traceparent_decides_whether_a_request_is_recorded(traced, memory):
    answer = await introspect(traced, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert answer.json["active"] is True
    assert memory.ended() == []


async def test_requests_that_share_a_batch_link_to_its_span_and_it_to_them(traced, memory):
    token = traced.token()
    async with asyncio.timeout(HANGS_S):
        while not any(span.links for span in memory.ended("MGET")):
            memory.clear()
            await asyncio.gather(*(introspect(traced, token) for _ in range(24)))

    of_request = {span.context.span_id: span for span in memory.ended("POST /introspect")}
    batches = {span.context.span_id: span for span in memory.ended("MGET")}
    served = []
    for span_id, batch in batches.items():
        linked = [of_request[link.context.span_id] for link in batch.links]
        for request in linked:
            assert [link.context.span_id for link in request.links] == [span_id]
            assert request.context.trace_id != batch.context.trace_id
        assert batch.attributes["revoker.lookups"] == len(linked) + 1
        served += [batch.parent.span_id, *(request.context.span_id for request in linked)]
    assert sorted(served) == sorted(of_request)


async def test_a_batch_of_tokens_has_one_span(traced, memory):
    items = [{"token": traced.token()} for _ in range(5)]
    answer = await traced.post("/introspect/batch", {"tokens": items}, caller="gateway")
    assert answer.status == 200, answer.body

    assert memory.only("MGET").attributes["revoker.lookups"] == 5
    assert memory.only("MGET").parent.span_id == memory.only("POST /introspect/batch").context.span_id


async def test_a_change_has_a_span_with_the_name_of_the_script(traced, memory):
    answer = await traced.post("/revoke-user", {"iss": forge.ISSUER, "sub": "alice"})
    assert answer.status == 200

    request, change = memory.only("POST /revoke-user"), memory.ended("EVALSHA")[-1]
    assert change.attributes["db.stored_procedure.name"] == "revoke_user"
    assert change.parent.span_id == request.context.span_id


async def test_a_path_with_variable_parts_is_named_by_its_pattern(traced, memory):
    await traced.ask("GET", "/nothing/here?token=x")
    await traced.ask("PROPFIND", "/introspect")

    unknown, invented = memory.ended()
    assert (unknown.name, unknown.attributes["http.response.status_code"]) == ("GET", 404)
    assert "http.route" not in unknown.attributes
    assert invented.attributes["http.request.method"] == "_OTHER"
    assert unknown.status.status_code is StatusCode.UNSET


async def test_probes_and_metrics_have_no_span(traced, memory):
    for path in ("/livez", "/readyz", "/metrics"):
        async with traced.http.get(traced.url + path) as response:
            assert response.status == 200
    assert memory.ended() == []


async def test_an_outage_is_recorded_with_the_type_of_the_error(start, own_valkey, memory):
    running = await start(own_valkey, spans=memory.spans, redis={"timeout": 2})
    memory.clear()
    own_valkey.hang()
    assert (await introspect(running)).status == 503

    request, round_trip = memory.only("POST /introspect"), memory.only("MGET")
    for span in (request, round_trip):
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description is None
        assert span.attributes["error.type"] == STORE_DOWN
        assert not span.events
    assert request.attributes["http.response.status_code"] == 503


async def test_a_fault_of_the_service_is_recorded_without_its_message(traced, memory, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("quotes a secret")

    monkeypatch.setattr(type(traced.service._services.authentication), "authenticate", broken)
    headers = {"Authorization": "Basic x"}
    async with traced.http.post(traced.url + "/revoke-user", json={"sub": "a"}, headers=headers) as response:
        assert response.status == 500

    request = memory.only("POST /revoke-user")
    assert request.attributes["error.type"] == "RuntimeError"
    assert "quotes" not in request.to_json()


async def test_no_span_has_a_token_a_secret_a_subject_a_query_or_an_address(start, valkey, memory, tmp_path):
    running = await start(valkey, spans=memory.spans)
    memory.clear()
    subject, jti = "subject-of-a-user", "id-of-a-token"
    token = running.token(sub=subject, jti=jti)
    claims = {**forge.claims(sub=subject, jti=jti), "iss": forge.ISSUER}
    bearer = {"Authorization": f"Bearer {token}"}
    key = {"X-Revoker-Key": SECRETS["gateway"]}
    await running.post("/introspect", {"token": token}, caller="gateway")
    await running.post("/introspect", claims, caller="gateway")
    await running.post(
        "/introspect", {"token": token + "x"}, caller="gateway", headers={"X-Request-Id": subject}
    )
    await running.post("/introspect", form={"token": token}, caller="gateway")
    await running.post(f"/introspect?token={token}", {"token": token})
    await running.post("/introspect/batch", {"tokens": [{"token": token}, claims]}, caller="gateway")
    await running.post("/explain", {"token": token})
    await running.ask("GET", f"/forward-auth/{subject}?q={token}", headers={**bearer, **key})
    await running.ask("GET", f"/{subject}?q={token}", headers=bearer)
    await running.ask("POST", "/introspect", headers=bearer, data=token)
    await running.ask(
        "POST", "/introspect", json={"token": token}, headers={"Authorization": "Basic wrong-secret"}
    )
    await running.post("/revoke", form={"token": token})
    await running.post("/revoke-user", {"iss": forge.ISSUER, "sub": subject, "reason": "reason-of-a-change"})

    exported = "".join(span.to_json() for span in memory.ended())
    assert len(memory.ended("MGET")) > 3
    assert memory.ended("EVALSHA")
    forbidden = [
        token,
        *token.split("."),
        subject,
        jti,
        "wrong-secret",
        "reason-of",
        "127.0.0.1",
        "q=",
        "token=",
    ]
    forbidden += [*SECRETS.values(), *(aiohttp.encode_basic_auth(*pair)[6:] for pair in SECRETS.items())]
    assert [text for text in forbidden if text in exported] == []


async def test_lines_of_the_log_and_of_the_audit_log_name_trace_and_span(traced, memory):
    stream = io.StringIO()
    logs.configure(stream=stream)
    await traced.post("/revoke-user", {"iss": forge.ISSUER, "sub": "alice"}, headers={"traceparent": SAMPLED})
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]

    request = memory.only("POST /revoke-user")
    of_request = [line for line in lines if line["event"] in {"user_revoked", "request"}]
    assert {line["logger"] for line in of_request} == {"audit", "service"}
    for line in of_request:
        assert line["trace_id"] == TRACE
        assert int(line["span_id"], 16) == request.context.span_id
    logs.configure()


async def test_a_fetch_of_keys_has_a_span_without_the_query_of_its_url(start, valkey, idp, memory):
    terms = {**idp, "jwks_uri": idp["jwks_uri"] + "?key=of-an-account"}
    running = await start(valkey, spans=memory.spans, main=terms)

    fetch = memory.only("GET")
    assert fetch.kind is SpanKind.CLIENT
    assert fetch.attributes["url.full"] == idp["jwks_uri"]
    assert fetch.attributes["server.address"] == "127.0.0.1"
    assert fetch.attributes["http.response.status_code"] == 200
    assert "of-an-account" not in "".join(span.to_json() for span in memory.ended())
    assert (await introspect(running)).json["active"] is True


async def test_a_failed_fetch_of_keys_is_recorded(start, valkey, memory):
    unreachable = f"http://127.0.0.1:{free_port()}/jwks"
    terms = {"jwks_file": "", "jwks_uri": unreachable, "jwks_insecure": True}
    await start(valkey, spans=memory.spans, main=terms, ready=False)
    async with asyncio.timeout(HANGS_S):
        while not (fetches := memory.ended("GET")):
            await asyncio.sleep(0.02)
    assert fetches[0].status.status_code is StatusCode.ERROR
    assert fetches[0].attributes["error.type"].startswith("aiohttp.")


async def test_a_call_of_ext_authz_continues_the_trace_of_its_metadata(start, valkey, memory):
    port = free_port()
    running = await start(valkey, spans=memory.spans, server={"grpc_port": port})
    memory.clear()
    async with listening(running):
        asker = Asker(f"127.0.0.1:{port}")
        answer = await asker.ask(
            f"Bearer {running.token()}",
            metadata=(KEY, ("traceparent", SAMPLED)),
            headers={"traceparent": "00"},
        )
        await asker.channel.close()

    assert answer.status == 200
    call = memory.only(METHOD[1:])
    assert call.kind is SpanKind.SERVER
    assert format_trace_id(call.context.trace_id) == TRACE
    assert dict(call.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD[1:],
        "rpc.response.status_code": "OK",
    }
    assert memory.only("MGET").parent.span_id == call.context.span_id


async def test_a_call_of_ext_authz_that_fails_is_recorded(start, own_valkey, memory):
    port = free_port()
    running = await start(own_valkey, spans=memory.spans, server={"grpc_port": port}, redis={"timeout": 2})
    memory.clear()
    own_valkey.hang()
    async with listening(running):
        asker = Asker(f"127.0.0.1:{port}")
        with pytest.raises(grpc.aio.AioRpcError):
            await asker.ask(f"Bearer {running.token()}")
        await asker.channel.close()

    call = memory.only(METHOD[1:])
    assert call.attributes["rpc.response.status_code"] == "UNAVAILABLE"
    assert call.attributes["error.type"] == "UNAVAILABLE"
    assert call.status.status_code is StatusCode.ERROR
