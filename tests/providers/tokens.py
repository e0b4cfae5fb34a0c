"""Tokens as identity providers issue them, one row for every variant, and what Revoker can do with each.

The shapes are those of the providers' documentation (docs/providers/ links it); the values are invented.
Nothing here is imported from the service, so the expectations do not repeat its code. The table in
docs/providers/README.md is generated from these rows.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Action = Literal["token", "user", "session", "client", "claim", "block", "backchannel"]
ACTIONS: Final[tuple[Action, ...]] = ("token", "user", "session", "client", "claim", "block", "backchannel")

LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
JWT: Final[Mapping[str, Any]] = {"alg": "RS256", "typ": "JWT"}
UNTYPED: Final[Mapping[str, Any]] = {"alg": "RS256"}
RFC_9068: Final[Mapping[str, Any]] = {"alg": "RS256", "typ": "at+jwt"}
LOGOUT_JWT: Final[Mapping[str, Any]] = {"alg": "RS256", "typ": "logout+jwt"}

HOUR: Final = 3600
DAY: Final = 24 * HOUR


@dataclass(frozen=True, slots=True)
class At:
    """A NumericDate, in seconds from the time of the test."""

    offset: int

    def at(self, now: int) -> int:
        return now + self.offset


@dataclass(frozen=True, slots=True)
class IsoAt(At):
    """The same as text, which RFC 7519 does not allow and AD FS writes."""

    def at(self, now: int) -> Any:
        moment = dt.datetime.fromtimestamp(now + self.offset, dt.UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderToken:
    """One kind of token.

    Attributes:
        name: As the table shows it.
        page: Of docs/providers, without its suffix.
        settings: The table of ``[[issuers]]`` without ``name``, ``algorithms`` and a key source.
        header: Of the token, without ``kid``.
        payload: Its claims; dates are offsets.
        user: The claim that identifies its user, then others that differ with the user. The same for
            ``session``, ``client``, ``token`` and ``claim`` (one that can be revoked by value); empty where
            nothing identifies it.
        limits: Why an action has no effect on this token.
        logout: The claims of the logout token that the provider sends by back channel.
        logout_header: Its header.
        logout_ends: What it ends here.
        machine: Whether it is a token of a program, without a user.
    """

    name: str
    page: str
    settings: Mapping[str, Any]
    header: Mapping[str, Any] = field(default_factory=lambda: JWT)
    payload: Mapping[str, Any]
    user: tuple[str, ...]
    session: tuple[str, ...] = ()
    client: tuple[str, ...] = ()
    token: tuple[str, ...] = ()
    claim: tuple[str, ...] = ()
    limits: Mapping[Action, str] = field(default_factory=dict)
    logout: Mapping[str, Any] | None = None
    logout_header: Mapping[str, Any] = field(default_factory=lambda: LOGOUT_JWT)
    logout_ends: Literal["session", "user"] | None = None
    machine: bool = False

    def identity(self, action: Action) -> tuple[str, ...]:
        """The claims by which an action finds this token; empty: it has no effect."""
        if action in self.limits:
            return ()
        if action == "backchannel":
            return {"session": self.session, "user": self.user, None: ()}[self.logout_ends]
        found: dict[Action, tuple[str, ...]] = {
            "token": self.token,
            "user": self.user,
            "block": self.user,
            "session": self.session,
            "client": self.client,
            "claim": self.claim,
        }
        return found[action]

    def value(self, action: Action) -> str:
        """The value that a revocation must name; of several, the first."""
        value = self.payload[self.identity(action)[0]]
        return str(value[0] if isinstance(value, list) else value)


def dated(claims: Mapping[str, Any], now: int) -> dict[str, Any]:
    """Claims with their dates."""
    return {name: value.at(now) if isinstance(value, At) else value for name, value in claims.items()}


def neighbour(row: ProviderToken, action: Action) -> dict[str, Any]:
    """The claims of a token that an action must not reach, as like the token of the row as can be.

    Another token of the same session for ``token``, another session of the same user for ``session``, another
    user of the same client for ``user``, the same user at another client for ``client``.
    """
    narrower: dict[Action, tuple[tuple[str, ...], ...]] = {
        "token": (row.token,),
        "session": (row.token, row.session),
        "user": (row.token, row.session, row.user),
        "block": (row.token, row.session, row.user),
        "client": (row.token, row.session, row.client),
        "claim": (row.token, row.claim),
        "backchannel": (row.token, row.session, row.user if row.logout_ends == "user" else ()),
    }
    changed = {name for names in narrower[action] for name in names}
    return {name: other(value) if name in changed else value for name, value in row.payload.items()}


def other(value: Any) -> Any:
    """Another value of the same kind, always the same one."""
    return ["other"] if isinstance(value, list) else f"other-{value}"


def either(value: str) -> list[str]:
    """A value and its neighbour's, for settings that list what is accepted."""
    return [value, other(value)]


NO_SESSION: Final = "no session in the access token"
NO_SESSION_IN_ID_TOKEN: Final = "no session in the ID token"
NO_OPTIONAL_SESSION: Final = "no session, unless the optional claim `sid` is there"
NO_TOKEN_ID: Final = "no token id"
NO_BACKCHANNEL: Final = "the provider sends no logout tokens"
FRONT_CHANNEL: Final = "front-channel logout only"
NO_CLAIM: Final = "no claim beyond the standard ones"
MACHINE: Final[Mapping[Action, str]] = {
    "session": "a machine has no session",
    "backchannel": "a machine has no session",
}
PLAIN_MACHINE: Final[Mapping[Action, str]] = {**MACHINE, "claim": NO_CLAIM}

# Keycloak

_REALM: Final = "https://sso.example.com/realms/shop"
_KEYCLOAK_USER: Final = "6f1a6b3e-52b0-4bb1-9f57-0c4f9d1b7c11"
_KEYCLOAK_SID: Final = "b1f5a2a6-1f0d-4e0c-8f55-0f2d6cf3a9e2"
_KEYCLOAK: Final[Mapping[str, Any]] = {
    "exp": At(300),
    "iat": At(0),
    "auth_time": At(-60),
    "jti": "onrtac:0d7b8f6a-9f5e-4d0e-8d5c-3d5b2b7f3c55",
    "iss": _REALM,
    "aud": ["orders-api", "account"],
    "sub": _KEYCLOAK_USER,
    "typ": "Bearer",
    "azp": "web-shop",
    "sid": _KEYCLOAK_SID,
    "acr": "1",
    "allowed-origins": ["https://shop.example.com"],
    "realm_access": {"roles": ["offline_access", "customer"]},
    "resource_access": {"account": {"roles": ["manage-account"]}},
    "scope": "openid email profile",
    "email_verified": True,
    "name": "Alice Example",
    "preferred_username": "alice",
    "email": "alice@example.com",
}
_KEYCLOAK_LOGOUT: Final[Mapping[str, Any]] = {
    "iat": At(0),
    "exp": At(120),
    "jti": "7c1c0b0a-6a55-4b83-9bb5-6b3b0ad1d1f0",
    "iss": _REALM,
    "aud": "web-shop",
    "sub": _KEYCLOAK_USER,
    "typ": "Logout",
    "sid": _KEYCLOAK_SID,
    "events": {LOGOUT_EVENT: {}},
}
_KEYCLOAK_SETTINGS: Final[Mapping[str, Any]] = {
    "profile": "keycloak",
    "issuer": _REALM,
    "audiences": ["orders-api"],
    "backchannel_audience": "web-shop",
}


def _without(claims: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in claims.items() if name not in names}


KEYCLOAK: Final = (
    ProviderToken(
        name="Keycloak 26",
        page="keycloak",
        settings={**_KEYCLOAK_SETTINGS, "claims": {"revocable": ["email"]}},
        payload=_KEYCLOAK,
        user=("sub",),
        session=("sid",),
        client=("azp",),
        token=("jti",),
        claim=("email",),
        logout=_KEYCLOAK_LOGOUT,
        logout_ends="session",
    ),
    ProviderToken(
        name="Keycloak 26, no `aud` mapper",
        page="keycloak",
        settings={
            **_without(_KEYCLOAK_SETTINGS, "audiences"),
            "client_ids": either("web-shop"),
            "claims": {"revocable": ["email"]},
        },
        payload=_without(_KEYCLOAK, "aud", "resource_access"),
        user=("sub",),
        session=("sid",),
        client=("azp",),
        token=("jti",),
        claim=("email",),
        logout=_KEYCLOAK_LOGOUT,
        logout_ends="session",
    ),
    ProviderToken(
        name="Keycloak 26, lightweight access token",
        page="keycloak",
        settings={
            **_without(_KEYCLOAK_SETTINGS, "audiences"),
            "client_ids": either("web-shop"),
        },
        payload={
            "exp": At(300),
            "iat": At(0),
            "jti": "onltac:5a2a2f54-6bb2-4ac9-a0f6-df8ed7f3e2be",
            "iss": _REALM,
            "sub": _KEYCLOAK_USER,
            "typ": "Bearer",
            "azp": "web-shop",
            "sid": _KEYCLOAK_SID,
            "scope": "openid email profile",
        },
        user=("sub",),
        session=("sid",),
        client=("azp",),
        token=("jti",),
        limits={"claim": NO_CLAIM},
        logout=_KEYCLOAK_LOGOUT,
        logout_ends="session",
    ),
    ProviderToken(
        name="Keycloak 26, machine",
        page="keycloak",
        settings={**_KEYCLOAK_SETTINGS, "claims": {"revocable": ["clientHost"]}},
        payload={
            "exp": At(300),
            "iat": At(0),
            "jti": "trrtcc:d3b4a0de-0c4e-4f0a-9a0b-0f2b34c1a1d4",
            "iss": _REALM,
            "aud": "orders-api",
            "sub": "1f9d6c9c-0d0e-4f29-8a3c-7b3a0a9a8b70",
            "typ": "Bearer",
            "azp": "billing-job",
            "acr": "1",
            "scope": "profile email",
            "clientHost": "10.2.0.7",
            "clientAddress": "10.2.0.7",
            "client_id": "billing-job",
            "preferred_username": "service-account-billing-job",
        },
        user=("sub",),
        client=("client_id", "azp"),
        token=("jti",),
        claim=("clientHost",),
        limits=MACHINE,
        machine=True,
    ),
    ProviderToken(
        name="Keycloak 24 and older, logout token without `exp`",
        page="keycloak",
        settings={**_KEYCLOAK_SETTINGS, "claims": {"revocable": ["email"]}},
        payload={
            **_KEYCLOAK,
            "jti": "0d7b8f6a-9f5e-4d0e-8d5c-3d5b2b7f3c55",
            "nonce": "c2ff0b2e-8e4a-4a56-9a4d-0f4d5d3b8d02",
            "session_state": _KEYCLOAK_SID,
        },
        user=("sub",),
        session=("sid", "session_state"),
        client=("azp",),
        token=("jti",),
        claim=("email",),
        logout=_without(_KEYCLOAK_LOGOUT, "exp"),
        logout_header=JWT,
        logout_ends="session",
    ),
    ProviderToken(
        name="Keycloak, `session_state` only",
        page="keycloak",
        settings={**_KEYCLOAK_SETTINGS, "claims": {"revocable": ["email"]}},
        payload={**_without(_KEYCLOAK, "sid"), "session_state": _KEYCLOAK_SID},
        user=("sub",),
        session=("session_state",),
        client=("azp",),
        token=("jti",),
        claim=("email",),
        logout=_without(_KEYCLOAK_LOGOUT, "exp"),
        logout_header=JWT,
        logout_ends="session",
    ),
)

# Auth0

_AUTH0_CLIENT: Final = "Xk2d7Qm1v0LrP9sT4uYb8wNc3zHe6aFg"
_AUTH0: Final[Mapping[str, Any]] = {
    "iss": "https://shop.eu.auth0.com/",
    "sub": "auth0|65f1c0a7e4b0d9a1b2c3d4e5",
    "aud": ["https://orders.example.com", "https://shop.eu.auth0.com/userinfo"],
    "iat": At(0),
    "exp": At(DAY),
    "scope": "openid profile email orders:read",
    "org_id": "org_9ybsU1dN2dKfDkBi",
}
_AUTH0_LOGOUT: Final[Mapping[str, Any]] = {
    "iss": "https://shop.eu.auth0.com/",
    "sub": "auth0|65f1c0a7e4b0d9a1b2c3d4e5",
    "aud": _AUTH0_CLIENT,
    "iat": At(0),
    "exp": At(120),
    "jti": "5d2e6a1f-6c0a-4d8d-9a1b-7b9d1c2e3f40",
    "events": {LOGOUT_EVENT: {}},
    "trace_id": "7f3a2b1c0d9e8f7a",
    "sid": "kq8Nn3cYw1bZr5tXv7uA",
}
_AUTH0_SETTINGS: Final[Mapping[str, Any]] = {
    "profile": "auth0",
    "issuer": "https://shop.eu.auth0.com/",
    "audiences": ["https://orders.example.com"],
    "backchannel_audience": _AUTH0_CLIENT,
}
_AUTH0_SID: Final = "https://orders.example.com/sid"

AUTH0: Final = (
    ProviderToken(
        name="Auth0",
        page="auth0",
        settings={**_AUTH0_SETTINGS, "claims": {"revocable": ["org_id"]}},
        payload={**_AUTH0, "azp": _AUTH0_CLIENT},
        user=("sub",),
        client=("azp",),
        claim=("org_id",),
        limits={"token": NO_TOKEN_ID, "session": NO_SESSION},
        logout=_AUTH0_LOGOUT,
        logout_ends="user",
    ),
    ProviderToken(
        name="Auth0, RFC 9068 profile",
        page="auth0",
        settings={**_AUTH0_SETTINGS, "require_jti": True, "claims": {"revocable": ["org_id"]}},
        header=RFC_9068,
        payload={**_AUTH0, "client_id": _AUTH0_CLIENT, "jti": "73WakrfVbNJBaAmhQtEeDv"},
        user=("sub",),
        client=("client_id",),
        token=("jti",),
        claim=("org_id",),
        limits={"session": NO_SESSION},
        logout=_AUTH0_LOGOUT,
        logout_ends="user",
    ),
    ProviderToken(
        name="Auth0, RFC 9068 profile, session by an Action",
        page="auth0",
        settings={
            **_AUTH0_SETTINGS,
            "require_jti": True,
            "backchannel_ends": "session",
            "claims": {"sid": [_AUTH0_SID, "sid"], "revocable": ["org_id"]},
        },
        header=RFC_9068,
        payload={
            **_AUTH0,
            "client_id": _AUTH0_CLIENT,
            "jti": "73WakrfVbNJBaAmhQtEeDv",
            _AUTH0_SID: "kq8Nn3cYw1bZr5tXv7uA",
        },
        user=("sub",),
        session=(_AUTH0_SID,),
        client=("client_id",),
        token=("jti",),
        claim=("org_id",),
        logout=_AUTH0_LOGOUT,
        logout_ends="session",
    ),
    ProviderToken(
        name="Auth0, machine, 30 days",
        page="auth0",
        settings={**_AUTH0_SETTINGS, "max_token_lifetime": 30 * DAY, "claims": {"revocable": ["gty"]}},
        payload={
            "iss": "https://shop.eu.auth0.com/",
            "sub": "Jb7kT2mQ9xW4vZ1nR6pL3sY8dC5fG0hA@clients",
            "aud": "https://orders.example.com",
            "iat": At(0),
            "exp": At(30 * DAY),
            "scope": "orders:read",
            "gty": "client-credentials",
            "azp": "Jb7kT2mQ9xW4vZ1nR6pL3sY8dC5fG0hA",
        },
        user=("sub",),
        client=("azp",),
        claim=("gty",),
        limits={**MACHINE, "token": NO_TOKEN_ID},
        machine=True,
    ),
)

# Okta

_OKTA: Final[Mapping[str, Any]] = {
    "ver": 1,
    "jti": "AT.pN3m0k1c2Wc9YhZr8bq7b9n2x1l4d5f6g7h8",
    "iss": "https://dev-1234567.okta.com/oauth2/default",
    "aud": "api://default",
    "iat": At(0),
    "exp": At(HOUR),
}
_OKTA_SETTINGS: Final[Mapping[str, Any]] = {
    "profile": "okta",
    "issuer": "https://dev-1234567.okta.com/oauth2/default",
    "audiences": ["api://default"],
}

OKTA: Final = (
    ProviderToken(
        name="Okta, custom authorization server",
        page="okta",
        settings={**_OKTA_SETTINGS, "claims": {"revocable": ["groups"]}},
        header=UNTYPED,
        payload={
            **_OKTA,
            "cid": "0oa9f3k2hVQx1c5Zy5d7",
            "uid": "00u9f3k2p7QJx0c5Zy5d7",
            "scp": ["openid", "profile", "orders:read"],
            "auth_time": At(-60),
            "sub": "alice@example.com",
            "groups": ["shop-admins", "everyone"],
        },
        user=("uid", "sub"),
        client=("cid",),
        token=("jti",),
        claim=("groups",),
        limits={"session": NO_SESSION, "backchannel": NO_BACKCHANNEL},
    ),
    ProviderToken(
        name="Okta, machine",
        page="okta",
        settings=_OKTA_SETTINGS,
        header=UNTYPED,
        payload={
            **_OKTA,
            "cid": "0oa7c1b0aVQx1c5Zy5d7",
            "scp": ["orders:read"],
            "sub": "0oa7c1b0aVQx1c5Zy5d7",
        },
        user=("sub",),
        client=("cid",),
        token=("jti",),
        limits=PLAIN_MACHINE,
        machine=True,
    ),
)

# Microsoft Entra ID. `iat` and `nbf` lie 300 s before the time of issue.

_TENANT: Final = "8f2c1a4e-3b7d-4f60-9c1e-5a6b7c8d9e0f"
_ENTRA_V1: Final = f"https://sts.windows.net/{_TENANT}/"
_ENTRA_V2: Final = f"https://login.microsoftonline.com/{_TENANT}/v2.0"
_ENTRA_API: Final = "4c1d2e3f-5a6b-47c8-9d0e-1f2a3b4c5d6e"
_ENTRA_CLIENT: Final = "b7e6d5c4-a3b2-41f0-8e9d-7c6b5a493827"
_ENTRA_SETTINGS: Final[Mapping[str, Any]] = {
    "profile": "entra",
    "issuer": _ENTRA_V2,
    "issuer_aliases": [_ENTRA_V1],
    "audiences": [_ENTRA_API, f"api://{_ENTRA_API}"],
}
_ENTRA: Final[Mapping[str, Any]] = {
    "iat": At(-300),
    "nbf": At(-300),
    "exp": At(75 * 60),
    "aio": "AXQAi/8IAAAAtFQ2m1dVbX0xZc3Hc9Yq",
    "name": "Alice Example",
    "oid": "2b1a0f9e-8d7c-4b6a-9584-736251403f2e",
    "rh": "1.AXoAThosjz07YE-cHlprfI2eDw.",
    "scp": "orders.read orders.write",
    "sub": "uK3b1o0r4mXq8Zt6yW2sVn5cLhDfPgJeAiRkTzB7MxQ",
    "tid": _TENANT,
    "uti": "fqXc0kYb5kK3m1pQd8oSAA",
}
_ENTRA_2: Final[Mapping[str, Any]] = {
    **_ENTRA,
    "aud": _ENTRA_API,
    "iss": _ENTRA_V2,
    "azp": _ENTRA_CLIENT,
    "azpacr": "1",
    "preferred_username": "alice@example.com",
    "sid": "0061d2c7-9a43-4c0e-b0f5-6f3e2d1c0b9a",
    "ver": "2.0",
}

ENTRA: Final = (
    ProviderToken(
        name="Entra ID v1.0",
        page="entra",
        settings={**_ENTRA_SETTINGS, "claims": {"revocable": ["groups"]}},
        header={**JWT, "x5t": "Kd3T0uVq1s5r7hX9zB2nM4pL6wE"},
        payload={
            **_ENTRA,
            "aud": f"api://{_ENTRA_API}",
            "iss": _ENTRA_V1,
            "acr": "1",
            "amr": ["pwd", "mfa"],
            "appid": _ENTRA_CLIENT,
            "appidacr": "1",
            "groups": ["9d8c7b6a-5f4e-4d3c-8b2a-190817263544"],
            "ipaddr": "203.0.113.7",
            "unique_name": "alice@example.com",
            "upn": "alice@example.com",
            "ver": "1.0",
        },
        user=("oid", "sub"),
        client=("appid",),
        token=("uti",),
        claim=("groups",),
        limits={
            "session": NO_OPTIONAL_SESSION,
            "backchannel": FRONT_CHANNEL,
        },
    ),
    ProviderToken(
        name="Entra ID v2.0, `iat_backdated`",
        page="entra",
        settings={**_ENTRA_SETTINGS, "iat_backdated": 300, "claims": {"revocable": ["tid"]}},
        payload=_ENTRA_2,
        user=("oid", "sub"),
        session=("sid",),
        client=("azp",),
        token=("uti",),
        claim=("tid",),
        limits={"backchannel": FRONT_CHANNEL},
    ),
    ProviderToken(
        name="Entra ID v2.0, 28 hours",
        page="entra",
        settings={**_ENTRA_SETTINGS, "max_token_lifetime": 29 * HOUR, "claims": {"revocable": ["tid"]}},
        payload={**_without(_ENTRA_2, "sid"), "exp": At(28 * HOUR), "xms_cc": ["cp1"]},
        user=("oid", "sub"),
        client=("azp",),
        token=("uti",),
        claim=("tid",),
        limits={
            "session": NO_OPTIONAL_SESSION,
            "backchannel": FRONT_CHANNEL,
        },
    ),
    ProviderToken(
        name="Entra ID v2.0, machine",
        page="entra",
        settings={**_ENTRA_SETTINGS, "claims": {"revocable": ["tid"]}},
        payload={
            "aud": _ENTRA_API,
            "iss": _ENTRA_V2,
            "iat": At(-300),
            "nbf": At(-300),
            "exp": At(HOUR),
            "aio": "k2RgYLh0Zl7bqXwz9b1cAA==",
            "azp": "d1c0b9a8-7f6e-4d5c-8b3a-291807160504",
            "azpacr": "2",
            "oid": "3c2b1a09-8f7e-4d6c-9b5a-493827160514",
            "rh": "1.AXoAThosjz07YE-cHlprfI2eDw.",
            "roles": ["Orders.Read.All"],
            "sub": "3c2b1a09-8f7e-4d6c-9b5a-493827160514",
            "tid": _TENANT,
            "uti": "Zr0m1nQk2Uy3xW4vB5tSAA",
            "ver": "2.0",
        },
        user=("oid", "sub"),
        client=("azp",),
        token=("uti",),
        claim=("tid",),
        limits=MACHINE,
        machine=True,
    ),
    ProviderToken(
        name="Entra B2C",
        page="entra",
        settings={
            "profile": "entra-b2c",
            "issuer": f"https://shop.b2clogin.com/{_TENANT}/v2.0/",
            "audiences": [_ENTRA_API],
            "claims": {"revocable": ["emails"]},
        },
        payload={
            "iss": f"https://shop.b2clogin.com/{_TENANT}/v2.0/",
            "exp": At(HOUR),
            "nbf": At(0),
            "iat": At(0),
            "aud": _ENTRA_API,
            "oid": "5e4d3c2b-1a09-4f8e-9d7c-6b5a49382716",
            "sub": "5e4d3c2b-1a09-4f8e-9d7c-6b5a49382716",
            "emails": ["alice@example.com"],
            "tfp": "B2C_1_sign_in",
            "nonce": "defaultNonce",
            "scp": "orders.read",
            "azp": _ENTRA_CLIENT,
            "ver": "1.0",
        },
        user=("oid", "sub"),
        client=("azp",),
        claim=("emails",),
        limits={"token": NO_TOKEN_ID, "session": NO_SESSION, "backchannel": FRONT_CHANNEL},
    ),
)

# Amazon Cognito

_POOL: Final = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_aB3dE5fG7"
_COGNITO_CLIENT: Final = "5k2h1j0g9f8d7s6a5p4o3i2u1y"
_COGNITO: Final[Mapping[str, Any]] = {
    "sub": "63c4f8a2-d0b1-70e5-9c3a-1f2e3d4c5b6a",
    "cognito:groups": ["premium"],
    "iss": _POOL,
    "origin_jti": "c0a1b2c3-d4e5-4f60-8a1b-2c3d4e5f6071",
    "event_id": "0d1c2b3a-4958-4768-9786-a5b4c3d2e1f0",
    "auth_time": At(-60),
    "exp": At(HOUR),
    "iat": At(0),
    "jti": "f1e2d3c4-b5a6-4978-8897-a6b5c4d3e2f1",
}

COGNITO: Final = (
    ProviderToken(
        name="Cognito, access token",
        page="cognito",
        settings={
            "profile": "cognito",
            "issuer": _POOL,
            "client_ids": either(_COGNITO_CLIENT),
            "claims": {"revocable": ["cognito:groups"]},
        },
        header=UNTYPED,
        payload={
            **_COGNITO,
            "client_id": _COGNITO_CLIENT,
            "token_use": "access",
            "scope": "openid email",
            "version": 2,
            "username": "alice",
        },
        user=("sub",),
        session=("origin_jti",),
        client=("client_id",),
        token=("jti",),
        claim=("cognito:groups",),
        limits={"backchannel": NO_BACKCHANNEL},
    ),
    ProviderToken(
        name="Cognito, ID token",
        page="cognito",
        settings={
            "profile": "cognito",
            "issuer": _POOL,
            "audiences": either(_COGNITO_CLIENT),
            "accept_id_tokens": True,
            "claims": {"client_id": ["client_id", "aud"], "revocable": ["email"]},
        },
        header=UNTYPED,
        payload={
            **_COGNITO,
            "aud": _COGNITO_CLIENT,
            "token_use": "id",
            "at_hash": "Qn4W2r9tXb7mK1pZ5cV0sA",
            "cognito:username": "alice",
            "email_verified": True,
            "email": "Alice@example.com",
        },
        user=("sub",),
        session=("origin_jti",),
        client=("aud",),
        token=("jti",),
        claim=("email",),
        limits={"backchannel": NO_BACKCHANNEL},
    ),
    ProviderToken(
        name="Cognito, machine",
        page="cognito",
        settings={"profile": "cognito", "issuer": _POOL, "client_ids": either("1m2n3b4v5c6x7z8l9k0j1h2g3f")},
        header=UNTYPED,
        payload={
            "sub": "1m2n3b4v5c6x7z8l9k0j1h2g3f",
            "token_use": "access",
            "scope": "orders/read",
            "auth_time": At(0),
            "iss": _POOL,
            "exp": At(HOUR),
            "iat": At(0),
            "version": 2,
            "jti": "a9b8c7d6-e5f4-4032-9120-0f1e2d3c4b5a",
            "client_id": "1m2n3b4v5c6x7z8l9k0j1h2g3f",
        },
        user=("sub",),
        client=("client_id",),
        token=("jti",),
        limits=PLAIN_MACHINE,
        machine=True,
    ),
)

# Google

_GOOGLE_CLIENT: Final = "123456789012-a1b2c3d4e5f6g7h8i9j0.apps.googleusercontent.com"
_GOOGLE_SETTINGS: Final[Mapping[str, Any]] = {
    "profile": "google",
    "issuer": "https://accounts.google.com",
    "issuer_aliases": ["accounts.google.com"],
    "audiences": [_GOOGLE_CLIENT],
    "claims": {"revocable": ["hd"]},
}
_GOOGLE: Final[Mapping[str, Any]] = {
    "azp": _GOOGLE_CLIENT,
    "aud": _GOOGLE_CLIENT,
    "sub": "110169484474386276334",
    "hd": "example.com",
    "email": "alice@example.com",
    "email_verified": True,
    "iat": At(0),
    "exp": At(HOUR),
}

GOOGLE: Final = (
    ProviderToken(
        name="Google, ID token of the code flow",
        page="google",
        settings=_GOOGLE_SETTINGS,
        payload={
            **_GOOGLE,
            "iss": "https://accounts.google.com",
            "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q",
            "nonce": "0394852-3190485-2490358",
        },
        user=("sub",),
        client=("azp",),
        claim=("hd",),
        limits={"token": NO_TOKEN_ID, "session": NO_SESSION_IN_ID_TOKEN, "backchannel": NO_BACKCHANNEL},
    ),
    ProviderToken(
        name="Google, ID token with `jti`, `iss` without `https://`",
        page="google",
        settings=_GOOGLE_SETTINGS,
        payload={
            **_GOOGLE,
            "iss": "accounts.google.com",
            "nbf": At(-300),
            "name": "Alice Example",
            "jti": "9e6f1c0b3a2d4e5f60718293a4b5c6d7e8f90a1b",
        },
        user=("sub",),
        client=("azp",),
        token=("jti",),
        claim=("hd",),
        limits={"session": NO_SESSION_IN_ID_TOKEN, "backchannel": NO_BACKCHANNEL},
    ),
)

# PingOne

_PINGONE: Final = "https://auth.pingone.eu/1f2e3d4c-5b6a-4798-8796-a5b4c3d2e1f0/as"
_PINGONE_SETTINGS: Final[Mapping[str, Any]] = {
    "profile": "pingone",
    "issuer": _PINGONE,
    "audiences": ["https://orders.example.com"],
}

PINGONE: Final = (
    ProviderToken(
        name="PingOne",
        page="pingone",
        settings={**_PINGONE_SETTINGS, "claims": {"revocable": ["tenant"]}},
        header=UNTYPED,
        payload={
            "client_id": "0a1b2c3d-4e5f-4061-8273-8495a6b7c8d9",
            "iss": _PINGONE,
            "iat": At(0),
            "exp": At(HOUR),
            "aud": ["https://orders.example.com"],
            "scope": "orders:read openid",
            "sub": "d9c8b7a6-9584-4372-8160-5f4e3d2c1b0a",
            "sid": "6a5b4c3d-2e1f-4001-9223-3445566778a9",
            "acr": "Single_Factor",
            "auth_time": At(-60),
            "tenant": "shop-north",
        },
        user=("sub",),
        session=("sid",),
        client=("client_id",),
        claim=("tenant",),
        limits={"token": NO_TOKEN_ID, "backchannel": NO_BACKCHANNEL},
    ),
    ProviderToken(
        name="PingOne, machine",
        page="pingone",
        settings=_PINGONE_SETTINGS,
        header=RFC_9068,
        payload={
            "client_id": "c1b2a394-8576-4061-b243-a4958677c8d9",
            "iss": _PINGONE,
            "iat": At(0),
            "exp": At(HOUR),
            "aud": ["https://orders.example.com"],
            "scope": "orders:read",
        },
        user=("client_id",),
        client=("client_id",),
        limits={**PLAIN_MACHINE, "token": NO_TOKEN_ID},
        machine=True,
    ),
)

# Zitadel

_ZITADEL: Final = "https://shop-a1b2c3.zitadel.cloud"
_ZITADEL_CLIENT: Final = "243864426485212395"
_ZITADEL_RESOURCE_OWNER: Final = "urn:zitadel:iam:user:resourceowner:id"
_ZITADEL_TOKEN: Final[Mapping[str, Any]] = {
    "iss": _ZITADEL,
    "sub": "164849494297477377",
    "aud": [_ZITADEL_CLIENT, "243864381169886443"],
    "exp": At(12 * HOUR),
    "iat": At(0),
    "nbf": At(0),
    "client_id": _ZITADEL_CLIENT,
    "jti": "V2_297364812345678901-at_297364812345744437",
}
_ZITADEL_SETTINGS: Final[Mapping[str, Any]] = {
    "profile": "zitadel",
    "issuer": _ZITADEL,
    "audiences": ["243864381169886443"],
    "backchannel_audience": _ZITADEL_CLIENT,
}

ZITADEL: Final = (
    ProviderToken(
        name="Zitadel",
        page="zitadel",
        settings={**_ZITADEL_SETTINGS, "claims": {"revocable": [_ZITADEL_RESOURCE_OWNER]}},
        payload={**_ZITADEL_TOKEN, _ZITADEL_RESOURCE_OWNER: "163840776835432705"},
        user=("sub",),
        client=("client_id",),
        token=("jti",),
        claim=(_ZITADEL_RESOURCE_OWNER,),
        limits={"session": NO_SESSION},
        logout={
            "iss": _ZITADEL,
            "sub": "164849494297477377",
            "aud": [_ZITADEL_CLIENT],
            "iat": At(0),
            "exp": At(901),
            "jti": "297364834498921137",
            "events": {LOGOUT_EVENT: {}},
            "sid": "V1_297364818980034004",
        },
        logout_header=JWT,
        logout_ends="user",
    ),
    ProviderToken(
        name="Zitadel, machine",
        page="zitadel",
        settings=_ZITADEL_SETTINGS,
        payload={**_ZITADEL_TOKEN, "sub": "170088295403946241", "client_id": "billing-job"},
        user=("sub",),
        client=("client_id",),
        token=("jti",),
        limits=PLAIN_MACHINE,
        machine=True,
    ),
)

# authentik

_AUTHENTIK: Final = "https://auth.example.com/application/o/shop/"
_AUTHENTIK_CLIENT: Final = "Yh3kQ9sW1xZ7vB5nM2pL8rT4cD6fG0jH"
_AUTHENTIK_USER: Final = "7d9f2c4b6a8e0d1f3c5b7a9e8d6f4c2b0a1e3d5f7c9b8a6e4d2f0c1b3a5e7d9f"
_AUTHENTIK_SID: Final = "2f4c6b8a0e1d3f5c7b9a8e6d4f2c0b1a3e5d7f9c8b6a4e2d0f1c3b5a7e9d8f6c"
_AUTHENTIK_TOKEN: Final[Mapping[str, Any]] = {
    "iss": _AUTHENTIK,
    "sub": _AUTHENTIK_USER,
    "aud": _AUTHENTIK_CLIENT,
    "exp": At(600),
    "iat": At(0),
    "auth_time": At(-60),
    "acr": "goauthentik.io/providers/oauth2/default",
    "amr": ["pwd", "mfa"],
    "sid": _AUTHENTIK_SID,
    "email": "alice@example.com",
    "email_verified": True,
    "preferred_username": "alice",
    "groups": ["customers"],
    "azp": _AUTHENTIK_CLIENT,
    "uid": "kR8mT3vX1zB6nQ0pS5wY2cD7fG4hJ9lA",
    "scope": "openid email profile",
}
_AUTHENTIK_SETTINGS: Final[Mapping[str, Any]] = {
    "profile": "authentik",
    "issuer": _AUTHENTIK,
    "audiences": [_AUTHENTIK_CLIENT],
    "backchannel_audience": _AUTHENTIK_CLIENT,
    "claims": {"revocable": ["groups"]},
}
_AUTHENTIK_LOGOUT: Final[Mapping[str, Any]] = {
    "iss": _AUTHENTIK,
    "aud": _AUTHENTIK_CLIENT,
    "iat": At(0),
    "jti": "0b1a2c3d-4e5f-4607-8192-a3b4c5d6e7f8",
    "events": {LOGOUT_EVENT: {}},
    "sid": _AUTHENTIK_SID,
    "sub": _AUTHENTIK_USER,
}

AUTHENTIK: Final = (
    ProviderToken(
        name="authentik, first token (`nonce`)",
        page="authentik",
        settings=_AUTHENTIK_SETTINGS,
        payload={**_AUTHENTIK_TOKEN, "nonce": "d8Kq2mZ5xV1b"},
        user=("sub",),
        session=("sid",),
        client=("azp",),
        token=("uid",),
        claim=("groups",),
        logout=_AUTHENTIK_LOGOUT,
        logout_ends="session",
    ),
    ProviderToken(
        name="authentik, refreshed token",
        page="authentik",
        settings=_AUTHENTIK_SETTINGS,
        payload=_AUTHENTIK_TOKEN,
        user=("sub",),
        session=("sid",),
        client=("azp",),
        token=("uid",),
        claim=("groups",),
        logout={**_AUTHENTIK_LOGOUT, "exp": At(120)},
        logout_ends="session",
    ),
)

# AD FS. `auth_time` is an ISO date.

_ADFS: Final[Mapping[str, Any]] = {
    "aud": "microsoft:identityserver:3d2c1b0a-9f8e-4d7c-8b6a-594837261504",
    "iss": "http://fs.example.com/adfs/services/trust",
    "iat": At(0),
    "exp": At(HOUR),
    "apptype": "Confidential",
    "appid": "e0d1c2b3-a495-4867-9758-6a7b8c9d0e1f",
    "authmethod": "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport",
    "auth_time": IsoAt(-60),
    "ver": "1.0",
}
_ADFS_SETTINGS: Final[Mapping[str, Any]] = {
    "profile": "adfs",
    "issuer": "http://fs.example.com/adfs/services/trust",
    "audiences": ["microsoft:identityserver:3d2c1b0a-9f8e-4d7c-8b6a-594837261504"],
}

ADFS: Final = (
    ProviderToken(
        name="AD FS",
        page="adfs",
        settings={**_ADFS_SETTINGS, "claims": {"revocable": ["group"]}},
        header={**JWT, "x5t": "Pq7rT1uV3wX5yZ9aB2cD4eF6gH8"},
        payload={
            **_ADFS,
            "upn": "alice@example.com",
            "sid": "S-1-5-21-1004336348-1177238915-682003330-1105",
            "group": ["Domain Users", "Shop Admins"],
            "scp": "openid",
        },
        user=("upn",),
        client=("appid",),
        claim=("group",),
        limits={"token": NO_TOKEN_ID, "session": NO_SESSION, "backchannel": FRONT_CHANNEL},
    ),
    ProviderToken(
        name="AD FS, machine",
        page="adfs",
        settings={**_ADFS_SETTINGS, "claims": {"sub": ["upn", "appid"], "revocable": ["apptype"]}},
        payload={**_ADFS, "authmethod": "http://schemas.microsoft.com/ws/2012/12/authmethod/clientsecret"},
        user=("appid",),
        client=("appid",),
        claim=("apptype",),
        limits={**MACHINE, "token": NO_TOKEN_ID},
        machine=True,
    ),
)

# Firebase

FIREBASE: Final = (
    ProviderToken(
        name="Firebase, ID token",
        page="firebase",
        settings={
            "profile": "firebase",
            "issuer": "https://securetoken.google.com/shop-a1b2c",
            "audiences": ["shop-a1b2c"],
            "claims": {"revocable": ["email"]},
        },
        payload={
            "iss": "https://securetoken.google.com/shop-a1b2c",
            "aud": "shop-a1b2c",
            "auth_time": At(-60),
            "user_id": "kT8mZ3vX1bN6qR0pS5wYcD7fG4h2",
            "sub": "kT8mZ3vX1bN6qR0pS5wYcD7fG4h2",
            "iat": At(0),
            "exp": At(HOUR),
            "email": "alice@example.com",
            "email_verified": True,
            "firebase": {
                "identities": {"email": ["alice@example.com"]},
                "sign_in_provider": "password",
            },
        },
        user=("sub", "user_id"),
        claim=("email",),
        limits={
            "token": NO_TOKEN_ID,
            "session": NO_SESSION_IN_ID_TOKEN,
            "client": "no client: `aud` is the project",
            "backchannel": NO_BACKCHANNEL,
        },
    ),
)

# Supabase

SUPABASE: Final = (
    ProviderToken(
        name="Supabase",
        page="supabase",
        settings={
            "profile": "supabase",
            "issuer": "https://abcdefghijklmnopqrst.supabase.co/auth/v1",
            "audiences": ["authenticated"],
            "claims": {"revocable": ["email"]},
        },
        header={"alg": "ES256", "typ": "JWT"},
        payload={
            "iss": "https://abcdefghijklmnopqrst.supabase.co/auth/v1",
            "sub": "1c2d3e4f-5061-4273-8495-a6b7c8d9e0f1",
            "aud": "authenticated",
            "exp": At(HOUR),
            "iat": At(0),
            "email": "alice@example.com",
            "phone": "",
            "app_metadata": {"provider": "email", "providers": ["email"]},
            "user_metadata": {"email_verified": True},
            "role": "authenticated",
            "aal": "aal1",
            "amr": [{"method": "password", "timestamp": 1_760_000_000}],
            "session_id": "9f8e7d6c-5b4a-4392-8170-6f5e4d3c2b1a",
            "is_anonymous": False,
        },
        user=("sub",),
        session=("session_id",),
        claim=("email",),
        limits={
            "token": NO_TOKEN_ID,
            "client": "no client, except in tokens of its OAuth server",
            "backchannel": NO_BACKCHANNEL,
        },
    ),
)

# Clerk

_CLERK: Final = "https://clean-mayfly-62.clerk.accounts.dev"

CLERK: Final = (
    ProviderToken(
        name="Clerk, session token",
        page="clerk",
        settings={
            "profile": "clerk",
            "issuer": _CLERK,
            "client_ids": either("https://shop.example.com"),
            "claims": {"revocable": ["org_id"]},
        },
        header={**JWT, "cat": "cl_B7d4PD111AAA"},
        payload={
            "azp": "https://shop.example.com",
            "exp": At(60),
            "fva": [1, -1],
            "iat": At(0),
            "iss": _CLERK,
            "jti": "3b6a0c1d2e4f5a6b7c8d",
            "nbf": At(-10),
            "org_id": "org_2kT8mZ3vX1bN6qR0pS5wYcD7fG4",
            "sid": "sess_2kT8nA4wY2cO7rS1qT6xZdE8gH5",
            "sts": "active",
            "sub": "user_2kT8nB5xZ3dP8sT2rU7yAeF9hI6",
            "v": 2,
        },
        user=("sub",),
        session=("sid",),
        client=("azp",),
        token=("jti",),
        claim=("org_id",),
        limits={"backchannel": NO_BACKCHANNEL},
    ),
    ProviderToken(
        name="Clerk, machine",
        page="clerk",
        settings={
            "profile": "clerk",
            "issuer": _CLERK,
            "audiences": ["mch_2kT8nC6yA4eQ9tU3sV8zBfG0iJ7"],
        },
        payload={
            "aud": ["mch_2kT8nC6yA4eQ9tU3sV8zBfG0iJ7"],
            "exp": At(HOUR),
            "iat": At(0),
            "iss": _CLERK,
            "jti": "mt_2kT8nD7zB5fR0uV4tW9aCgH1jK8",
            "nbf": At(-10),
            "scopes": "mch_2kT8nC6yA4eQ9tU3sV8zBfG0iJ7",
            "sub": "mch_2kT8nE8aC6gS1vW5uX0bDhI2kL9",
        },
        user=("sub",),
        token=("jti",),
        limits={**PLAIN_MACHINE, "client": "no client: `sub` is the machine"},
        machine=True,
    ),
)

# Kinde

_KINDE_CLIENT: Final = "dee7f3c57b3c47e8b96edde2c7ecab7d"

KINDE: Final = (
    ProviderToken(
        name="Kinde, `aud` is empty",
        page="kinde",
        settings={
            "profile": "kinde",
            "issuer": "https://shop.kinde.com",
            "client_ids": either(_KINDE_CLIENT),
            "claims": {"revocable": ["org_code"]},
        },
        payload={
            "aud": [],
            "azp": _KINDE_CLIENT,
            "exp": At(DAY),
            "iat": At(0),
            "iss": "https://shop.kinde.com",
            "jti": "27daa125-2fb2-4e14-9270-742cd56e764b",
            "org_code": "org_5a6b7c8d9e0",
            "permissions": ["orders:read"],
            "scp": ["openid", "profile", "email", "offline"],
            "sub": "kp_1a2b3c4d5e6f708192a3b4c5d6e7f809",
        },
        user=("sub",),
        client=("azp",),
        token=("jti",),
        claim=("org_code",),
        limits={"session": NO_SESSION, "backchannel": NO_BACKCHANNEL},
    ),
    ProviderToken(
        name="Kinde, machine",
        page="kinde",
        settings={
            "profile": "kinde",
            "issuer": "https://shop.kinde.com",
            "audiences": ["https://orders.example.com"],
            "claims": {"revocable": ["gty"]},
        },
        payload={
            "aud": ["https://orders.example.com"],
            "azp": "d4d3c5b74e064badb9625a4aa6241bcc",
            "exp": At(DAY),
            "gty": ["client_credentials"],
            "iat": At(0),
            "iss": "https://shop.kinde.com",
            "jti": "f95ed3e0-cc4d-40c4-b95a-9971729b0ae5",
            "scope": "orders:read",
            "scp": ["orders:read"],
            "v": "2",
        },
        user=("azp",),
        client=("azp",),
        token=("jti",),
        claim=("gty",),
        limits=MACHINE,
        machine=True,
    ),
)

# Logto

_LOGTO: Final = "https://a1b2c3.logto.app/oidc"
_LOGTO_CLIENT: Final = "k8m2v5x1z7b3n6q0p4s9w"
_LOGTO_SETTINGS: Final[Mapping[str, Any]] = {
    "profile": "logto",
    "issuer": _LOGTO,
    "audiences": ["https://orders.example.com"],
    "backchannel_audience": _LOGTO_CLIENT,
}
_LOGTO_HEADER: Final[Mapping[str, Any]] = {"alg": "ES384", "typ": "at+jwt"}

LOGTO: Final = (
    ProviderToken(
        name="Logto",
        page="logto",
        settings={**_LOGTO_SETTINGS, "claims": {"revocable": ["organization_id"]}},
        header=_LOGTO_HEADER,
        payload={
            "jti": "pZ5cV0sAQn4W2r9tXb7mK",
            "sub": "r4t7y1u9i3o6",
            "iat": At(0),
            "exp": At(HOUR),
            "scope": "orders:read",
            "client_id": _LOGTO_CLIENT,
            "iss": _LOGTO,
            "aud": "https://orders.example.com",
            "organization_id": "o5p8a2s0d7f1",
        },
        user=("sub",),
        client=("client_id",),
        token=("jti",),
        claim=("organization_id",),
        limits={"session": NO_SESSION},
        logout={
            "sub": "r4t7y1u9i3o6",
            "sid": "x9c2v6b0n4m8",
            "events": {LOGOUT_EVENT: {}},
            "iat": At(0),
            "exp": At(120),
            "jti": "mK1pZ5cV0sAQn4W2r9tXb",
            "aud": _LOGTO_CLIENT,
            "iss": _LOGTO,
        },
        logout_header={"alg": "ES384", "typ": "logout+jwt"},
        logout_ends="user",
    ),
    ProviderToken(
        name="Logto, machine",
        page="logto",
        settings=_LOGTO_SETTINGS,
        header=_LOGTO_HEADER,
        payload={
            "jti": "W2r9tXb7mK1pZ5cV0sAQn",
            "sub": "g3h6j0k4l8z2x5c9v1b7n",
            "iat": At(0),
            "exp": At(HOUR),
            "scope": "orders:read",
            "client_id": "g3h6j0k4l8z2x5c9v1b7n",
            "iss": _LOGTO,
            "aud": "https://orders.example.com",
        },
        user=("sub",),
        client=("client_id",),
        token=("jti",),
        limits=PLAIN_MACHINE,
        machine=True,
    ),
)

# Kubernetes

_CLUSTER: Final = "https://kubernetes.default.svc.cluster.local"
_SERVICE_ACCOUNT: Final[Mapping[str, Any]] = {
    "iss": _CLUSTER,
    "iat": At(0),
    "nbf": At(0),
    "jti": "7ee52be0-9045-4653-aa5e-0da57b8dccdc",
    "sub": "system:serviceaccount:shop:billing-job",
}
_POD: Final[Mapping[str, Any]] = {
    "namespace": "shop",
    "node": {"name": "worker-1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
    "pod": {"name": "billing-job-29312-x7k2p", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
    "serviceaccount": {"name": "billing-job", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
}
_SERVICE_ACCOUNT_LIMITS: Final[Mapping[Action, str]] = {
    **PLAIN_MACHINE,
    "client": "no client: `sub` is the service account",
}

KUBERNETES: Final = (
    ProviderToken(
        name="Kubernetes, service account",
        page="kubernetes",
        settings={"profile": "kubernetes", "issuer": _CLUSTER, "audiences": ["orders"]},
        header=UNTYPED,
        payload={**_SERVICE_ACCOUNT, "aud": ["orders"], "exp": At(HOUR), "kubernetes.io": _POD},
        user=("sub",),
        token=("jti",),
        limits=_SERVICE_ACCOUNT_LIMITS,
        machine=True,
    ),
    ProviderToken(
        name="Kubernetes, service account, one year",
        page="kubernetes",
        settings={
            "profile": "kubernetes",
            "issuer": _CLUSTER,
            "audiences": [_CLUSTER],
            "max_token_lifetime": 366 * DAY,
        },
        header=UNTYPED,
        payload={
            **_SERVICE_ACCOUNT,
            "aud": [_CLUSTER],
            "exp": At(365 * DAY + 7),
            "kubernetes.io": {**_POD, "warnafter": 1_760_003_607},
        },
        user=("sub",),
        token=("jti",),
        limits=_SERVICE_ACCOUNT_LIMITS,
        machine=True,
    ),
)

PROVIDERS: Final[tuple[ProviderToken, ...]] = (
    *KEYCLOAK, *AUTH0, *OKTA, *ENTRA, *COGNITO, *GOOGLE, *PINGONE, *ZITADEL, *AUTHENTIK, *ADFS, *FIREBASE,
    *SUPABASE, *CLERK, *KINDE, *LOGTO, *KUBERNETES,
)  # fmt: skip
