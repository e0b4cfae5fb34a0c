"""`revoker store rename`, and how a service starts whose settings no longer fit its store."""

import json

import pytest

from tests.rig import forge
from tests.rig.processes import Process, until


@pytest.fixture
def configured(tmp_path, own_valkey):
    """Write a configuration whose issuer has this name."""

    def write(name, workers=1):
        jwks = tmp_path / "jwks.json"
        jwks.write_text(json.dumps(forge.jwks(forge.rsa_key("main-1"))))
        path = tmp_path / f"{name}.toml"
        path.write_text(f"""
server = {{port = 0, ops_port = 0, workers = {workers}, drain_seconds = 0}}
redis.url = "{own_valkey.url}"
[[issuers]]
name = "{name}"
issuer = "{forge.ISSUER}"
audiences = ["{forge.AUDIENCE}"]
jwks_file = "{jwks}"
[[callers]]
name = "admin"
secret_sha256 = ["{"0" * 64}"]
scopes = ["introspect", "revoke"]
""")
        return path

    return write


def revoker(tmp_path, *arguments):
    return Process(tmp_path, "-m", "revoker", *arguments)


def run(tmp_path, *arguments):
    with revoker(tmp_path, *arguments) as process:
        status = process.status()
    return status, process.out.read_text(), process.err.read_text()


@pytest.mark.parametrize(("workers", "failed"), [(1, 2), (2, 3)])
def test_a_renamed_issuer_stops_the_start_until_it_is_renamed_in_the_store(
    configured, tmp_path, own_valkey, workers, failed
):
    old, new = configured("main", workers), configured("idp", workers)
    assert run(tmp_path, "store", "init", "--config", old)[0] == 0
    with revoker(tmp_path, "serve", "--config", old) as process, own_valkey.client() as client:
        process.url()
        until(lambda: client.get("rv:settings"))
        process.send_signal()
        assert process.status() == 0
        client.set("rv:jti:main:gone", "1763769600000", px=100_000)

    status, _, said = run(tmp_path, "serve", "--config", new)
    assert status == failed
    assert "call it main, or `revoker export`" in said

    status, said, progress = run(tmp_path, "store", "rename", "main", "idp", "--config", new)
    assert (status, said) == (0, "main is idp; 1 keys were moved\n")
    assert "1 keys" in progress
    with own_valkey.client() as client:
        assert client.get("rv:jti:idp:gone") == "1763769600000"
        assert not client.exists("rv:jti:main:gone")
    with revoker(tmp_path, "serve", "--config", new) as process:
        process.url()
        process.send_signal()
        assert process.status() == 0


def test_what_cannot_be_renamed_is_refused(configured, tmp_path):
    config = configured("main")
    assert run(tmp_path, "store", "rename", "nobody", "idp", "--config", config)[0] == 1
    for name in ("main", "Main", "", "x" * 33):
        assert run(tmp_path, "store", "rename", "main", name, "--config", config)[0] == 2
