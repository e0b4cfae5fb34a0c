"""The profiles of well-known providers are settings that `[[issuers]]` accepts, and no more than defaults."""

import pytest

from revoker.config.issuers import IssuerSettings
from revoker.config.profiles import PROFILES
from revoker.config.schema import settle

PROFILES_IN_THE_CONTRACT = {
    "keycloak", "auth0", "okta", "entra", "entra-b2c", "cognito", "google", "pingone", "zitadel", "authentik",
    "adfs", "firebase", "supabase", "clerk", "kinde", "logto", "kubernetes",
}  # fmt: skip

SPECIFIC_TO_A_CUSTOMER = {
    "name", "profile", "issuer", "issuer_aliases", "audiences", "client_ids", "jwks_uri", "jwks_file",
    "hmac_secret", "hmac_secret_file", "jwks_insecure", "revoked_kids", "backchannel_audience",
}  # fmt: skip

SMALLEST = {
    "name": "main",
    "issuer": "https://idp.example.com",
    "audiences": ["api"],
    "jwks_uri": "https://idp.example.com/jwks",
}


def test_there_is_a_profile_for_every_provider_of_the_contract():
    assert set(PROFILES) == PROFILES_IN_THE_CONTRACT


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_sets_no_issuer_audience_client_or_key(profile):
    assert set(PROFILES[profile]) <= set(IssuerSettings.model_fields) - SPECIFIC_TO_A_CUSTOMER


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_is_valid_and_differs_from_the_defaults_in_every_setting(profile):
    [plain] = settle({"issuers": [dict(SMALLEST)]}, {}).issuers
    [issuer] = settle({"issuers": [{**SMALLEST, "profile": profile}]}, {}).issuers

    for name in PROFILES[profile]:
        assert getattr(issuer, name) != getattr(plain, name)
    for name in PROFILES[profile].get("claims", {}):
        assert getattr(issuer.claims, name) != getattr(plain.claims, name)


def test_id_tokens_are_accepted_only_where_a_provider_has_no_other_jwt():
    accepting = {name for name, settings in PROFILES.items() if settings.get("accept_id_tokens")}

    assert accepting == {"google", "firebase"}
