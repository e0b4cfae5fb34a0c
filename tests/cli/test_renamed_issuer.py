"""How a service starts whose settings give an issuer another name than the store does."""

import json

import pytest

from tests.rig import forge
from tests.rig.processes import Process, until


@pytest.fixture
def configured(tmp_path, own_valkey):
    """Write a configuration whose issuer has this name."""

    def write(name, workers=1, prefix="rv"):
        jwks = tmp_path / "jwks.json"
        jwks.write_text(json.dumps(forge.jwks(forge.rsa_key("main-1"))))
        path = tmp_path / f"{name}-{prefix}.toml"
        path.write_text(f"""
server = {{port = 0, ops_port = 0, workers = {workers}, drain_seconds = 0}}
redis = {{url = "{own_valkey.url}", key_prefix = "{prefix}"}}
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
def test_a_renamed_issuer_stops_the_start_until_its_revocations_are_imported_under_the_new_name(
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

    status, _, errors = run(tmp_path, "serve", "--config", new)
    assert status == failed
    assert "is called idp in the settings and main in the store" in errors
    assert "`revoker export`" in errors

    moved = configured("idp", workers, prefix="rv-idp")
    assert run(tmp_path, "export", "--output", "revoked.ndjson", "--config", old)[0] == 0
    assert run(tmp_path, "store", "init", "--config", moved)[0] == 0
    assert run(tmp_path, "import", "revoked.ndjson", "--config", moved)[0] == 0
    with own_valkey.client() as client:
        assert client.get("rv-idp:jti:idp:gone") == "1763769600000"
    with revoker(tmp_path, "serve", "--config", moved) as process:
        process.url()
        process.send_signal()
        assert process.status() == 0
