"""Commands on stores that answer oddly, refuse what is asked, or belong to other settings."""

import asyncio
import json

import pytest

from tests.cli.test_export_and_import import Revoker, prefix, valkey  # noqa: F401  # fixtures
from tests.rig import forge
from tests.rig.network import Network
from tests.rig.reply_proxy import ReplyProxy, encode


@pytest.fixture
def revoker(tmp_path, valkey, prefix):  # noqa: F811
    return Revoker(tmp_path, valkey, prefix)


def reached_by(revoker, url, *, timeout=5):
    """Let the commands go to another URL."""
    path = revoker.folder / "revoker.toml"
    text = path.read_text().replace(revoker.valkey.url, url)
    path.write_text(text.replace("timeout = 5 ", f"timeout = {timeout} "))


async def test_a_command_tells_of_a_reply_that_is_not_understood_without_a_traceback(revoker):
    async with ReplyProxy.before(revoker.valkey.port) as proxy:
        proxy.rules |= {"TIME": encode(5), "EVALSHA": encode(5), "EVAL": encode(5)}
        reached_by(revoker, proxy.url)
        status, _, err = await asyncio.to_thread(revoker.run, "keys", "forget", "k")
        assert status == 1
        assert "Traceback" not in err
        assert err.endswith("the store gave a reply that is not understood\n")


def remember(revoker, name, **bounds):
    """Let the store remember the issuer under this name, as a service of other settings would have."""
    record = {
        "iss": forge.ISSUER,
        "max_token_lifetime": 86400,
        "horizon": 86400,
        "leeway": 30,
        "clock_skew": 2,
    }
    text = json.dumps({name: record | bounds}, separators=(",", ":"))
    with revoker.valkey.client() as client:
        client.set(f"{revoker.prefix}:settings", text)


def everything(revoker):
    with revoker.valkey.client() as client:
        return {key: client.dump(key) for key in client.scan_iter(f"{revoker.prefix}:*", 1000)}


def file_of(revoker, *lines):
    path = revoker.folder / "revoked.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("import", "revoked.jsonl"),
        ("import", "--dry-run", "revoked.jsonl"),
        ("export",),
        ("cutoff", "lift", "client", "web"),
        ("keys", "forget", "k"),
        ("store", "init"),
        ("store", "accept"),
        ("store", "lost"),
    ],
    ids=" ".join,
)
def test_a_command_refuses_settings_that_the_service_refuses_and_writes_nothing(revoker, arguments):
    file_of(revoker, {"kind": "jti", "iss": "main", "jti": "gone"})
    remember(revoker, "idp")
    before = everything(revoker)
    status, _, err = revoker.run(*arguments)
    assert status == 2
    assert err.startswith(
        f"issuers: the issuer {forge.ISSUER} is called main in the settings and idp in the store"
    )
    assert len(err.splitlines()) == 1
    assert everything(revoker) == before


def test_the_check_of_a_store_shows_settings_that_the_service_refuses(revoker):
    remember(revoker, "idp")
    status, out, _ = revoker.run("store", "check")
    assert status == 1
    assert "settings_conflict: " in out


def test_what_is_imported_lives_as_long_as_the_widest_bounds_that_the_store_remembers(revoker):
    week = 604_800
    remember(revoker, "main", max_token_lifetime=week, horizon=week, leeway=90)
    source = file_of(
        revoker,
        {"kind": "jti", "iss": "main", "jti": "gone"},
        {"kind": "client", "iss": "main", "client_id": "web"},
        {"kind": "user", "iss": "main", "sub": "ann"},
    )
    assert revoker.run("import", source)[0] == 0
    with revoker.valkey.client() as client:
        lives = {key: client.pttl(key) for key in client.scan_iter(f"{revoker.prefix}:*", 1000)}
        kinds = ("jti:", "cutoff:", ":user")
        expiries = [life for key, life in lives.items() if any(kind in key for kind in kinds)]
        assert len(expiries) == 3
        assert all(life > (week + 90) * 1000 for life in expiries)
        stored = json.loads(client.get(f"{revoker.prefix}:settings"))
        assert stored["main"]["max_token_lifetime"] == week


def test_an_import_lets_the_store_remember_the_issuers_that_it_wrote_of(revoker):
    assert revoker.run("import", file_of(revoker, {"kind": "jti", "iss": "main", "jti": "gone"}))[0] == 0
    with revoker.valkey.client() as client:
        assert json.loads(client.get(f"{revoker.prefix}:settings"))["main"]["iss"] == forge.ISSUER


def test_a_command_waits_for_the_store_longer_than_a_verdict_would(revoker):
    reached_by(revoker, revoker.valkey.url, timeout=0.25)
    with Network() as network:
        reached_by(revoker, f"redis://127.0.0.1:{network.relay(revoker.valkey.port, delay=0.3)}/0")
        assert revoker.run("store", "init", "--or-known") == (
            0,
            "the store has an epoch already, and keeps it\n",
            "",
        )
