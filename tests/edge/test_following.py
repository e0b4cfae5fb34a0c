"""An edge answers by what its upstream has sent, and by nothing else."""

import asyncio
import functools
import json
import time
import uuid

import pytest

from revoker.store.mirror import follower, snapshots
from revoker.store.mirror.follower import POLLING_S, SWEEP_S
from revoker.store.mirror.upstream_clock import SAMPLE_VALID_MS
from tests.edge.conftest import claims, is_inactive, is_ready, until
from tests.rig import forge
from tests.rig.edge import STALE_S
from tests.rig.service import HANGS_S, OTHER_ISSUER


async def test_it_answers_by_the_snapshot(start_edge, feed):
    revoked, other = claims(), claims()
    feed.jti(revoked["jti"], issuer=forge.ISSUER)
    edge = await start_edge(feed)
    assert not await edge.active(revoked)
    assert await edge.active(other)
    assert await edge.active(edge.token())
    assert await edge.active({**revoked, "iss": OTHER_ISSUER})


async def test_a_change_arrives_and_every_answer_says_as_of_when(start_edge, feed):
    edge = await start_edge(feed)
    token = claims()
    answer = await edge.post("/introspect", token, caller="gateway")
    assert answer.json == {"active": True}
    before = int(answer.headers["Revoker-As-Of"])
    assert abs(before - feed.now) < 60_000

    feed.jti(token["jti"], issuer=forge.ISSUER)

    await until(lambda: is_inactive(edge, token), "the revocation arrives")
    answer = await edge.post("/introspect", token, caller="gateway")
    assert int(answer.headers["Revoker-As-Of"]) >= before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/readyz", 200),
        ("POST", "/revoke", 404),
        ("GET", "/nothing", 404),
        ("GET", "/introspect", 405),
    ],
)
async def test_answers_without_a_verdict_say_as_of_when_too(start_edge, feed, method, path, status):
    edge = await start_edge(feed)

    answer = await edge.ask(method, path)

    assert answer.status == status
    assert abs(int(answer.headers["Revoker-As-Of"]) - feed.now) < 60_000


async def test_removals_and_cutoffs_of_every_kind(start_edge, feed):
    edge = await start_edge(feed)
    now = time.time()
    token = claims(sid="s1", client_id="web")
    assert await edge.active(token)
    lines = [
        {"kind": "user", "iss": forge.ISSUER, "sub": "alice"},
        {"kind": "session", "iss": forge.ISSUER, "sid": "s1"},
        {"kind": "client", "iss": forge.ISSUER, "client_id": "web"},
        {"kind": "issuer", "iss": forge.ISSUER},
    ]
    for line in lines:
        feed.send("change", {**line, "before": now})
        await until(lambda: is_inactive(edge, token), f"{line} arrives")
        feed.send("change", {"remove": line})
        await until(lambda: edge.active(token), f"{line} is lifted")
    block = {"kind": "block", "iss": forge.ISSUER, "sub": "alice"}
    feed.send("change", {**block, "until": now + 600})
    await until(lambda: is_inactive(edge, token), "the block arrives")
    feed.send("change", {"remove": block})
    await until(lambda: edge.active(token), "the block ends")
    key = {"kind": "key", "iss": forge.ISSUER, "kid": "main-1"}
    feed.send("change", {**key, "at": now})
    enveloped = {"claims": token, "header": {"kid": "main-1"}}
    await until(lambda: is_inactive(edge, enveloped), "the revoked key arrives")
    assert await edge.active({"claims": token, "header": {"kid": "main-2"}})
    feed.send("change", {"remove": key})
    await until(lambda: edge.active(enveloped), "the key is forgotten")


async def test_a_claim_is_revoked_by_value(start_edge, feed):
    edge = await start_edge(feed)
    token = claims(iss=OTHER_ISSUER, grant_id="g1")
    feed.send(
        "change",
        {"kind": "claim", "iss": OTHER_ISSUER, "claim": "grant_id", "value": "g1", "before": time.time()},
    )
    await until(lambda: is_inactive(edge, token), "the cutoff arrives")
    assert await edge.active({**token, "grant_id": "g2"})


def spoiled(how):
    """A snapshot that must not be believed."""

    def spoil(text):
        first, *lines, end = text.splitlines()
        if how == "without its end":
            return "\n".join([first, *lines]) + "\n"
        if how == "with a line too few":
            return "\n".join([first, *lines[1:], end]) + "\n"
        if how == "with another count":
            return "\n".join([first, *lines, json.dumps({"end": True, "lines": len(lines) + 1})]) + "\n"
        if how == "with a line that is no JSON":
            return "\n".join([first, *lines[1:], "{]", end]) + "\n"
        if how == "with a line of an unknown kind":
            return "\n".join([first, *lines[1:], '{"kind": "scope", "iss": "x", "before": 1}', end]) + "\n"
        if how == "with a member that is unknown":
            return (
                "\n".join([first, *lines[1:], '{"kind":"user","tag":"AAAAAAAAAAAAAAAA","if":1}', end]) + "\n"
            )
        if how == "without its beginning":
            return "\n".join([*lines, end]) + "\n"
        assert how == "that is empty"
        return ""

    return spoil


SPOILED = (
    "without its end",
    "with a line too few",
    "with another count",
    "with a line that is no JSON",
    "with a line of an unknown kind",
    "with a member that is unknown",
    "without its beginning",
    "that is empty",
)


@pytest.mark.parametrize("how", SPOILED)
async def test_nothing_is_answered_by_a_snapshot(start_edge, feed, how):
    token = claims()
    feed.jti(uuid.uuid4().hex, issuer=forge.ISSUER)
    feed.jti(token["jti"], issuer=forge.ISSUER)
    feed.snapshot = spoiled(how)
    edge = await start_edge(feed, ready=False)
    await until(lambda: feed.requests.count("/feed/snapshot") > 1, "it tries again")
    assert (await edge.ask("GET", "/readyz")).status == 503
    answer = await edge.post("/introspect", token, caller="gateway")
    assert answer.status == 503
    assert "Revoker-As-Of" not in answer.headers

    feed.snapshot = str

    await until(lambda: is_ready(edge), "it is ready")
    assert not await edge.active(token)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("reload", {}),
        ("change", {"kind": "scope", "iss": forge.ISSUER, "before": 1}),
        ("change", {"remove": {"kind": "scope"}}),
        ("change", {"kind": "user", "iss": forge.ISSUER, "sub": "alice"}),
        ("change", "text"),
        ("rotate", {}),
    ],
)
async def test_what_it_does_not_understand_makes_it_load_a_snapshot(start_edge, feed, event, data):
    edge = await start_edge(feed)
    token = claims()
    feed.lines.append(
        {
            "kind": "jti",
            "iss": forge.ISSUER,
            "jti": token["jti"],
            "at": time.time(),
            "exp": token["exp"],
        }
    )  # only a snapshot has it
    assert await edge.active(token)
    feed.send(event, data)
    await until(lambda: is_inactive(edge, token), "the new snapshot is loaded")
    assert feed.requests.count("/feed/snapshot") == 2


async def test_the_old_copy_serves_until_the_new_one_is_complete(start_edge, feed):
    revoked, token = claims(), claims()
    feed.jti(revoked["jti"], issuer=forge.ISSUER)
    edge = await start_edge(feed)
    feed.snapshot = spoiled("without its end")
    feed.send("reload", {})
    await until(lambda: feed.requests.count("/feed/snapshot") > 1, "it loads another")
    assert not await edge.active(revoked)
    assert await edge.active(token)
    feed.snapshot = str
    feed.lines.clear()
    await until(lambda: edge.active(revoked), "the new copy serves")


async def test_the_old_copy_serves_no_longer_than_it_may(start_edge, feed, clock):
    edge = await start_edge(feed)
    token = claims()
    assert await edge.active(token)
    feed.sends_snapshots.clear()
    feed.send("reload", {})
    await until(lambda: feed.requests.count("/feed/snapshot") == 2, "it loads another")
    clock.ahead += STALE_S
    assert (await edge.post("/introspect", token, caller="gateway")).status == 503
    feed.sends_snapshots.set()
    await until(lambda: is_ready(edge), "the new copy serves")
    assert await edge.active(token)


async def test_a_reload_while_a_snapshot_is_slow_loads_one_more(start_edge, feed):
    revoked, while_slow, only_stored = claims(), claims(), claims()
    feed.jti(revoked["jti"], issuer=forge.ISSUER)
    edge = await start_edge(feed, upstream={"max_staleness": 60.0})
    await until(lambda: edge.active(while_slow), "it answers")
    feed.sends_snapshots.clear()
    feed.send("reload", {})
    await until(lambda: feed.requests.count("/feed/snapshot") == 2, "it loads another")
    feed.jti(while_slow["jti"], issuer=forge.ISSUER)
    feed.send("reload", {})
    feed.lines.append({**feed.lines[0], "jti": only_stored["jti"]})
    assert not await edge.active(revoked)
    assert await edge.active(only_stored)
    feed.sends_snapshots.set()
    await until(lambda: is_inactive(edge, while_slow), "what was revoked meanwhile arrives")
    await until(lambda: is_inactive(edge, only_stored), "the third snapshot is loaded")
    assert not await edge.active(revoked)
    assert feed.requests.count("/feed/snapshot") == 3


async def test_every_request_is_answered_when_a_snapshot_that_took_long_replaces_another(
    start_edge, feed, clock
):
    revoked, only_stored = claims(), claims()
    feed.jti(revoked["jti"], issuer=forge.ISSUER)
    edge = await start_edge(feed, upstream={"max_staleness": 3600.0})
    feed.sends_snapshots.clear()
    feed.lines.append({**feed.lines[0], "jti": only_stored["jti"]})
    feed.send("reload", {})
    await until(lambda: feed.requests.count("/feed/snapshot") == 2, "it loads another")
    clock.ahead += 2 * SAMPLE_VALID_MS / 1000
    feed.sends_snapshots.set()

    async def loaded():
        assert await is_inactive(edge, revoked)
        return await is_inactive(edge, only_stored)

    await until(loaded, "the new copy serves")


async def test_an_edge_ends_while_a_snapshot_is_slow(start_edge, feed):
    feed.sends_snapshots.clear()
    edge = await start_edge(feed, ready=False)
    await until(lambda: feed.requests.count("/feed/snapshot"), "it loads one")
    await edge.service.follower.close()
    assert not [task for task in asyncio.all_tasks() if "Follower" in task.get_coro().__qualname__]


async def test_reloads_without_end_are_answered_with_growing_pauses(start_edge, feed):
    pauses = []

    async def pause(seconds):
        pauses.append(seconds)
        await asyncio.sleep(0)

    def forget(text):
        feed.forgets = True
        return text

    feed.snapshot = forget
    await start_edge(feed, ready=False, sleep=pause)
    await until(lambda: len(list(filter(brief, pauses))) > 7, "it loads again and again")
    found = list(filter(brief, pauses))
    assert found[7] > 8 * found[0]


def brief(seconds):
    """A pause between attempts, and not one between removals of what has expired."""
    return seconds < SWEEP_S


async def test_a_proxy_that_holds_back_streams_is_polled_through(start_edge, feed):
    feed.buffers = True
    token = claims()
    edge = await start_edge(feed)
    assert "poll" in feed.requests
    assert await edge.active(token)
    feed.jti(token["jti"], issuer=forge.ISSUER)
    await until(lambda: is_inactive(edge, token), "the revocation arrives")


async def test_polls_go_on_while_a_stream_is_tried_again(start_edge, feed, clock):
    feed.buffers = True
    edge = await start_edge(feed, upstream={"max_staleness": 3600.0})
    await until(lambda: not feed.streams, "the stream was given up")
    edge.service.follower._silence_s = HANGS_S  # the trial lasts until its stream brings something
    clock.ahead += POLLING_S
    await until(lambda: feed.streams, "a stream is tried")
    token = claims()
    feed.jti(token["jti"], issuer=forge.ISSUER)
    await until(functools.partial(is_inactive, edge, token), "the revocation arrives")
    assert feed.streams == 1
    tried = feed.requests.count("SSE")
    feed.buffers = False
    await until(lambda: feed.requests.count("SSE") == tried + 1, "a stream is followed")


async def test_a_stream_that_is_tried_ends_with_the_edge(start_edge, feed, clock):
    feed.buffers = True
    edge = await start_edge(feed)
    await until(lambda: not feed.streams, "the stream was given up")
    clock.ahead += POLLING_S
    await until(lambda: feed.streams, "a stream is tried")
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await edge.service.follower.close()
    assert not [task for task in others if "Follower" in task.get_coro().__qualname__ and not task.done()]
    await until(lambda: not feed.streams, "it has ended")


async def test_another_upstream_is_followed_when_one_fails(start_edge, feed, another_feed):
    token = claims()
    another_feed.lines = feed.lines  # they share a store
    another_feed.events = feed.events
    edge = await start_edge(feed, another_feed)
    await feed.close()
    await until(lambda: another_feed.streams, "it follows the other")
    another_feed.jti(token["jti"], issuer=forge.ISSUER)
    await until(lambda: is_inactive(edge, token), "the revocation arrives")
    assert another_feed.requests.count("/feed/snapshot") == 0
    await another_feed.close()
    await feed.open()
    await until(lambda: feed.streams, "it follows the first again")


async def test_an_upstream_that_cannot_read_its_store_is_left_for_another(start_edge, feed, another_feed):
    another_feed.lines, another_feed.events = feed.lines, feed.events  # they share a store
    edge = await start_edge(feed, another_feed)
    edge.service.follower._silence_s = 0.5  # rather than wait
    feed.reads = False
    await until(lambda: another_feed.streams, "it follows the other")
    polls = feed.requests.count("poll")
    await another_feed.close()
    await until(
        lambda: feed.requests.count("poll") > polls, "the first is polled, whose streams bring nothing"
    )
    await another_feed.open()
    await until(lambda: another_feed.streams, "it follows the other again")
    assert feed.requests.count("/feed/snapshot") + another_feed.requests.count("/feed/snapshot") == 1


@pytest.mark.parametrize("limit", ["SNAPSHOT_BEGINS_S", "SNAPSHOT_SILENCE_S"])
async def test_a_snapshot_that_does_not_come_is_loaded_from_another_upstream(
    start_edge, feed, another_feed, monkeypatch, limit
):
    module = follower if limit == "SNAPSHOT_BEGINS_S" else snapshots
    monkeypatch.setattr(module, limit, 0.2)  # rather than wait
    if limit == "SNAPSHOT_BEGINS_S":
        feed.sends_snapshots.clear()
    else:
        feed.ends_snapshots.clear()
    await start_edge(feed, another_feed)
    assert feed.requests.count("/feed/snapshot")
    assert another_feed.requests.count("/feed/snapshot")


async def test_a_secret_may_be_replaced_while_it_runs(start_edge, feed, tmp_path):
    feed.secret = "next-secret"
    edge = await start_edge(feed, ready=False)
    await until(lambda: "401" in edge.service.follower.fault, "it is refused")
    assert (await edge.ask("GET", "/readyz")).status == 503
    (tmp_path / "feed.secret").write_text("next-secret\n")
    await until(lambda: is_ready(edge), "it reads the new secret")


async def test_a_change_of_several_lines_is_made_at_once(start_edge, feed):
    """A cutoff is lifted, and a newer one is already there: in between, nothing may be active."""
    edge = await start_edge(feed)
    token, other = claims(), claims(sub="bob")
    cutoff = {"kind": "user", "iss": forge.ISSUER, "sub": "alice"}
    feed.send("change", {**cutoff, "before": time.time()})
    await until(lambda: is_inactive(edge, token), "the cutoff arrives")
    confirmed = edge.service.mirror.as_of
    feed.parts.add(len(feed.events))
    feed.send("change", {"remove": cutoff})
    for _ in range(30):
        assert not await edge.active(token)
    feed.send("change", {"kind": "user", "iss": forge.ISSUER, "sub": "bob", "before": time.time()})
    await until(lambda: is_inactive(edge, other), "the rest arrives")
    assert await edge.active(token)
    await until(lambda: edge.service.mirror.as_of > confirmed, "all of it is confirmed")
