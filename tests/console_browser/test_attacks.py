"""Pages of other sites, and stored script, against a real browser."""

import html
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.console_browser.test_people import ACT, USER, done
from tests.rig import forge


@pytest.fixture
async def evil():
    """A site that shows what the test writes into it."""
    pages = {}

    async def show(request):
        return web.Response(text=pages.get(request.path, ""), content_type="text/html")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", show)
    async with TestServer(application, host="127.0.0.1") as server:
        yield pages, f"http://localhost:{server.port}"  # another site than 127.0.0.1


async def test_a_form_that_another_site_sends_does_nothing(enter, evil, events):
    service, admin = await enter("admin")
    pages, url = evil
    await admin.go(ACT.format("revoke-user") + "sub=alice")
    form = await admin.run("document.querySelector('main form [name=form]').value")
    fields = {"iss": forge.ISSUER, "sub": "alice", "form": form, "reason": "planted"}
    inputs = "".join(f'<input name="{name}" value="{html.escape(value)}">' for name, value in fields.items())
    target = f"{service.url}/console/act/revoke-user"
    pages["/"] = f'<form method="post" action="{target}">{inputs}<button class="danger">Win</button></form>'
    admin.url = url
    await admin.go("/")
    await admin.click("button.danger")
    assert "This request came from a page of another site." in await admin.words()
    assert done(events) == []


async def test_no_other_site_can_put_the_console_into_a_frame(enter, evil):
    service, admin = await enter("admin")
    pages, url = evil
    pages["/"] = f'<iframe src="{service.url}/console/state"></iframe>'
    admin.url = url
    await admin.go("/")
    await admin.page.until_fault("frame-ancestors", "X-Frame-Options")


async def test_stored_script_does_not_run(enter):
    service, admin = await enter("admin")
    script = (
        '<img src=x onerror="window.ran=1"><script>window.ran=1</script>"\' onfocus=window.ran=1 autofocus '
    )
    await service.post("/revoke-user", {"sub": script, "iss": forge.ISSUER, "reason": script})
    for path in (
        USER + quote(script),
        ACT.format("block-user") + f"sub={quote(script)}",
        ACT.format("revoke-client") + f"client_id={quote(script)}",
        "/console/changes",
    ):
        await admin.go(path)
        assert script.strip() in await admin.run("document.body.textContent"), path
        assert await admin.run("window.ran ?? null") is None
    assert admin.page.faults == []


async def test_even_script_that_got_into_a_page_would_not_run(enter):
    _, admin = await enter("admin")
    await admin.run(
        "document.body.insertAdjacentHTML('beforeend', "
        '\'<img src="https://evil.example.com/x" onerror="window.ran=1">\')'
    )
    await admin.page.run(
        "async () => { const script = document.createElement('script'); script.text = 'window.ran = 1'; "
        "document.body.append(script) }"
    )
    await admin.page.until_fault("Content Security Policy")  # it has refused
    assert await admin.run("window.ran ?? null") is None


async def test_the_cookie_is_out_of_reach_of_script(enter):
    _, admin = await enter("admin")
    assert await admin.run("document.cookie") == ""
