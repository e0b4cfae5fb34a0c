import hashlib
from copy import deepcopy

import pytest
from pydantic import ValidationError

from revoker.auth import digest
from revoker.config import server
from revoker.config.schema import Settings, load, settle
from revoker.errors import ConfigError
from tests.rig.certificates import Authority

DIGEST = hashlib.sha256(b"secret").hexdigest()
SOUND = {
    "issuers": [
        {
            "name": "main",
            "issuer": "https://idp.test",
            "audiences": ["api"],
            "jwks_uri": "https://idp.test/jwks",
        }
    ],
    "callers": [{"name": "gateway", "secret_sha256": [DIGEST], "scopes": ["introspect"]}],
}
SESSIONS = {"issuer": "https://sessions.test", "audiences": ["api"]}


def changed(section, **values):
    """The sound settings with one table changed; None takes a setting away."""
    table = {"issuers": SOUND["issuers"][0], "callers": SOUND["callers"][0], "sessions": SESSIONS}.get(
        section, {}
    )
    new = {name: value for name, value in {**table, **values}.items() if value is not None}
    return {**deepcopy(SOUND), section: [new] if section in SOUND else new}


def problems(values, environ=None):
    with pytest.raises(ConfigError) as caught:
        settle(values, environ or {})
    return caught.value.problems


def places(values, environ=None):
    return {problem.partition(":")[0] for problem in problems(values, environ)}


def test_the_least_there_can_be_has_the_defaults_of_the_contract():
    settings = settle(SOUND, {})

    server, redis, revocation = settings.server, settings.redis, settings.revocation
    assert (server.host, server.port, server.ops_port, server.workers, server.drain_seconds) == (
        "127.0.0.1", 8080, 0, 1, 5,
    )  # fmt: skip
    assert (redis.url, redis.key_prefix, redis.timeout, redis.wait_replicas) == ("embedded:", "rv", 0.25, 0)
    assert (revocation.leeway, revocation.max_token_lifetime) == (30, 86400)
    assert (revocation.store_outage, revocation.data_loss) == ("refuse", "cutoff")
    issuer = settings.issuers[0]
    assert (issuer.algorithms, issuer.cutoff_claim, issuer.clock_skew) == (("RS256",), "iat", 2)
    assert (issuer.require_jti, issuer.require_typ, issuer.backchannel_audience) == (True, "", "")
    assert settings.sessions is None


def test_sessions_have_the_defaults_of_the_contract():
    sessions = settle({"sessions": SESSIONS}, {}).sessions

    assert sessions is not None
    assert (sessions.access_token_lifetime, sessions.idle_timeout) == (900, 1209600)
    assert (sessions.absolute_timeout, sessions.refresh_grace) == (7776000, 10)
    assert (sessions.max_sessions_per_user, sessions.signing_keys_dir) == (0, "keys")
    assert (sessions.refresh_key_file, sessions.name) == ("refresh.key", "sessions")


def test_settings_can_not_be_changed():
    settings = settle(SOUND, {})

    with pytest.raises(ValidationError):
        settings.server.port = 1


def test_every_setting_is_described_for_the_reference():
    definitions = Settings.model_json_schema()["$defs"]

    undescribed = [
        f"{model}.{name}"
        for model, definition in definitions.items()
        for name, setting in definition["properties"].items()
        if not setting.get("description")
    ]
    assert not undescribed


def test_all_problems_are_reported_at_once_by_their_names_in_the_file():
    wrong = {
        "servr": {},
        "server": {"prot": 1, "port": "80", "drain_seconds": -1},
        "redis": {"url": "mysql://host", "key_prefix": "A"},
        "revocation": {"data_loss": "perhaps"},
        "issuers": [
            {"name": "same", "issuer": "x", "audiences": [], "jwks_uri": "http://h/"},
            {
                "name": "same",
                "issuer": "x",
                "audiences": ["a"],
                "jwks_uri": "https://h/",
                "algorithms": ["none"],
            },
        ],
        "callers": [{"name": "a b", "secret_sha256": ["x"], "scopes": ["all"], "issuers": ["unknown"]}],
    }
    assert places(wrong) == {
        "servr", "server.prot", "server.port", "server.drain_seconds", "redis.url", "redis.key_prefix",
        "revocation.data_loss", "issuers[0].audiences", "issuers[0].jwks_uri", "issuers[1].name",
        "issuers[1].issuer", "issuers[1].algorithms[0]", "callers[0].name", "callers[0].secret_sha256[0]",
        "callers[0].scopes[0]", "callers[0].issuers[0]",
    }  # fmt: skip
    assert all("\n" not in problem for problem in problems(wrong))


def test_an_unknown_setting_is_reported_with_the_one_it_resembles():
    assert problems({**SOUND, "server": {"prot": 1}}) == [
        "server.prot: is not a setting (did you mean port?); remove or correct it"
    ]


def test_a_table_where_a_value_belongs_and_the_reverse_are_reported():
    assert places({**SOUND, "server": 5, "callers": {"name": "x"}, "redis": {"url": {}}}) == {
        "server", "callers", "redis.url",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("section", "values", "place"),
    [
        ("server", {"port": 65536}, "server.port"),
        ("server", {"port": True}, "server.port"),
        ("server", {"workers": 0}, "server.workers"),
        ("server", {"host": ""}, "server.host"),
        ("server", {"ops_port": 8080}, "server.ops_port"),
        ("server", {"drain_seconds": float("nan")}, "server.drain_seconds"),
        ("server", {"tls_cert_file": "/nowhere.pem"}, "server.tls_cert_file"),
        ("redis", {"timeout": 0}, "redis.timeout"),
        ("redis", {"timeout": float("inf")}, "redis.timeout"),
        ("redis", {"wait_replicas": -1}, "redis.wait_replicas"),
        ("redis", {"wait_fsync": True}, "redis.wait_fsync"),
        ("redis", {"key_prefix": "rv:"}, "redis.key_prefix"),
        ("redis", {"key_prefix": "rv\n"}, "redis.key_prefix"),
        ("redis", {"key_prefix": "a" * 33}, "redis.key_prefix"),
        ("revocation", {"leeway": -1}, "revocation.leeway"),
        ("revocation", {"leeway": 3600}, "revocation.leeway"),
        ("revocation", {"leeway": 1.5}, "revocation.leeway"),
        ("revocation", {"max_token_lifetime": 0}, "revocation.max_token_lifetime"),
        ("revocation", {"store_outage": "ignore"}, "revocation.store_outage"),
        ("issuers", {"name": "Main"}, "issuers[0].name"),
        ("issuers", {"name": None}, "issuers[0].name"),
        ("issuers", {"issuer": ""}, "issuers[0].issuer"),
        ("issuers", {"audiences": None}, "issuers[0].audiences"),
        ("issuers", {"audiences": "api"}, "issuers[0].audiences"),
        ("issuers", {"audiences": [""]}, "issuers[0].audiences[0]"),
        ("issuers", {"algorithms": []}, "issuers[0].algorithms"),
        ("issuers", {"algorithms": ["none"]}, "issuers[0].algorithms[0]"),
        ("issuers", {"algorithms": ["RS256", "HS256"]}, "issuers[0].algorithms"),
        ("issuers", {"jwks_uri": None}, "issuers[0].jwks_uri"),
        ("issuers", {"jwks_file": "jwks.json"}, "issuers[0].jwks_uri"),
        ("issuers", {"jwks_uri": "http://idp.test/jwks"}, "issuers[0].jwks_uri"),
        ("issuers", {"jwks_uri": "file:///etc/passwd", "jwks_insecure": True}, "issuers[0].jwks_uri"),
        ("issuers", {"jwks_uri": "https://"}, "issuers[0].jwks_uri"),
        ("issuers", {"jwks_uri": "https://host:x/"}, "issuers[0].jwks_uri"),
        ("issuers", {"jwks_uri": "https://idp.test/ jwks"}, "issuers[0].jwks_uri"),
        ("issuers", {"jwks_uri": "https://user:pw@idp.test/jwks"}, "issuers[0].jwks_uri"),
        ("issuers", {"cutoff_claim": "auth_time"}, "issuers[0].max_session_lifetime"),
        ("issuers", {"cutoff_claim": "exp"}, "issuers[0].cutoff_claim"),
        ("issuers", {"clock_skew": 301}, "issuers[0].clock_skew"),
        ("issuers", {"clock_skew": 0.5}, "issuers[0].clock_skew"),
        ("issuers", {"require_jti": "no"}, "issuers[0].require_jti"),
        ("issuers", {"require_typ": "JWT"}, "issuers[0].require_typ"),
        ("callers", {"name": "edge gateway"}, "callers[0].name"),
        ("callers", {"secret_sha256": []}, "callers[0].secret_sha256"),
        ("callers", {"secret_sha256": None}, "callers[0].secret_sha256"),
        ("callers", {"secret_sha256": [DIGEST[1:]]}, "callers[0].secret_sha256[0]"),
        ("callers", {"secret_sha256": [DIGEST, DIGEST]}, "callers[0].secret_sha256[1]"),
        ("callers", {"secret_sha256": [digest("")]}, "callers[0].secret_sha256[0]"),
        ("callers", {"secret_sha256": [DIGEST, digest("").upper()]}, "callers[0].secret_sha256[1]"),
        ("callers", {"secret_sha256": [digest("\n")]}, "callers[0].secret_sha256[0]"),
        ("callers", {"secret_sha256": ["0" * 64, "1" * 64, "2" * 64]}, "callers[0].secret_sha256"),
        ("callers", {"scopes": []}, "callers[0].scopes"),
        ("callers", {"scopes": ["admin"]}, "callers[0].scopes[0]"),
        ("callers", {"issuers": ["other"]}, "callers[0].issuers[0]"),
        ("sessions", {"issuer": "http://sessions.test"}, "sessions.issuer"),
        ("sessions", {"issuer": "https://sessions.test?x"}, "sessions.issuer"),
        ("sessions", {"issuer": "https://idp.test"}, "issuers[0].issuer"),
        ("sessions", {"audiences": []}, "sessions.audiences"),
        ("sessions", {"access_token_lifetime": 0}, "sessions.access_token_lifetime"),
        ("sessions", {"access_token_lifetime": 86401}, "sessions.access_token_lifetime"),
        ("sessions", {"idle_timeout": 899}, "sessions.idle_timeout"),
        ("sessions", {"absolute_timeout": 1209599}, "sessions.absolute_timeout"),
        ("sessions", {"refresh_grace": 61}, "sessions.refresh_grace"),
        ("sessions", {"max_sessions_per_user": -1}, "sessions.max_sessions_per_user"),
        ("sessions", {"revocable": ["a", "b", "c", "d", "e"]}, "sessions.revocable"),
        ("sessions", {"revocable": [""]}, "sessions.revocable[0]"),
        *(
            ("sessions", {"revocable": ["grant_id", name]}, "sessions.revocable")
            for name in ("iss", "sub", "aud", "exp", "iat", "jti", "sid", "client_id", "auth_time", "scope")
        ),
        *(
            ("sessions", {"revocable": [name]}, "sessions.revocable")
            for name in ("acr", "amr", "nbf", "cnf", "act", "azp")
        ),
    ],
)
def test_only_a_wrong_value_is_reported_by_its_place(section, values, place):
    assert places(changed(section, **values)) == {place}


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("server", {"drain_seconds": 0, "host": "::"}),
        ("issuers", {"jwks_uri": "http://idp.test:8080/jwks?x=1", "jwks_insecure": True}),
        ("issuers", {"jwks_uri": None, "jwks_file": "jwks.json"}),
        ("issuers", {"algorithms": ["ES256", "EdDSA", "PS512"]}),
        ("issuers", {"cutoff_claim": "auth_time", "max_session_lifetime": 3600, "clock_skew": 0}),
        ("issuers", {"issuer": "kubernetes/serviceaccount"}),
        ("issuers", {"require_typ": "at+jwt"}),
        ("callers", {"name": "Edge.gateway_1~x-y", "secret_sha256": [DIGEST.upper(), "0" * 64]}),
        ("callers", {"scopes": ["introspect", "revoke", "revoke-all", "sessions"], "client_id": "app"}),
        ("sessions", {"access_token_lifetime": 60, "idle_timeout": 60, "absolute_timeout": 60}),
        ("sessions", {"revocable": ["grant_id", "https://example.com/tenant", "email", "roles"]}),
    ],
)
def test_a_sound_value_is_taken(section, values):
    settings = settle(changed(section, **values), {})

    table = getattr(settings, section)
    table = table[0] if isinstance(table, tuple) else table
    for name, value in values.items():
        read = getattr(table, name)
        given = (
            [item.lower() if name == "secret_sha256" else item for item in value]
            if isinstance(value, list)
            else value
        )
        assert (list(read) if isinstance(read, tuple) else read) == (given or "" if given is None else given)


def test_one_of_issuers_and_sessions_is_needed():
    assert places({}) == {"issuers"}
    assert places({"issuers": []}) == {"issuers"}


def test_a_secret_belongs_to_one_caller_alone():
    callers = [
        {"name": name, "secret_sha256": [digest], "scopes": ["revoke"]}
        for name, digest in (("a", DIGEST), ("b", DIGEST.upper()))
    ]
    assert places({**SOUND, "callers": callers}) == {"callers[1].secret_sha256[0]"}


def test_two_callers_can_not_have_one_name():
    callers = [{"name": "a", "secret_sha256": [digit * 64], "scopes": ["revoke"]} for digit in "01"]
    assert places({**SOUND, "callers": callers}) == {"callers[1].name"}


def test_a_caller_may_name_its_issuers_by_name_or_by_url():
    values = changed("callers", issuers=["main", "https://idp.test", "https://sessions.test"])
    values["sessions"] = SESSIONS

    assert settle(values, {}).callers[0].issuers == ("main", "main", "sessions")


def test_an_issuer_can_not_take_the_name_of_the_sessions():
    values = changed("issuers", name="sessions")
    assert settle(values, {}).issuers[0].name == "sessions"
    assert places({**values, "sessions": SESSIONS}) == {"issuers[0].name"}


def test_a_caller_needs_no_secret_where_client_certificates_are_asked_for(tmp_path):
    file = tmp_path / "x.pem"
    file.write_text("")
    tls = {"tls_cert_file": str(file), "tls_key_file": str(file), "tls_client_ca_file": str(file)}

    settings = settle({**changed("callers", secret_sha256=[]), "server": tls}, {})

    assert settings.callers[0].secret_sha256 == ()


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"tls_cert_file"}, "server.tls_key_file"),
        ({"tls_key_file"}, "server.tls_cert_file"),
        ({"tls_client_ca_file"}, "server.tls_client_ca_file"),
    ],
)
def test_certificate_key_and_client_authorities_go_together(tmp_path, given, place):
    file = tmp_path / "x.pem"
    file.write_text("")
    assert places({**SOUND, "server": dict.fromkeys(given, str(file))}) == {place}


@pytest.mark.parametrize(
    ("algorithm", "size", "sound"),
    [
        ("HS256", 32, True),
        ("HS256", 31, False),
        ("HS384", 48, True),
        ("HS384", 47, False),
        ("HS512", 63, False),
    ],
)
def test_a_shared_secret_is_as_long_as_its_algorithm_asks(tmp_path, algorithm, size, sound):
    file = tmp_path / "hmac"
    file.write_bytes(b"x" * size + b"\n")
    values = changed("issuers", jwks_uri=None, hmac_secret_file=str(file), algorithms=[algorithm])
    if sound:
        assert settle(values, {}).issuers[0].hmac_secret_file == str(file)
    else:
        assert places(values) == {"issuers[0].hmac_secret_file"}


def test_a_shared_secret_goes_with_hmac_alone(tmp_path):
    file = tmp_path / "hmac"
    file.write_bytes(b"x" * 64)
    values = changed("issuers", jwks_uri=None, hmac_secret_file=str(file))
    assert places(values) == {"issuers[0].algorithms"}
    assert places(changed("issuers", algorithms=["HS256"])) == {"issuers[0].algorithms"}


def test_a_shared_secret_that_cannot_be_read_is_reported():
    values = changed("issuers", jwks_uri=None, hmac_secret_file="/nowhere", algorithms=["HS256"])
    assert places(values) == {"issuers[0].hmac_secret_file"}


SOUND_URLS = [
    "embedded:", "embedded:/var/lib/revoker", "redis://host", "redis://host:6379/0", "rediss://user:pw@host:6380/1",
    "redis://[::1]:6379", "unix:///run/valkey.sock", "unix://user:pw@/run/valkey.sock?db=1",
    "rediss://host?ssl_cert_reqs=none", "rediss://host?ssl_check_hostname=false", "redis+sentinel://a:26379,b:26379/mymaster",
    "rediss+sentinel://:pw@a,b/my.master?db=1", "redis+cluster://a:7000,b:7001", "rediss+cluster://user:pw@a",
]  # fmt: skip
WRONG_URLS = [
    "", "host:6379", "http://host", "redis://", "redis://:pw@", "redis://host:0", "redis://host:70000", "redis://host:x",
    "redis://host/name", "redis://host/0/1", "rediss://host?ssl_cert_reqs=optional", "redis://host?decode_responses=true",
    "rediss://host?ssl_ca_certs=/nowhere.pem", "rediss://host?ssl_ca_certs=/dev/null", "redis://host?ssl_cert_reqs=none",
    "rediss://host?ssl_keyfile=/dev/null", "rediss://host?ssl_certfile=/dev/null", "rediss://host?ssl_check_hostname=2",
    "redis://host#x", "unix://", "unix:relative", "unix://host/run", "embedded://", "redis+sentinel://", "redis+cluster://",
    "redis+sentinel://host:26379", "redis://[::1", "redis+cluster://a:7000/1", "redis+cluster://:7000",
]  # fmt: skip


@pytest.mark.parametrize("url", SOUND_URLS)
def test_a_redis_url_of_the_contract_is_taken(url):
    assert settle({**SOUND, "redis": {"url": url}}, {}).redis.url == url


@pytest.mark.parametrize("url", WRONG_URLS)
def test_any_other_redis_url_is_reported(url):
    assert places({**SOUND, "redis": {"url": url}}) == {"redis.url"}


@pytest.mark.parametrize(
    "url",
    [f"{scheme}://user:hunter2@host:70000/x" for scheme in ("redis", "rediss", "mysql", "redis+cluster")],
)
def test_no_problem_tells_a_password(url):
    assert "hunter2" not in "".join(problems({**SOUND, "redis": {"url": url}}))
    assert "hunter2" not in "".join(problems(SOUND, {"REVOKER_REDIS__URL": url}))


def test_no_repr_tells_the_password():
    settings = settle({**SOUND, "redis": {"url": "redis://:hunter2@host"}}, {})

    assert "hunter2" in settings.redis.url
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings.redis)


def test_the_url_comes_from_a_file(tmp_path):
    file = tmp_path / "url"
    file.write_text("redis://:hunter2@host:6379/0\n")

    assert settle({**SOUND, "redis": {"url_file": str(file)}}, {}).redis.url == "redis://:hunter2@host:6379/0"
    assert places({**SOUND, "redis": {"url_file": str(file), "url": "redis://x"}}) == {"redis.url_file"}
    assert places({**SOUND, "redis": {"url_file": "/nowhere"}}) == {"redis.url_file"}


def test_files_of_tls_are_tried_at_the_start(tmp_path):
    authority = Authority(tmp_path)
    files = authority.server_settings()
    url = (
        f"rediss+sentinel://a,b,c/main?ssl_ca_certs={authority.certificate}"
        f"&ssl_certfile={files['tls_cert_file']}&ssl_keyfile={files['tls_key_file']}"
    )
    sentinels = {
        "sentinel_ca_file": str(authority.certificate),
        "sentinel_cert_file": files["tls_cert_file"],
        "sentinel_key_file": files["tls_key_file"],
    }
    assert settle({**SOUND, "redis": {"url": url, **sentinels}}, {}).redis.url == url
    reported = problems({**SOUND, "redis": {"url": url.replace("ssl_keyfile", "ssl_ca_certs")}})
    assert reported == ["redis.url: ssl_ca_certs can't be used; give a file of certificates in PEM"]
    for name in sentinels:
        assert places({**SOUND, "redis": {"url": url, **sentinels, name: "/nowhere"}}) == {f"redis.{name}"}
    wrong = {**sentinels, "sentinel_ca_file": files["tls_key_file"]}
    assert places({**SOUND, "redis": {"url": url, **wrong}}) == {"redis.sentinel_key_file"}


def test_certificates_for_sentinels_without_tls_are_refused_because_nothing_would_use_them(tmp_path):
    authority = Authority(tmp_path)
    certificate = {"sentinel_ca_file": str(authority.certificate)}
    plain, tls = "redis+sentinel://a,b,c/main", "rediss+sentinel://a,b,c/main"
    assert problems({**SOUND, "redis": {"url": plain, **certificate}}) == [
        'redis.sentinel_ca_file: needs TLS for the Sentinels: redis.sentinel_tls = "on"'
    ]
    assert places({**SOUND, "redis": {"url": tls, "sentinel_tls": "off", **certificate}}) == {
        "redis.sentinel_ca_file"
    }
    settle({**SOUND, "redis": {"url": plain, "sentinel_tls": "on", **certificate}}, {})
    settle({**SOUND, "redis": {"url": tls, **certificate}}, {})
    assert places({**SOUND, "redis": {"url": f"{tls}?foo=1", **certificate}}) == {"redis.url"}


@pytest.mark.parametrize(
    "setting", [{"sentinel_username": "u"}, {"sentinel_password": "p"}, {"sentinel_tls": "on"}], ids=str
)
def test_settings_of_sentinels_without_any_are_reported(setting):
    assert places({**SOUND, "redis": {"url": "redis://h", **setting}}) == {f"redis.{next(iter(setting))}"}
    settle({**SOUND, "redis": {"url": "redis+sentinel://a,b,c/main", **setting}}, {})


def test_the_password_file_is_left_to_the_store_that_reads_it_at_every_login(tmp_path):
    file = tmp_path / "password"
    file.write_text("secret\n")
    redis = settle({**SOUND, "redis": {"url": "rediss://user@host", "password_file": str(file)}}, {}).redis

    assert (redis.url, redis.password_file) == ("rediss://user@host", str(file))
    file.write_text("\n")
    assert places({**SOUND, "redis": {"url": "redis://host", "password_file": str(file)}}) == {
        "redis.password_file"
    }


@pytest.mark.parametrize("url", ["redis://:pw@host", "embedded:"])
def test_a_password_file_beside_a_url_that_takes_none_is_reported(tmp_path, url):
    file = tmp_path / "password"
    file.write_text("secret")
    assert places({**SOUND, "redis": {"url": url, "password_file": str(file)}}) == {"redis.password_file"}
    assert places({**SOUND, "redis": {"url": "redis://h", "password_file": "/nowhere"}}) == {
        "redis.password_file"
    }


def test_a_file_is_read(tmp_path):
    file = tmp_path / "revoker.toml"
    file.write_text(
        f"""
        [server]
        port = 9000
        [[issuers]]
        name = "main"
        issuer = "https://idp.test"
        audiences = ["api"]
        jwks_uri = "https://idp.test/jwks"
        [[callers]]
        name = "gateway"
        secret_sha256 = ["{DIGEST}"]
        scopes = ["introspect"]
        """
    )
    assert load(file, {}).server.port == 9000
    assert load(file, {"REVOKER_SERVER__PORT": "9001"}).server.port == 9001


@pytest.mark.parametrize("content", [b"[server", b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_reported_by_its_path(tmp_path, content):
    file = tmp_path / "revoker.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{file}: ")


def test_the_given_values_are_left_alone():
    values = deepcopy(SOUND)
    settle(values, {"REVOKER_SERVER__PORT": "1", "REVOKER_ISSUERS__0__CLOCK_SKEW": "5"})
    assert values == SOUND


@pytest.mark.parametrize(
    ("maximum", "lifetime", "refused"),
    [(899, None, True), (900, None, False), (3600, 3601, True), (3600, 3600, False)],
)
def test_tokens_minted_here_must_not_live_longer_than_any_token_may(maximum, lifetime, refused):
    sessions = SESSIONS if lifetime is None else {**SESSIONS, "access_token_lifetime": lifetime}
    values = {**deepcopy(SOUND), "sessions": sessions, "revocation": {"max_token_lifetime": maximum}}
    if refused:
        assert places(values) == {"sessions.access_token_lifetime"}
    else:
        settle(values, {})


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("10.0.0.0/33", "must be a network"),
        ("gateway", "must be a network"),
        ("", "must be a network"),
        ("10.0.0.1/8", "the network is 10.0.0.0/8"),
        ("0.0.0.0/0", "trusts everybody"),
        ("::/0", "trusts everybody"),
        ("fe80::1%eth0", "zone"),
    ],
)
def test_a_proxy_network_that_is_none_stops_the_start(network, says):
    [problem] = problems(changed("server", trusted_proxies=["10.0.0.0/8", network]))
    assert problem.startswith("server.trusted_proxies[1]: ")
    assert says in problem


def test_an_alias_is_no_template():
    aliases = {"REVOKER_ISSUERS__0__ISSUER_ALIASES": '["https://idp.example.com/{tenantid}"]'}
    assert places(SOUND, aliases) == {"issuers[0].issuer_aliases"}


def test_proxy_networks_are_networks_or_addresses_from_file_or_environment():
    networks = ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1", "::ffff:10.0.0.0/104"]
    assert settle(changed("server", trusted_proxies=networks), {}).server.trusted_proxies == tuple(networks)
    environ = {"REVOKER_SERVER__TRUSTED_PROXIES": '["10.0.0.0/8"]'}
    assert settle(SOUND, environ).server.trusted_proxies == ("10.0.0.0/8",)
    assert settle(SOUND, {}).server.trusted_proxies == ()


def test_a_port_for_grpc_needs_another_number_and_the_extra(monkeypatch):
    assert settle(changed("server", grpc_port=9191), {}).server.grpc_port == 9191
    for other in ({"port": 9191}, {"ops_port": 9191}):
        [problem] = problems(changed("server", grpc_port=9191, **other))
        assert problem.startswith("server.grpc_port: must differ from server.port")
    missing = {"envoy", "grpc", "grpc_health"}
    find = server.find_spec
    for module in sorted(missing):
        monkeypatch.setattr(
            server, "find_spec", lambda name, gone=module: None if name == gone else find(name)
        )
        [problem] = problems(changed("server", grpc_port=9191))
        assert problem == "server.grpc_port: needs the extra grpc: pip install 'revoker[grpc]'"
        assert settle(SOUND, {}).server.grpc_port == 0
