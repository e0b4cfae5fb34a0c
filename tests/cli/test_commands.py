import base64
import hashlib
import json
import re
import time

import pytest

from revoker import __version__
from revoker.cli import development
from tests.rig.processes import Process


def run(folder, *arguments, **environ):
    """Run a command to its end; returns status, output and errors."""
    with Process(folder, "-m", "revoker", *arguments, **environ) as process:
        status = process.status()
    return status, process.out.read_text(), process.err.read_text()


def claims(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


@pytest.fixture
def key(tmp_path):
    development.prepare({}, tmp_path / ".revoker")
    return tmp_path / ".revoker/dev-key.pem"


def test_version(tmp_path):
    assert run(tmp_path, "--version") == (0, f"revoker {__version__}\n", "")


def test_secret_always_makes_a_new_one_with_its_digest(tmp_path):
    found = []
    for _ in range(2):
        status, out, err = run(tmp_path, "secret")
        assert (status, err) == (0, "")
        secret = re.search(r"^secret  (\S+)$", out, re.MULTILINE)[1]
        digest = re.search(r"^sha256  (\S+)$", out, re.MULTILINE)[1]
        assert hashlib.sha256(secret.encode()).hexdigest() == digest
        assert len(base64.urlsafe_b64decode(secret + "=")) == 32
        assert f'secret_sha256 = ["{digest}"]' in out
        found.append(secret)
    assert found[0] != found[1]


def test_dev_token_has_the_claims_of_its_options(tmp_path, key):
    options = ["--sub", "alice", "--ttl", "60", "--client-id", "app", "--sid", "s1"]
    more = ["--claim", "scope=a b", "--claim", 'aud=["x", "y"]', "--claim", "jti=null", "--claim", "acr=1"]
    status, out, _ = run(tmp_path, "dev-token", *options, *more)

    assert status == 0
    payload = claims(out.strip())
    assert (payload["sub"], payload["client_id"], payload["sid"], payload["iss"]) == (
        "alice",
        "app",
        "s1",
        development.ISSUER,
    )
    assert (payload["scope"], payload["aud"], payload["acr"]) == ("a b", ["x", "y"], 1)
    assert "jti" not in payload
    assert payload["exp"] - payload["iat"] == 60
    assert abs(payload["iat"] - time.time()) < 30


def test_dev_token_finds_the_key_that_dev_env_names(tmp_path, key):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    status, out, _ = run(elsewhere, "dev-token", "--sub", "bob", REVOKER_DEV_TOKEN_KEY=str(key))

    assert (status, claims(out)["sub"]) == (0, "bob")


def test_dev_token_without_a_key_says_how_to_get_one(tmp_path):
    status, out, err = run(tmp_path, "dev-token", "--sub", "bob")

    assert (status, out) == (2, "")
    assert "revoker serve" in err


def test_dev_token_refuses_a_claim_that_is_none(tmp_path, key):
    status, _, err = run(tmp_path, "dev-token", "--sub", "bob", "--claim", "scope")

    assert status == 2
    assert "name=value" in err


@pytest.mark.parametrize("given", ["option", "environment"])
def test_wrong_settings_are_reported_one_a_line_with_status_2(tmp_path, given):
    file = tmp_path / "revoker.toml"
    file.write_text('[server]\nport = "x"\nprot = 1\n')
    arguments = ["--config", file] if given == "option" else []
    environ = {"REVOKER_CONFIG": str(file)} if given == "environment" else {}
    status, out, err = run(tmp_path, "serve", *arguments, **environ)

    assert (status, out) == (2, "")
    assert err.splitlines() == [
        "issuers: at least one [[issuers]] or [sessions] is needed",
        "server.port: must be a whole number",
        "server.prot: is not a setting (did you mean port?); remove or correct it",
    ]
    assert not (tmp_path / ".revoker").exists()


def test_all_files_that_are_missing_are_reported_at_once(tmp_path):
    (tmp_path / "revoker.toml").write_text("""
[redis]
url = "redis://127.0.0.1:1/0"

[[issuers]]
name = "main"
issuer = "https://idp.example.com"
audiences = ["api"]
algorithms = ["RS256"]
jwks_file = "nowhere.jwks"

[[callers]]
name = "gateway"
secret_sha256 = ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
scopes = ["introspect"]

[sessions]
issuer = "https://sessions.example.com"
audiences = ["api"]
""")
    status, _, err = run(tmp_path, "serve", "--config", "revoker.toml")

    assert status == 2
    assert [line.partition(":")[0] for line in err.splitlines()] == [
        "issuers[0].jwks_file",
        "sessions.signing_keys_dir",
        "sessions.refresh_key_file",
    ]


def test_a_missing_file_is_reported_with_status_2(tmp_path):
    status, _, err = run(tmp_path, "serve", "--config", "nowhere.toml")

    assert status == 2
    assert err.startswith("nowhere.toml: can't be read")


def test_an_environment_that_names_a_caller_is_no_development_set_up(tmp_path):
    status, _, err = run(tmp_path, "serve", REVOKER_CALLERS__0__NAME="gateway")

    assert status == 2
    assert "callers[0].scopes: is required" in err.splitlines()
    assert not (tmp_path / ".revoker").exists()
