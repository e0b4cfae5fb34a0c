"""The table of paths: what it says of a path holds for every way to write the request target."""

import pytest

from revoker import app
from tests.rig.service import settings_for


@pytest.fixture
async def service(tmp_path):
    """A service that is not started, with a port of its own for health and metrics."""
    return app.build(settings_for("redis://127.0.0.1:1", tmp_path, server={"ops_port": 9}))


@pytest.mark.parametrize(
    "target",
    [
        "/introspect",
        "/introspect/batch",
        "/forward-auth",
        "/forward-auth/below",
        "/forward-auth?a=b",
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


async def test_a_path_is_served_on_one_port(service):
    main = {resource.canonical for resource in service.main.application.router.resources()}
    ops = {resource.canonical for resource in service.ops.application.router.resources()}
    assert {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs"} == ops
    assert {"/introspect", "/introspect/batch", "/revoke"} <= main
    assert not main & ops
