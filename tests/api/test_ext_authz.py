"""Envoy's ext_authz over gRPC: the semantics of ``/forward-auth``."""

import asyncio
import time

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.rig import forge
from tests.rig.certificates import Authority
from tests.rig.ext_authz import KEY, Asker, listening, question
from tests.rig.servers import free_port
from tests.rig.service import SECRETS

BEARER = 'Bearer realm="revoker"'
OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"


@pytest.fixture
async def started(start, valkey):
    """A service with both ports, and a client of the one for gRPC; what is given are settings."""

    async def begin(store=valkey, **changes):
        server = {"grpc_port": free_port(), **changes.pop("server", {})}
        running = await start(store, server=server, **changes)
        return running, f"127.0.0.1:{server['grpc_port']}"

    return begin


@pytest.fixture
async def both(started):
    running, address = await started()
    async with listening(running):
        asker = Asker(address)
        yield running, asker
        await asker.channel.close()


async def refusal(asked):
    """The status of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asked
    return caught.value.code()


async def test_an_active_token_passes_with_who_it_is_and_replaces_what_the_client_sent(both):
    running, asker = both
    answer = await asker.ask(f"Bearer {running.token(sub='Ünï %x', scope='a b', sid='s 1')}")
    assert answer.status == 200
    assert answer.headers == {
        "x-auth-subject": "%C3%9Cn%C3%AF%20%25x",
        "x-auth-session": "s%201",
        "x-auth-client": "web",
        "x-auth-scope": "a b",
    }
    options = MessageToDict(answer.response)["okResponse"]["headers"]
    assert {option["appendAction"] for option in options} == {OVERWRITE}
    bare = running.token(sid=forge.ABSENT, client_id=forge.ABSENT, scope=forge.ABSENT)
    answer = await asker.ask(f"Bearer {bare}")
    assert [*answer.headers.values()] == ["user-1", "", "", ""]
    assert answer.response.status.code == 0


async def test_refusals_have_status_challenge_and_code(both):
    running, asker = both
    answer = await asker.ask()
    assert (answer.status, answer.challenge) == (401, BEARER)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.response.status.code == grpc.StatusCode.UNAUTHENTICATED.value[0]
    revoked = running.token(jti="revoked-by-grpc")
    assert (await asker.ask(f"bearer {revoked}")).status == 200
    await running.post("/revoke", {"token": revoked})
    answer = await asker.ask(f"Bearer {revoked}")
    assert (answer.status, 'error="invalid_token"' in answer.challenge) == (401, True)
    answer = await asker.ask(
        f"Bearer {running.token(scope='a')}", metadata=[KEY, ("x-revoker-require", "scope=b")]
    )
    assert (answer.status, answer.challenge) == (403, f'{BEARER}, error="insufficient_scope", scope="b"')
    assert answer.response.status.code == grpc.StatusCode.PERMISSION_DENIED.value[0]


async def over_http(running, headers, gateway):
    sent = [("X-Revoker-Key", "gateway-secret"), *headers.items(), *gateway]
    async with running.http.get(f"{running.url}/forward-auth", headers=sent) as response:
        compared = {
            name.lower(): value
            for name, value in response.headers.items()
            if name.lower() in {"www-authenticate", "cache-control", "pragma", "content-type"}
            or name.lower().startswith("x-auth")
        }
        return response.status, compared, await response.text()


async def test_both_interfaces_answer_alike(both):
    running, asker = both
    good, weak = running.token(scope="a b", acr="mfa", auth_time=int(time.time())), running.token(scope="a")
    dpop, expired = running.token(cnf={"jkt": "x"}), running.token(now=1_000_000)
    stranger = forge.token(forge.rsa_key("stranger"))
    early = running.token(scope="a b", acr="mfa", auth_time=int(time.time()) + 3600)
    tokens = (good, weak, early, dpop, expired, stranger, "x", "")
    users = [
        {},
        *({"authorization": f"{scheme} {text}"} for scheme in ("Bearer", "DPoP", "Basic") for text in tokens),
    ]
    users += [{"cookie": f"a=b; s={text}"} for text in tokens]
    users += [{"cookie": f"s={good}; s={good}"}, {"cookie": f"s={good}", "authorization": f"Bearer {weak}"}]
    users += [{"authorization": f"Bearer {good},Bearer {good}"}]
    gateways = [[], [("x-revoker-cookie", "s")], [("x-revoker-require", "scope=b; acr=mfa; max_age=60")]]
    gateways += [[("x-revoker-require", "nonsense")], [("x-revoker-cookie", "a b")]]
    gateways += [
        [("x-revoker-require", "scope=a"), ("x-revoker-require", "scope=c"), ("x-revoker-cookie", "s")]
    ]
    for user in users:
        for gateway in gateways:
            status, headers, body = await over_http(running, user, gateway)
            if status == 200:
                headers = {name: value for name, value in headers.items() if name.startswith("x-auth")}
            answers = [await asker.ask(headers=user, metadata=[KEY, *gateway])]
            if len(gateway) == len(dict(gateway)):
                answers.append(await asker.ask(headers=user, extensions=dict(gateway)))
            for answer in answers:
                assert (answer.status, answer.headers, answer.body) == (status, headers, body), (
                    user,
                    gateway,
                )


async def test_only_the_gateway_names_requirements_and_cookie(both):
    running, asker = both
    good = running.token(scope="a")
    forged = {"x-revoker-key": "admin-secret", "x-revoker-require": "nonsense", "x-revoker-cookie": "s"}
    assert (await asker.ask(f"Bearer {good}", headers=forged)).status == 200
    assert (await asker.ask(headers={"cookie": f"s={good}", **forged})).status == 401
    require = {"X-Revoker-Require": "scope=b"}
    assert (await asker.ask(f"Bearer {good}", extensions=require)).status == 403
    both_demand = [KEY, ("x-revoker-require", "scope=b")]
    answer = await asker.ask(
        f"Bearer {good}", metadata=both_demand, extensions={"x-revoker-require": "scope=a"}
    )
    assert answer.status == 403


async def test_raw_headers_are_read_line_by_line(both):
    running, asker = both
    good = running.token()
    cookie = [KEY, ("x-revoker-cookie", "s")]
    assert (await asker.ask(raw_headers=[("Authorization", f"Bearer {good}")])).status == 200
    assert (await asker.ask(raw_headers=[("authorization", f"Bearer {good}")] * 2)).status == 401
    lines = [("cookie", "a=b"), ("cookie", f"s={good}")]
    assert (await asker.ask(raw_headers=lines, metadata=cookie)).status == 200
    assert (await asker.ask(raw_headers=[*lines, ("cookie", f"s={good}")], metadata=cookie)).status == 401


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        [("x-revoker-key", "wrong")],
        [("x-revoker-key", "")],
        [KEY, KEY],
        [KEY, ("x-revoker-key", "wrong")],
    ],
)
async def test_a_gateway_without_its_own_key_gets_no_verdict(both, metadata):
    running, asker = both
    asked = asker.ask(f"Bearer {running.token()}", metadata=metadata)
    assert await refusal(asked) is grpc.StatusCode.UNAVAILABLE
    asked = asker.ask("Bearer gateway-secret", metadata=(), extensions=dict([KEY]), headers=dict([KEY]))
    assert await refusal(asked) is grpc.StatusCode.UNAVAILABLE


async def test_a_caller_that_may_not_introspect_gets_no_verdict(started):
    callers = [{"name": "c", "secret_sha256": [], "scopes": ["revoke"]}]
    from revoker.auth import digest

    callers[0]["secret_sha256"] = [digest("s")]
    running, address = await started(callers=callers)
    async with listening(running):
        asker = Asker(address)
        asked = asker.ask(f"Bearer {running.token()}", metadata=[("x-revoker-key", "s")])
        assert await refusal(asked) is grpc.StatusCode.UNAVAILABLE
        await asker.channel.close()


async def test_without_a_store_there_is_no_verdict(started, own_valkey):
    running, address = await started(own_valkey)
    async with listening(running):
        asker = Asker(address)
        own_valkey.kill()
        assert await refusal(asker.ask(f"Bearer {running.token()}")) is grpc.StatusCode.UNAVAILABLE
        assert (await asker.ask()).status == 401, "which needs no store"
        metrics = await text(running)
        assert 'revoker_no_verdicts_total{cause="store_unavailable"} 1.0' in metrics
        await asker.channel.close()


async def text(running, path="/metrics"):
    async with running.http.get(running.url + path) as response:
        return await response.text()


async def test_a_message_that_is_none_is_a_refusal_that_no_open_route_takes_for_no_verdict(both):
    _, asker = both
    no_text = question({"authorization": "Bearer XXXX"}).replace(b"XXXX", b"\xff\xfe\xfd\xfc")
    for message in (b"\xff", b"\x0a\xff", no_text):
        answer = await asker.send(message)
        assert (answer.status, answer.challenge) == (401, f'{BEARER}, error="invalid_request"')
    assert (await asker.send(b"")).status == 401


async def test_calls_are_counted_under_a_label_of_their_own(both):
    running, asker = both
    await asker.ask(f"Bearer {running.token()}")
    await asker.ask()
    assert await refusal(asker.ask(metadata=())) is grpc.StatusCode.UNAVAILABLE
    metrics = await text(running)
    endpoint = 'endpoint="/envoy.service.auth.v3.Authorization/Check"'
    for status in (200, 401, 503):
        assert f'revoker_http_requests_total{{{endpoint},status="{status}"}} 1.0' in metrics
    assert f"revoker_http_request_seconds_count{{{endpoint}}} 3.0" in metrics
    assert 'revoker_refused_callers_total{reason="wrong_credentials"} 1.0' in metrics


async def test_too_many_calls_get_no_verdict(started, own_valkey):
    running, address = await started(own_valkey, server={"max_in_progress": 1})
    token = f"Bearer {running.token()}"
    async with listening(running):
        asker = Asker(address)
        own_valkey.hang()
        crowd = [asyncio.create_task(asker.ask(token)) for _ in range(200)]
        try:
            while not (refusals := [task for task in crowd if task.done() and "too many" in failure(task)]):
                crowd += [asyncio.create_task(asker.ask(token)) for _ in range(2)]
                await asyncio.sleep(0.05)
        finally:
            own_valkey.resume()
        assert refusals[0].exception().code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.gather(*crowd, return_exceptions=True)
        assert 'revoker_no_verdicts_total{cause="overload"} 0.0' not in await text(running)
        await asker.channel.close()


def failure(task):
    error = task.exception()
    return error.details() if isinstance(error, grpc.aio.AioRpcError) else ""


async def test_wrong_keys_are_limited_by_client_where_the_gateway_is_trusted(started):
    running, address = await started(server={"trusted_proxies": ["127.0.0.1"]})
    async with listening(running):
        asker = Asker(address)

        async def guess(number, client):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asker.ask(
                    metadata=[("x-revoker-key", f"no-{number}")], headers={"x-forwarded-for": client}
                )
            return caught.value.details()

        number = 0
        while "too many" not in await guess(number, "198.51.100.7"):
            number += 1
        assert "too many" not in await guess(0, "198.51.100.8")
        await asker.channel.close()


async def test_tls_takes_a_client_certificate_for_the_key(started, tmp_path):
    authority = Authority(tmp_path / "tls")
    running, address = await started(
        server=authority.server_settings(),
        ready=False,
        callers=[{"name": "mesh", "secret_sha256": [], "scopes": ["introspect"]}],
    )
    while not running.service.started():
        await asyncio.sleep(0.02)
    async with listening(running):
        root = authority.certificate.read_bytes()

        def asker(name, dns=""):
            certificate, key = authority._issue(name, authority_name(dns), client=True)
            return Asker(
                address, grpc.ssl_channel_credentials(root, key.read_bytes(), certificate.read_bytes())
            )

        for name, dns, expected in (("mesh", "", 200), ("x", "mesh", 200), ("x", "y", None)):
            client = asker(name, dns)
            asked = client.ask(f"Bearer {running.token()}", metadata=())
            if expected is None:
                assert await refusal(asked) is grpc.StatusCode.UNAVAILABLE
            else:
                assert (await asked).status == expected
            await client.channel.close()
        nobody = Asker(address, grpc.ssl_channel_credentials(root))
        assert await refusal(nobody.ask()) is grpc.StatusCode.UNAVAILABLE, "a certificate is required"
        await nobody.channel.close()


def authority_name(dns):
    from cryptography import x509

    return x509.DNSName(dns) if dns else None


async def test_the_health_service_follows_readiness_and_draining(started):
    running, address = await started()
    async with listening(running) as listener, grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        statuses = health_pb2.HealthCheckResponse.ServingStatus

        async def health(service):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            return statuses.Name(answer.status)

        for service in ("", "envoy.service.auth.v3.Authorization"):
            assert await health(service) == "SERVING"
        await listener.drain()
        for service in ("", "envoy.service.auth.v3.Authorization"):
            assert await health(service) == "NOT_SERVING"
        asker = Asker(address)
        assert (await asker.ask(f"Bearer {running.token()}")).status == 200, (
            "calls that still come are answered"
        )
        await asker.channel.close()


def test_the_secret_of_the_rig_is_the_gateway_s():
    assert SECRETS["gateway"] == KEY[1]
    assert question().startswith(b"\x0a")
