"""How to recognize well-known identity providers by their tokens, and what their profiles can't say.

A profile holds settings alone. Here are the form of a provider's ``iss``, the place of its keys, and whether
it sends logout tokens. All of it is a proposal for an operator, so nothing here decides about a token.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Payload = Mapping[str, Any]

_GUID: Final = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityProvider:
    """One provider, or one form of its tokens.

    Attributes:
        profile: Its name in ``profiles.toml``.
        iss: What the whole ``iss`` looks like. Its groups are names in ``jwks_uri`` and ``alias``.
        typical: Whether a payload with another ``iss``, on a customer's own host, is one of its tokens.
        jwks_uri: Where it publishes its keys; empty: unknown. ``{iss}`` has no slash at the end.
        alias: Another ``iss`` of the same users and keys.
        sends_logout_tokens: Whether it supports back-channel logout.
        adding_sid: How its access tokens get the claim of a session that they lack.
    """

    profile: str
    iss: str
    typical: Callable[[Payload], bool] = lambda _: False
    jwks_uri: str = ""
    alias: str = ""
    sends_logout_tokens: bool = False
    adding_sid: str = "the access tokens of this provider do not name their session"


_GOOGLE_KEYS: Final = "https://www.googleapis.com/oauth2/v3/certs"
_FIREBASE_KEYS: Final = (
    "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com"
)
_ENTRA_SID: Final = "add the optional claim `sid` to the access tokens of the application"


def _has_text(payload: Payload, name: str, pattern: str) -> bool:
    value = payload.get(name)
    return type(value) is str and re.match(pattern, value) is not None


PROVIDERS: Final = (
    IdentityProvider(
        profile="kubernetes",
        iss=r"https://(?:kubernetes\.default\.svc.*|oidc\.eks\..+|container\.googleapis\.com/.+)",
        typical=lambda payload: type(payload.get("kubernetes.io")) is dict,
        adding_sid="tokens of service accounts have no session",
    ),
    IdentityProvider(
        profile="keycloak",
        iss=r"https?://[^/]+(?:/[^/]+)*/realms/[^/]+",
        jwks_uri="{iss}/protocol/openid-connect/certs",
        sends_logout_tokens=True,
        adding_sid="a user's token has `sid`, that of a service account has no session",
    ),
    IdentityProvider(
        profile="auth0",
        iss=r"https://[^/]+\.auth0\.com/",
        typical=lambda payload: _has_text(payload, "sub", r"auth0\||[\w-]+@clients$"),
        jwks_uri="{iss}/.well-known/jwks.json",
        sends_logout_tokens=True,
    ),
    IdentityProvider(
        profile="okta",
        iss=r"https://[^/]+\.(?:okta|oktapreview|okta-emea|okta-gov)\.com(?:/oauth2/[^/]+)?",
        typical=lambda payload: _has_text(payload, "cid", "0oa") and _has_text(payload, "jti", r"AT\."),
        jwks_uri="{iss}/v1/keys",
    ),
    IdentityProvider(
        profile="entra",
        iss=rf"https://login\.microsoftonline\.(?:com|us)/(?P<tenant>{_GUID})/v2\.0",
        jwks_uri="{iss_base}/discovery/v2.0/keys",
        alias="https://sts.windows.net/{tenant}/",
        adding_sid=_ENTRA_SID,
    ),
    IdentityProvider(
        profile="entra",
        iss=rf"https://sts\.windows\.net/(?P<tenant>{_GUID})/",
        jwks_uri="https://login.microsoftonline.com/{tenant}/discovery/v2.0/keys",
        alias="https://login.microsoftonline.com/{tenant}/v2.0",
        adding_sid=_ENTRA_SID,
    ),
    IdentityProvider(
        profile="entra",
        iss=rf"https://[^/]+\.ciamlogin\.com/(?P<tenant>{_GUID})/v2\.0",
        jwks_uri="{iss_base}/discovery/v2.0/keys",
        adding_sid=_ENTRA_SID,
    ),
    IdentityProvider(
        profile="entra-b2c",
        iss=r"https://[^/]+\.b2clogin\.com/.+",
        typical=lambda payload: _has_text(payload, "tfp", "(?i)b2c_1") or _has_text(payload, "acr", "b2c_1"),
    ),
    IdentityProvider(
        profile="cognito",
        iss=r"https://cognito-idp\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?/[^/]+",
        jwks_uri="{iss}/.well-known/jwks.json",
    ),
    IdentityProvider(
        profile="google",
        iss=r"https://accounts\.google\.com",
        jwks_uri=_GOOGLE_KEYS,
        alias="accounts.google.com",
    ),
    IdentityProvider(
        profile="google",
        iss=r"accounts\.google\.com",
        jwks_uri=_GOOGLE_KEYS,
        alias="https://accounts.google.com",
    ),
    IdentityProvider(
        profile="pingone",
        iss=r"https://auth\.pingone\.[a-z.]+/[^/]+/as",
        jwks_uri="{iss}/jwks",
    ),
    IdentityProvider(
        profile="zitadel",
        iss=r"https://[^/]+\.zitadel\.(?:cloud|app)",
        typical=lambda payload: any(name.startswith("urn:zitadel:") for name in payload),
        jwks_uri="{iss}/oauth/v2/keys",
        sends_logout_tokens=True,
    ),
    IdentityProvider(
        profile="authentik",
        iss=r"https?://[^/]+/application/o/[^/]+/",
        jwks_uri="{iss}/jwks/",
        sends_logout_tokens=True,
    ),
    IdentityProvider(
        profile="adfs",
        iss=r"https?://(?P<host>[^/]+)/adfs(?:/services/trust)?",
        jwks_uri="https://{host}/adfs/discovery/keys",
    ),
    IdentityProvider(
        profile="firebase", iss=r"https://securetoken\.google\.com/[^/]+", jwks_uri=_FIREBASE_KEYS
    ),
    IdentityProvider(
        profile="supabase",
        iss=r"https?://[^/]+/auth/v1",
        jwks_uri="{iss}/.well-known/jwks.json",
    ),
    IdentityProvider(
        profile="clerk",
        iss=r"https://(?:[^/]+\.clerk\.accounts\.dev|clerk\.[^/]+)",
        typical=lambda payload: _has_text(payload, "sid", "sess_") and _has_text(payload, "sub", "user_"),
        jwks_uri="{iss}/.well-known/jwks.json",
        adding_sid="a user's session token has `sid`, that of a machine has no session",
    ),
    IdentityProvider(
        profile="kinde",
        iss=r"https://[^/]+\.kinde\.com",
        jwks_uri="{iss}/.well-known/jwks",
    ),
    IdentityProvider(
        profile="logto",
        iss=r"https://[^/]+\.logto\.app/oidc",
        jwks_uri="{iss}/jwks",
        sends_logout_tokens=True,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognized:
    """A provider, and what follows from the ``iss`` of one of its tokens; empty where it does not follow."""

    provider: IdentityProvider
    jwks_uri: str = ""
    alias: str = ""


def recognize(iss: str, payload: Payload) -> Recognized | None:
    """The provider of a token: by its ``iss``, or else by claims that no other provider has."""
    for provider in PROVIDERS:
        match = re.fullmatch(provider.iss, iss)
        if match is not None:
            places = {"iss": iss.rstrip("/"), "iss_base": iss.removesuffix("/v2.0"), **match.groupdict()}
            return Recognized(
                provider=provider,
                jwks_uri=provider.jwks_uri.format(**places) or _keys_of_policy(provider, iss, payload),
                alias=provider.alias.format(**places),
            )
    for provider in PROVIDERS:
        if provider.typical(payload):
            at_iss = provider.jwks_uri if provider.jwks_uri.startswith("{iss}") else ""
            return Recognized(provider=provider, jwks_uri=at_iss.format(iss=iss.rstrip("/")))
    return None


def of_profile(profile: str | None) -> IdentityProvider | None:
    """The provider of a profile in a configuration; forms of one provider differ in nothing that matters."""
    return next((provider for provider in PROVIDERS if provider.profile == profile), None)


def _keys_of_policy(provider: IdentityProvider, iss: str, payload: Payload) -> str:
    """Azure AD B2C has a set of keys for each policy, which ``tfp`` or ``acr`` names."""
    policy = payload.get("tfp", payload.get("acr"))
    if provider.profile != "entra-b2c" or type(policy) is not str or not re.fullmatch(r"[\w-]+", policy):
        return ""
    base = iss.rstrip("/").removesuffix("/v2.0").removesuffix(f"/{policy}")
    return f"{base}/{policy}/discovery/v2.0/keys"
