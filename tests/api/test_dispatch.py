"""The table of paths: what it says of a path holds for every way to write the request target."""

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from revoker import app
from revoker.api.admission import Admission
from revoker.api.envelope import COUNTED, Dispatcher
from revoker.api.openapi import ASSETS
from revoker.api.served_paths import ANY, FastPath, LoadShedding, Logged, ServedPath
from revoker.metrics import Metrics
from revoker.server.connections import Runner
from revoker.server.lifecycle import CONNECTION
from tests.api.conftest import Wire
from tests.rig.servers import free_port
from tests.rig.service import settings_for


@pytest.fixture
async def service(tmp_path):
    """A service that is not started, with a port of its own for health and metrics."""
    return app.Service(settings_for("redis://127.0.0.1:1", tmp_path, server={"ops_port": 9}))


@pytest.mark.parametrize(
    "target",
    [
        "/introspect",
        "/introspect/batch",
        "/forward-auth",
        "/forward-auth/below",
        "/forward-auth?a=b",
        "http://gateway.example/introspect",
        "HTTP://gateway.example:80/introspect/batch",
        "http://gateway.example/forward-auth/below",
        "HTTPS://gateway.example/forward-auth",
    ],
)
async def test_a_request_for_a_verdict_changes_nothing(service, target):
    assert service.main.is_read_only(target)


@pytest.mark.parametrize(
    "target", ["/revoke", "/token", "/forward-authority", "/x/forward-auth", "/?/forward-auth", "", "*"]
)
async def test_any_other_request_may_change_something(service, target):
    assert not service.main.is_read_only(target)


@pytest.mark.parametrize(("target", "status"), [("/forward-auth/x", 401), ("/introspect", 400), ("", 400)])
async def test_bytes_that_are_no_request_are_refused_as_the_path_needs_it(service, target, status):
    assert service.main.malformed(target, 400).status == status


async def test_bytes_that_are_no_request_get_400_on_a_port_that_does_not_serve_their_path(service):
    """A request for ``/forward-auth`` that is well-formed gets 404 there: no gateway asks on that port."""
    assert service.ops.malformed("/forward-auth", 400).status == 400


VERDICTS = ("/introspect", "/introspect/batch", "/forward-auth", "/forward-auth/below")


async def test_a_path_is_served_on_one_port(service):
    main = {resource.canonical for resource in service.main.application.router.resources()}
    ops = {resource.canonical for resource in service.ops.application.router.resources()}
    page = {"/docs", *(f"/docs/{name}" for name in ASSETS)}
    assert {"/livez", "/readyz", "/metrics", "/openapi.json", *page} == ops
    assert {"/introspect", "/introspect/batch", "/revoke"} <= main
    assert not main & ops
    assert [path for path in VERDICTS if service.main.is_read_only(path)] == list(VERDICTS)
    assert [path for path in VERDICTS if service.ops.is_read_only(path)] == []


async def respond(_):
    return web.Response(text="here")


async def ask(served, *requests):
    """Serve these paths, and return the status and body of each of these requests."""
    metrics = Metrics(CollectorRegistry())
    runner = Runner(Dispatcher(served, admission=Admission(9), metrics=metrics), **CONNECTION)
    await runner.setup()
    port, answers = free_port(), []
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        async with aiohttp.ClientSession() as client:
            for method, path in requests:
                async with client.request(method, f"http://127.0.0.1:{port}{path}") as response:
                    answers.append((response.status, await response.text()))
    finally:
        await runner.cleanup()
    return answers


async def test_what_is_logged_is_chosen_for_a_path_with_its_method(events):
    served = [
        ServedPath(path="/things", method="GET", handle=respond, logged=Logged.NOTHING),
        ServedPath(path="/things", method="POST", handle=respond),
        ServedPath(path="/things", method="DELETE", handle=respond, logged=Logged.FAILURES),
    ]
    requests = [(method, "/things") for method in ("GET", "POST", "DELETE")]

    assert await ask(served, *requests) == [(200, "here")] * 3
    assert [line["method"] for line in events if line["event"] == "request"] == ["POST"]


async def test_a_whole_url_counts_for_load_shedding_as_its_path_does():
    async def say_whether_counted(request):
        return web.Response(text=str(request.get(COUNTED)))

    path = FastPath(path="/fast", method="GET", handle=say_whether_counted, load_shedding=LoadShedding.ALL)
    dispatcher = Dispatcher([path], admission=Admission(9), metrics=Metrics(CollectorRegistry()))
    runner, port = Runner(dispatcher, **CONNECTION), free_port()
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        wire = Wire(f"http://127.0.0.1:{port}")
        for target in ("/fast", "http://gateway.example/fast"):
            answer = await wire.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert answer.endswith(b"True"), target
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("terms", [{"subtree": True}, {"method": ANY}])
def test_a_subtree_and_nothing_else_is_served_with_any_method(terms):
    with pytest.raises(ValueError, match=r"^/below: a subtree, and nothing else, is served with any method$"):
        FastPath(path="/below", handle=respond, **terms)
