"""What people do in the console, in a real browser."""

import signal
from urllib.parse import quote

from tests.edge.conftest import callers
from tests.rig import forge
from tests.rig.edge import edge_process, stand_still
from tests.rig.probes import eventually
from tests.site.conftest import barriers

USER = f"/console/user?iss={quote(forge.ISSUER, safe='')}&sub="
ACT = f"/console/act/{{}}?iss={quote(forge.ISSUER, safe='')}&"


def done(events, event="user_revoked"):
    return [one for one in events if one["event"] == event]


async def test_support_logs_one_user_out_and_sees_it_take_effect(enter):
    service, support = await enter("support")
    token = service.token(sub="alice")
    await support.type("#sub", "alice")
    await support.click("main form button")
    assert "Nothing is revoked for this user as a whole." in await support.words()
    await support.click("a.button[href*='revoke-user']")
    assert "Every token and session of the user ends now." in await support.words()
    assert await service.active(token)
    await support.type("#reason", "laptop stolen")
    await support.click("button.danger")
    assert "The user is logged out everywhere." in await support.words()
    assert not await service.active(token)
    await support.click("main a[href*='/user?']")
    assert "laptop stolen" in await support.words()
    await support.click("nav a[href$='/token']")
    await support.type("#token", token)
    await support.click("main form button")
    words = await support.words()
    assert "The user was logged out after the token was made." in words
    assert token not in await support.run("location.href")
    assert support.page.faults == []
    assert support.strangers == []
    assert len(support.page.requested) >= 12


async def log_out(support, sub):
    """Find a user, and log out everywhere."""
    await support.go("/console")
    await support.type("#sub", sub)
    await support.click("main form button")
    await support.click("a.button[href*='revoke-user']")
    await support.click("button.danger")
    assert "The user is logged out everywhere." in await support.words()


async def reached(support, words):
    """Load the page after an action again until it says that."""

    async def says_so():
        if words in await support.words():
            return True
        await support.click("main a[href='']")
        return False

    await eventually(says_so, what=words)


async def test_support_logs_one_user_out_and_sees_it_take_effect_at_an_edge(enter, tmp_path):
    service, support = await enter("support", callers=callers())
    alice, bob = (service.token(sub=sub) for sub in ("alice", "bob"))
    async with edge_process(tmp_path, service.url, max_staleness=3600) as (edge, _):
        assert await edge.active(alice)
        assert await edge.active(bob)
        await log_out(support, "alice")
        await reached(support, "Reached 1 of 1 edge: all that are connected answer by this change.")
        assert not await edge.active(alice)
        assert await edge.active(bob)
        assert await barriers(support.page) == []
    assert support.page.faults == []


async def test_support_sees_that_an_edge_does_not_have_it_and_then_that_it_does(enter, tmp_path):
    service, support = await enter("support", callers=callers())
    alice = service.token(sub="alice")
    async with edge_process(tmp_path, service.url, max_staleness=3600) as (edge, process):
        await log_out(support, "bob")
        await reached(support, "Reached 1 of 1 edge: all")
        assert await edge.active(alice)
        stand_still(process)
        await log_out(support, "alice")
        words = await support.words()
        assert "Reached 0 of 1 edge. Look again" in words
        assert "An edge that it has not reached may still answer as before" in words
        assert await barriers(support.page) == []
        process.send_signal(signal.SIGCONT)
        await reached(support, "Reached 1 of 1 edge: all")

        async def refuses():
            answer = await edge.post("/introspect", {"token": alice}, caller="gateway")
            assert answer.json.get("active") is not True
            return answer.status == 200  # after the pause it first compares the clocks

        await eventually(refuses, what="a verdict of the edge")
    assert support.page.faults == []


async def test_a_viewer_sees_everything_and_finds_no_way_to_act(enter):
    _, viewer = await enter("viewer")
    for path in ("", "/token", "/changes", "/state"):
        await viewer.go(f"/console{path}")
    await viewer.go(USER + "alice")
    assert (
        await viewer.run("document.querySelectorAll(\"a[href*='/act/'], nav a[href$='/revoke']\").length")
        == 0
    )
    assert viewer.page.faults == []
    await viewer.go(ACT.format("revoke-user") + "sub=alice")
    assert "This needs the role support; you have the role viewer." in await viewer.words()


async def test_an_administrator_revokes_a_key_with_a_typed_confirmation(enter, events):
    _, admin = await enter("admin")
    await admin.click("nav a[href$='/revoke']")
    await admin.type("#revoke-key-kid", "old-key")
    await admin.click("form[action$='/revoke-key'] button")
    assert "More than one user is concerned. Type old-key to confirm" in await admin.words()
    await admin.type("#reason", "found on a laptop")
    await admin.type("#confirm", "old key")
    await admin.click("button.danger")
    assert "What you typed is not the kid above. Nothing was done." in await admin.words()
    assert done(events, "key_revoked") == []
    assert await admin.run("document.querySelector('#reason').value") == "found on a laptop"
    await admin.type("#confirm", "old-key")
    await admin.click("button.danger")
    assert "The key is revoked." in await admin.words()
    assert [one["reason"] for one in done(events, "key_revoked")] == ["found on a laptop"]


async def test_a_double_click_does_it_once(enter, events):
    _, support = await enter("support")
    await support.go(ACT.format("revoke-user") + "sub=alice")
    await support.click("button.danger", times=2)
    assert "The user is logged out everywhere." in await support.words()
    assert len(done(events)) == 1


async def test_back_forward_and_reload_do_nothing_again(enter, events):
    _, support = await enter("support")
    await support.go(USER + "alice")
    await support.click("a.button[href*='block-user']")
    await support.choose("input[value=hour]")
    await support.click("button.danger")
    assert "The user is blocked." in await support.words()
    await support.reload()
    await support.history(-1)
    assert "What will happen" in await support.words()
    await support.history(1)
    assert "The user is blocked." in await support.words()
    assert len(done(events, "user_blocked")) == 1


async def test_a_stale_page_does_nothing_and_keeps_what_was_typed(enter, events):
    """Its form is sent after another sign-in."""
    _, support = await enter("support")
    await support.go(ACT.format("revoke-user") + "sub=alice")
    await support.type("#reason", "laptop stolen")
    cookies = (await support.page.command("Network.getCookies"))["cookies"]
    stale = next(cookie for cookie in cookies if cookie["name"] == "revoker-console")
    form = await support.run("document.querySelector('main form').outerHTML")
    await support.go("/console/sign-in")
    await support.click("main a.button")
    renewed = (await support.page.command("Network.getCookies"))["cookies"]
    assert stale["value"] not in {cookie["value"] for cookie in renewed}
    await support.page.run(
        "async (form) => { document.querySelector('main').innerHTML = form; "
        "document.querySelector('#reason').value = 'laptop stolen' }",
        form,
    )
    await support.click("button.danger")
    assert "of an earlier sign-in" in await support.words()
    assert await support.run("document.querySelector('#reason').value") == "laptop stolen"
    assert done(events) == []
    await support.click("button.danger")
    assert len(done(events)) == 1


async def test_an_expired_sign_in_loses_no_typed_reason(enter, events):
    _, support = await enter("support")
    await support.go(ACT.format("revoke-user") + "sub=alice")
    await support.type("#reason", "laptop stolen")
    await support.page.command("Network.clearBrowserCookies")
    await support.click("button.danger")
    assert await support.path() == "/console/sign-in"
    await support.click("main a.button")
    assert await support.path() == "/console/act/revoke-user"
    assert await support.run("document.querySelector('#reason').value") == "laptop stolen"
    assert done(events) == []
    await support.click("button.danger")
    assert [one["reason"] for one in done(events)] == ["laptop stolen"]


async def test_all_of_it_works_by_keyboard(enter, events):
    _, support = await enter("support")
    await support.go("/console")
    await support.key("Tab")
    assert await support.run("document.activeElement.className") == "skip"
    await support.key("Enter")
    await support.key("Tab")
    assert await support.run("document.activeElement.id") == "iss"
    await support.key("Tab")
    await support.page.command("Input.insertText", text="alice")
    await support.key("Enter", loads=True)
    assert await support.path() == "/console/user"
    for target in ("a.button[href*='revoke-user']", "button.danger"):
        for _ in range(40):
            await support.key("Tab")
            if await support.run(f'document.activeElement.matches("{target}")'):
                break
        outline = await support.run("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"  # it can be seen where one is
        await support.key("Enter", loads=True)
    assert "The user is logged out everywhere." in await support.words()
    assert len(done(events)) == 1
