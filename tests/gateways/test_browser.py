"""The recipes for browsers in a real one: scripts of an app on another origin than the gateway."""

import contextlib
import uuid

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.gateways import recipes
from tests.gateways.chromium import chromium
from tests.gateways.conftest import until_asked, user_token
from tests.rig import forge
from tests.rig.gateways import KINDS, patient, started

CALL = """async (url, options) => {
  try {
    const response = await fetch(url, {...options, cache: "no-store"})
    const text = await response.text()
    return {
      status: response.status,
      challenge: response.headers.get("WWW-Authenticate"),
      subject: text.startsWith("{") ? JSON.parse(text).cgi?.HTTP_X_AUTH_SUBJECT : null,
    }
  } catch (error) {
    return {error: error.name}
  }
}"""
WITH_COOKIE = {"credentials": "include"}
POST = {**WITH_COOKIE, "method": "POST", "headers": {"Content-Type": "application/json"}, "body": "{}"}


async def empty_page() -> TestServer:
    async def show(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>app</title>", content_type="text/html")

    application = web.Application()
    application.router.add_get("/", show)
    server = TestServer(application, host="127.0.0.1")
    await server.start_server()
    return server


@pytest.fixture
async def browsed(site, tmp_path):
    """A browser, the addresses of the app, of another origin, and of the gateway."""
    kind = KINDS["nginx"]
    async with contextlib.AsyncExitStack() as stack:
        app, other = await empty_page(), await empty_page()
        stack.push_async_callback(app.close)
        stack.push_async_callback(other.close)
        origin = f"http://127.0.0.1:{app.port}"

        def edit(folder):
            for recipe in ("no-login", "cors", "cookie"):
                recipes.apply(recipe, folder, kind.folder)

        def changed(text):
            return patient(text.replace("https://app.example.com", origin))

        http = await stack.enter_async_context(aiohttp.ClientSession())
        ports = {"revoker": site.revoker_port, "backend": site.backend_port}
        gateway = started(
            kind, tmp_path / "gateway", http, forge.rsa_key("main-1"), **ports, changed=changed, edit=edit
        )
        url = await stack.enter_async_context(gateway)
        await until_asked(http, url, user_token())
        page = await stack.enter_async_context(chromium(tmp_path / "chromium"))
        yield page, origin, f"http://127.0.0.1:{other.port}", url


async def test_an_app_logs_in_calls_and_can_read_why_it_is_refused_after_logout(browsed, site):
    page, app, _, gateway = browsed
    user = str(uuid.uuid4())
    token = user_token(sub=user)
    await page.open(app + "/")

    before = await page.run(CALL, gateway + "/app/orders", WITH_COOKIE)
    assert (before["status"], before["challenge"]) == (401, 'Bearer realm="revoker"')
    logged_in = await page.run(
        CALL, gateway + "/docs/login", {**WITH_COOKIE, "method": "POST", "body": token}
    )
    assert logged_in["status"] == 200
    assert await page.run("async () => document.cookie") == ""
    in_header = {"headers": {"Authorization": f"Bearer {token}"}}
    for url, options in (("/app/orders", WITH_COOKIE), ("/app/orders", POST), ("/orders", in_header)):
        called = await page.run(CALL, gateway + url, options)
        assert (called["status"], called["subject"]) == (200, user), (url, options)
    too_weak = await page.run(CALL, gateway + "/reports/1", in_header)
    assert too_weak["status"] == 403

    await site.revoke_user(user)
    for url, options in (("/app/orders", WITH_COOKIE), ("/app/orders", POST), ("/orders", in_header)):
        refused = await page.run(CALL, gateway + url, options)
        assert refused["status"] == 401, (url, options)
        assert 'error="invalid_token"' in refused["challenge"]


async def test_a_page_of_another_origin_can_neither_read_nor_cause_anything(browsed, site):
    page, app, other, gateway = browsed
    await page.open(app + "/")
    login = {**WITH_COOKIE, "method": "POST", "body": user_token()}
    assert (await page.run(CALL, gateway + "/docs/login", login))["status"] == 200
    assert (await page.run(CALL, gateway + "/app/orders", WITH_COOKIE))["status"] == 200

    await page.open(other + "/")
    for options in (WITH_COOKIE, POST):
        assert await page.run(CALL, gateway + "/app/orders", options) == {"error": "TypeError"}
    upload = str(uuid.uuid4())
    unseen = {**WITH_COOKIE, "mode": "no-cors", "method": "POST", "body": "forged"}
    await page.run(CALL, f"{gateway}/app/orders?id={upload}", unseen)
    async with aiohttp.request("GET", f"{site.backend}/received", params={"id": upload}) as response:
        assert await response.json() == 0
    await page.open(app + "/")
    await page.run(
        CALL, f"{gateway}/app/orders?id={upload}", {**WITH_COOKIE, "method": "POST", "body": "genuine"}
    )
    async with aiohttp.request("GET", f"{site.backend}/received", params={"id": upload}) as response:
        assert await response.json() == len("genuine")
