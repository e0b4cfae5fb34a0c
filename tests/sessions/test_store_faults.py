"""Sessions while the store dies under them, and what its files tell a thief."""

import asyncio
import base64
import contextlib
import itertools
import random
import re

import pytest
import redis

from revoker.store.keys import tag_and_start
from tests.rig.service import until_ready
from tests.sessions.conftest import log_in

INVALID_GRANT = (400, "invalid_grant")


@pytest.mark.row("9700-06")
@pytest.mark.parametrize("grace", [60, 0])
async def test_a_store_killed_amid_refreshes_leaves_every_session_one_line_or_none(
    start, own_valkey, sessions_section, grace
):
    running = await start(own_valkey, sessions=sessions_section(refresh_grace=grace))
    chance = random.Random(7)
    browsers = [await log_in(running, f"user-{n}") for n in range(8)]
    for browser in browsers:
        browser.seen = [browser.refresh_token]

    async def go_on_until_killed(browser, killed):
        while not killed.is_set():
            answer = await browser.refresh()
            if answer.status == 200:
                browser.refresh_token = answer.json["refresh_token"]
                browser.access = answer.json["access_token"]
                browser.seen.append(browser.refresh_token)
            elif answer.status == 400:
                return
            else:
                await killed.wait()

    for _ in range(4):
        killed = asyncio.Event()
        clients = [asyncio.create_task(go_on_until_killed(browser, killed)) for browser in browsers]
        enough = heard(browsers) + chance.randrange(40)
        while heard(browsers) < enough and not all(client.done() for client in clients):
            await asyncio.sleep(0)
        own_valkey.kill()
        killed.set()
        await asyncio.gather(*clients)
        own_valkey.start()
        await answers_again(running)
        for browser in browsers:
            await sees_one_line_or_none(running, browser)
        alive = [browser for browser in browsers if await browser.active()]
        if grace:
            assert alive == browsers
        browsers = alive or [await log_in(running, f"user-{chance.random()}")]
        for browser in browsers:
            browser.seen = [browser.refresh_token]


def heard(browsers):
    """How many tokens they have been given."""
    return sum(len(browser.seen) for browser in browsers)


async def answers_again(running):
    """Lookups and changes, which have connections of their own."""
    await until_ready(running)
    for path in ("/introspect", "/revoke"):
        while (await running.post(path, {"token": running.token()})).status != 200:
            await asyncio.sleep(0.02)


async def sees_one_line_or_none(running, browser):
    """The client goes on with the token that it has, or it is logged out; no second line lives beside it."""
    answer = await browser.refresh()
    assert answer.status in {200, 400}, answer.body
    if answer.status == 400:
        assert answer.error == INVALID_GRANT
        assert not await browser.active()
    else:
        browser.access, browser.refresh_token = answer.json["access_token"], answer.json["refresh_token"]
        assert await browser.active()
    heard = set()
    for token in {*browser.seen, browser.refresh_token}:
        if (await running.post("/introspect", {"token": token})).json["active"]:
            heard.add(token)
    assert heard == ({browser.refresh_token} if answer.status == 200 else set())


async def test_a_generation_that_the_store_does_not_know_yet_is_a_loss_and_no_theft(keeper, valkey, events):
    browser = await log_in(keeper)
    tag, _ = tag_and_start(browser.sid)
    key = keeper.service.store.keys.session(tag, browser.sid)
    with redis.Redis(port=valkey.port) as client:
        before = client.get(key)
        old = browser.refresh_token
        await browser.go_on()
        await browser.go_on()
        client.set(key, before, keepttl=True)  # as an older copy of the data has it
    assert (await browser.refresh()).error == INVALID_GRANT
    logged = [event for event in events if event["event"].startswith("refresh_")]
    assert [(item["event"], item["generation"], item["log_level"]) for item in logged] == [
        ("refresh_ahead_of_store", 3, "error")
    ]
    assert await browser.active()
    assert (await browser.refresh(old)).status == 200


async def test_nothing_in_the_store_is_a_refresh_token_or_becomes_one(start, own_valkey, sessions_section):
    running = await start(own_valkey, sessions=sessions_section(refresh_grace=0))
    browsers = [await log_in(running, f"user-{n}", client_id="spa", scope="a") for n in range(3)]
    tokens = set()
    for browser in browsers:
        tokens.add(browser.refresh_token)
        for _ in range(3):
            tokens |= {(await browser.go_on()).json["refresh_token"], browser.access}
    dump = contents(own_valkey)
    secrets = [token.encode() for token in tokens]
    macs = [decoded(token)[32:64] for token in tokens if token.startswith("rvr_")]
    for hidden in (
        *secrets,
        *macs,
        *(secret[4:] for secret in secrets),
        *(mac.hex().encode() for mac in macs),
    ):
        assert hidden not in dump
        assert base64.b64encode(hidden) not in dump

    words = {word.decode() for word in re.findall(rb"[A-Za-z0-9_\-.~+/=]{8,200}", dump)}
    assert {browser.sid for browser in browsers} <= {word[-38:] for word in words}
    forged = {prefix + word for word in words for prefix in ("", "rvr_")}
    for browser in browsers:
        sid = base64.urlsafe_b64decode(browser.sid + "==")
        for generation, mac in itertools.product(range(1, 6), (b"", bytes(32), sid[:32].ljust(32, b"\0"))):
            raw = sid + generation.to_bytes(4, "big") + mac + b"spa"
            forged.add("rvr_" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode())
    for token in forged:
        assert (await browsers[0].refresh(token)).status == 400, token
    assert all([await browser.active() for browser in browsers])
    for browser in browsers:
        assert (await browser.refresh()).status == 200


def contents(valkey):
    """All that a thief of the store can read: names, values, serialised values and the files."""
    found = []
    with redis.Redis(port=valkey.port) as client:
        for key in client.scan_iter():
            found += [key, client.dump(key)]
            found += [client.get(key)] if client.type(key) == b"string" else []
            found += client.zrange(key, 0, -1) if client.type(key) == b"zset" else []
    for path in valkey.folder.rglob("*"):
        if path.is_file():
            with contextlib.suppress(FileNotFoundError):  # temporary, and renamed since it was listed
                found.append(path.read_bytes())
    found = [part for part in found if part is not None]  # None: a key that has expired since it was listed
    assert any(b"EVALSHA" in part or b"SET" in part for part in found)
    return b"\n".join(found)


def decoded(token):
    text = token.removeprefix("rvr_")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def test_without_a_store_sessions_are_503_and_the_body_reveals_nothing(
    start, own_valkey, sessions_section
):
    running = await start(own_valkey, sessions=sessions_section())
    browser = await log_in(running)
    own_valkey.kill()
    answers = [
        await browser.refresh(),
        await browser.end(),
        await browser.elevate(amr=["otp"]),
        await running.post("/sessions", {"sub": "alice"}),
        await running.post("/revoke", form={"token": browser.refresh_token}),
    ]
    assert {answer.error for answer in answers} == {(503, "temporarily_unavailable")}
    own_valkey.start()
    await answers_again(running)
    assert await browser.active()
    assert (await browser.refresh()).status == 200


async def test_clients_that_hang_up_do_not_harm_other_refreshes(keeper):
    browsers = [await log_in(keeper, f"user-{n}") for n in range(20)]
    impatient = [asyncio.create_task(browser.refresh()) for browser in browsers[::2]]
    patient = [asyncio.create_task(browser.refresh()) for browser in browsers[1::2]]
    await asyncio.sleep(0.002)
    for task in impatient:
        task.cancel()
    await asyncio.gather(*impatient, return_exceptions=True)
    assert {(await item).status for item in patient} == {200}
    for browser in browsers[::2]:
        assert (await browser.refresh()).status == 200
