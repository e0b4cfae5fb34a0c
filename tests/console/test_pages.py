"""What people see and do in the console, by role."""

from urllib.parse import urlencode

import pytest

from tests.rig import feed, forge
from tests.rig.service import OTHER_ISSUER
from tests.sessions.conftest import SESSIONS_ISSUER, sessions_section  # noqa: F401  # a fixture

KEY = {"iss": forge.ISSUER, "kid": "main-1"}


def of_user(sub, path="/console/user", iss=forge.ISSUER):
    return f"{path}?{urlencode({'iss': iss, 'sub': sub})}"


def action(name, **target):
    return f"/console/act/{name}?{urlencode({'iss': forge.ISSUER, **target})}"


async def test_support_logs_one_user_out_and_sees_it_take_effect(service, signed_in, events):
    token = service.token(sub="alice")
    assert await service.active(token)
    support = await signed_in("support")
    home = await support.open("/console")
    user = await support.send(home, "/console/user", iss=forge.ISSUER, sub="alice")
    assert "Nothing is revoked for this user" in user.words
    preview = await support.open(action("revoke-user", sub="alice"))
    assert await service.active(token)
    done = await support.send(preview, "/console/act/revoke-user", reason="laptop stolen")
    assert "The user is logged out everywhere." in done.words
    assert not await service.active(token)
    user = await support.open(of_user("alice"))
    assert "laptop stolen" in user.words
    assert "console:support-1" in user.words
    [audited] = [event for event in events if event["event"] == "user_revoked"]
    assert (audited["caller"], audited["sub"], audited["reason"]) == (
        "console:support-1", "alice", "laptop stolen",
    )  # fmt: skip
    assert audited["peer"] == "127.0.0.1"


async def test_a_viewer_looks_at_everything_and_cannot_act(service, signed_in, people):
    viewer = await signed_in("viewer")
    user = await viewer.open(of_user("alice"))
    assert user.status == 200
    assert not [link for link in user.links if "/act/" in link]
    assert (await viewer.open("/console/changes")).status == 200
    assert (await viewer.open("/console/state")).status == 200
    token = service.token(sub="alice")
    page = await viewer.open("/console/token")
    assert "The token is active." in (await viewer.send(page, "/console/token", token=token)).words
    refused = await viewer.open(action("revoke-user", sub="alice"))
    assert refused.status == 403
    assert "needs the role support" in refused.words
    form = {"iss": forge.ISSUER, "sub": "alice", "form": "x"}
    assert (await viewer.ask("POST", "/console/act/revoke-user", data=form)).status == 403
    assert await service.active(token)


async def test_a_viewer_cannot_use_the_form_of_somebody_who_may_act(service, signed_in):
    token = service.token(sub="alice")
    support, viewer = await signed_in("support"), await signed_in("viewer")
    preview = await support.open(action("revoke-user", sub="alice"))
    assert (await viewer.send(preview, "/console/act/revoke-user")).status == 403
    assert await service.active(token)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("revoke-client", {"client_id": "web"}),
        ("revoke-key", {"kid": "main-1"}),
        ("revoke-issuer", {}),
        ("revoke-claim", {"iss": OTHER_ISSUER, "claim": "grant_id", "value": "g1"}),
    ],
)
async def test_only_an_administrator_acts_on_more_than_one_user(signed_in, name, target):
    support, admin = await signed_in("support"), await signed_in("admin")
    assert (await support.open(action(name, **target))).status == 403
    preview = await admin.open(action(name, **target))
    assert preview.status == 200
    assert "More than one user is concerned." in preview.words
    assert "cannot count them" in preview.words


async def test_an_administrator_revokes_a_key_with_a_typed_confirmation(service, consoles, signed_in):
    token = service.token(sub="alice")
    admin = await signed_in("admin")
    preview = await admin.open(action("revoke-key", kid="other-key"))
    for confirm in ("", "yes", "OTHER-KEY"):
        wrong = await admin.send(preview, "/console/act/revoke-key", reason="stolen", confirm=confirm)
        assert wrong.status == 400
        assert "is not the kid above. Nothing was done." in wrong.words
        assert wrong.form("/console/act/revoke-key").fields["reason"] == "stolen"
    assert "other-key" not in (await admin.open("/console/state")).words
    done = await admin.send(preview, "/console/act/revoke-key", reason="stolen", confirm="other-key")
    assert "The key is revoked." in done.words
    assert "other-key" in (await admin.open("/console/changes?kind=key")).words
    assert await service.active(token)


async def test_a_user_is_blocked_for_a_day_and_unblocked(service, signed_in):
    support = await signed_in("support")
    token = service.token(sub="alice")
    preview = await support.open(action("block-user", sub="alice"))
    assert (await support.send(preview, "/console/act/block-user", **{"for": "always"})).status == 400
    done = await support.send(preview, "/console/act/block-user", **{"for": "day"}, reason="fraud?")
    assert "The user is blocked." in done.words
    user = await support.open(of_user("alice"))
    assert "Blocked: no token of the user is active." in user.words
    assert not await service.active(token)
    preview = await support.open(action("unblock-user", sub="alice"))
    done = await support.send(preview, "/console/act/unblock-user")
    assert "The user is not blocked any more." in done.words
    assert await service.active(token)


async def test_one_session_is_ended_and_the_others_continue(consoles, provider, people, sessions_section):  # noqa: F811
    from tests.console.conftest import sign_in

    service = await consoles(sessions=sessions_section())
    logins = [
        (await service.post("/sessions", {"sub": "alice", "device": device})).json
        for device in ("Laptop", "Phone")
    ]
    support = people(service)
    await sign_in(support, provider, "support")
    user = await support.open(of_user("alice", iss=SESSIONS_ISSUER))
    assert "Laptop" in user.words
    assert "Phone" in user.words
    [end] = [link for link in user.links if f"sid={logins[0]['sid']}" in link]
    preview = await support.open(end)
    assert "1 session kept by Revoker is concerned." in preview.words
    assert "User (sub) alice" in preview.words
    false = await support.open(end.replace("sub=alice", "sub=bob"))
    assert "User (sub) alice" in false.words  # not the one of the link
    done = await support.send(preview, "/console/act/revoke-session")
    assert "The session has ended." in done.words
    [back] = [link for link in done.links if link.startswith("/console/user")]
    user = await support.open(back)
    assert "Laptop" not in user.words
    assert "Phone" in user.words


async def test_a_user_whom_nobody_has_checked_is_only_the_way_back(signed_in):
    support = await signed_in("support")
    preview = await support.open(action("revoke-session", sid="of-bob", sub="alice"))
    assert "User (sub)" not in preview.words
    assert [link for link in preview.links if "sub=alice" in link]
    done = await support.send(preview, "/console/act/revoke-session")
    assert "User (sub)" not in done.words


@pytest.mark.parametrize("blank", [" ", "\u2003", "\t"])
async def test_what_nobody_can_see_or_type_is_refused(signed_in, blank):
    admin = await signed_in("admin")
    page = await admin.open(action("revoke-client", client_id=blank))
    assert page.status == 400
    assert "client_id is missing" in page.words


async def test_a_confirmation_is_exact(signed_in, events):
    admin = await signed_in("admin")
    preview = await admin.open(action("revoke-client", client_id="web "))
    for typed in ("web", " web ", "WEB "):
        page = await admin.send(preview, "/console/act/revoke-client", confirm=typed)
        assert page.status == 400
    assert [event for event in events if event["event"] == "client_revoked"] == []


async def test_a_pasted_token_is_explained_and_is_in_no_address(service, signed_in, events):
    viewer = await signed_in("viewer")
    token = service.token(sub="alice")
    await service.post("/revoke-user", {"sub": "alice", "iss": forge.ISSUER, "reason": "lost phone"})
    page = await viewer.open("/console/token")
    explained = await viewer.send(page, "/console/token", token=f" Bearer {token}\n")
    assert "The user was logged out after the token was made." in explained.words
    assert "lost phone" in explained.words
    assert of_user("alice") in explained.links
    assert token not in explained.text
    assert token not in str(events)
    garbage = await viewer.send(page, "/console/token", token="garbage")
    assert "It is no valid token of a configured issuer." in garbage.words
    assert "malformed" in garbage.words


async def test_recent_changes_are_listed_latest_first_and_by_kind(service, signed_in):
    viewer = await signed_in("viewer")
    assert "Nothing is revoked." in (await viewer.open("/console/changes")).words
    for sub in ("alice", "bob"):
        await service.post("/revoke-user", {"sub": sub, "iss": forge.ISSUER})
    await service.post("/revoke-client", {"client_id": "web", "iss": OTHER_ISSUER})
    words = (await viewer.open("/console/changes")).words
    assert words.index("Client web") < words.index("User bob") < words.index("User alice")
    assert "admin" in words
    words = (await viewer.open("/console/changes?kind=client&iss=")).words
    assert "Client web" in words
    assert "alice" not in words
    assert (await viewer.open("/console/changes?kind=nonsense")).status == 400


async def test_the_state_shows_issuers_edges_and_problems(service, signed_in):
    viewer = await signed_in("viewer")
    service.service.health._problems = lambda: {"keys_stale": "of issuer main: <b>status 500</b>"}
    await feed.poll(service, (await feed.snapshot(service)).cursor, name="edge-berlin")
    state = await viewer.open("/console/state")
    assert "Degraded" in state.words
    assert "of issuer main: <b>status 500</b>" in state.words
    assert "edge-berlin Caller edge" in state.words
    assert "https://other.example.com" in state.words
    assert "loaded" in state.words


@pytest.mark.parametrize(
    "path",
    [
        "/console/user",
        "/console/user?sub=alice",
        "/console/user?iss=https://nobody.example.com&sub=alice",
        "/console/user?iss=https://idp.example.com&sub=alice&admin=1",
        "/console/user?iss=a&iss=b&sub=alice",
        "/console/changes?cursor=x",
        "/console/act/revoke-user?sub=alice",
        "/console/act/delete-everything",
        "/console/done/nonsense",
    ],
)
async def test_what_cannot_be_read_gets_a_page_that_says_so(signed_in, path):
    admin = await signed_in("admin")
    page = await admin.open(path)
    assert page.status == 400
    assert page.read.words


async def test_without_a_console_there_is_nothing_at_its_paths(revoker, people):
    for path in ("/console", "/console/sign-in", "/console/style.css"):
        assert (await revoker.ask("GET", path)).status == 404


async def test_with_a_port_for_operations_the_console_is_there(provider, valkey, tmp_path):
    from revoker import app
    from tests.rig.service import settings_for

    settings = settings_for(
        valkey.url,
        tmp_path,
        server={"ops_port": 9},
        console={**provider.settings, "url": "https://a.example.com"},
    )
    service = app.Service(settings)
    main = {resource.canonical for resource in service.main.application.router.resources()}
    ops = {resource.canonical for resource in service.ops.application.router.resources()}
    assert "/console" in ops
    assert not [path for path in main if path.startswith("/console")]
    await service.close()


async def test_while_the_store_is_away_every_page_says_so_and_no_typed_reason_is_lost(
    consoles, start, own_valkey, provider, people
):
    from tests.console.conftest import sign_in
    from tests.rig.servers import free_port

    port = free_port()
    settings = {**provider.settings, "url": f"http://127.0.0.1:{port}"}
    service = await start(own_valkey, port=port, console=settings, redis={"timeout": 0.5})
    support = people(service)
    await sign_in(support, provider, "support")
    preview = await support.open(action("revoke-user", sub="alice"))
    own_valkey.kill()
    page = await support.open("/console")
    assert page.status == 503
    assert "The store gives no answer" in page.words
    sent = await support.send(preview, "/console/act/revoke-user", reason="laptop stolen")
    assert sent.status == 503
    assert "The reason that you typed laptop stolen" in sent.words
