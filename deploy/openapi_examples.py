"""Examples of requests and responses for the OpenAPI document; a test sends them to a real service."""

from collections.abc import Mapping
from typing import Any, Final

_NOW: Final = 1790000000
_ISSUER: Final = "https://idp.example.com"
_SESSIONS_ISSUER: Final = "https://sessions.example.com"
_SID: Final = "lXy9G5hQ2vTn8RkZ0aWcEuPqY7sMdJfB3iVxKA"
_TOKEN: Final = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImtleS0xIn0.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
_REFRESH_TOKEN: Final = "rvr1.bFh5OUc1aFEydlRuOFJrWjBhV2NFdVBxWTdzTWRKZkI.c2VjcmV0"
_CLAIMS: Final = {
    "iss": _ISSUER,
    "sub": "alice",
    "aud": "api://orders",
    "jti": "a8c1f3",
    "iat": _NOW - 60,
    "exp": _NOW + 3600,
}
_CUTOFF: Final = {"cutoff": _NOW + 0.316, "iat_after": _NOW + 2.316}
_CURSOR: Final = "AULVuAkNZrVAAAABoihaZNwAAAAAAAAAAA"
_LINE: Final = f'{{"kind":"jti","iss":"{_ISSUER}","jti":"a8c1f3"}}'
_TOKENS: Final = {
    "sid": _SID,
    "access_token": _TOKEN,
    "token_type": "Bearer",
    "expires_in": 300,
    "scope": "orders:read",
}

Named = Mapping[str, Any]
"""Values by what they show."""

PARAMETERS: Final[Named] = {
    "sid": _SID,
    "sub": "alice",
    "limit": 100,
    "wait": 25,
    "name": "edge-7",
    "X-Revoker-Require": 'scope="orders:read"; max_age=300',
}
"""By name; others have no example."""

BODIES: Final[Mapping[tuple[str, str], Named]] = {
    ("post", "/introspect"): {
        "a token": {"token": _TOKEN},
        "claims of a token that the gateway has verified": {"claims": _CLAIMS, "header": {"kid": "key-1"}},
    },
    ("post", "/introspect/batch"): {
        "a token and claims": {
            "tokens": [{"token": _TOKEN}, {"claims": _CLAIMS, "header": {"kid": "key-1"}}],
        }
    },
    ("post", "/revoke"): {
        "a token": {"token": _TOKEN},
        "by its id": {"jti": "a8c1f3", "iss": _ISSUER, "exp": _NOW + 3600},
    },
    ("post", "/revoke-user"): {
        "log a user out everywhere": {"sub": "alice", "iss": _ISSUER, "reason": "laptop stolen"},
        "everywhere but in one session": {"sub": "alice", "iss": _ISSUER, "except_sid": "s-1093"},
        "what that would do": {"sub": "alice", "iss": _ISSUER, "dry_run": True},
        "answered once all edges have it": {"sub": "alice", "iss": _ISSUER, "wait_edges": True},
    },
    ("post", "/revoke-session"): {"end a session": {"sid": "s-1093", "iss": _ISSUER}},
    ("post", "/revoke-client"): {"what a client was given": {"client_id": "reports", "iss": _ISSUER}},
    ("post", "/revoke-claim"): {
        "what one grant has led to": {"claim": "grant_id", "value": "g-77", "iss": _ISSUER}
    },
    ("post", "/revoke-issuer"): {"everything of an issuer": {"iss": _ISSUER, "reason": "break-in"}},
    ("post", "/revoke-key"): {"a stolen key": {"kid": "key-1", "iss": _ISSUER, "reason": "key stolen"}},
    ("post", "/block-user"): {
        "for an hour": {"sub": "mallory", "iss": _ISSUER, "until": _NOW + 3600},
        "for good": {"sub": "mallory", "iss": _ISSUER, "reason": "left the company"},
    },
    ("post", "/unblock-user"): {"end a block": {"sub": "mallory", "iss": _ISSUER}},
    ("post", "/explain"): {"a token": {"token": _TOKEN}},
    ("post", "/backchannel-logout"): {"a logout token": {"logout_token": _TOKEN}},
    ("post", "/feed/confirm"): {
        "everything up to there": {"cursor": _CURSOR, "as_of": _NOW * 1000, "name": "edge-7"}
    },
    ("post", "/sessions"): {
        "after a login": {"sub": "alice", "device": "phone", "scope": "orders:read", "amr": ["pwd"]}
    },
    ("post", "/sessions/{sid}/elevate"): {"a second factor": {"amr": ["pwd", "otp"], "acr": "mfa"}},
    ("post", "/token"): {
        "refresh a session": {"grant_type": "refresh_token", "refresh_token": _REFRESH_TOKEN}
    },
}
"""Request bodies by operation."""

_INACTIVE: Final = {"active": False}
_ACTIVE: Final = {
    "active": True,
    "scope": "orders:read",
    "client_id": "web",
    "token_type": "Bearer",
    **_CLAIMS,
}

ANSWERS: Final[Mapping[tuple[str, str, int], Named]] = {
    ("post", "/introspect", 200): {"active": _ACTIVE, "revoked, expired, or not genuine": _INACTIVE},
    ("post", "/introspect/batch", 200): {
        "a result for each token": {
            "results": [{"active": True}, {"active": False}, {"error": "invalid_request"}]
        }
    },
    ("get", "/forward-auth", 401): {
        "revoked, expired, or not genuine": {
            "error": "invalid_token",
            "error_description": "the token is not active",
        }
    },
    ("get", "/forward-auth", 403): {
        "without the scope": {"error": "insufficient_scope", "error_description": "the token lacks a scope"}
    },
    ("post", "/revoke-user", 200): {
        "the cutoff": {"iss": _ISSUER, "sub": "alice", **_CUTOFF},
        "what it would be": {
            "iss": _ISSUER,
            "sub": "alice",
            **_CUTOFF,
            "dry_run": {
                "changes": True,
                "sessions": 3,
                "sessions_exact": True,
                "covered_by": [],
                "standing": [],
            },
        },
        "all edges have it": {
            "iss": _ISSUER,
            "sub": "alice",
            **_CUTOFF,
            "edges": {"reached": 3, "connected": 3},
        },
    },
    ("post", "/revoke-session", 200): {"the cutoff": {"iss": _ISSUER, "sid": "s-1093", **_CUTOFF}},
    ("post", "/revoke-client", 200): {"the cutoff": {"iss": _ISSUER, "client_id": "reports", **_CUTOFF}},
    ("post", "/revoke-claim", 200): {
        "the cutoff": {"iss": _ISSUER, "claim": "grant_id", "value": "g-77", **_CUTOFF}
    },
    ("post", "/revoke-issuer", 200): {"the cutoff": {"iss": _ISSUER, **_CUTOFF}},
    ("post", "/revoke-key", 200): {
        "the key is revoked": {"iss": _ISSUER, "kid": "key-1", "revoked_at": _NOW + 0.316}
    },
    ("post", "/block-user", 200): {
        "for an hour": {"iss": _ISSUER, "sub": "mallory", "blocked": True, "until": _NOW + 3600},
        "for good": {"iss": _ISSUER, "sub": "mallory", "blocked": True, "until": None},
    },
    ("post", "/unblock-user", 200): {
        "no block": {"iss": _ISSUER, "sub": "mallory", "blocked": False, "until": None}
    },
    ("post", "/explain", 200): {
        "a user who was logged out": {
            "active": False,
            "reason": "user_cutoff",
            "standing": [{"kind": "user_cutoff", "since": _NOW + 0.316, "why": "laptop stolen"}],
        },
        "a token that is not genuine": {
            "active": False,
            "reason": "invalid",
            "standing": [],
            "why": "signature",
        },
    },
    ("get", "/feed/consumers", 200): {
        "one edge": {
            "consumers": [
                {
                    "name": "edge-7",
                    "caller": "edge",
                    "streams": 1,
                    "cursor": _CURSOR,
                    "confirmed": True,
                    "confirms": True,
                    "as_of": _NOW * 1000,
                    "lag": 0.412,
                }
            ]
        }
    },
    ("get", "/feed", 200): {"a change": f"id: {_CURSOR}\nevent: change\ndata: {_LINE}\n\n"},
    ("get", "/feed/snapshot", 200): {
        "its first line": f'{{"cursor":"{_CURSOR}","as_of":1790000000000,"format":1}}\n'
    },
    ("post", "/sessions", 201): {"a session": {**_TOKENS, "refresh_token": _REFRESH_TOKEN}},
    ("get", "/users/{sub}", 200): {
        "a user who was logged out": {
            "iss": _ISSUER,
            "sub": "alice",
            "blocked": False,
            "standing": [
                {
                    "kind": "user_cutoff",
                    "since": _NOW + 0.316,
                    "why": "laptop stolen",
                    "by": "support",
                    "made": _NOW + 0.316,
                }
            ],
            "sessions": [],
            "next": None,
        }
    },
    ("get", "/revocations", 200): {
        "the only page": {
            "revocations": [
                {"kind": "jti", "iss": _ISSUER, "jti": "t-1", "at": _NOW + 1, "expires": _NOW + 4000},
                {
                    "kind": "block",
                    "iss": _ISSUER,
                    "sub": "alice",
                    "reason": "fraud",
                    "by": "support",
                    "made": _NOW + 0.5,
                },
            ],
            "next": None,
        }
    },
    ("get", "/sessions", 200): {
        "the only page": {
            "sessions": [
                {
                    "sid": _SID,
                    "client_id": "web",
                    "device": "phone",
                    "ip": "192.0.2.7",
                    "user_agent": None,
                    "amr": ["pwd"],
                    "created": _NOW - 86400,
                    "last_used": _NOW - 60.25,
                    "expires": _NOW + 2592000,
                    "current": False,
                }
            ],
            "next": None,
        }
    },
    ("post", "/sessions/{sid}/elevate", 200): {"another access token": _TOKENS},
    ("post", "/token", 200): {"an access token": {**_TOKENS, "refresh_token": _REFRESH_TOKEN}},
    ("get", "/.well-known/jwks.json", 200): {
        "one key": {
            "keys": [
                {
                    "kty": "EC",
                    "crv": "P-256",
                    "kid": "key-2",
                    "use": "sig",
                    "alg": "ES256",
                    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
                    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
                }
            ]
        }
    },
    ("get", "/.well-known/oauth-authorization-server", 200): {
        "metadata": {
            "issuer": _SESSIONS_ISSUER,
            "token_endpoint": f"{_SESSIONS_ISSUER}/token",
            "jwks_uri": f"{_SESSIONS_ISSUER}/.well-known/jwks.json",
            "introspection_endpoint": f"{_SESSIONS_ISSUER}/introspect",
            "revocation_endpoint": f"{_SESSIONS_ISSUER}/revoke",
            "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
            "introspection_endpoint_auth_methods_supported": [
                "client_secret_basic",
                "client_secret_post",
                "Bearer",
            ],
            "revocation_endpoint_auth_methods_supported": [
                "client_secret_basic",
                "client_secret_post",
                "Bearer",
            ],
            "response_types_supported": [],
            "grant_types_supported": ["refresh_token"],
        }
    },
    ("get", "/livez", 200): {"alive": {"status": "ok"}},
    ("get", "/readyz", 200): {"ready": {"status": "ok", "problems": []}},
    ("get", "/readyz", 503): {"not ready yet": {"status": "starting", "problems": []}},
    ("get", "/metrics", 200): {"a metric": 'revoker_verdicts_total{verdict="active"} 1207.0\n'},
    ("get", "/openapi.json", 200): {"its first members": {"openapi": "3.1.0"}},
    ("get", "/docs", 200): {"its first line": "<!doctype html>"},
}
"""Bodies of responses by operation and status."""

POLLED: Final[Named] = {
    "a change": [
        {"event": "change", "id": _CURSOR, "data": {"kind": "jti", "iss": _ISSUER, "jti": "a8c1f3"}},
        {"event": "fresh", "data": {"as_of": _NOW * 1000, "cursor": _CURSOR}},
    ]
}
"""Bodies of answers to `GET /feed` with `wait`."""

DESCRIPTIONS: Final[Named] = {
    "invalid_request": "sub is missing",
    "invalid_client": "wrong credentials",
    "insufficient_scope": "this needs the scope revoke",
    "access_denied": "this caller may revoke its own client's tokens only",
    "slow_down": "the caller exceeds its rate limit",
    "unsupported_token_type": "a token without jti can't be revoked by itself",
    "invalid_grant": "the refresh token is wrong, spent or ended",
    "invalid_scope": "more scope than was granted",
    "unsupported_grant_type": "only refresh_token is supported",
    "temporarily_unavailable": "the store did not answer in time",
    "server_error": "the service failed",
}
"""An `error_description` for each error code; their text may change."""
