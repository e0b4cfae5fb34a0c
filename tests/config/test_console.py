"""Which settings of the console are refused, and in which words."""

import pytest

from revoker.config import console
from revoker.config.edge import settle_edge
from revoker.config.schema import settle
from revoker.errors import ConfigError

SOUND = {
    "enabled": True,
    "url": "https://revoker-admin.example.com",
    "issuer": "main",
    "client_id": "revoker-console",
    "authorization_endpoint": "https://idp.example.com/authorize",
    "token_endpoint": "https://idp.example.com/token",
}


def values(console, **changes):
    issuer = {
        "name": "main",
        "issuer": "https://idp.example.com",
        "audiences": ["api://orders"],
        "jwks_uri": "https://idp.example.com/jwks",
    }
    return {"issuers": [issuer], "console": console, **changes}


def problems(console, **changes):
    with pytest.raises(ConfigError) as refused:
        settle(values(console, **changes), {})
    return refused.value.problems


def test_it_is_off_by_default_and_needs_nothing_then():
    assert not settle(values({}), {}).console.enabled
    assert not settle(values({"issuer": "nobody"}), {}).console.enabled


def test_sound_settings_are_taken():
    assert settle(values(SOUND), {}).console.roles_claim == ("roles",)
    shouted = settle(values({**SOUND, "url": "https://Revoker.Example.com:8443/"}), {}).console.url
    assert shouted == "https://revoker.example.com:8443"
    assert settle(values({"secret_sign_in": True}), {"REVOKER_CONSOLE__ENABLED": "true"}).console.enabled


def test_what_is_missing_is_reported_together():
    assert [problem.partition(":")[0] for problem in problems({"enabled": True})] == [
        "console.url",
        "console.issuer",
        "console.client_id",
        "console.authorization_endpoint",
        "console.token_endpoint",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": "http://revoker.example.com"}, "console.url: must be https"),
        ({"url": "https://revoker.example.com/admin"}, "console.url: must be scheme, host and port alone"),
        ({"url": "https://revoker.example.com:443"}, "console.url: must not name the default port"),
        ({"url": "https://me:pw@revoker.example.com"}, "console.url: must not hold a user name"),
        ({"token_endpoint": "http://idp.example.com/token"}, "console.token_endpoint: must be https"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "console.authorization_endpoint: must be an abs"),
        ({"issuer": "nobody"}, "console.issuer: is not the name of an entry of [[issuers]]"),
        ({"scope": "profile"}, "console.scope: must have openid in it"),
        ({"roles_claim": ["email"]}, "console.roles_claim: names a claim that users can set themselves"),
        (
            {"roles_claim": ["user_metadata", "roles"]},
            "console.roles_claim: names a claim that users can set",
        ),
        ({"roles_claim": []}, "console.roles_claim: must not be empty"),
        ({"absolute_timeout": 60}, "console.absolute_timeout: must be at least console.idle_timeout"),
        ({"secret_sign_in": True}, "console.secret_sign_in: give either this or console.issuer"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused(change, words):
    assert [problem for problem in problems({**SOUND, **change}) if problem.startswith(words)]


def test_a_sign_in_by_secret_is_for_this_machine_alone():
    found = problems({"enabled": True, "secret_sign_in": True}, server={"host": "0.0.0.0"})
    assert found == [
        "console.secret_sign_in: is for development: server.host must be 127.0.0.1, ::1, localhost"
    ]


@pytest.mark.parametrize(
    ("console", "server", "words"),
    [
        ({"url": "https://console.example.com"}, {}, "console.url must be of this machine"),
        ({}, {"trusted_proxies": ["10.0.0.0/8"]}, "with server.trusted_proxies others reach it"),
    ],
)
def test_a_sign_in_by_secret_is_not_behind_a_proxy(console, server, words):
    found = problems({"enabled": True, "secret_sign_in": True, **console}, server=server)
    assert found == [f"console.secret_sign_in: is for development: {words}"]


def test_whoever_shares_a_secret_with_the_issuer_could_make_administrators(tmp_path):
    (tmp_path / "secret").write_text("s" * 32)
    issuer = {
        "name": "main",
        "issuer": "https://idp.example.com",
        "audiences": ["a"],
        "algorithms": ["HS256"],
        "hmac_secret_file": str(tmp_path / "secret"),
    }
    assert [one for one in problems(SOUND, issuers=[issuer]) if "could make administrators" in one]


def test_a_missing_extra_is_reported_before_the_start(monkeypatch):
    monkeypatch.setattr(console, "find_spec", lambda name: None)
    assert problems(SOUND) == ["console.enabled: needs the extra console: pip install 'revoker[console]'"]
    assert not settle(values({}), {}).console.enabled


def test_an_edge_has_no_console():
    with pytest.raises(ConfigError) as refused:
        settle_edge({"upstream": {}, "console": {"enabled": True}}, {})
    assert "console: an edge has no console; remove the section" in refused.value.problems
