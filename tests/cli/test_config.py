import json
import re
import subprocess
import sys
import tomllib

import jsonschema_rs
import pytest

from revoker.cli import config
from revoker.config import schema
from revoker.errors import ConfigError
from tests.rig.certificates import Authority

EXAMPLE = config.example_text()
DEFAULTS = list(
    dict.fromkeys(re.findall(r"^# (\w+ = .+)$", EXAMPLE.partition("# [sessions]")[0], re.MULTILINE))
)
CLAIMS = re.compile(r"^# \[issuers\.claims\]\n.*?\n\n", re.MULTILINE | re.DOTALL)
SCHEMA = json.loads(config.schema_text())


ALTERNATIVES = {"profile", "jwks_file", "hmac_secret_file", "url_file"}
"""Settings that the example cannot have beside what it sets."""


def faults(values):
    try:
        schema.settle(values, {})
    except ConfigError as error:
        return error.problems
    return []


def run(*arguments, cwd, **environ):
    return subprocess.run(
        [sys.executable, "-m", "revoker", "config", *arguments],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def check(folder, text):
    (folder / "revoker.toml").write_text(text)
    return run("check", "--config", "revoker.toml", cwd=folder)


def test_the_example_has_no_faults(tmp_path):
    text = run("example", cwd=tmp_path).stdout
    assert text == EXAMPLE
    checked = check(tmp_path, text)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == "revoker.toml: 1 issuers, 1 callers, no sessions; no faults\n"


def test_a_configuration_that_nobody_may_use_says_so(tmp_path):
    before, _, rest = EXAMPLE.partition("[[callers]]")
    checked = check(tmp_path, before + rest[rest.index("\n# [sessions]") :])
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "1 issuers, no callers, so nobody may introspect or revoke, " in checked.stdout


def test_every_fault_is_one_line_and_the_status_is_2(tmp_path):
    text = EXAMPLE.replace("# port = 8080", "prot = 8080").replace("# leeway = 30", 'leeway = "30"')
    checked = check(tmp_path, text)
    assert (checked.returncode, checked.stdout) == (2, "")
    assert [line.partition(":")[0] for line in checked.stderr.splitlines()] == [
        "server.prot",
        "revocation.leeway",
    ]


def test_a_configuration_must_be_given(tmp_path):
    checked = run("check", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (
        2,
        "--config: give a configuration, or set REVOKER_CONFIG\n",
    )


def test_the_environment_alone_can_be_checked(tmp_path):
    checked = run("check", cwd=tmp_path, REVOKER_CALLERS__0__NAME="edge")
    assert checked.returncode == 2
    assert "callers[0].scopes: is required" in checked.stderr


def test_files_that_the_configuration_names_are_read(tmp_path):
    before, _, settings = EXAMPLE.partition("# [sessions]")
    text = f"{before}[sessions]{re.sub(r'^# (?=[a-z_]+ = )', '', settings, flags=re.MULTILINE)}"
    (tmp_path / "cert.pem").write_text("no certificate")
    text = text.replace('# tls_cert_file = ""', 'tls_cert_file = "cert.pem"')
    text = text.replace('# tls_key_file = ""', 'tls_key_file = "cert.pem"')
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "one.pem").write_text("no key")
    (tmp_path / "refresh.key").write_text("no key")
    checked = check(tmp_path, text)
    assert checked.returncode == 2
    faults = checked.stderr.splitlines()
    assert [fault.partition(":")[0] for fault in faults] == [
        "server.tls_cert_file",
        "sessions.refresh_key_file",
        "sessions.signing_keys_dir",
    ]
    assert "one.pem" in faults[2]


def test_good_files_are_no_faults(tmp_path):
    authority = Authority(tmp_path / "authority").server_settings()
    text = EXAMPLE
    for name in ("tls_cert_file", "tls_key_file"):
        text = text.replace(f'# {name} = ""', f'{name} = "{authority[name]}"')
    assert check(tmp_path, text).returncode == 0


@pytest.mark.parametrize("line", DEFAULTS)
def test_a_default_of_the_example_can_be_set_as_it_is_there(line):
    claims = CLAIMS.search(EXAMPLE)[0]
    part = f"# {line}\n"
    if part in claims:
        text = EXAMPLE.replace(claims, claims.replace("# [issuers", "[issuers").replace(part, f"{line}\n"))
    else:
        text = EXAMPLE.replace(part, f"{line}\n")  # in every section that has it
    if line.startswith("sentinel_"):
        text = text.replace("rediss://valkey.internal:6379/0", "redis+sentinel://valkey.internal:26379/main")
    values = tomllib.loads(text)
    jsonschema_rs.validate(SCHEMA, values)
    assert not faults(values) or line.partition(" ")[0] in ALTERNATIVES


def test_the_schema_refuses_what_the_service_refuses_by_name_type_or_range():
    good = tomllib.loads(EXAMPLE)
    assert jsonschema_rs.is_valid(SCHEMA, good)
    for change in (
        {"server": {"prot": 1}},
        {"server": {"port": "8080"}},
        {"server": {"workers": 0}},
        {"issuers": [{"name": "main"}]},
        {"callers": [{"name": "a", "scopes": ["everything"]}]},
        {"revocation": {"data_loss": "shrug"}},
        {"extra": {}},
    ):
        assert not jsonschema_rs.is_valid(SCHEMA, {**good, **change}), change
        assert faults({**good, **change}), change


def test_the_schema_is_printed(tmp_path):
    assert json.loads(run("schema", cwd=tmp_path).stdout) == SCHEMA
    assert set(SCHEMA["properties"]) == set(schema.Settings.model_fields)
