"""`revoker issuer suggest` and `check`: settings from a token, and what works with it."""

import asyncio
import json
import os
import pty
import subprocess
import sys
import time
import tomllib
from asyncio.subprocess import PIPE

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from revoker.cli import issuer_report, issuer_suggestion, issuer_terms, pasted_token, provider_documents
from revoker.config import schema
from revoker.errors import ConfigError
from revoker.tokens import keystore
from tests.rig import forge
from tests.rig.forge import ABSENT
from tests.rig.processes import REPOSITORY
from tests.rig.service import settings_for

SECRET = b"s" * 32


async def issuer(folder, *arguments, pasted, **environ):
    """Run `revoker issuer`; returns status, output and errors."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REVOKER")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "revoker", "issuer", *map(str, arguments),
        cwd=folder, stdin=PIPE, stdout=PIPE, stderr=PIPE,
        env={**inherited, "PYTHONPATH": str(REPOSITORY), **environ},
    )  # fmt: skip
    out, err = await process.communicate(pasted if isinstance(pasted, bytes) else pasted.encode())
    return process.returncode, out.decode(), err.decode()


def suggested(text, discovery=None):
    """The settings for a token, and the report by them."""
    token = pasted_token.read_token(text)
    suggestion = issuer_suggestion.suggest(token, discovery)
    return suggestion, issuer_report.report(token, suggestion.terms(), None)


def test_an_unrecognized_provider_gets_the_claim_names_that_are_there():
    names = {"jti": ABSENT, "sid": ABSENT, "client_id": ABSENT, "sub": ABSENT, "scope": ABSENT}
    own = {"uti": "t", "session_id": "s", "cid": "c", "user_id": "u", "scopes": ["a"]}

    suggestion, report = suggested(forge.token(forge.rsa_key(), **names, **own))

    assert suggestion.table["claims"] == {
        "jti": ["uti"],
        "sub": ["user_id"],
        "sid": ["session_id", "sid"],
        "client_id": ["cid"],
        "scope": ["scopes"],
    }
    assert report.token_form == report.claims_form == []
    assert schema.settle(tomllib.loads(suggestion.toml()), {}).issuers[0].claims.sub == ("user_id",)


def test_a_user_without_sub_is_not_taken_for_the_client():
    suggestion, report = suggested(forge.token(forge.rsa_key(), sub=ABSENT))

    assert "claims" not in suggestion.table
    assert [failure.why for failure in report.token_form] == ["sub"]


def test_a_token_that_only_general_audiences_have_is_suggested_with_a_warning():
    suggestion, _ = suggested(
        forge.token(forge.rsa_key(), iss="https://id.example.com/realms/shop", aud="account")
    )

    assert 'audiences = ["account"]  # WARNING' in suggestion.toml()


def test_an_id_token_is_accepted_only_by_a_line_that_is_a_comment_with_a_warning():
    suggestion, report = suggested(forge.token(forge.rsa_key(), {"typ": "JWT"}, at_hash="x", scope=ABSENT))

    assert "# accept_id_tokens = true  # WARNING" in suggestion.toml()
    assert report.token_form[0].problem == "it is an ID token"
    assert "accept_id_tokens" in report.token_form[0].advice


def test_a_shared_secret_is_suggested_with_a_place_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "issuer.secret").write_bytes(SECRET)

    suggestion, report = suggested(forge.token(forge.hmac_key(SECRET)))

    assert schema.settle(tomllib.loads(suggestion.toml()), {}).issuers[0].algorithms == ("HS256",)
    assert report.token_form == []


def test_values_of_a_token_can_neither_leave_their_string_nor_reach_the_terminal():
    hostile = 'https://evil.example.com/"\u202e\u009b31m\U000e0001\\'

    suggestion, _ = suggested(forge.token(forge.rsa_key(), iss=hostile))

    assert tomllib.loads(suggestion.toml())["issuers"][0]["issuer"] == hostile
    assert suggestion.toml().replace("\n", "").isprintable()


def token_with(payload=None, header=None):
    return forge.forge(forge.rsa_key(), header or forge.header_of(forge.rsa_key()), payload or forge.claims())


GOOD = token_with(forge.claims(lifetime=36_000))
"""It stays active for as long as all tests may take."""

UNUSABLE = {
    "opaque": "2YotnFZFEjr1zCsicMWpAA",
    "JWE": forge.base64url(b'{"alg":"dir","enc":"A256GCM"}') + "..aXY.Y2lwaGVy.dGFn",
    "PASETO": "v4.public.eyJkYXRhIjoidGhpcyJ9",
    "header": GOOD.partition(".")[0],
    "without its signature": GOOD.rpartition(".")[0],
    "signature is missing": GOOD.rpartition(".")[0] + ".",
    "alg: none": forge.base64url(b'{"alg":"none"}') + "." + forge.base64url(b"{}") + ".",
    "JSON": '{"access_token": "x"}',
    "malformed": "a.b.c",
    "refresh token of Revoker": "rvr_abc",
    "a refresh token: only": token_with({**forge.claims(), "typ": "Refresh"}, {"alg": "RS256"}),
    "a logout token": token_with({**forge.claims(), "events": {}}),
    "the typ": token_with(header={"alg": "RS256", "typ": "dpop+jwt"}),
    "without iss": forge.token(forge.rsa_key(), iss=ABSENT),
    "does not verify": token_with(header={"alg": "ES256K"}),
}


@pytest.mark.parametrize(("words", "text"), UNUSABLE.items(), ids=UNUSABLE)
def test_a_text_that_is_no_access_token_gets_one_line_that_says_what_it_is(words, text):
    with pytest.raises(pasted_token.UnusableToken) as refused:
        suggested(text)

    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "pasted",
    [
        f"  Bearer {GOOD}\n",
        f"Authorization: bearer {GOOD}",
        f'"{GOOD}",\r\n',
        f"{GOOD[:40]}\n{GOOD[40:90]}\r\n  {GOOD[90:]}\n",
        f"\ufeff'{GOOD}'",
    ],
)
def test_what_is_pasted_around_a_token_is_tolerated(pasted):
    assert pasted_token.read_token(pasted) == pasted_token.read_token(GOOD)


async def test_a_token_of_our_own_sessions_is_checked_by_their_keys(tmp_path):
    keys = tmp_path / "keys"
    made = keystore.generate(keys, "ES256", time.time())
    sessions = {"issuer": "https://sessions.example.com", "audiences": [forge.AUDIENCE]}
    settings = schema.settle({"sessions": {**sessions, "signing_keys_dir": str(keys)}}, {})
    terms = issuer_terms.terms_of(settings)[0]
    token = pasted_token.read_token(made.key.sign(forge.claims(iss=sessions["issuer"])))

    report = issuer_report.report(token, terms, await issuer_terms.keys_of(settings, terms))

    assert (report.signature, report.token_form, report.claims_form) == ("verified", [], [])
    assert "back-channel logout" not in report.actions


# Whether a service agrees

CASES = {
    "active": ({}, {}),
    "expired": ({}, {"exp": 1_700_000_900, "iat": 1_700_000_000}),
    "another issuer": ({}, {"iss": "https://third.example.com"}),
    "another audience": ({}, {"aud": "api://other"}),
    "neither aud nor client": ({}, {"aud": ABSENT, "client_id": ABSENT}),
    "no jti": ({}, {"jti": ABSENT}),
    "no sub": ({}, {"sub": ABSENT}),
    "sub is a number": ({}, {"sub": 7}),
    "an ID token": ({"typ": "JWT"}, {"at_hash": "x"}),
    "cnf is a text": ({}, {"cnf": "x"}),
    "no exp": ({}, {"exp": ABSENT}),
    "too long": ({}, {"lifetime": 40 * 86_400}),
    "issued in the future": ({}, {"now": time.time() + 3600}),
    "not valid yet": ({}, {"nbf": int(time.time()) + 3600}),
    "another algorithm": ({"alg": "PS256"}, {}),
}


async def test_a_report_names_the_test_that_the_service_names(start, valkey, tmp_path):
    revoker = await start(valkey)
    settings = settings_for(valkey.url, tmp_path)
    terms = issuer_terms.terms_of(settings)[0]
    keys = await issuer_terms.keys_of(settings, terms)
    for name, (header, changes) in CASES.items():
        text = forge.token(revoker.key, header, **changes)
        token = pasted_token.read_token(text)

        explained = (await revoker.post("/explain", {"token": text})).json

        found = issuer_report.report(token, terms, keys).token_form
        why = found[0].why if found else None
        expected = explained.get("why") or explained["reason"]
        assert (why or "active") == expected, name
        claims = forge.envelope(token.payload, token.kid)
        answer = await revoker.post("/explain", claims)
        active = answer.status == 200 and answer.json["active"]
        assert active == (not issuer_report.report(token, terms, keys).claims_form), name


# Discovery


class Provider:
    """An identity provider; ``answer`` replaces its discovery document."""

    def __init__(self):
        self.keys = forge.jwks(forge.rsa_key())
        self.changes = {}
        self.answer = None
        self.url = ""

    async def document(self, request):
        if self.answer is not None:
            return await self.answer(request)
        members = {
            "issuer": forge.ISSUER,
            "jwks_uri": f"{self.url}/jwks.json",
            "id_token_signing_alg_values_supported": ["RS256"],
            "backchannel_logout_supported": True,
            "backchannel_logout_session_supported": True,
        }
        return web.json_response({**members, **self.changes})

    async def jwks(self, request):
        return web.json_response(self.keys)


@pytest.fixture
async def provider():
    served = Provider()
    application = web.Application()
    application.router.add_get("/.well-known/openid-configuration", served.document)
    application.router.add_get("/jwks.json", served.jwks)
    async with TestServer(application) as server:
        served.url = str(server.make_url("")).rstrip("/")
        yield served


async def test_with_discovery_the_signature_is_verified(provider, tmp_path):
    status, out, err = await issuer(
        tmp_path, "suggest", "--json", "--discover", provider.url, pasted=forge.token(forge.rsa_key())
    )

    assert (status, err) == (0, "")
    report = json.loads(out)
    assert (report["active"], report["signature"]) == (True, "verified")
    assert report["table"]["jwks_uri"] == f"{provider.url}/jwks.json"
    assert report["actions"]["back-channel logout"]["works"] == "after setup"
    assert schema.settle(tomllib.loads(report["toml"]), {}).issuers[0].jwks_insecure


async def test_with_discovery_a_forged_signature_is_found(provider, tmp_path):
    forged = forge.token(forge.rsa_key("other"), {"kid": "rsa-1"})

    status, out, err = await issuer(
        tmp_path, "suggest", "--json", "--discover", f"{provider.url}/", pasted=forged
    )

    assert (status, err) == (0, "")
    report = json.loads(out)
    assert (report["active"], report["why"], report["signature"]) == (False, "signature", "failed")


async def test_a_document_of_another_issuer_is_reported(provider):
    provider.changes = {"issuer": "https://other.example.com", "backchannel_logout_supported": None}
    discovery = await provider_documents.discover(f"{provider.url}/.well-known/openid-configuration")

    suggestion, _ = suggested(forge.token(forge.rsa_key()), discovery)

    assert "MISMATCH" in suggestion.notes[0]
    assert "https://other.example.com" in suggestion.notes[0]
    assert "backchannel_audience" not in suggestion.toml()


async def test_the_issuer_of_access_tokens_may_differ_from_that_of_id_tokens(provider):
    provider.changes = {"issuer": "https://fs.example.com/adfs", "access_token_issuer": forge.ISSUER}
    discovery = await provider_documents.discover(provider.url)

    suggestion, _ = suggested(forge.token(forge.rsa_key()), discovery)

    assert suggestion.notes == []


async def redirect(request):
    raise web.HTTPFound("https://elsewhere.example.com/")


async def too_large(request):
    return web.Response(body=b" " * 1_000_000)


async def not_json(request):
    return web.Response(text="<html>")


async def missing(request):
    raise web.HTTPNotFound


async def without_keys(request):
    return web.json_response({"issuer": forge.ISSUER})


async def keys_by_http(request):
    return web.json_response({"jwks_uri": "http://idp.example.com/jwks.json"})


async def deeply_nested(request):
    return web.Response(body=b"[" * 400_000)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (redirect, "redirects"),
        (too_large, "larger than"),
        (not_json, "not a JSON object"),
        (missing, "status 404"),
        (without_keys, "no jwks_uri"),
        (keys_by_http, "https://"),
        (deeply_nested, "not a JSON object"),
    ],
)
async def test_a_document_that_can_not_be_used_is_an_error_that_says_why(provider, answer, problem):
    provider.answer = answer

    with pytest.raises(ConfigError, match=problem):
        await provider_documents.discover(provider.url)


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example.com",
        "ftp://127.0.0.1/",
        "idp.example.com",
        "https://me:pw@idp.example.com",
        "https://[::1",
    ],
)
async def test_a_url_that_is_not_safe_is_refused(url):
    with pytest.raises(ConfigError, match="must"):
        await provider_documents.discover(url)


async def test_a_provider_that_can_not_be_reached_is_an_error_with_status_2(tmp_path):
    status, out, err = await issuer(tmp_path, "suggest", "--discover", "http://127.0.0.1:1", pasted=GOOD)

    assert (status, out) == (2, "")
    assert err.startswith("--discover: http://127.0.0.1:1")
    assert len(err.splitlines()) == 1


# The commands


@pytest.fixture
def config(tmp_path):
    (tmp_path / "keys.jwks").write_text(json.dumps(forge.jwks(forge.rsa_key())))
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    file = tmp_path / "revoker.toml"
    file.write_text(f"""
[redis]
url = "redis://127.0.0.1:1"
[[issuers]]
name = "main"
issuer = "{forge.ISSUER}"
audiences = ["{forge.AUDIENCE}"]
jwks_file = "keys.jwks"
[[issuers]]
name = "secret"
issuer = "https://hmac.example.com"
audiences = ["{forge.AUDIENCE}"]
algorithms = ["HS256"]
hmac_secret_file = "secret"
[[issuers]]
name = "nowhere"
issuer = "https://nowhere.example.com"
audiences = ["{forge.AUDIENCE}"]
jwks_uri = "https://127.0.0.1:1/"
""")
    return file


async def test_suggest_prints_a_part_of_a_configuration_without_values_that_name_a_person(tmp_path):
    values = {"sub": "alice-secret", "sid": "sid-secret", "jti": "jti-secret", "email": "mail-secret"}
    text = forge.token(forge.rsa_key(), **values)

    status, out, err = await issuer(tmp_path, "suggest", pasted=f"Bearer {text}\n")

    assert (status, err) == (0, "")
    assert schema.settle(tomllib.loads(out), {}).issuers[0].issuer == forge.ISSUER
    assert "log out everywhere   yes, by sub" in out
    assert "the signature was not checked" in out
    assert not any(value in out for value in [*values.values(), *text.split(".")])


def test_a_terminal_is_asked_for_the_token(tmp_path):
    ours, terminal = pty.openpty()
    command = [sys.executable, "-m", "revoker", "issuer", "suggest"]
    os.write(ours, GOOD.encode() + b"\n\x04")
    done = subprocess.run(command, cwd=tmp_path, stdin=terminal, capture_output=True, text=True, timeout=120)
    os.close(ours)
    os.close(terminal)

    assert done.returncode == 0
    assert done.stderr.startswith("Paste the token")
    assert "[[issuers]]" in done.stdout


async def test_check_says_that_a_token_is_active(tmp_path, config):
    status, out, err = await issuer(tmp_path, "check", "--config", config, pasted=GOOD)

    assert (status, err) == (0, "")
    assert "signature            verified" in out
    assert "token form           active\n" in out


async def test_check_says_what_to_set_for_a_token_that_is_not_active(tmp_path, config):
    text = forge.token(forge.rsa_key(), aud=ABSENT, jti=ABSENT, sub="alice-secret")

    status, out, err = await issuer(tmp_path, "check", "--json", REVOKER_CONFIG=str(config), pasted=text)

    assert (status, err) == (1, "")
    report = json.loads(out)
    assert (report["active"], report["why"], report["issuer"]) == (False, "jti", "main")
    assert "require_jti = false" in report["token_form"][0]["advice"]
    assert "alice-secret" not in out


async def test_check_reads_a_shared_secret(tmp_path, config):
    text = forge.token(forge.hmac_key(SECRET), iss="https://hmac.example.com")

    assert (await issuer(tmp_path, "check", "--config", config, pasted=text))[0] == 0


async def test_check_of_an_issuer_that_is_not_configured_names_the_command_that_helps(tmp_path, config):
    text = forge.token(forge.rsa_key(), iss="https://other.example.com")

    status, out, _ = await issuer(tmp_path, "check", "--config", config, pasted=text)

    assert status == 1
    assert '"https://other.example.com"' in out
    assert "revoker issuer suggest" in out


async def test_check_of_a_token_of_another_issuer_than_the_one_that_is_named(tmp_path, config):
    status, out, _ = await issuer(tmp_path, "check", "--config", config, "--issuer", "secret", pasted=GOOD)

    assert status == 1
    assert "not active: issuer" in out


@pytest.mark.parametrize(
    ("arguments", "pasted", "problem"),
    [
        ((), "", "standard input: is empty"),
        ((), b"\xff" * 70_000, "standard input: is longer"),
        (("--issuer", "nobody"), GOOD, "--issuer: one of main, secret, nowhere"),
        (
            (),
            forge.token(forge.rsa_key(), iss="https://nowhere.example.com"),
            "jwks_uri: https://127.0.0.1:1/",
        ),
    ],
)
async def test_what_can_not_be_read_is_an_error_with_status_2(tmp_path, config, arguments, pasted, problem):
    status, out, err = await issuer(tmp_path, "check", "--config", config, *arguments, pasted=pasted)

    assert (status, out) == (2, "")
    assert err.startswith(problem)


@pytest.mark.parametrize("options", [[], ["--json"]])
async def test_an_opaque_token_is_one_line_with_status_1(tmp_path, config, options):
    text = UNUSABLE["opaque"]

    status, out, err = await issuer(tmp_path, "check", "--config", config, *options, pasted=text)

    assert status == 1
    if options:
        assert json.loads(out)["kind"] == "opaque"
    else:
        assert (out, len(err.splitlines())) == ("", 1)
    assert text not in out + err
