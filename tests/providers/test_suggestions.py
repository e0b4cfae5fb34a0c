"""`revoker issuer suggest` gives settings that work for the tokens of every provider in the table."""

import time
import tomllib

import pytest

from revoker.cli import issuer_report, issuer_suggestion, pasted_token
from revoker.config import schema
from revoker.config.profiles import PROFILE_NAMES
from tests.providers import tokens
from tests.rig import forge

KEYS = {"RS256": forge.rsa_key(), "ES256": forge.ec_key(), "ES384": forge.ec_key("ec-3", "ES384")}
ACTIONS = {
    "user": "log out everywhere",
    "session": "one session",
    "client": "one client",
    "token": "one token",
    "backchannel": "back-channel logout",
}
ROWS = {row.name: row for row in tokens.PROVIDERS}
ID_TOKENS = {"Cognito, ID token"}
UNRECOGNIZED_PROGRAMS = {"Zitadel, machine"}
"""Whose subject is neither their client nor named like a program."""


def token_of(row):
    key = KEYS[row.header["alg"]]
    payload = tokens.dated(row.payload, int(time.time()))
    return forge.forge(key, {**row.header, "kid": key.kid}, payload)


def suggested(row):
    """The settings for a token, and the report by them."""
    token = pasted_token.read_token(token_of(row))
    suggestion = issuer_suggestion.suggest(token, None)
    return suggestion, issuer_report.report(token, suggestion.terms(), None)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_settings_for_a_token_of_a_provider_are_valid_and_name_its_profile(row):
    suggestion, _ = suggested(row)

    configured = schema.settle(tomllib.loads(suggestion.toml()), {}).issuers[0]

    assert configured.profile == row.settings["profile"]
    assert configured.issuer == row.payload["iss"]
    assert set(configured.audiences) & set(row.settings.get("audiences", ())) or (
        set(configured.client_ids) & set(row.settings["client_ids"])
    )


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_works_with_a_token_of_a_provider_is_what_its_row_says(row):
    _, report = suggested(row)

    failed = [failure.why for failure in report.token_form]
    assert failed == (["kind"] if row.name in ID_TOKENS else [])
    assert report.claims_form == []
    found = {action: report.actions[title].claim for action, title in ACTIONS.items()}
    expected = {action: next(iter(row.identity(action)), None) for action in ACTIONS}
    if row.name in ID_TOKENS:
        expected["client"] = None  # its setting calls the audience a client
    if row.name in UNRECOGNIZED_PROGRAMS:
        expected["backchannel"] = found["backchannel"]
    assert found == expected


def test_every_profile_is_recognized():
    assert {row.settings["profile"] for row in ROWS.values()} >= set(PROFILE_NAMES)
