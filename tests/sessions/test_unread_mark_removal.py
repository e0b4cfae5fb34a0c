"""A refresh that is stored and confirmed, after which only the removal of its mark is not understood.

The mark lets a refresh token be used again while its use is not confirmed. The service removes it last, and
by then the successor is the client's.
"""

import pytest

from tests.rig.reply_proxy import ReplyProxy, encode
from tests.sessions.conftest import log_in

REPLIES = {
    "nil": encode(None),
    "a text": encode(b"OK"),
    "a list": encode([b"1", [None]]),
    "a refusal": encode(RuntimeError("NOPERM no DEL")),
    "no RESP at all": b"what?\r\n",
}


@pytest.fixture
async def proxy(valkey):
    async with ReplyProxy.before(valkey.port) as made:
        yield made


@pytest.mark.parametrize("grace", [0, 10])
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
async def test_the_successor_is_the_clients_and_can_be_used(start, proxy, sessions_section, reply, grace):
    running = await start(proxy, sessions=sessions_section(refresh_grace=grace))
    browser = await log_in(running)
    spent = browser.refresh_token
    proxy.seen.clear()
    proxy.rules["DEL"] = reply

    answer = await browser.refresh()

    assert answer.status == 200, answer.body
    assert "DEL" in proxy.seen, "the mark was not removed at all"
    proxy.rules.clear()
    successor = answer.json["refresh_token"]
    assert successor != spent
    browser.access, browser.refresh_token = answer.json["access_token"], successor
    assert await browser.active()
    await browser.go_on()
    assert browser.refresh_token != successor


async def test_a_token_two_generations_old_is_reuse_though_its_mark_was_not_removed(
    start, proxy, sessions_section
):
    running = await start(proxy, sessions=sessions_section(refresh_grace=0))
    browser = await log_in(running)
    spent = browser.refresh_token
    proxy.rules["DEL"] = encode(RuntimeError("NOPERM no DEL"))
    await browser.go_on()
    await browser.go_on()

    assert (await browser.refresh(spent)).error == (400, "invalid_grant")
    assert not await browser.active()
