"""A form does what its page has shown, once, for the session that it was made for."""

import asyncio
import time
from urllib.parse import unquote

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from revoker.console.forms import FORM_S, Forms, StaleForm
from tests.console.conftest import sign_in
from tests.console.person import path_of
from tests.console.test_pages import action
from tests.rig import forge
from tests.rig.reply_proxy import ReplyProxy
from tests.rig.servers import free_port
from tests.rig.service import until_ready

ACT = "/console/act/revoke-user"
SESSION = "revoker-console"


def done(events, event="user_revoked"):
    return [one for one in events if one["event"] == event]


async def test_a_double_click_does_it_once_and_both_see_what_was_done(signed_in, events):
    support = await signed_in("support")
    preview = await support.open(action("revoke-user", sub="alice"))
    pages = await asyncio.gather(*(support.send(preview, ACT, follow=False) for _ in range(5)))
    assert [page.status for page in pages] == [303] * 5
    [place] = {page.headers["Location"] for page in pages}
    assert len(done(events)) == 1
    assert "The user is logged out everywhere." in (await support.open(place)).words


async def test_the_back_button_and_a_reload_do_nothing_twice(service, signed_in, events):
    support = await signed_in("support")
    preview = await support.open(action("block-user", sub="alice"))
    first = await support.send(preview, "/console/act/block-user", **{"for": "good"})
    undo = await support.open(action("unblock-user", sub="alice"))
    await support.send(undo, "/console/act/unblock-user")
    again = await support.send(preview, "/console/act/block-user", **{"for": "good"}, reason="other")
    assert again.url == first.url
    assert "The user is blocked." in again.words
    assert (await support.open(first.url)).words == again.words
    assert len(done(events, "user_blocked")) == 1
    assert await service.active(service.token(sub="alice"))


async def test_two_processes_do_a_form_once(  # fixtures
    start, valkey, provider, people, events
):
    port = free_port()
    settings = {**provider.settings, "url": f"http://127.0.0.1:{port}"}
    service = await start(valkey, port=port, prefix="two-consoles", console=settings)
    other = await start(valkey, prefix="two-consoles", new=False, console=settings)
    support = people(service)
    await sign_in(support, provider, "support")
    preview = await support.open(action("revoke-user", sub="alice"))
    elsewhere = other.url + ACT
    fields = preview.form(ACT).fields
    headers = {"Origin": service.url}
    pages = await asyncio.gather(
        support.ask("POST", elsewhere, data=fields, headers=headers, follow=False),
        support.send(preview, ACT, follow=False),
    )
    assert [page.status for page in pages] == [303, 303]
    assert len(done(events)) == 1


async def test_a_form_of_an_earlier_sign_in_does_nothing_and_keeps_the_typed_reason(
    service, signed_in, provider, events
):
    support = await signed_in("support")
    stale = await support.open(action("revoke-user", sub="alice"))
    await sign_in(support, provider, "support")
    page = await support.send(stale, ACT, reason="laptop stolen")
    assert page.status == 403
    assert "of an earlier sign-in" in page.words
    assert "Nothing was done. Look at the effect again." in page.words
    assert done(events) == []
    assert page.form(ACT).fields["reason"] == "laptop stolen"
    assert "logged out everywhere" in (await support.send(page, ACT)).words
    assert done(events)[0]["reason"] == "laptop stolen"


@pytest.mark.parametrize("changed", [{"sub": "bob"}, {"iss": "https://other.example.com"}, {"form": ""}])
async def test_a_form_does_nothing_but_what_its_page_says(signed_in, events, changed):
    support = await signed_in("support")
    preview = await support.open(action("revoke-user", sub="alice"))
    assert (await support.send(preview, ACT, **changed)).status == 403
    assert done(events) == []


async def test_a_form_of_another_action_does_nothing(signed_in, events):
    support = await signed_in("support")
    preview = await support.open(action("unblock-user", sub="alice"))
    fields = preview.form("/console/act/unblock-user").fields
    assert (await support.ask("POST", ACT, data=fields)).status == 403
    assert done(events) == []


async def test_a_form_can_be_sent_for_an_hour(signed_in, service):
    support = await signed_in("support")
    preview = await support.open(action("revoke-user", sub="alice"))
    sent = preview.form(ACT).fields["form"]
    made = int(sent.split(".")[1], 16)
    visitor = await _visitor(service, support)
    target = {"iss": forge.ISSUER, "sub": "alice"}
    assert Forms.name(visitor, "revoke-user", target, sent, made + FORM_S - 1) == sent.partition(".")[0]
    with pytest.raises(StaleForm, match="more than an hour old"):
        Forms.name(visitor, "revoke-user", target, sent, made + FORM_S + 1)


async def _visitor(service, person):
    request = make_mocked_request("GET", "/", headers={"Cookie": f"{SESSION}={person.cookie(SESSION)}"})
    return await service.service._console._sessions.find(request)


async def test_even_a_right_form_does_nothing_for_a_lower_role(signed_in, service, events):
    support = await signed_in("support")
    target = {"iss": forge.ISSUER, "client_id": "web"}
    form = Forms.new(await _visitor(service, support), "revoke-client", target, time.time())
    data = {**target, "confirm": "web", "form": form}
    page = await support.ask("POST", "/console/act/revoke-client", data=data)
    assert page.status == 403
    assert "needs the role admin" in page.words
    assert done(events, "client_revoked") == []


async def test_an_expired_sign_in_loses_no_typed_reason(service, signed_in, provider, events):
    support = await signed_in("support")
    preview = await support.open(action("revoke-user", sub="alice"))
    support.forget(SESSION)
    page = await support.send(preview, ACT, reason="laptop <stolen>\r\nat the airport")
    assert page.url.endswith("/console/sign-in")
    assert done(events) == []
    again = await sign_in(support, provider, "support")
    assert again.url.partition("?")[0].endswith(ACT)
    assert "laptop <stolen>" in again.words
    assert done(events) == []
    assert "logged out everywhere" in (await support.send(again, ACT)).words
    assert done(events)[0]["reason"].splitlines() == ["laptop <stolen>", "at the airport"]


async def test_after_an_expired_sign_in_a_confirmation_has_to_be_typed_again(signed_in, provider, events):
    admin = await signed_in("admin")
    act = "/console/act/revoke-client"
    preview = await admin.open(action("revoke-client", client_id="web"))
    admin.forget(SESSION)
    await admin.send(preview, act, reason="leaked", confirm="web")
    again = await sign_in(admin, provider, "admin")
    assert again.form(act).fields["reason"] == "leaked"
    assert again.form(act).fields["confirm"] == ""
    assert (await admin.send(again, act)).status == 400
    assert done(events, "client_revoked") == []


@pytest.fixture
def expired(service, signed_in):
    """Somebody who had typed a reason when the sign-in had expired."""

    async def send(sub="alice", reason="laptop stolen"):
        support = await signed_in("support")
        preview = await support.open(action("revoke-user", sub=sub))
        support.forget(SESSION)
        page = await support.send(preview, ACT, reason=reason)
        return support, page

    return send


async def _cancelled_at_the_provider(person, provider):
    provider.refusal = "access_denied"
    assert (await person.open("/console/sign-in/begin")).status == 403
    provider.refusal = ""


async def _no_role(person, provider):
    assert (await sign_in(person, provider, None)).status == 403


async def _stray_answer(person, _):
    await person.open("/console/sign-in/begin", follow=False)
    assert (await person.open("/console/callback?state=x&error=access_denied")).status == 403


async def _another_page_in_another_tab(person, _):
    assert (await person.open("/console/state")).url.endswith("/console/sign-in")


@pytest.mark.parametrize(
    "meanwhile",
    [_cancelled_at_the_provider, _no_role, _stray_answer, _another_page_in_another_tab],
    ids=lambda meanwhile: meanwhile.__name__.strip("_"),
)
async def test_no_typed_reason_is_lost_whatever_happens_before_the_next_sign_in(
    expired, provider, events, meanwhile
):
    support, page = await expired()
    assert page.url.endswith("/console/sign-in")
    await meanwhile(support, provider)
    again = await sign_in(support, provider, "support", sub="support-1")
    assert again.form(ACT).fields["reason"] == "laptop stolen"
    assert done(events) == []


async def test_reasons_that_were_typed_in_two_tabs_are_both_there_again(signed_in, provider):
    support = await signed_in("support")
    previews = [await support.open(action("revoke-user", sub=sub)) for sub in ("alice", "bob")]
    support.forget(SESSION)
    for preview, reason in zip(previews, ("of alice", "of bob"), strict=True):
        await support.send(preview, ACT, reason=reason)
    again = await sign_in(support, provider, "support")
    assert again.form(ACT).fields["reason"] == "of bob"
    assert (await support.open(previews[0].url)).form(ACT).fields["reason"] == "of alice"


async def test_a_typed_reason_is_for_nobody_else_at_the_same_browser(expired, provider, people):
    support, _ = await expired()
    page = await sign_in(support, provider, "support", sub="support-2")
    assert page.url.endswith("/console")
    page = await support.open(action("revoke-user", sub="alice"))
    assert page.form(ACT).fields["reason"] == ""
    again = await sign_in(support, provider, "support", sub="support-1")
    assert again.form(ACT).fields["reason"] == "laptop stolen"


async def test_a_typed_reason_is_there_until_its_form_is_used(expired, provider):
    support, _ = await expired()
    again = await sign_in(support, provider, "support")
    assert (await support.open(again.url)).form(ACT).fields["reason"] == "laptop stolen"
    assert "logged out everywhere" in (await support.send(again, ACT)).words
    assert (await support.open(again.url)).form(ACT).fields["reason"] == ""


@pytest.mark.parametrize("size", [{"sub": "a" * 9000}, {"reason": "r" * 5000}], ids=["target", "reason"])
async def test_a_typed_reason_that_is_too_large_to_remember_is_on_the_page(expired, size):
    _, page = await expired(**size)
    assert page.status == 403
    assert "copy it from here" in page.words
    assert size.get("reason", "laptop stolen") in page.words


async def test_where_too_much_is_sent_from_one_address_reasons_are_on_the_page(signed_in):
    support = await signed_in("support")
    preview = await support.open(action("revoke-user", sub="alice"))
    support.forget(SESSION)
    for _ in range(50):
        page = await support.send(preview, ACT, follow=False, reason="laptop stolen")
        if page.status == 403:
            break
    assert "The reason that you typed laptop stolen" in page.words


async def test_a_form_whose_use_the_store_did_not_confirm_does_not_run_for_ever(
    start, valkey, provider, people, events
):
    port = free_port()
    settings = {**provider.settings, "url": f"http://127.0.0.1:{port}"}
    async with ReplyProxy.before(valkey.port) as proxy:
        service = await start(proxy, port=port, console=settings, redis={"timeout": 2.0})
        support = people(service)
        await sign_in(support, provider, "support")
        preview = await support.open(action("revoke-user", sub="alice"))

        def lose(command):
            if command == "SET":
                proxy.after = lambda _: None
                raise ConnectionResetError

        proxy.after = lose
        page = await support.send(preview, ACT, reason="laptop stolen")
        assert page.status == 503
        assert "Nothing was done" in page.words
        assert "laptop stolen" in page.words
        await until_ready(service)
        again = await support.send(preview, ACT)
        assert "It is being done" in again.words
        assert "edge" not in again.words  # they can have nothing yet
        assert done(events) == []
        forms, name = service.service._console._acting._forms, again.url.rpartition("/")[2]
        outcome = await forms.outcome(name, await _visitor(service, support))
        await forms.finish(name, msgspec.structs.replace(outcome, began=outcome.began - 61_000))
        later = await support.open(again.url)
        assert "It is not known whether this happened" in later.words
        assert unquote(path_of(preview.url)) in map(unquote, later.links)
        assert "logged out everywhere" in (await support.send(await support.open(preview.url), ACT)).words


async def test_what_became_of_a_form_only_its_session_sees(signed_in):
    support, other = await signed_in("support"), await signed_in("admin")
    preview = await support.open(action("revoke-user", sub="alice"))
    done_page = await support.send(preview, ACT, reason="secret plans")
    page = await other.open(done_page.url)
    assert page.status == 400
    assert "alice" not in page.words


async def test_a_reason_that_is_too_long_is_not_cut_and_not_lost(signed_in, events):
    support = await signed_in("support")
    preview = await support.open(action("revoke-user", sub="alice"))
    page = await support.send(preview, ACT, reason="x" * 513)
    assert page.status == 400
    assert page.form(ACT).fields["reason"] == "x" * 513
    assert done(events) == []
