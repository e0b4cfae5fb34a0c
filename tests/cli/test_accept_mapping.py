"""Nothing starts with other names of claims than the store has, until an operator accepts them."""

import asyncio
import json
import re

import pytest

from tests.rig import forge
from tests.rig.probes import eventually, issued, issued_after, status_of
from tests.rig.processes import Process
from tests.rig.service import OTHER_ISSUER

BY_OID = {"claims": {"sub": ["oid", "sub"]}}
CHANGE = "sub was `sub` and is `oid`, `sub`"


def token_of(user, **changes):
    """Claims of a token that names its user by both names."""
    return issued(sub=f"pairwise-{user}", oid=user, **changes)


@pytest.fixture
async def running(start, valkey):
    """A service with the standard names."""
    return await start(valkey)


@pytest.fixture
def configure(tmp_path, valkey, running):
    """Write a configuration for the store of the running service."""

    def write(claims="", name="main"):
        jwks = tmp_path / "jwks.json"
        jwks.write_text(json.dumps(forge.jwks(forge.rsa_key("main-1"))))
        path = tmp_path / "revoker.toml"
        path.write_text(f"""
server = {{port = 0, drain_seconds = 0}}
redis = {{url = "{valkey.url}", key_prefix = "{prefix_of(running)}", timeout = 10}}
[[issuers]]
name = "{name}"
issuer = "{forge.ISSUER}"
audiences = ["{forge.AUDIENCE}"]
jwks_file = "{jwks}"
claims = {{{claims}}}
[[callers]]
name = "admin"
secret_sha256 = ["{"0" * 64}"]
scopes = ["introspect", "revoke"]
""")
        return path

    return write


@pytest.fixture
def command(tmp_path):
    """Run a command beside the service; returns status, output and errors."""

    def run(*arguments):
        with Process(tmp_path, "-m", "revoker", *arguments) as process:
            status = process.status()
        return status, process.out.read_text(), process.err.read_text()

    async def run_beside(*arguments):
        return await asyncio.to_thread(run, *arguments)

    return run_beside


def prefix_of(running):
    return running.service.store.keys.epoch.split(":")[0]


def stored(valkey, running, key):
    with valkey.client() as client:
        return client.get(f"{prefix_of(running)}:{key}")


async def again(start, valkey, running, **main):
    """Another service on the same store."""
    return await start(valkey, prefix=prefix_of(running), new=False, main=main)


async def test_what_was_revoked_by_the_old_names_is_inactive_under_the_new_ones(
    start, valkey, running, configure, command
):
    revoked, other = token_of("alice"), token_of("bob")
    asked = {"iss": forge.ISSUER, "sub": revoked["sub"]}
    assert (await running.post("/revoke-user", asked)).status == 200
    config = configure('sub = ["oid", "sub"]')

    status, _, errors = await command("serve", "--config", config)
    assert status == 2
    assert CHANGE in errors
    assert "`revoker store accept-mapping main`" in errors

    status, output, errors = await command("store", "accept-mapping", "main", "--config", config)
    assert status == 0, errors
    cutoff = int(stored(valkey, running, "issuer-cutoff:main").split(" ")[0])
    change, revocation, last = output.splitlines()
    assert (change, last) == (CHANGE, "accepted: the claims of main")
    assert revocation.startswith("revoked: all that main has issued up to 20")
    [line] = [json.loads(line) for line in errors.splitlines() if "mapping_accepted" in line]
    assert line["operator"]
    assert (line["issuer"], line["iss"], line["changes"]) == ("main", forge.ISSUER, [CHANGE])
    assert (line["keep"], line["cutoff"]) == (False, cutoff / 1000)

    await eventually(lambda: _refuses(running))
    assert (await running.post("/revoke-user", asked)).status == 503
    assert (await running.post("/block-user", asked)).status == 503
    assert await running.active(issued(iss=OTHER_ISSUER))
    new = await again(start, valkey, running, **BY_OID)
    assert not await new.active(revoked)
    assert not await new.active(other)
    later = issued_after(cutoff, sub="pairwise-bob", oid="bob")
    await eventually(lambda: new.active(later))
    assert (await new.post("/revoke-user", {**asked, "sub": "bob", "before": later["iat"]})).status == 200
    assert not await new.active(later)


async def _refuses(running):
    return await status_of(running, token_of("alice")) == 503


async def test_with_keep_nothing_is_revoked_and_accepting_again_does_nothing(
    start, valkey, running, configure, command
):
    sound = token_of("alice")
    assert await running.active(sound)
    config = configure('sub = ["oid", "sub"]')

    status, output, errors = await command(
        "store", "accept-mapping", forge.ISSUER, "--keep", "--config", config
    )
    assert status == 0, errors
    assert output.splitlines() == [
        CHANGE,
        "no cutoff: every revocation is declared to be found by the new names",
        "accepted: the claims of main",
    ]
    assert '"keep": true' in errors or '"keep":true' in errors

    status, output, errors = await command("store", "accept-mapping", "main", "--config", config)
    assert (status, output) == (0, "nothing to accept: the claims of main are those in the store\n")
    assert "mapping_accepted" not in errors
    assert stored(valkey, running, "issuer-cutoff:main") is None
    new = await again(start, valkey, running, **BY_OID)
    assert await new.active(sound)


async def test_an_interrupted_change_is_completed_by_the_next_attempt(
    start, valkey, running, configure, command
):
    earlier = token_of("alice")
    records = json.loads(stored(valkey, running, "settings"))
    records["main"] = {**records["main"], "changing": 1}
    with valkey.client() as client:
        client.set(f"{prefix_of(running)}:settings", json.dumps(records))
    await eventually(lambda: _refuses(running))
    config = configure()

    status, _, errors = await command("serve", "--config", config)
    assert status == 2
    assert "the claims of issuer main are being changed" in errors
    status, output, errors = await command("store", "accept-mapping", "main", "--config", config)
    assert status == 0
    assert "an interrupted change is completed" in output
    await eventually(lambda: _answers(running))
    assert not await running.active(earlier)


async def _answers(running):
    return await status_of(running, token_of("alice")) == 200


async def test_blocked_users_are_counted_where_users_get_other_names(running, configure, command):
    asked = {"iss": forge.ISSUER, "sub": "pairwise-mallory"}
    assert (await running.post("/block-user", asked)).status == 200

    status, output, errors = await command(
        "store", "accept-mapping", "main", "--config", configure('sub = ["oid"]')
    )
    assert status == 0, errors
    assert "blocked users in the store: 1; block those of main again by their new sub" in output


async def test_no_other_conflict_is_accepted(valkey, running, configure, command):
    before = stored(valkey, running, "settings")

    status, _, errors = await command("store", "accept-mapping", "nobody", "--config", configure())
    assert (status, errors) == (2, "ISSUER: nobody is not an issuer of the configuration; they are: main\n")
    renamed = configure(name="idp")
    status, _, errors = await command("store", "accept-mapping", "idp", "--config", renamed)
    assert status == 2
    assert "is called idp in the settings and main in the store" in errors
    assert stored(valkey, running, "settings") == before


@pytest.mark.parametrize("claims", ['jti = ["uti"]', "sid = []", 'client_id = ["azp", "client_id"]'])
async def test_every_claim_by_which_something_is_revoked_stops_the_start(configure, command, claims):
    status, _, errors = await command("serve", "--config", configure(claims))
    assert status == 2
    assert re.search(r"(jti|sid|client_id) was `\w+`(, `azp`)? and is ", errors)


async def test_another_scope_and_more_revocable_claims_change_nothing(configure, command):
    config = configure('scope = ["permissions"], revocable = ["email"]')
    _, output, _ = await command("store", "check", "--config", config)
    assert "settings_conflict" not in output
