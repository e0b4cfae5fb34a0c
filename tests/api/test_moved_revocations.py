"""Who revoked what, when and why, after an export from one store and an import into another."""

import json
import time

import pytest
from aiohttp import encode_basic_auth

from revoker.errors import InvalidRequest
from revoker.store.transfer import records
from revoker.store.transfer.exporting import Exporting
from revoker.store.transfer.importing import Importing
from tests.rig import forge
from tests.rig.service import OTHER_ISSUER, SECRETS

SLOW_S = 30
"""By so much two looks at a clock may be apart."""

MADE = [
    ("/revoke", {"jti": "t-1", "reason": "token leaked"}),
    ("/revoke", {"jti": "x" * 300, "reason": "a long one"}),
    ("/revoke", {"jti": "t-2"}),
    ("/revoke-user", {"sub": "alice", "reason": "lost phone"}),
    ("/revoke-user", {"sub": "bob", "except_sid": "s-9", "before": time.time() - 50}),
    ("/revoke-session", {"sid": "s-1", "before": time.time() - 100, "reason": "shared computer"}),
    ("/revoke-client", {"client_id": "app"}),
    ("/revoke-issuer", {"iss": OTHER_ISSUER, "reason": "compromised"}),
    ("/block-user", {"sub": "alice", "reason": "fraud"}),
    ("/block-user", {"sub": "dave", "until": time.time() + 3600}),
    ("/revoke-key", {"kid": "k-1", "reason": "key leaked"}),
]


async def exported(running):
    steps = [step async for step in Exporting(running.service.store).steps()]
    return [line for step in steps for line in step.lines]


def in_order(lines):
    """Lines as objects, in one order, whatever their ``exp``: that depends on when it was read."""
    found = [json.loads(line) for line in lines]
    return sorted(found, key=lambda line: json.dumps(line | {"exp": 0}, sort_keys=True))


async def imported(running, lines):
    importing = Importing(running.service.store)
    await importing.begin()
    await importing.store([importing.change(records.read(line)) for line in lines])
    await importing.end()


async def listed(running, caller="admin"):
    """All that a caller sees, in one order, without when the store drops it."""
    headers = {"Authorization": encode_basic_auth(caller, SECRETS[caller])}
    entries, cursor = [], ""
    while cursor is not None:
        answer = await running.ask("GET", f"/revocations?limit=500{cursor}", headers=headers)
        assert answer.status == 200, answer.body
        entries += answer.json["revocations"]
        cursor = answer.json["next"] and f"&cursor={answer.json['next']}"
    entries = [{name: entry[name] for name in entry.keys() - {"expires"}} for entry in entries]
    return sorted(entries, key=lambda entry: json.dumps(entry, sort_keys=True))


@pytest.fixture
async def two(start, valkey):
    """A service on a store with revocations, and one on an empty store."""
    source, target = await start(valkey), await start(valkey)
    for path, body in MADE:
        answer = await source.post(path, {"iss": forge.ISSUER, **body})
        assert answer.status == 200, (path, answer.body)
    return source, target


async def test_who_when_and_why_are_the_same_in_another_store(two):
    source, target = two
    claim = {"iss": OTHER_ISSUER, "claim": "grant_id", "value": "g-71"}
    assert (await source.post("/revoke-claim", claim)).status == 200
    before = await listed(source)
    assert len(before) == len(MADE) + 1
    assert sum("by" in entry for entry in before) == len(MADE)  # all but a token without a reason

    await imported(target, await exported(source))

    assert await listed(target) == before
    assert await listed(target, "one-issuer") == await listed(source, "one-issuer") != []
    there, here = in_order(await exported(target)), in_order(await exported(source))
    ends = [(one.pop("exp", 0), other.pop("exp", 0)) for one, other in zip(there, here, strict=True)]
    assert there == here
    assert all(one == pytest.approx(other, abs=SLOW_S) for one, other in ends)


async def test_importing_again_leaves_who_made_it(two):
    source, _ = two
    before = await listed(source)
    lines = await exported(source)
    unattributed = [
        json.dumps({name: value for name, value in json.loads(line).items() if name not in {"by", "made"}})
        for line in lines
        if b'"kind":"jti"' not in line
    ]

    await imported(source, lines)
    await imported(source, [line.encode() for line in unattributed])

    assert await listed(source) == before


async def test_what_an_older_version_has_exported_is_imported_without_that(two):
    source, target = two
    older = []
    for line in await exported(source):
        members = json.loads(line)
        members.pop("by", None), members.pop("made", None)
        if members["kind"] == "jti":
            members.pop("reason", None)
        older.append(json.dumps(members).encode())

    await imported(target, older)

    after = await listed(target)
    assert len(after) == len(MADE)
    assert not any("by" in entry or "made" in entry for entry in after)


async def test_a_token_with_a_reason_is_revoked_by_the_import(start, valkey):
    running = await start(valkey)

    line = {"kind": "jti", "iss": forge.ISSUER, "jti": "t-1", "reason": "leaked"}
    await imported(running, [json.dumps(line).encode()])

    [entry] = await listed(running)
    assert (entry["jti"], entry["reason"], entry["by"]) == ("t-1", "leaked", "(import)")


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"made": 1}, "made. needs .by"),
        ({"by": ""}, "by"),
        ({"by": "x" * 513}, "by"),
        ({"by": "admin", "made": time.time() + 3600}, "further ahead"),
    ],
    ids=["nobody", "empty", "long", "ahead"],
)
async def test_a_line_that_says_something_impossible_is_refused(start, valkey, members, problem):
    running = await start(valkey)
    line = json.dumps({"kind": "user", "iss": forge.ISSUER, "sub": "alice", **members}).encode()

    with pytest.raises(InvalidRequest, match=problem):
        await imported(running, [line])

    assert await listed(running) == []


async def test_a_user_with_a_very_long_name_goes_by_a_tag(start, valkey):
    source, target = await start(valkey), await start(valkey)
    body = {"iss": forge.ISSUER, "sub": "c" * 2000, "reason": "fraud"}
    assert (await source.post("/revoke-user", body)).status == 200

    await imported(target, await exported(source))

    [before], [after] = await listed(source), await listed(target)
    assert (after["tag"], after["by"], after["made"]) == (before["tag"], "admin", before["made"])
    assert not await target.active(target.token(sub="c" * 2000, now=time.time() - 60))
