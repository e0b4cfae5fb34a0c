"""Every example: it lets a token pass, refuses it after a logout, and answers 503 without a verdict."""

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys

import httpx
import pytest
from conftest import PATIENT_S, stop, until_answers
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

UVICORN = ["-m", "uvicorn", "--log-level", "warning"]
FLASK = ["-m", "flask", "--app"]
APPS = {
    "starlette": ([*UVICORN, "starlette_app:app"], "/orders", None),
    "fastapi": ([*UVICORN, "fastapi_app:app"], "/orders", "/orders"),
    "django": ([*UVICORN, "django_app:app"], "/orders", "/orders/new"),
    "django-wsgi": (["-m", "gunicorn", "django_app:wsgi"], "/orders", "/orders/new"),
    "drf": ([*UVICORN, "django_app:app"], "/api/orders", "/api/orders/new"),
    "flask": ([*FLASK, "flask_app", "run"], "/orders", "/orders"),
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(examples, command, url, secret):
    port = free_port()
    where = ["--bind", f"127.0.0.1:{port}"] if "gunicorn" in command else ["--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, *command, *where],
        cwd=examples,
        env=os.environ | {"REVOKER_URL": url, "REVOKER_SECRET": secret},
        stderr=subprocess.DEVNULL,
    )
    try:
        until_answers(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


@pytest.fixture(scope="module", params=APPS)
def app(request, revoker, examples):
    command, read, write = APPS[request.param]
    with running(examples, command, revoker.url, revoker.gateway) as url:
        yield url + read, None if write is None else url + write, url + "/health"


@pytest.fixture(scope="module", params=APPS)
def app_without_revoker(request, examples):
    command, read, _ = APPS[request.param]
    with running(examples, command, "http://127.0.0.1:9", "secret") as url:
        yield url + read, url + "/health"


@pytest.fixture
def kind():
    from revoker_client import SyncRevokerClient

    return SyncRevokerClient


@pytest.fixture
async def login(admin):
    async def login(scope="orders:read"):
        user = f"user-{secrets.token_hex(4)}"
        return user, (await admin.begin_session(user, scope=scope)).access_token

    return login


async def asked(url, token=None, method="GET", headers=None):
    headers = {"Authorization": f"Bearer {token}"} if token else headers
    async with httpx.AsyncClient(timeout=PATIENT_S) as http:
        return await http.request(method, url, headers=headers)


async def log_out(admin, user, token):
    await admin.revoke_user(user, iss=(await admin.introspect(token)).iss)


async def test_a_token_passes_until_its_user_is_logged_out(app, admin, login):
    read, _, _ = app
    user, token = await login()
    answer = await asked(read, token)
    assert (answer.status_code, answer.json()) == (200, {"user": user})
    await log_out(admin, user, token)
    answer = await asked(read, token)
    assert answer.status_code == 401
    challenge = answer.headers.get_list("WWW-Authenticate")
    assert len(challenge) == 1
    assert 'error="invalid_token"' in challenge[0]


async def test_a_request_without_a_token_is_asked_for_one_without_an_error(app):
    read, _, health = app
    for headers in (None, {"Authorization": "Basic YTpi"}):
        answer = await asked(read, headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert (await asked(health)).status_code == 200


@pytest.mark.parametrize("value", ["Bearer", "Bearer a b", "Bearer é"])
async def test_what_is_no_token_is_refused(app, value):
    answer = await asked(app[0], headers={"Authorization": value.encode("latin-1")})
    assert answer.status_code == 401
    assert "error=" in answer.headers["WWW-Authenticate"]


async def test_the_scheme_is_written_in_any_case(app, login):
    _, token = await login()
    assert (await asked(app[0], headers={"Authorization": f"bEARER {token}"})).status_code == 200


async def test_a_scope_is_demanded(app, login):
    _, write, _ = app
    if write is None:
        write, method = app[0], "GET"  # the example demands none
        assert (await asked(write, (await login())[1], method)).status_code == 200
        return
    assert (await asked(write, (await login("orders:read"))[1], "POST")).status_code == 403
    user, token = await login("orders:read orders:write")
    answer = await asked(write, token, "POST")
    assert (answer.status_code, answer.json()) == (200, {"ordered_by": user})


async def test_where_revoker_cannot_be_asked_the_answer_is_503(app_without_revoker):
    read, health = app_without_revoker
    answer = await asked(read, "token")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "WWW-Authenticate" not in answer.headers
    assert (await asked(health)).status_code == 200
    assert (await asked(read)).status_code == 401


async def test_a_wrong_secret_of_the_application_is_no_users_fault(examples, revoker, login):
    _, token = await login()
    with running(examples, APPS["fastapi"][0], revoker.url, "wrong" * 9) as url:
        assert (await asked(url + "/orders", token)).status_code == 503


async def test_a_websocket_is_refused_before_it_is_accepted(examples, revoker, admin, login):
    user, token = await login()
    headers = {"Authorization": f"Bearer {token}"}
    with running(examples, APPS["starlette"][0], revoker.url, revoker.gateway) as url:
        address = url.replace("http", "ws") + "/echo"
        async with connect(address, additional_headers=headers, proxy=None) as websocket:
            assert await websocket.recv() == user
        await log_out(admin, user, token)
        with pytest.raises(InvalidStatus) as refused:
            await connect(address, additional_headers=headers, proxy=None)
        assert refused.value.response.status_code == 401
    with running(examples, APPS["starlette"][0], "http://127.0.0.1:9", "secret") as url:
        with pytest.raises(InvalidStatus) as refused:
            await connect(url.replace("http", "ws") + "/echo", additional_headers=headers, proxy=None)
        assert refused.value.response.status_code == 503


async def test_an_agent_is_refused_after_its_user_is_logged_out(examples, revoker, admin, login):
    user, token = await login()
    with running(examples, [*UVICORN, "fastmcp_server:app"], revoker.url, revoker.gateway) as url:
        async with Client(StreamableHttpTransport(url + "/mcp", auth=token)) as agent:
            assert (await agent.call_tool("orders")).data == f"orders of {user}"
            await log_out(admin, user, token)
            with pytest.raises(Exception, match="error"):
                await agent.call_tool("orders")
        assert (await asked(url + "/mcp", token, "POST")).status_code == 401


async def test_an_agent_gets_503_where_there_is_no_verdict(examples):
    with running(examples, [*UVICORN, "fastmcp_server:app"], "http://127.0.0.1:9", "secret") as url:
        answer = await asked(url + "/mcp", "token", "POST")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert (await asked(url + "/mcp", None, "POST")).status_code == 401
        assert (await asked(url + "/mcp", "x" * 20_000, "POST")).status_code == 401


def test_the_command_of_the_readme_sets_what_its_example_reads(examples):
    readme = (examples.parent / "README.md").read_text()
    [command] = re.findall(r"^(.*)uvicorn fastapi_app:app", readme, re.MULTILINE)
    read = re.findall(r'environ\["(\w+)"\]', (examples / "fastapi_app.py").read_text())
    assert set(re.findall(r"(\w+)=", command)) == set(read)
