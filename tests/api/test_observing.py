"""Metrics, probes and logs: what an operator sees, and what nobody may."""

import asyncio
import base64
import json
import re
import uuid

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from tests.rig import forge
from tests.rig.service import OTHER_ISSUER, SECRETS

row = pytest.mark.row


async def scrape(revoker, accept="*/*"):
    answer = await revoker.ask("GET", "/metrics", headers={"Accept": accept})
    assert answer.status == 200
    return answer


async def series(revoker):
    text = (await scrape(revoker)).body.decode()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line[:1] != "#"
    }


# Metrics


@row("MET-01", "MET-02")
async def test_metrics_come_in_the_format_that_is_asked_for(revoker):
    plain = await scrape(revoker)
    asked = await scrape(revoker, "application/openmetrics-text; version=1.0.0, text/plain;q=0.5")

    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert asked.headers["Content-Type"].startswith(
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    )
    assert list(prometheus(plain.body.decode()))
    assert list(openmetrics(asked.body.decode()))
    assert asked.body.endswith(b"# EOF\n")
    assert b"\r" not in asked.body


async def test_failures_of_every_endpoint_stand_at_0_before_the_first(revoker):
    found = await series(revoker)
    for path in ("/introspect", "/introspect/batch", "/forward-auth", "/revoke", "/revoke-user", "/explain"):
        assert found[f'revoker_http_requests_total{{endpoint="{path}",status="500"}}'] == 0, path


@row("MET-03", "MET-04")
async def test_metrics_are_named_and_shaped_as_prometheus_asks(revoker):
    families = list(prometheus((await scrape(revoker)).body.decode()))

    for family in families:
        assert re.fullmatch(r"revoker_[a-z_]+", family.name), family.name
        assert family.documentation.endswith(".")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert not [label for label in labels if label in family.name.split("_") and family.type == "counter"]
        if family.type == "histogram":
            counts = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
            assert {"+Inf"} <= {sample.labels.get("le") for sample in family.samples}
            per_label = {}
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    key = tuple(item for item in sorted(sample.labels.items()) if item[0] != "le")
                    per_label.setdefault(key, []).append(sample.value)
            assert counts and all(each == sorted(each) for each in per_label.values())
    assert any(family.name == "revoker_build_info" for family in families)


@row("MET-06")
async def test_what_will_be_counted_stands_at_0_from_the_start(start, valkey):
    values = await series(await start(valkey))

    for name in (
        'revoker_verdicts_total{verdict="user_cutoff"}',
        'revoker_no_verdicts_total{cause="store_unavailable"}',
        'revoker_revocations_total{kind="token"}',
        'revoker_refused_callers_total{reason="throttled"}',
        'revoker_token_cache_total{result="hit"}',
        'revoker_jwks_refreshes_total{issuer="main",outcome="error"}',
        "revoker_introspection_seconds_count",
        'revoker_http_requests_total{endpoint="/introspect",status="500"}',
        "revoker_unchecked_verdicts_total",
    ):
        assert values[name] == 0, name


@row("MET-03")
async def test_what_happens_is_counted(revoker):
    token = revoker.token()
    before = await series(revoker)
    for _ in range(3):
        await revoker.active(token)
    await revoker.post("/revoke", {"token": token})
    await revoker.active(token)
    await revoker.post("/introspect", {"token": "x"}, caller=None)
    await revoker.post("/introspect/batch", {"tokens": [forge.claims(), forge.claims(jti=token[-20:])]})
    await revoker.post("/revoke-user", {"sub": "x"}, caller="gateway")

    after = await series(revoker)

    grown = {
        name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)
    }
    assert grown['revoker_verdicts_total{verdict="active"}'] == 5
    assert grown['revoker_verdicts_total{verdict="token_revoked"}'] == 1
    assert grown['revoker_revocations_total{kind="token"}'] == 1
    assert grown['revoker_refused_callers_total{reason="wrong_credentials"}'] == 1
    assert grown['revoker_refused_callers_total{reason="insufficient_scope"}'] == 1
    assert grown["revoker_introspection_seconds_count"] == 5
    assert grown['revoker_http_requests_total{endpoint="/revoke",status="200"}'] == 1
    assert grown['revoker_token_cache_total{result="hit"}'] == 3
    assert grown['revoker_token_cache_total{result="miss"}'] == 1, "each look-up is counted once"


@pytest.mark.parametrize(
    "asked",
    [
        ("/introspect", {"token": None}, {}),
        ("/introspect", forge.claims(), {}),
        ("/introspect", {"token": None}, {"Expect": "100-continue"}),
        ("/introspect/batch", {"tokens": [forge.claims()]}, {}),
        ("/forward-auth", None, {"X-Revoker-Key": SECRETS["gateway"]}),
        ("/explain", {"token": None}, {}),
    ],
)
async def test_what_nobody_foresaw_is_counted_once_and_answered(revoker, monkeypatch, events, asked):
    path, body, headers = asked

    def broken(_):
        raise RuntimeError("a fault of ours, with a secret")

    for name in ("find", "find_shared", "find_all"):
        monkeypatch.setattr(revoker.service.store.lookups, name, broken)
    if body is not None:
        body = {name: value or revoker.token() for name, value in body.items()}
    bearer = revoker.token() if body is None else SECRETS["admin"]
    headers = {**headers, "Authorization": f"Bearer {bearer}"}
    before = await series(revoker)
    async with revoker.http.post(revoker.url + path, json=body, headers=headers) as response:
        assert (response.status, (await response.json())["error"]) == (500, "server_error")
        assert "secret" not in await response.text()
    after = await series(revoker)
    name = f'revoker_http_requests_total{{endpoint="{path}",status="500"}}'
    assert after[name] - before.get(name, 0) == 1
    assert [each["event"] for each in events].count("request_failed") == 1


@row("MET-05", "ATK-09", "7662-02")
async def test_no_series_is_made_of_what_others_send(revoker):
    async def storm(number):
        odd = f'{number}-{uuid.uuid4()}"\n\\{{}}'
        await revoker.ask("GET", f"/{uuid.uuid4()}")
        await revoker.ask(f"M{number % 7}", f"/introspect/{number}")
        await revoker.post("/introspect", forge.claims(sub=odd, jti=odd, client_id=odd, sid=odd, kid=odd))
        await revoker.post("/introspect", {"token": revoker.token(iss=odd)})
        await revoker.post("/introspect", {"token": forge.token(revoker.key, {"kid": odd, "alg": odd[:8]})})
        await revoker.post("/revoke", {"iss": forge.ISSUER, "jti": odd})
        await revoker.post("/revoke-user", {"iss": forge.ISSUER, "sub": odd, "reason": odd})
        await revoker.post("/revoke-client", {"iss": forge.ISSUER, "client_id": odd})
        await revoker.post("/revoke-claim", {"iss": OTHER_ISSUER, "claim": "grant_id", "value": odd})
        await revoker.post("/revoke-claim", {"iss": OTHER_ISSUER, "claim": odd, "value": odd})
        await revoker.post("/revoke-key", {"iss": "https://x", "kid": odd})
        await revoker.post(
            "/introspect", {"token": "x"}, caller=None, headers={"Authorization": f"Bearer {number}"}
        )

    for number in range(25):  # so many that guesses are throttled by then
        await storm(number)
    await scrape(revoker)
    before = set(await series(revoker))

    for number in range(50):
        await storm(number)

    assert set(await series(revoker)) == before


@row("MET-07")
async def test_scrapes_at_once_see_the_same_series(revoker):
    await scrape(revoker)
    scrapes = await asyncio.gather(*(series(revoker) for _ in range(20)))

    assert len({frozenset(each) for each in scrapes}) == 1


@row("MET-08", "K8S-02")
async def test_metrics_and_liveness_do_without_the_store(start, own_valkey):
    revoker = await start(own_valkey)
    own_valkey.kill()
    assert (await revoker.post("/introspect", forge.claims())).status == 503

    assert (await revoker.ask("GET", "/livez")).status == 200
    values = await series(revoker)
    assert values["revoker_store_up"] == 0
    assert values['revoker_no_verdicts_total{cause="store_unavailable"}'] >= 1


@row("MET-08")
async def test_health_and_metrics_may_have_a_port_of_their_own(start, valkey):
    revoker = await start(valkey, server={"ops_port": 9}, ready=False)

    for path in ("/livez", "/readyz", "/metrics"):
        assert (await revoker.ask("GET", path)).error == (404, "invalid_request")
    assert revoker.service.ops is not None
    while not revoker.service.store.reached:
        await asyncio.sleep(0.01)


# Probes


@row("K8S-01", "K8S-04")
async def test_probes_are_answered_to_anybody_and_at_once(revoker):
    for path in ("/livez", "/readyz"):
        answer = await revoker.ask(
            "GET",
            path,
            headers={"User-Agent": "kube-probe/1.33"},
            allow_redirects=False,
        )
        assert answer.status == 200
    assert (await revoker.ask("GET", "/readyz")).json["status"] in {"ok", "degraded"}


@row("K8S-03", "K8S-04")
async def test_a_service_is_not_ready_before_it_has_reached_its_store(start, own_valkey):
    own_valkey.kill()
    revoker = await start(own_valkey, new=False, ready=False)

    answer = await revoker.ask("GET", "/readyz")

    assert (answer.status, answer.json["status"]) == (503, "starting")
    assert (await revoker.ask("GET", "/livez")).status == 200


@row("K8S-03")
async def test_once_started_a_lost_store_is_told_and_does_not_make_it_unready(start, own_valkey):
    revoker = await start(own_valkey)
    own_valkey.kill()
    told = set()
    while "store_unreachable" not in told:
        await asyncio.sleep(0.02)
        answer = await revoker.ask("GET", "/readyz")
        told = {each["problem"] for each in answer.json["problems"]}

    assert (answer.status, answer.json["status"]) == (200, "degraded")


@row("K8S-03", "K8S-05")
async def test_a_service_that_drains_is_not_ready_and_still_answers(revoker):
    token = revoker.token()

    revoker.service.drain()

    answer = await revoker.ask("GET", "/readyz")
    assert (answer.status, answer.json["status"]) == (503, "draining")
    assert (await revoker.ask("GET", "/livez")).status == 200
    assert await revoker.active(token)
    assert (await revoker.post("/revoke", {"token": token})).status == 200
    assert not await revoker.active(token)


# Secrets


@row("HTTP-09", "ATK-09", "7662-02")
async def test_no_token_and_no_secret_is_ever_repeated(revoker, events, caplog):
    canary = "c4n4ry" + uuid.uuid4().hex
    genuine = revoker.token(sub="alice")
    secret = SECRETS["admin"]
    tokens = [genuine, canary, forge.token(forge.rsa_key("thief"), jti="x"), f"{canary}.{canary}.{canary}"]
    shown = [
        f"Bearer {canary}",
        f"Basic {base64.b64encode(f'admin:{canary}'.encode()).decode()}",
        f"{canary} x",
        canary,
    ]
    answers = []
    for path in ("/introspect", "/introspect/batch", "/revoke", "/explain"):
        for token in tokens:
            body = {"tokens": [{"token": token}]} if path.endswith("batch") else {"token": token}
            answers.append(await revoker.post(path, body))
            answers.append(await revoker.post(path, form={"token": token}))
            answers.append(await revoker.post(path, json.dumps(body).encode()[:-1]))
            answers.append(await revoker.post(path, form={"token": token, "client_secret": secret}))
            answers.append(await revoker.ask("GET", f"{path}?token={token}"))
            answers.append(await revoker.post(f"{path}?token={token}", body))
            answers.append(await revoker.post(f"{path}/{token[:40]}", body))
        for authorization in shown:
            headers = {"Authorization": authorization}
            answers.append(await revoker.post(path, {"token": canary}, caller=None, headers=headers))
            fields = {"token": canary, "client_id": canary, "client_secret": canary}
            answers.append(await revoker.post(path, form=fields, caller=None))
            answers.append(await revoker.post(path, {"token": [canary], canary: canary}))

    metrics = (await scrape(revoker)).body.decode()
    said = repr(events) + caplog.text + metrics
    for answer in answers:
        said += answer.body.decode() + repr(answer.headers)
    assert events
    for text in (canary, genuine, genuine.split(".")[2], secret, shown[1].split()[1]):
        assert text not in said


@row("ATK-09")
async def test_what_a_caller_sends_cannot_forge_a_log_line(revoker, capsys):
    from revoker import logs

    logs.configure()
    try:
        odd = 'x"}\r\n{"event":"forged"}\x1b[31m\u2028'
        await revoker.post("/revoke", {"iss": forge.ISSUER, "jti": odd})
        await revoker.post("/revoke-user", {"iss": forge.ISSUER, "sub": odd, "reason": odd})
        await revoker.ask("GET", "/x", headers={"X-Request-Id": 'a "b"'})
        lines = capsys.readouterr().out.splitlines()
    finally:
        import structlog

        structlog.reset_defaults()
    told = [json.loads(line) for line in lines]
    assert [each["event"] for each in told] == [
        "token_revoked",
        "request",
        "user_revoked",
        "request",
        "request",
    ]
    assert told[0]["jti"] == told[2]["sub"] == odd
    assert "\x1b" not in "".join(lines)
    assert all(re.fullmatch(r"[0-9a-f]{32}", each["request_id"]) for each in told)
    assert told[0]["request_id"] == told[1]["request_id"]


async def test_a_request_keeps_the_id_that_a_gateway_gave_it(revoker, events):
    answer = await revoker.post("/revoke", {"token": "x"}, headers={"X-Request-Id": "gateway-1"})

    assert answer.headers["X-Request-Id"] == "gateway-1"


async def test_a_request_without_an_id_gets_the_one_that_its_lines_in_the_log_have(revoker, capsys):
    from revoker import logs

    logs.configure()
    try:
        answers = [await revoker.post(path, {"tokens": 1}) for path in ("/introspect/batch", "/revoke")]
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    finally:
        import structlog

        structlog.reset_defaults()
    shown = [answer.headers["X-Request-Id"] for answer in answers]
    assert [each["request_id"] for each in lines if each["event"] == "request"] == shown
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in shown)
