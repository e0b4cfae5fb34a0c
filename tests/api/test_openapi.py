"""``/openapi.json`` and ``/docs``: true of the running service, and sound in themselves."""

import asyncio
import importlib
import importlib.metadata
import json
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jsonschema_rs
import pytest
from aiohttp.test_utils import make_mocked_request
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from revoker import app
from revoker.api.bodies import MAX_FIELDS
from revoker.api.openapi import ASSETS
from revoker.auth import digest
from tests.rig import forge
from tests.rig.service import OPENAPI, SECRETS, settings_for
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
include-path = [
    "/token", "/backchannel-logout", "/sessions", "/sessions/{sid}/elevate", "/feed", "/feed/confirm",
    "/revocations", "/users/{sub}"
]
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
    scopes = {
        "admin": ["introspect", "revoke", "revoke-all", "sessions", "read", "feed"],
        "gateway": ["introspect"],
    }
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
        if route.method != "HEAD" and not route.resource.canonical.startswith("/docs/")
    }
    routes.add(("get", "/forward-auth"))  # served past the router
    assert routes == {(method, path) for path, methods in document["paths"].items() for method in methods}


def test_where_ops_port_is_set_document_and_page_stand_there(tmp_path):
    service = app.Service(settings_for("redis://127.0.0.1:1", tmp_path, server={"ops_port": 9}))
    paths = {route.resource.canonical for route in service.main.application.router.routes()}
    ops = {route.resource.canonical for route in service.ops.application.router.routes()}
    assert {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs"} <= ops
    assert not paths & ops


async def test_where_ops_port_is_set_the_document_says_that_requests_go_elsewhere(tmp_path):
    described = []
    for server in ({}, {"ops_port": 9}):
        service = app.Service(settings_for("redis://127.0.0.1:1", tmp_path, server=server))
        [respond] = [
            route.handler
            for route in (service.ops or service.main).application.router.routes()
            if (route.method, route.resource.canonical) == ("GET", "/openapi.json")
        ]
        answer = await respond(make_mocked_request("GET", "/openapi.json"))
        described.append("must go to the main port" in json.loads(answer.body)["info"]["description"])
    assert described == [False, True]


PREVIOUS = {"/token", "/sessions/{sid}/elevate", "/backchannel-logout"}
"""Need what an answer before has given out, or an identity provider has signed."""

IN_TIME = {"exp": 3600, "until": 3600, "iat": -60}
"""Dates of examples, by what they must be to the present."""


def request_examples(document):
    """Every example of a request body: path, media type, name and body."""
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for media, content in operation.get("requestBody", {}).get("content", {}).items():
                for name, example in content["examples"].items():
                    yield path, media, name, example["value"], content["schema"]


def at_present(body):
    """The body with its dates moved to the present."""
    if isinstance(body, list):
        return [at_present(item) for item in body]
    if not isinstance(body, dict):
        return body
    now = int(time.time())
    return {
        name: now + IN_TIME[name] if name in IN_TIME else at_present(value) for name, value in body.items()
    }


def test_every_operation_has_examples_of_all_that_is_sent_and_answered():
    document = OPENAPI
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            for content in operation.get("requestBody", {}).get("content", {}).values():
                assert content["examples"], where
            for response in operation["responses"].values():
                name = response.get("$ref", "").rpartition("/")[2]
                found = document["components"]["responses"][name] if name else response
                for content in found.get("content", {}).values():
                    assert content["examples"], where
                    for example in content["examples"].values():
                        assert _matches(document, content["schema"], example["value"]), (where, example)


async def test_every_example_of_a_request_is_accepted_by_the_service(whole, document):
    tried = set()
    for path, media, name, body, schema in request_examples(document):
        assert _matches(document, schema, body), (path, name)
        tried.add(path)
        if path in PREVIOUS:
            continue
        sent = {"form": at_present(body)} if media.endswith("urlencoded") else {"body": at_present(body)}
        answer = await whole.post(path, **sent)
        assert answer.status in {200, 201, 204}, (path, name, answer.body)
        _check_answer(document, document["paths"][path]["post"], answer)
    assert len(tried) > 15


REQUESTS = {
    "/introspect": {"token": "?"},
    "/introspect/batch": {"tokens": [{"token": "?"}, {"jti": 1}, {}]},
    "/revoke-session": {"sid": "s", "iss": forge.ISSUER, "before": int(time.time()) - 5.5},
    "/revoke-claim": {"claim": "grant_id", "value": 7, "iss": forge.ISSUER},
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


async def test_administration_is_answered_as_the_document_says(whole, document):
    paths, admin = document["paths"], {"Authorization": f"Bearer {SECRETS['admin']}"}
    await whole.post("/sessions", {"sub": "alice", "device": "phone"})
    for path, body in REQUESTS.items():
        if path not in {"/introspect", "/introspect/batch", "/explain"}:
            await whole.post(path, {**body, "reason": "why"})
            tried = await whole.post(path, {**body, "dry_run": True})
            if path != "/revoke":
                _check_answer(document, paths[path]["post"], tried)
    for path in ("/users/{sub}", "/revocations"):
        asked = path.replace("{sub}", "alice") + f"?iss={forge.ISSUER}"
        _check_answer(document, paths[path]["get"], await whole.ask("GET", asked, headers=admin))


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


async def test_the_page_loads_files_of_this_service_only_and_its_policy_allows_no_others(revoker):
    response, page = await _get(revoker, "/docs")
    assert response.content_type == "text/html"
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.search(r"<script(?! src=)|<style|style=| on\w+=", page)
    loaded = re.findall(r'(?:src|href)="(docs/[^"]+)"', page)
    assert sorted(loaded) == sorted(f"docs/{name}" for name in ASSETS)
    for name in loaded:
        response, body = await _get(revoker, f"/{name}")
        assert (response.status, response.headers["X-Content-Type-Options"]) == (200, "nosniff")
        assert response.content_type == ASSETS[name.removeprefix("docs/")]
        assert body


async def test_without_its_extra_the_page_says_how_it_is_installed(start, valkey, monkeypatch):
    def not_installed(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", not_installed)
    revoker = await start(valkey)
    response, page = await _get(revoker, "/docs")
    missing, _ = await _get(revoker, "/docs/swagger-ui-bundle.js")
    assert (response.status, missing.status) == (200, 404)
    assert "pip install 'revoker[docs]'" in page
    assert 'href="openapi.json"' in page
    assert "<script" not in page


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/swagger-ui.css"])
async def test_a_cache_learns_whether_what_it_has_is_still_so(revoker, path):
    fresh, _ = await _get(revoker, path)
    again, body = await _get(revoker, path, **{"If-None-Match": f'W/"old", {fresh.headers["ETag"]}'})
    other, _ = await _get(revoker, path, **{"If-None-Match": '"another"'})
    assert (fresh.status, again.status, other.status) == (200, 304, 200)
    assert body == ""
    assert fresh.headers["Cache-Control"] == again.headers["Cache-Control"] == "no-cache"
    assert again.headers["ETag"] == fresh.headers["ETag"]


OWN_SID = "0" * 37 + "A"
"""Of the form of a session held by this service."""


@pytest.mark.parametrize("iss", ["", None, "https://x"])
@pytest.mark.parametrize(("path", "member"), [("/revoke-session", "sid"), ("/revoke-user", "except_sid")])
async def test_a_generated_sid_in_the_form_of_our_own_comes_with_the_issuer(
    whole, monkeypatch, iss, path, member
):
    """What Schemathesis generates once in many thousand requests must not fail its test by chance."""
    monkeypatch.setenv("REVOKER_TEST_ISSUER", forge.ISSUER)
    hooks = importlib.import_module("tests.api.schemathesis_hooks")
    form = {"sub": "s", member: OWN_SID} | ({} if iss is None else {"iss": iss}) | {"client_secret": "x"}
    if not iss:
        answer = await whole.post(path, form={name: form[name] for name in form if name != "client_secret"})
        assert answer.status == 400
        assert answer.json["error_description"].startswith(f"iss is needed: {member} has the form of a sess")
    hooks.before_call(None, SimpleNamespace(body=form, path=path, media_type=hooks.FORM), {})
    assert (await whole.post(path, form=form)).status == 200


async def test_a_form_has_as_many_fields_as_the_document_allows(whole, document):
    content = document["paths"]["/revoke-session"]["post"]["requestBody"]["content"]
    schema = content["application/x-www-form-urlencoded"]["schema"]
    for count in (MAX_FIELDS, MAX_FIELDS + 1):
        form = {"sid": "s", **{f"x{n}": "1" for n in range(count - 1)}}
        assert _matches(document, schema, form) is (count == MAX_FIELDS)
        assert ((await whole.post("/revoke-session", form=form)).status == 200) is (count == MAX_FIELDS)


@pytest.mark.parametrize("path", ["/feed", "/feed/snapshot"])
@pytest.mark.parametrize("name", ["", "a b", "\x96", "a" * 65, "edge\n"])
async def test_a_consumer_name_that_is_refused_is_none_by_the_document_either(whole, document, path, name):
    query = {"cursor": "1-1", "name": name}
    admin = {"Authorization": f"Bearer {SECRETS['admin']}"}
    async with whole.http.get(whole.url + path, params=query, headers=admin) as response:
        assert (response.status, "$.name" in await response.text()) == (400, True)
    (schema,) = [
        parameter["schema"]
        for parameter in document["paths"][path]["get"]["parameters"]
        if parameter["name"] == "name"
    ]
    assert not _matches(document, schema, name)
    assert _matches(document, schema, "edge-7")


async def test_schemathesis_finds_nothing(whole, tmp_path, events, monkeypatch):
    seconds = os.environ.get("REVOKER_TEST_FUZZ_SECONDS")
    if seconds:
        fuzzing = ["--max-time", seconds, "--generation-database", "none"]
    else:
        fuzzing = ["--max-time", "20", "--generation-deterministic"]
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
        *("--phases", "examples,coverage,fuzzing", "--continue-on-failure"),
        *fuzzing,
        "--no-color",
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
