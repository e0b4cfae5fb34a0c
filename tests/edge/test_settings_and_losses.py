"""What the store remembers of its issuers, and of data that it has lost, holds at an edge as well."""

import time

import pytest

from revoker.store.keys import slot_of
from tests.edge.conftest import claims, is_inactive, is_ready, until
from tests.rig import forge
from tests.rig.service import OTHER_ISSUER

LIMITS = {"max_token_lifetime": 86400, "horizon": 86400, "leeway": 30, "clock_skew": 2}


def settings(**changes):
    """The line of a service with the same two issuers; changes of the first."""
    other = {"iss": OTHER_ISSUER, **LIMITS}
    return {
        "kind": "settings",
        "issuers": {"main": {"iss": forge.ISSUER, **LIMITS, **changes}, "other": other},
    }


async def has_no_verdict(edge, token):
    return (await edge.post("/introspect", token, caller="gateway")).status == 503


async def test_the_same_settings_are_no_matter(start_edge, feed):
    feed.lines.append(settings())
    edge = await start_edge(feed)
    assert await edge.active(claims())


@pytest.mark.parametrize(
    "line",
    [
        settings(iss="https://another.example.com"),
        settings(claims={"sub": ["oid"]}),
        settings(revoked_by={"tenant": 1}),
        {"kind": "settings", "issuers": {"other": {"iss": OTHER_ISSUER, **LIMITS}}},
        {"kind": "settings", "issuers": {"idp": {"iss": forge.ISSUER, **LIMITS}}},
    ],
)
async def test_an_issuer_that_the_service_names_differently_gets_no_verdicts(start_edge, feed, line):
    """By other names, revocations would not be found."""
    edge = await start_edge(feed)
    assert await edge.active(claims())
    feed.revoke(**line)
    await until(lambda: has_no_verdict(edge, claims()), "the settings arrive")
    problems = (await edge.ask("GET", "/readyz")).json["problems"]
    assert "settings_conflict" in {problem["problem"] for problem in problems}
    feed.revoke(**settings())
    await until(lambda: is_answered(edge), "the settings fit again")


async def is_answered(edge):
    return not await has_no_verdict(edge, claims())


async def test_limits_beyond_those_of_the_service_are_of_no_use(start_edge, feed):
    """The service forgets the revocation of a token that lives longer than it knows of."""
    feed.lines.append(settings(max_token_lifetime=3600, horizon=3600))
    edge = await start_edge(feed)
    now = int(time.time())
    assert await edge.active(claims(iat=now, exp=now + 3600))
    assert not await edge.active(claims(iat=now, exp=now + 3700))


async def test_settings_that_cannot_be_read_allow_no_snapshot(start_edge, feed):
    feed.lines.append({"kind": "settings", "issuers": {"main": {"iss": 1}}})
    edge = await start_edge(feed, ready=False)
    await until(lambda: feed.requests.count("/feed/snapshot") > 1, "it tries again")
    assert not await is_ready(edge)


async def test_what_was_issued_before_a_loss_is_inactive(start_edge, feed):
    edge = await start_edge(feed)
    old, new = claims(), claims(iat=int(time.time()))
    feed.lines.append({"kind": "loss", "before": time.time() - 30})
    feed.send("reload", {})
    await until(lambda: is_inactive(edge, old), "the loss arrives")
    assert await edge.active(new)
    feed.lines.clear()  # an operator has accepted it
    feed.send("reload", {})
    await until(lambda: edge.active(old), "the end of the loss arrives")


async def test_in_a_cluster_a_loss_covers_what_has_a_key_in_its_slots(start_edge, feed):
    feed.head = {"format": 1, "key_prefix": "rv", "clustered": True}
    lost, other = claims(jti="lost"), claims(jti="other")
    slot = slot_of("rv:jti:main:lost")
    feed.lines.append({"kind": "loss", "before": time.time(), "slots": [[slot, slot]]})
    edge = await start_edge(feed)
    assert not await edge.active(lost)
    assert await edge.active(other)
    assert await edge.active({**lost, "iss": OTHER_ISSUER})
    feed.jti("other", issuer=forge.ISSUER)
    await until(lambda: is_inactive(edge, other), "a revocation beside the loss arrives")


async def test_without_the_keys_of_an_issuer_there_are_no_verdicts_on_its_tokens(start_edge, feed):
    nowhere = {"jwks_file": "", "jwks_uri": "http://127.0.0.1:1/jwks", "jwks_insecure": True}
    edge = await start_edge(feed, ready=False, main=nowhere)
    await until(lambda: edge.service.mirror.fresh, "it has the revocations")
    answer = await edge.post("/introspect", {"token": edge.token()}, caller="gateway")
    assert answer.status == 503
    assert await edge.active(claims()), "the caller has checked the signature"
    problems = {problem["problem"] for problem in (await edge.ask("GET", "/readyz")).json["problems"]}
    assert "keys_never_loaded" in problems


async def test_a_snapshot_of_a_later_format_is_not_believed(start_edge, feed):
    feed.head = {"format": 2}
    edge = await start_edge(feed, ready=False)
    await until(lambda: "format 2" in edge.service.follower.fault, "it says why")
    assert not await is_ready(edge)
