import json

import pytest

from revoker.config.schema import describes_service, settle
from revoker.errors import ConfigError
from tests.config.test_settings import DIGEST, SOUND, places


def test_a_whole_service_can_be_described_by_the_environment():
    settings = settle(
        {},
        {
            "REVOKER_SERVER__DRAIN_SECONDS": "2.5",
            "REVOKER_ISSUERS__0__NAME": "main",
            "REVOKER_ISSUERS__0__ISSUER": "https://idp.test",
            "REVOKER_ISSUERS__0__AUDIENCES": '["a", "b"]',
            "REVOKER_ISSUERS__0__JWKS_URI": "https://idp.test/jwks",
            "REVOKER_ISSUERS__0__REQUIRE_JTI": "false",
            "REVOKER_CALLERS__0__NAME": "123",
            "REVOKER_CALLERS__0__SECRET_SHA256__0": DIGEST,
            "REVOKER_CALLERS__0__SCOPES__0": "introspect",
            "REVOKER_CALLERS__0__SCOPES__1": "revoke",
            "REVOKER_SESSIONS__ISSUER": "https://sessions.test",
            "REVOKER_SESSIONS__AUDIENCES": '["a"]',
        },
    )
    assert settings.server.drain_seconds == 2.5
    assert settings.issuers[0].audiences == ("a", "b")
    assert settings.issuers[0].require_jti is False
    assert settings.callers[0].name == "123"
    assert settings.callers[0].scopes == ("introspect", "revoke")
    assert settings.sessions is not None


def test_the_environment_goes_over_the_file_value_by_value():
    settings = settle(
        SOUND,
        {
            "REVOKER_ISSUERS__0__CLOCK_SKEW": "7",
            "REVOKER_ISSUERS__0__AUDIENCES__0": "other",
            "REVOKER_REDIS__TIMEOUT": "1",
        },
    )
    assert (settings.issuers[0].name, settings.issuers[0].clock_skew) == ("main", 7)
    assert settings.issuers[0].audiences == ("other",)
    assert settings.redis.timeout == 1


def test_an_index_appends_the_next_element_in_the_order_of_numbers():
    environ = {f"REVOKER_ISSUERS__0__AUDIENCES__{i}": f"a{i}" for i in reversed(range(12))}

    assert settle(SOUND, environ).issuers[0].audiences == tuple(f"a{i}" for i in range(12))


def test_an_index_that_leaves_a_gap_is_reported():
    assert "callers[2].name" in places(SOUND, {"REVOKER_CALLERS__2__NAME": "x"})
    assert "issuers[0].audiences[3]" in places(SOUND, {"REVOKER_ISSUERS__0__AUDIENCES__3": "x"})


def test_names_without_two_underscores_are_not_settings():
    environ = {
        "REVOKER_PORT": "tcp://10.0.0.1:80", "REVOKER_SERVICE_HOST": "10.0.0.1", "REVOKER_CONFIG": "x",
        "REVOKER_URL": "y", "REVOKER__": "z", "OTHER__SERVER": "1", "XREVOKER_A__B": "1",
    }  # fmt: skip
    assert settle(SOUND, environ) == settle(SOUND, {})


@pytest.mark.parametrize(
    ("variable", "value", "place"),
    [
        ("REVOKER_SERVER__PROT", "1", "server.prot"),
        ("REVOKER_SERVR__PORT", "1", "servr"),
        ("REVOKER__SERVER__PORT", "1", "_server"),
        ("REVOKER_SERVER__PORT", "eighty", "server.port"),
        ("REVOKER_SERVER__PORT", "", "server.port"),
        ("REVOKER_SERVER__PORT__0", "1", "server.port"),
        ("REVOKER_SERVER__0", "1", "server"),
        ("REVOKER_ISSUERS__NAME", "x", "issuers.name"),
        ("REVOKER_ISSUERS__0__REQUIRE_JTI", "maybe", "issuers[0].require_jti"),
        ("REVOKER_CALLERS__0__SCOPES", "introspect", "callers[0].scopes"),
        ("REVOKER_CALLERS__0__SCOPES", '["introspect"', "callers[0].scopes"),
        ("REVOKER_CALLERS__0__NAME__X", "1", "callers[0].name.x"),
        ("REVOKER_REDIS__TIMEOUT", "nan", "redis.timeout"),
    ],
)
def test_errors_in_the_environment_are_reported_by_the_name_in_the_file(variable, value, place):
    assert places(SOUND, {variable: value}) == {place}


def test_a_list_or_a_table_may_be_given_as_json():
    caller = {"name": "second", "secret_sha256": ["0" * 64], "scopes": ["revoke"]}

    assert settle(SOUND, {"REVOKER_CALLERS__1": json.dumps(caller)}).callers[1].name == "second"


def test_upper_and_lower_case_of_booleans_are_read():
    for text in ("true", "True", "1"):
        settings = settle(SOUND, {"REVOKER_ISSUERS__0__JWKS_INSECURE": text})
        assert settings.issuers[0].jwks_insecure is True


def test_deep_nesting_in_the_environment_is_a_problem_and_no_crash():
    with pytest.raises(ConfigError):
        settle(SOUND, {"REVOKER_CALLERS__0__SCOPES": "[" * 100_000})


def test_only_issuers_and_callers_describe_a_service():
    assert not describes_service({"REVOKER_SERVER__PORT": "1", "REVOKER_REDIS__URL": "x", "REVOKER_URL": "y"})
    assert describes_service({"REVOKER_ISSUERS__0__NAME": "x"})
    assert describes_service({"REVOKER_CALLERS__0__NAME": "x"})
