"""``/openapi.json`` and ``/docs``: true of the running service, and sound in themselves."""

import asyncio
import base64
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from revoker import app
from revoker.auth import digest
from tests.rig import forge
from tests.rig.service import SECRETS, settings_for
from tests.sessions.conftest import sessions_section as sessions_section  # noqa: PLC0414  # a fixture

SCHEMATHESIS = """
[checks]
negative_data_rejection.expected-statuses = [400, 401, 405, 413, 415]

[[operations]]
include-path = "/introspect/batch"
checks.negative_data_rejection.enabled = false  # a malformed item is an error in its own place

[[operations]]
include-path = "/forward-auth"
checks.not_a_server_error.enabled = false  # 503 where the gateway's own key is wrong, by design
checks.missing_required_header.enabled = false

[[operations]]
include-path = ["/token", "/backchannel-logout", "/sessions", "/sessions/{sid}/elevate"]
checks.positive_data_acceptance.enabled = false  # takes what was given out before: tokens, sid, cursor

[[operations]]
include-path = "/revoke-claim"
checks.positive_data_acceptance.enabled = false  # takes the claims that the settings name
"""


@pytest.fixture
async def whole(start, valkey, tmp_path, sessions_section):
    """A service that has every endpoint, and one issuer that need not be named."""
    issuer = {
        "name": "main",
        "issuer": forge.ISSUER,
        "audiences": [forge.AUDIENCE],
        "jwks_file": str(tmp_path / "main.jwks"),
        "backchannel_audience": "revoker",
        "claims": {"revocable": ["grant_id"]},
    }
    scopes = {"admin": ["introspect", "revoke", "revoke-all", "sessions"], "gateway": ["introspect"]}
    callers = [
        {"name": name, "secret_sha256": [digest(SECRETS[name])], "scopes": scope}
        for name, scope in scopes.items()
    ]
    section = sessions_section(issuer="https://sessions.example.com/a")
    return await start(valkey, issuers=[issuer], callers=callers, sessions=section)


@pytest.fixture
async def document(whole):
    return (await _get(whole, "/openapi.json"))[1]


def _matches(document, schema, value):
    """Whether a value is what the document says."""
    whole = {**schema, "components": document["components"]}
    return jsonschema_rs.Draft202012Validator(whole).is_valid(value)


async def _get(revoker, path, **headers):
    async with revoker.http.get(revoker.url + path, headers=headers) as response:
        return response, await (
            response.json() if path.endswith("json") and response.status == 200 else response.text()
        )


async def test_the_document_is_sound_openapi(document):
    OPENAPI_31_VALIDATOR.validate(document)
    assert document["openapi"] == "3.1.0"


async def test_every_route_is_in_the_document_and_every_path_in_it_is_a_route(whole, document):
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in whole.service.main.application.router.routes()
        if route.method != "HEAD"
    }
    routes.add(("get", "/forward-auth"))  # served past the router
    assert routes == {(method, path) for path, methods in document["paths"].items() for method in methods}


def test_where_ops_port_is_set_document_and_page_stand_there(tmp_path):
    service = app.build(settings_for("redis://127.0.0.1:1", tmp_path, server={"ops_port": 9}))
    paths = {route.resource.canonical for route in service.main.application.router.routes()}
    ops = {route.resource.canonical for route in service.ops.application.router.routes()}
    assert ops == {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs"}
    assert not paths & ops


REQUESTS = {
    "/introspect": {"token": "?"},
    "/introspect/batch": {"tokens": [{"token": "?"}, {"jti": 1}, {}]},
    "/revoke": {"jti": "j", "iss": forge.ISSUER, "exp": int(time.time())},
    "/revoke-user": {"sub": "alice", "iss": forge.ISSUER, "reason": "lost phone"},
    "/revoke-session": {"sid": "s", "iss": forge.ISSUER, "before": int(time.time()) - 5.5},
    "/revoke-client": {"client_id": "c", "iss": forge.ISSUER},
    "/revoke-claim": {"claim": "grant_id", "value": 7, "iss": forge.ISSUER},
    "/revoke-issuer": {"iss": forge.ISSUER},
    "/revoke-key": {"kid": "k", "iss": forge.ISSUER},
    "/block-user": {"sub": "alice", "iss": forge.ISSUER},
    "/unblock-user": {"sub": "alice", "iss": forge.ISSUER},
    "/explain": {"token": "?"},
}


async def test_a_service_that_keeps_no_sessions_documents_none(revoker):
    _, document = await _get(revoker, "/openapi.json")
    assert not {"/sessions", "/token", "/.well-known/jwks.json", "/backchannel-logout"} & set(
        document["paths"]
    )


async def test_every_request_and_answer_is_as_the_document_says(whole, document):
    revoker = whole
    token = revoker.token(sub="alice")
    for path, asked in REQUESTS.items():
        body = {**asked, **({"token": token} if "token" in asked else {})}
        operation = document["paths"][path]["post"]
        if path != "/introspect/batch":
            assert _matches(
                document, operation["requestBody"]["content"]["application/json"]["schema"], body
            ), path
        answer = await revoker.post(path, body)
        assert answer.status == 200, (path, answer.body)
        _check_answer(document, operation, answer)


def _check_answer(document, operation, answer):
    described = operation["responses"][str(answer.status)]
    if "content" in described:
        assert _matches(document, described["content"]["application/json"]["schema"], answer.json), (
            answer.body
        )
    else:
        assert answer.body == b""
    assert set(described.get("headers", ())) <= set(answer.headers)


async def _check_get(document, running, path, status, **headers):
    async with running.http.get(running.url + path, headers=headers) as response:
        assert response.status == status
        body = await response.read()
    answer = SimpleNamespace(
        status=status, headers=response.headers, body=body, json=json.loads(body or b"null")
    )
    _check_answer(document, document["paths"][path]["get"], answer)


async def test_sessions_are_answered_as_the_document_says(whole, document):
    paths, admin = document["paths"], {"Authorization": f"Bearer {SECRETS['admin']}"}
    started = await whole.post("/sessions", {"sub": "alice", "device": "phone"})
    sid, refresh = started.json["sid"], started.json["refresh_token"]
    grant = {"grant_type": "refresh_token", "refresh_token": refresh}
    answers = [
        (201, paths["/sessions"]["post"], started),
        (200, paths["/sessions"]["get"], await whole.ask("GET", "/sessions?sub=alice", headers=admin)),
        (200, paths["/token"]["post"], await whole.post("/token", form=grant, caller=None)),
        (400, paths["/token"]["post"], await whole.post("/token", form={}, caller=None)),
        (
            200,
            paths["/sessions/{sid}/elevate"]["post"],
            await whole.post(f"/sessions/{sid}/elevate", {"acr": "2"}),
        ),
        (
            204,
            paths["/sessions/{sid}"]["delete"],
            await whole.ask("DELETE", f"/sessions/{sid}", headers=admin),
        ),
    ]
    for status, operation, answer in answers:
        assert answer.status == status
        if status < 400:
            _check_answer(document, operation, answer)
    for path in (path for path in paths if path.startswith("/.well-known")):
        await _check_get(document, whole, path, 200)


@pytest.mark.parametrize(("token", "status"), [("genuine", 200), ("forged", 401)])
async def test_gateways_are_answered_as_the_document_says(whole, document, token, status):
    token = whole.token() if token == "genuine" else token
    headers = {"X-Revoker-Key": SECRETS["gateway"], "Authorization": f"Bearer {token}"}
    await _check_get(document, whole, "/forward-auth", status, **headers)


@pytest.mark.parametrize(
    ("body", "sound"),
    [
        ({"token": "t"}, True),
        ({"jti": "j", "sub": "s", "iat": 1, "exp": 2.5, "unknown": []}, True),
        ({"jti": "j", "sub": "s", "iat": 1}, False),
        ({"token": ""}, False),
        ({"token": None}, False),
        ({}, False),
        ({"token": "t", "sub": None}, True),
        ({"token": "t", "sub": "s"}, False),
        ({"token": "t", "claims": {}}, False),
        ({"claims": {"jti": "j", "sub": "s", "iat": 1, "exp": 2}, "header": {"kid": "k", "alg": "x"}}, True),
        ({"claims": {"jti": "j", "sub": "s", "iat": 1, "exp": 2}, "header": {}}, False),
        ({"claims": {"jti": "j", "sub": "s", "iat": 1, "exp": 2}}, False),
        ({"claims": {"jti": "j", "sub": "s", "iat": 1, "exp": 2}, "header": {"kid": "k"}, "jti": "j"}, False),
        ({"jti": "j", "sub": "s", "iat": 1, "exp": 2.5, "header": {"kid": "k"}}, False),
    ],
)
async def test_the_document_and_the_service_agree_on_what_introspection_needs(whole, document, body, sound):
    assert _matches(document, {"$ref": "#/components/schemas/Introspect"}, body) is sound
    answer = await whole.post("/introspect", body)
    assert (answer.status == 200) is sound


@pytest.mark.parametrize(
    ("path", "fields", "sound"),
    [
        ("/revoke", {"token": "t", "jti": ""}, True),
        ("/revoke", {"token": "", "jti": "j"}, True),
        ("/revoke", {"token": "t", "jti": "j"}, False),
        ("/revoke", {"token": "", "jti": ""}, False),
        ("/explain", {"token": "t", "claims": "", "aud": "", "sub": ""}, True),
        ("/explain", {"token": "t", "client_id": "admin"}, True),
        ("/explain", {"token": "t", "sub": "s"}, False),
        ("/explain", {"token": "t", "claims": "{}"}, False),
        ("/introspect", {"token": "t", "jti": "", "header": ""}, True),
        ("/introspect", {"token": "t", "jti": "j"}, False),
    ],
)
async def test_the_document_and_the_service_agree_on_forms_where_an_empty_field_is_absent(
    whole, document, path, fields, sound
):
    content = document["paths"][path]["post"]["requestBody"]["content"]
    assert _matches(document, content["application/x-www-form-urlencoded"]["schema"], fields) is sound
    answer = await whole.post(path, form=fields)
    assert (answer.status == 200) is sound


@pytest.mark.parametrize(
    ("caller", "body", "status"),
    [(None, {}, 401), ("gateway", {"sub": "a"}, 403), ("admin", {}, 400), ("admin", b"x" * 70000, 413)],
)
async def test_errors_are_answered_with_the_body_and_headers_of_the_document(
    whole, document, caller, body, status
):
    answer = await whole.post("/revoke-user", body, caller=caller)
    assert answer.status == status
    reference = document["paths"]["/revoke-user"]["post"]["responses"][str(status)]["$ref"]
    response = document["components"]["responses"][reference.rsplit("/", 1)[-1]]
    assert _matches(document, response["content"]["application/json"]["schema"], answer.json)
    assert set(response.get("headers", ())) <= set(answer.headers)
    assert f"`{answer.json['error']}`" in response["description"]


async def test_the_page_shows_every_path_and_type(whole, document):
    _, page = await _get(whole, "/docs")
    for path in document["paths"]:
        assert f"<code>{path}</code>" in page
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in page
    for link in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{link}"' in page


async def test_the_page_loads_and_runs_nothing_and_its_policy_says_so(revoker):
    response, page = await _get(revoker, "/docs")
    assert response.content_type == "text/html"
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy
    assert not re.search(
        r"<script|<img|<link|src=|style=|url\(|@import| on\w+=|href=\"(?!#|openapi\.json)", page
    )


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_a_cache_is_told_whether_what_it_has_is_still_so(revoker, path):
    fresh, _ = await _get(revoker, path)
    again, body = await _get(revoker, path, **{"If-None-Match": f'W/"old", {fresh.headers["ETag"]}'})
    other, _ = await _get(revoker, path, **{"If-None-Match": '"another"'})
    assert (fresh.status, again.status, other.status) == (200, 304, 200)
    assert body == ""
    assert fresh.headers["Cache-Control"] == again.headers["Cache-Control"] == "no-cache"
    assert again.headers["ETag"] == fresh.headers["ETag"]


async def test_schemathesis_finds_nothing(whole, tmp_path, events, monkeypatch):
    monkeypatch.setattr(
        "revoker.auth._FAILURES_AT_ONCE", 1_000_000
    )  # else hundreds of wrong secrets are throttled
    config = tmp_path / "schemathesis.toml"
    config.write_text(SCHEMATHESIS)
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", config),
        *("run", f"{whole.url}/openapi.json"),
        *("--header", f"X-Revoker-Key: {SECRETS['gateway']}"),
        *("--auth", f"admin:{SECRETS['admin']}", "--suppress-health-check", "all", "--max-examples", "40"),
        *(
            "--phases",
            "examples,coverage,fuzzing",
            "--max-time",
            os.environ.get("REVOKER_TEST_FUZZ_SECONDS", "20"),
            "--continue-on-failure",
        ),
        *("--no-color", "--generation-database", "none"),
        cwd=tmp_path,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.api.schemathesis_hooks",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "REVOKER_TEST_ISSUER": forge.ISSUER,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await run.communicate()
    assert run.returncode == 0, output.decode()
