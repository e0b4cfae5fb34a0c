"""`revoker keys generate`, `list`, `retire` and `rotate-refresh`."""

import re

import pytest

from tests.rig.processes import Process

CONFIG = """
[redis]
url = "redis://127.0.0.1:1"
[[callers]]
name = "gateway"
secret_sha256 = ["0000000000000000000000000000000000000000000000000000000000000000"]
scopes = ["introspect"]
"""
SESSIONS = """
[sessions]
issuer = "https://sessions.example.com"
audiences = ["api://orders"]
access_token_lifetime = 600
"""
DATE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"


def keys(folder, *arguments):
    """Run `revoker keys`; returns status, output and errors."""
    with Process(folder, "-m", "revoker", "keys", *arguments, REVOKER_CONFIG="revoker.toml") as process:
        status = process.status()
    return status, process.out.read_text(), process.err.read_text()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "revoker.toml").write_text(CONFIG + SESSIONS)
    return tmp_path


def test_a_key_is_generated_listed_replaced_and_retired(folder):
    status, out, err = keys(folder, "generate")
    assert status == 0
    first = out.split()[0]
    assert '"key_generated"' in err and first in err
    assert (folder / "refresh.key").stat().st_mode & 0o777 == 0o600
    assert keys(folder, "list")[:2] == (0, f"{first}  ES256  signing\n")

    status, out, err = keys(folder, "retire", first)
    assert (status, out) == (1, "")
    assert "--force" in err

    second = keys(folder, "generate", "--alg", "EdDSA", "--ahead", "0")[1].split()[0]
    status, out, err = keys(folder, "retire", first)
    assert status == 0
    assert re.fullmatch(rf"{first}  retiring until {DATE}\n", out)
    assert '"key_retired"' in err
    listed = keys(folder, "list")[1].splitlines()
    assert listed[1] == f"{second}  EdDSA  signing"
    assert re.fullmatch(rf"{first}  ES256  retiring until {DATE}", listed[0])


def test_a_second_key_waits_for_its_time(folder):
    keys(folder, "generate")
    second = keys(folder, "generate")[1].split()[0]

    assert re.search(rf"^{second}  ES256  next, signs from {DATE}$", keys(folder, "list")[1], re.MULTILINE)


def test_a_file_that_is_no_key_is_reported(folder):
    keys(folder, "generate")
    (folder / "keys/README").write_text("the keys of production")

    status, _, err = keys(folder, "list")

    assert status == 0
    assert err.startswith("README: neither")


def test_the_refresh_key_is_rotated(folder):
    keys(folder, "generate")
    before = (folder / "refresh.key").read_text().split()

    status, out, _ = keys(folder, "rotate-refresh")

    assert status == 0
    assert re.fullmatch(rf"a new refresh key signs from {DATE}\n", out)
    after = (folder / "refresh.key").read_text().splitlines()
    assert len(after) == 2
    assert after[1].split()[0] == before[0] != after[0].split()[0]
    assert not any(line.split()[0] in out for line in after)


def test_without_sessions_there_are_no_keys_to_keep(tmp_path):
    issuer = '[[issuers]]\nname = "main"\nissuer = "https://idp.example.com"\naudiences = ["a"]\njwks_uri = "https://idp.example.com/jwks"\n'
    (tmp_path / "revoker.toml").write_text(CONFIG + issuer)

    status, _, err = keys(tmp_path, "generate")

    assert (status, err) == (2, "sessions: is not configured, so no tokens are signed here\n")
