"""The configuration of a canary: what is refused, and by which name."""

import json
import os

import pytest
from typer.testing import CliRunner

from revoker.cli.commands import command
from revoker.config.canary import settle_canary
from revoker.errors import ConfigError
from tests.canary.conftest import KEY

TARGET = {"name": "edge", "url": "https://edge.example.com"}


@pytest.fixture
def values(tmp_path):
    (tmp_path / "secret").write_text("s")
    (tmp_path / "key").write_text(json.dumps(KEY.private_jwk()))
    return {
        "upstream": {"url": "https://revoker.example.com", "secret_file": str(tmp_path / "secret")},
        "canary": {"key_file": str(tmp_path / "key")},
        "targets": [TARGET],
    }


def test_the_defaults(values):
    settings = settle_canary(values, {"REVOKER_CANARY__EVERY_SECONDS": "30"})
    assert settings.canary.issuer == settings.canary.audience == "urn:revoker:canary"
    assert (settings.canary.every_seconds, settings.canary.timeout_seconds) == (30, 10)
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 9190)
    assert settings.targets[0].kind == "introspect"


@pytest.mark.parametrize(
    ("section", "change", "problem"),
    [
        ("upstream", {"url": "http://revoker.example.com"}, "upstream.url: must be https"),
        ("upstream", {"url": "https://user:secret@revoker.example.com"}, "must not hold a user name"),
        ("upstream", {"url": "https://revoker.example.com#a"}, "upstream.url: must have no fragment"),
        ("upstream", {"secret_file": "nowhere"}, "upstream.secret_file: can't be read"),
        ("upstream", {"secret_file": os.devnull}, "upstream.secret_file: is empty"),
        ("upstream", {"ca_file": os.devnull}, "upstream.ca_file"),
        ("upstream", {"max_staleness": 5}, "upstream.max_staleness: is not a setting"),
        ("canary", {"key_file": "nowhere"}, "canary.key_file: can't be read"),
        ("canary", {"every_seconds": 4.0}, "canary.every_seconds: must be at least 5"),
        ("canary", {"every_seconds": 121.0}, "canary.every_seconds: must be at most 120"),
        ("canary", {"timeout_seconds": 60.0}, "canary.timeout_seconds: must be less than"),
        ("targets", [], "targets: at least one"),
        ("targets", [TARGET, TARGET], "targets: two have the same name"),
        ("targets", [{**TARGET, "name": "a b"}], "targets[0].name: must be letters"),
        ("targets", [{**TARGET, "url": "http://edge.example.com"}], "targets[0].url: must be https"),
        ("targets", [{**TARGET, "kind": "grpc"}], "targets[0].kind: must be one of"),
        ("targets", [{**TARGET, "secret_file": "nowhere"}], "targets[0].secret_file: can't be read"),
        ("targets", [{**TARGET, "server_name": "edge:8080"}], "targets[0].server_name: must be a host name"),
        (
            "targets",
            [{**TARGET, "kind": "http", "secret_file": os.devnull}],
            'targets[0].secret_file: belongs to kind = "introspect"',
        ),
        ("server", {"workers": 2}, "server.workers: is not a setting"),
    ],
)
def test_what_is_wrong_is_reported_by_its_name(values, section, change, problem):
    if isinstance(change, dict):
        change = {**values.get(section, {}), **change}
    with pytest.raises(ConfigError) as refused:
        settle_canary({**values, section: change}, {})
    assert any(problem in found for found in refused.value.problems), refused.value.problems
    assert "secret@" not in str(refused.value)


def test_plain_http_to_another_machine_must_be_allowed(values):
    target = {**TARGET, "url": "http://edge.example.com", "insecure": True}
    assert settle_canary({**values, "targets": [target]}, {}).targets[0].insecure


def test_the_check_reads_the_key(values, tmp_path):
    (tmp_path / "key").write_text("no key")
    lines = [
        f"{name} = {json.dumps(value)}\n" if isinstance(value, str) else ""
        for name, value in values["upstream"].items()
    ]
    (tmp_path / "canary.toml").write_text(
        f'[upstream]\n{"".join(lines)}[canary]\nkey_file = "{tmp_path / "key"}"\n'
        f'[[targets]]\nname = "edge"\nurl = "{TARGET["url"]}"\n'
    )
    checked = CliRunner().invoke(command, ["config", "check", "--config", str(tmp_path / "canary.toml")])
    assert isinstance(checked.exception, ConfigError)
    (problem,) = checked.exception.problems
    assert problem.startswith("canary.key_file: neither an unencrypted private key")
