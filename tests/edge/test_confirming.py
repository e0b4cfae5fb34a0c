"""An edge says how far it has come: what it has confirmed is in effect there."""

import pytest

from revoker.store.mirror import confirming
from tests.edge.conftest import claims, is_inactive, until
from tests.rig import forge
from tests.rig.service import HANGS_S


def cursors(feed):
    return [confirmed["cursor"] for confirmed in feed.confirmed]


async def test_it_confirms_what_it_has_taken_over(start_edge, feed):
    edge = await start_edge(feed)
    await until(lambda: "c0" in cursors(feed), "the snapshot is confirmed")
    token = claims()
    feed.jti(token["jti"], issuer=forge.ISSUER)
    await until(lambda: cursors(feed)[-1] == "c1", "the change is confirmed")
    assert await is_inactive(edge, token)
    last = feed.confirmed[-1]
    assert last["name"].startswith("edge-1-")
    assert last["max_staleness"] == edge.service.mirror.max_staleness
    assert abs(last["as_of"] - feed.now) < 60_000


async def test_it_confirms_again_without_any_change(start_edge, feed):
    await start_edge(feed)
    await until(lambda: len(feed.confirmed) > 2, "it goes on")
    assert set(cursors(feed)) == {"c0"}


async def test_it_confirms_when_it_is_asked(start_edge, feed, monkeypatch):
    monkeypatch.setattr(confirming, "CONFIRM_S", HANGS_S)
    edge = await start_edge(feed)
    for number in range(1, 6):
        token = claims()
        feed.jti(token["jti"], issuer=forge.ISSUER)
        feed.send("confirm", {})
        latest = [f"c{2 * number}"]
        await until(lambda latest=latest: cursors(feed)[-1:] == latest, "what came before is confirmed")
        assert await is_inactive(edge, token)


async def test_it_is_asked_through_a_proxy_that_holds_back_streams(start_edge, feed, monkeypatch):
    monkeypatch.setattr(confirming, "CONFIRM_S", HANGS_S)
    feed.buffers = True
    edge = await start_edge(feed, ready=False)
    await until(lambda: "poll" in feed.requests and edge.service.follower.connected, "it polls")
    feed.send("confirm", {})
    await until(lambda: cursors(feed)[-1:] == ["c1"], "it has confirmed")


async def test_what_is_asked_for_together_is_confirmed_together(start_edge, feed):
    await start_edge(feed)
    changes = 500
    for _ in range(changes):
        feed.send("confirm", {})
    await until(lambda: cursors(feed)[-1:] == [f"c{changes}"], "all are confirmed")
    assert len(feed.confirmed) < changes / 10


async def test_a_change_is_confirmed_only_as_a_whole(start_edge, feed):
    edge = await start_edge(feed)
    one, other = claims(), claims()
    feed.parts = {0}
    feed.jti(one["jti"], issuer=forge.ISSUER)
    feed.jti(other["jti"], issuer=forge.ISSUER)
    await until(lambda: "c2" in cursors(feed), "both parts are confirmed")
    assert "c1" not in cursors(feed)
    assert not await edge.active(one)
    assert not await edge.active(other)


async def test_what_a_reload_has_left_behind_is_not_confirmed(start_edge, feed):
    """Above all not by the poll that compares the clocks before the new snapshot is used."""
    edge = await start_edge(feed)
    await until(lambda: feed.confirmed, "the first snapshot is confirmed")
    feed.answers_polls.clear()
    token = claims()
    feed.forgets = True  # so that the stream does not bring the change
    feed.jti(token["jti"], issuer=forge.ISSUER)
    await until(lambda: "c1" in feed.polled, "it has the new snapshot, and polls from there")
    assert await edge.active(token)
    assert "c1" not in cursors(feed)
    feed.answers_polls.set()
    await until(lambda: cursors(feed)[-1] == "c1", "the change is confirmed")
    assert await is_inactive(edge, token)


@pytest.mark.parametrize("status", [403, 404, 429, 500])
async def test_it_follows_an_upstream_that_takes_no_confirmations(start_edge, feed, status):
    feed.confirming = status
    edge = await start_edge(feed)
    await until(lambda: len(feed.confirmed) > 1, "it tries again")
    token = claims()
    feed.jti(token["jti"], issuer=forge.ISSUER)
    await until(lambda: is_inactive(edge, token), "the change arrives")


async def test_processes_have_names_of_their_own(start_edge, feed):
    """Otherwise what one of them confirms would seem to hold at all."""
    await start_edge(feed)
    await start_edge(feed)
    await start_edge(feed, upstream={"name": ""})
    await start_edge(feed, upstream={"name": ""})
    await until(lambda: len({one["name"] for one in feed.confirmed}) == 4, "four names")
