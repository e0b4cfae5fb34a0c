"""``GET /users/{sub}`` and ``GET /revocations``: support staff see what is revoked, by whom and why."""

import asyncio
import base64
import json
import random
import time

import pytest

from revoker.store import listed, listing
from revoker.store.keys import user_tag
from tests.rig import forge
from tests.rig.administration import everything, name_of, page, until_at_rest, view, view_user
from tests.rig.servers import Valkey
from tests.rig.service import HANGS_S, OTHER_ISSUER
from tests.rig.sids import new_sid
from tests.sessions.conftest import SESSIONS_ISSUER, log_in
from tests.sessions.conftest import sessions_section as sessions_section  # noqa: PLC0414  # a fixture

HOSTILE = [
    "a/b",
    "../../etc/passwd",
    "a%2Fb",
    "100%",
    "{sub}",
    "a?b#c",
    "a b+c",
    "ü \u202e\U0001f600",
    "\x00\n\r",
    "'\"<script>alert(1)</script>",
    "x" * 300,
    "/" * 400,
    "é" * 500,
]


def prefix_of(running):
    return running.service.store.keys.prefix


async def revoke(running, path, **body):
    answer = await running.post(path, body)
    assert answer.status == 200, answer.body
    return answer.json if answer.body else None


@pytest.fixture
def valkey(tmp_path):
    """A server of its own: where keys come and go, or a table grows, a SCAN may give a key twice."""
    server = Valkey(tmp_path / "listed").start()
    yield server
    server.kill()


def store_tokens(valkey, running, count, name="old"):
    """Revoked tokens that the journal does not have: they are older."""
    with valkey.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(count):
            key = f"{prefix_of(running)}:jti:main:{name}{number}"
            pipeline.set(key, int(time.time() * 1000) - 10**6, px=10**7)
        pipeline.execute()
    return {f"{name}{number}" for number in range(count)}


@pytest.fixture
async def several(revoker, valkey):
    """A service with revocations of all kinds; and how many there are."""
    store_tokens(valkey, revoker, 70)
    for number in range(12):
        await revoke(revoker, "/revoke", iss=forge.ISSUER, jti=f"new{number}")
    await revoke(revoker, "/revoke-user", iss=forge.ISSUER, sub="alice", reason="lost phone")
    await revoke(revoker, "/block-user", iss=forge.ISSUER, sub="alice", reason="fraud")
    await revoke(revoker, "/revoke-user", iss=OTHER_ISSUER, sub="alice")
    await revoke(revoker, "/revoke-session", iss=forge.ISSUER, sid="s 1")
    await revoke(revoker, "/revoke-client", iss=OTHER_ISSUER, client_id="web")
    await revoke(revoker, "/revoke-issuer", iss=OTHER_ISSUER, reason="leak")
    await revoke(revoker, "/revoke-key", iss=OTHER_ISSUER, kid="k 1")
    await revoke(revoker, "/revoke", iss=forge.ISSUER, jti="new3")  # once more
    until_at_rest(valkey)
    return revoker, 70 + 12 + 3 + 4


@pytest.mark.parametrize("limit", [1, 7, 500])
async def test_all_pages_together_have_every_revocation_once(several, limit):
    revoker, count = several
    listed = await everything(revoker, limit=limit)
    assert len(listed) == len({name_of(item) for item in listed}) == count
    assert [item["kind"] for item in listed[:4]] == ["jti", "key", "issuer", "client"]
    assert listed[0]["jti"] == "new3"
    newest = [item["jti"] for item in listed if item.get("jti", "").startswith("new")]
    assert newest == ["new3", *(f"new{number}" for number in range(11, -1, -1) if number != 3)]


async def test_the_list_goes_on_by_scan_where_the_order_ends(several, start, valkey, monkeypatch):
    monkeypatch.setattr(listing, "NEWEST_FIRST", 5)
    revoker, count = several
    other = await start(valkey, prefix=prefix_of(revoker), new=False)
    for services in ([revoker], [other, revoker]):
        listed = await everything(*services, limit=3)
        assert len(listed) == len({name_of(item) for item in listed}) == count


async def test_a_journal_that_was_trimmed_meanwhile_loses_nothing(several, valkey):
    revoker, _ = several
    first = await page(revoker, limit=4)
    with valkey.client() as client:
        client.xtrim(revoker.service.store.keys.journal, maxlen=0, approximate=False)
    listed = list(first["revocations"])
    cursor = first["next"]
    while cursor:
        following = await page(revoker, cursor, limit=50)
        listed, cursor = listed + following["revocations"], following["next"]
    assert {item["jti"] for item in listed if item["kind"] == "jti"} >= {f"new{n}" for n in range(12)}


@pytest.mark.parametrize("seed", range(2))
async def test_what_changes_meanwhile_makes_no_page_fail_and_hides_nothing_else(several, valkey, seed):
    revoker, _ = several
    chance = random.Random(seed)
    stays = {item["jti"] for item in await everything(revoker, kind="jti")}
    listed, cursor, number = set(), None, 0
    with valkey.client() as client:
        while True:
            found = await page(revoker, cursor, limit=chance.choice([1, 5, 40]))
            listed |= {item["jti"] for item in found["revocations"] if "jti" in item}
            cursor = found["next"]
            if cursor is None:
                break
            for _ in range(chance.randrange(20)):
                number += 1
                client.set(f"{prefix_of(revoker)}:jti:main:more{number}", 1, px=10**6)
            await revoke(revoker, "/revoke", iss=forge.ISSUER, jti=f"more{number}")
            old = sorted(jti for jti in stays if jti.startswith("old"))
            if len(old) > 1:  # a busy machine needs more pages than there are
                gone = chance.choice(old)
                stays.discard(gone)
                client.delete(f"{prefix_of(revoker)}:jti:main:{gone}")
            await revoke(revoker, "/revoke", iss=forge.ISSUER, jti=chance.choice(sorted(stays)))
    assert stays <= listed


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ({"kind": "user"}, ["user", "user"]),
        ({"kind": "block"}, ["block"]),
        ({"kind": "session"}, ["session"]),
        ({"kind": "key"}, ["key"]),
        ({"kind": "claim"}, []),
        ({"iss": OTHER_ISSUER}, ["client", "issuer", "key", "user"]),
        ({"iss": OTHER_ISSUER, "kind": "user"}, ["user"]),
        ({"iss": OTHER_ISSUER, "kind": "jti"}, []),
    ],
)
async def test_a_list_can_be_of_one_kind_or_issuer(several, query, kinds):
    listed = await everything(several[0], **query)
    assert sorted(item["kind"] for item in listed) == kinds
    assert {item["iss"] for item in listed} <= {query.get("iss", item["iss"]) for item in listed}


async def test_a_caller_sees_only_what_its_issuers_have(several, valkey):
    revoker, _ = several
    with valkey.client() as client:  # by a version that stored nobody: of any issuer
        client.set(f"{prefix_of(revoker)}:{{{'A' * 16}}}:user", '{"hard":1000,"last":1000}', px=10**6)
    whole = await everything(revoker, kind="user")
    assert {item.get("sub") for item in whole} == {"alice", None}
    listed = await everything(revoker, caller="one-issuer")
    assert sorted(item["kind"] for item in listed) == ["client", "issuer", "key", "user"]
    foreign = await view(revoker, "/revocations", "one-issuer", iss=forge.ISSUER)
    assert foreign.error == (400, "invalid_request")
    assert (await view_user(revoker, "alice", "one-issuer", iss=forge.ISSUER)).error == foreign.error
    assert (await view_user(revoker, "alice", "one-issuer", iss=OTHER_ISSUER)).status == 200


@pytest.mark.parametrize(
    ("caller", "error"),
    [("gateway", "insufficient_scope"), ("edge", "insufficient_scope"), ("bound", "access_denied")],
)
@pytest.mark.parametrize("path", ["/revocations", "/users/alice"])
async def test_others_see_nothing(revoker, path, caller, error):
    assert (await view(revoker, path, caller, iss=forge.ISSUER)).error == (403, error)


async def test_a_cursor_that_is_not_of_this_list_is_refused(several):
    revoker, _ = several
    cursor = (await page(revoker, limit=5))["next"]
    raw = base64.urlsafe_b64decode(cursor + "==")
    changed = [bytes([*raw[:at], raw[at] ^ 1, *raw[at + 1 :]]) for at in range(len(raw))]
    wrong = [
        *(base64.urlsafe_b64encode(text).decode().rstrip("=") for text in changed),
        "x",
        "ü",
        "A" * 513,
        cursor[:-1],
        cursor + "A",
    ]
    for text in wrong:
        assert (await view(revoker, "/revocations", cursor=text)).error == (400, "invalid_request"), text
    for query in ({"kind": "jti"}, {"iss": forge.ISSUER}):
        assert (await view(revoker, "/revocations", cursor=cursor, **query)).status == 400
    assert (await view_user(revoker, "alice", iss=forge.ISSUER, cursor=cursor)).status == 400
    for limit in (0, 501, "many"):
        assert (await view(revoker, "/revocations", limit=limit)).status == 400
    assert (await page(revoker, cursor, limit=500))["revocations"]


async def test_what_is_remembered_for_a_list_is_forgotten(several, monkeypatch):
    monkeypatch.setattr(listing, "_WINDOW_S", 0.01)
    lists = listing.Listing(several[0].service.store)
    whole = listed.Selection(None, None, None)
    cursor = None
    async with asyncio.timeout(HANGS_S):
        for _ in range(3):
            cursor = (await lists.page(whole, limit=1, cursor=cursor)).next
            while lists._windows:
                await asyncio.sleep(0.005)
    assert not lists._expiries


async def test_a_cursor_outlives_no_server(several, start, own_valkey):
    cursor = (await page(several[0], limit=5))["next"]
    other = await start(own_valkey, prefix=prefix_of(several[0]))
    answer = await view(other, "/revocations", cursor=cursor)
    assert answer.error == (400, "invalid_request")
    assert "begin again" in answer.json["error_description"]


async def test_a_key_of_a_wrong_type_makes_no_page_fail(several, valkey):
    revoker, count = several
    with valkey.client() as client:
        client.hset(f"{prefix_of(revoker)}:jti:main:odd", "a", "b")
    assert len(await everything(revoker)) == count


async def test_any_user_is_found(revoker):
    for sub in HOSTILE:
        await revoke(revoker, "/block-user", iss=forge.ISSUER, sub=sub, reason="why")
        viewed = await view_user(revoker, sub, iss=forge.ISSUER)
        assert viewed.status == 200, viewed.body
        assert viewed.json["sub"] == sub
        assert viewed.json["blocked"]
        assert not (await view_user(revoker, sub + "x", iss=forge.ISSUER)).json["blocked"]
    listed = await everything(revoker, kind="block", limit=1)
    assert [item["sub"] for item in listed] == HOSTILE[::-1]


@pytest.mark.parametrize(("path", "sub"), [("%2e%2E", ".."), ("%2E", "."), ("a%252Fb", "a%2Fb")])
async def test_a_path_names_the_user_as_it_was_sent(revoker, wire, path, sub):
    answer = await wire.send(
        f"GET /users/{path}?iss={forge.ISSUER} HTTP/1.1\r\nHost: h\r\n"
        "Authorization: Bearer admin-secret\r\n\r\n".encode()
    )
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["sub"] == sub


@pytest.mark.parametrize("path", ["/users/%ff", "/users/%C3", "/users/%zz", "/users/a%"])
async def test_a_path_that_names_nobody_is_refused(revoker, wire, path):
    request = (
        f"GET {path}?iss={forge.ISSUER} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer admin-secret\r\n\r\n"
    )
    assert b" 400 " in (await wire.send(request.encode())).split(b"\r\n")[0]


@pytest.mark.parametrize("path", ["/users/", "/users", "/users/a/b"])
async def test_other_paths_do_not_exist(revoker, path):
    assert (await view(revoker, path)).status == 404


async def test_who_made_a_cutoff_or_block_is_stored_with_when_and_why(start, valkey):
    revoker = await start(valkey)
    first = int(time.time()) - 1000
    await revoke(revoker, "/revoke-user", iss=OTHER_ISSUER, sub="alice", before=first, reason="first")
    standing = (await view_user(revoker, "alice", iss=OTHER_ISSUER)).json["standing"]
    assert [(item["kind"], item["since"], item["why"], item["by"]) for item in standing] == [
        ("user_cutoff", first, "first", "admin")
    ]
    assert standing[0]["made"] == pytest.approx(time.time(), abs=60)
    answer = await revoker.post(
        "/revoke-user", {"iss": OTHER_ISSUER, "sub": "alice", "reason": "second"}, caller="one-issuer"
    )
    assert answer.status == 200
    await revoke(revoker, "/revoke-user", iss=OTHER_ISSUER, sub="alice", before=first + 1)  # does not stand
    await revoke(revoker, "/block-user", iss=OTHER_ISSUER, sub="alice", until=time.time() + 1000)
    answer = await revoker.post(
        "/block-user", {"iss": OTHER_ISSUER, "sub": "alice", "until": time.time() + 10}, caller="one-issuer"
    )
    viewed = (await view_user(revoker, "alice", iss=OTHER_ISSUER)).json["standing"]
    assert {item["kind"]: item["by"] for item in viewed} == {
        "user_cutoff": "one-issuer", "user_block": "admin",
    }  # fmt: skip
    listed = await everything(revoker)
    assert {item["kind"]: (item["by"], item.get("reason")) for item in listed} == {
        "user": ("one-issuer", "second"), "block": ("admin", None),
    }  # fmt: skip
    await revoke(revoker, "/unblock-user", iss=OTHER_ISSUER, sub="alice")
    with valkey.client() as client:
        audits = list(client.scan_iter(f"{prefix_of(revoker)}*audit*"))
        assert len(audits) == 1
        [user] = client.scan_iter(f"{prefix_of(revoker)}:*}}:user")
        assert abs(client.pttl(audits[0]) - client.pttl(user)) < 60_000
        assert "one-issuer" not in client.get(user)  # what verdicts read is as short as before
    [item] = await everything(revoker)
    assert (item["kind"], item["by"]) == ("user", "one-issuer")


async def test_who_revoked_a_token_is_stored_only_with_a_reason(revoker, valkey):
    await revoke(revoker, "/revoke", iss=forge.ISSUER, jti="quiet")
    await revoke(revoker, "/revoke", iss=forge.ISSUER, jti="said", reason="stolen")
    listed = {item["jti"]: item for item in await everything(revoker)}
    assert "by" not in listed["quiet"]
    assert (listed["said"]["by"], listed["said"]["reason"]) == ("admin", "stolen")
    with valkey.client() as client:
        assert len(list(client.scan_iter(f"{prefix_of(revoker)}*audit*"))) == 1
        assert client.get(f"{prefix_of(revoker)}:jti:main:said").isdigit()


@pytest.mark.parametrize("path", ["/revoke", "/revoke-user"])
async def test_a_reason_has_at_most_512_characters(revoker, path):
    body = {"iss": forge.ISSUER, "jti": "t", "sub": "alice", "reason": "x" * 513}
    assert (await revoker.post(path, body)).error == (400, "invalid_request")
    assert (await revoker.post(path, {**body, "reason": "x" * 512})).status == 200


async def test_the_view_of_a_user_has_the_cutoffs_of_all_users(start, valkey, sessions_section, events):
    keeper = await start(valkey, sessions=sessions_section())
    browser = await log_in(keeper, device="phone")
    await revoke(keeper, "/revoke-issuer", iss=SESSIONS_ISSUER, before=time.time() - 1000, reason="leak")
    viewed = (await view_user(keeper, "alice", iss=SESSIONS_ISSUER)).json
    assert [(item["kind"], item["why"]) for item in viewed["standing"]] == [("issuer_cutoff", "leak")]
    assert [(item["sid"], item["device"]) for item in viewed["sessions"]] == [(browser.sid, "phone")]
    assert viewed["next"] is None
    assert [event["sub"] for event in events if event["event"] == "user_viewed"] == ["alice"]
    await revoke(keeper, "/revoke-session", iss=SESSIONS_ISSUER, sid=browser.sid, reason="why")
    assert (await view_user(keeper, "alice", iss=SESSIONS_ISSUER)).json["sessions"] == []
    [ended] = await everything(keeper, kind="session")
    assert (ended["sid"], ended["iss"], ended["by"]) == (browser.sid, SESSIONS_ISSUER, "admin")


async def test_ten_thousand_sessions_of_one_user_come_in_pages(start, valkey, sessions_section):
    keeper = await start(valkey, sessions=sessions_section())
    store_sessions(valkey, keeper, "alice", 10_000)
    found, cursor = [], None
    while True:
        viewed = (await view_user(keeper, "alice", iss=SESSIONS_ISSUER, limit=500, cursor=cursor)).json
        assert len(viewed["sessions"]) <= 500
        found += [item["sid"] for item in viewed["sessions"]]
        cursor = viewed["next"]
        if cursor is None:
            break
    assert len(found) == len(set(found)) == 10_000
    body = {"iss": SESSIONS_ISSUER, "sub": "alice", "dry_run": True}
    effect = (await keeper.post("/revoke-user", body)).json["dry_run"]
    assert (effect["sessions"], effect["sessions_exact"]) == (10_000, True)


def store_sessions(valkey, keeper, sub, count):
    """Sessions, as the service stores them."""
    tag, start = user_tag(SESSIONS_ISSUER, sub), int(time.time() * 1000) - 10**6
    keys, ends = keeper.service.store.keys, 10**8
    profile = json.dumps([sub, "web", "", [], "", "", ""])
    with valkey.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(count):
            sid = new_sid(start + number, tag, number.to_bytes(10, "big"))
            record = f'1 0 {10**6 - number} {ends} 0 7 [[],""]{profile}'
            pipeline.set(keys.session(tag, sid), record, px=ends)
            pipeline.zadd(keys.sessions(tag), {sid: start + number + ends})
        pipeline.zadd(keys.sessions(tag), {"": -(start + count)})
        pipeline.execute()
