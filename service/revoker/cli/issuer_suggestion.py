"""The ``[[issuers]]`` table for the provider of a token."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, get_args
from urllib.parse import urlsplit

from revoker.cli.identity_providers import IdentityProvider, Recognized, recognize
from revoker.cli.issuer_terms import Terms, terms_of
from revoker.cli.pasted_token import UnusableToken, is_id_token, is_machine, present, printable
from revoker.cli.provider_documents import Discovery, is_local
from revoker.config import schema
from revoker.config.issuers import Algorithm
from revoker.config.schema import Settings
from revoker.config.value_types import HMAC_KEY_BYTES
from revoker.models import ClaimNames
from revoker.tokens.claims import scope_of
from revoker.tokens.parsing import UnverifiedToken

KEYS_PLACEHOLDER: Final = "https://jwks-uri.invalid/"
"""A valid setting that never leads anywhere (RFC 2606 §2)."""

AUDIENCE_PLACEHOLDER: Final = "replace-this"

_LIFETIME_STEP_S: Final = 3600

_GUESSES: Final[Mapping[str, tuple[str, ...]]] = {
    "jti": ("uti", "token_id"),
    "sub": ("oid", "user_id", "uid"),
    "sid": ("session_id", "session_state", "origin_jti"),
    "client_id": ("cid", "appid", "clientId"),
    "scope": ("scopes",),
}
"""Names that providers use for a claim, where the standard ones are missing."""

_GENERAL_AUDIENCES: Final = re.compile(r"account|broker|realm-management|https://[^/]+/userinfo")
"""Of the provider's own APIs: every token of a realm or tenant may have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A table of settings.

    Attributes:
        table: The settings, in the order in which they are printed.
        comments: Beside a setting.
        optional: Further lines, each commented out.
        notes: What the operator must know.
    """

    table: dict[str, Any]
    comments: dict[str, str] = field(default_factory=dict)
    optional: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    provider: IdentityProvider | None = None

    def toml(self) -> str:
        """The table as a part of a configuration file."""
        lines = ["[[issuers]]"]
        for name, value in self.table.items():
            comment = self.comments.get(name)
            lines.append(f"{name} = {_toml(value)}{f'  # {comment}' if comment else ''}")
        return "\n".join([*lines, *(f"# {line}" for line in self.optional)]) + "\n"

    def settings(self) -> Settings:
        """These settings alone, as the service reads them.

        Raises:
            ConfigError: a value of the token can't be a setting.
        """
        table = dict(self.table)
        if table.pop("hmac_secret_file", None):  # need not be there yet
            table |= {"algorithms": ["RS256"], "jwks_uri": KEYS_PLACEHOLDER}
        return schema.settle({"issuers": [table]}, {})

    def terms(self) -> Terms:
        """What the settings require, with the token's algorithm even where its secret is not there yet."""
        terms = terms_of(self.settings())[0]
        algorithms = frozenset(self.table.get("algorithms", terms.algorithms))
        return Terms(
            issuer=terms.issuer,
            audiences=terms.audiences,
            algorithms=algorithms,
            client_ids=terms.client_ids,
            id_tokens=terms.id_tokens,
            profile=terms.profile,
            logout_ends=terms.logout_ends,
        )


def suggest(token: UnverifiedToken, discovery: Discovery | None) -> Suggestion:
    """The settings by which a service accepts tokens like this one.

    Raises:
        UnusableToken: no settings can do that.
        ConfigError: a value of the token can't be a setting.
    """
    payload = token.payload
    iss = payload.get("iss")
    if type(iss) is not str or not iss:
        raise UnusableToken("no issuer", "a token without iss: no issuer can be configured for it")
    recognized = recognize(iss, payload)
    provider = recognized.provider if recognized else None
    suggestion = Suggestion(table={"name": _name(iss, provider)}, provider=provider)
    table, comments = suggestion.table, suggestion.comments
    if provider is not None:
        table["profile"] = provider.profile
    table["issuer"] = iss
    if recognized is not None and recognized.alias:
        table["issuer_aliases"] = [recognized.alias]
        comments["issuer_aliases"] = "the same users and keys under another iss"
    base = _defaults(suggestion)
    names = base.issuer.claim_names or ClaimNames()
    _map_claims(suggestion, payload, names, base)
    names = _defaults(suggestion).issuer.claim_names or ClaimNames()
    _add_audiences(suggestion, payload, names)
    _add_keys(suggestion, token, recognized, discovery, base)
    _add_lifetime(suggestion, payload, base)
    _add_options(suggestion, token, names, base, discovery)
    return suggestion


def _name(iss: str, provider: IdentityProvider | None) -> str:
    if provider is not None:
        return provider.profile
    try:
        host = urlsplit(iss).hostname or iss
    except ValueError:
        host = iss
    return re.sub(r"[^a-z0-9]+", "-", host.lower())[:32].strip("-") or "main"


def _defaults(suggestion: Suggestion) -> Terms:
    """The settings so far, with what is missing filled in."""
    filled = {"audiences": [AUDIENCE_PLACEHOLDER], "jwks_uri": KEYS_PLACEHOLDER, **suggestion.table}
    return terms_of(schema.settle({"issuers": [filled]}, {}))[0]


def _map_claims(suggestion: Suggestion, payload: dict[str, Any], names: ClaimNames, base: Terms) -> None:
    """Name the claims that neither the standard names nor those of the profile find."""
    claims: dict[str, list[str]] = {}
    client = present(names.client_id, payload)
    for claim, guesses in _GUESSES.items() if suggestion.provider is None else ():
        found: Sequence[str] = getattr(names, claim)
        if claim == "scope":
            guess = next((name for name in guesses if name in payload), None)
            guess = None if any(name in payload for name in found) else guess
        else:
            guess = None if present(found, payload) else present(guesses, payload)
        if guess is not None:
            claims[claim] = [guess]
            client = guess if claim == "client_id" else client
    own_sid = _own_sid(payload) if names.sid and not present(names.sid, payload) else None
    if own_sid is not None:
        claims["sid"] = [own_sid]
    if "sid" in claims:
        claims["sid"].append("sid")  # logout tokens have the standard name
    has_sub = present(names.sub, payload) or "sub" in claims
    # A user without sub is not the client, and a profile that leaves sub out does so on purpose.
    has_sid = present(names.sid, payload) or "sid" in claims
    if not has_sub and client and not has_sid and "sub" in names.sub:
        claims["sub"] = [*names.sub, client]
        suggestion.comments["claims"] = "tokens of machines have no sub: their client identifies them"
    elif claims:
        suggestion.comments["claims"] = (
            "guessed from the names in the token: compare with the provider's documentation"
        )
    if claims:
        suggestion.table["claims"] = claims
    if own_sid is not None and base.logout_ends == "user":
        suggestion.table["backchannel_ends"] = "session"
        suggestion.comments["backchannel_ends"] = "the access token names its session"
    if base.issuer.require_jti and not (present(names.jti, payload) or "jti" in claims):
        suggestion.table["require_jti"] = False
        suggestion.comments["require_jti"] = "the token has no id, so a single one can't be revoked"


def _add_audiences(suggestion: Suggestion, payload: dict[str, Any], names: ClaimNames) -> None:
    table, comments = suggestion.table, suggestion.comments
    aud = payload.get("aud")
    given = [aud] if isinstance(aud, str) else aud if isinstance(aud, list) else []
    audiences = [value for value in given if type(value) is str and value]
    own = [value for value in audiences if not _GENERAL_AUDIENCES.fullmatch(value)]
    client = present(names.client_id, payload)
    if own:
        table["audiences"] = own
        if len(own) > 1:
            comments["audiences"] = "leave only your own API: one of these in aud is enough"
    elif audiences:
        table["audiences"] = audiences
        comments["audiences"] = "WARNING: tokens for any API have this; have the provider add your API's own"
    elif client and not given:
        table["client_ids"] = [payload[client]]
        comments["client_ids"] = "the token has no aud, so these clients alone are accepted"
    else:
        table["audiences"] = [AUDIENCE_PLACEHOLDER]
        comments["audiences"] = "REPLACE: the token names no API and no client; have the provider add aud"


def _add_keys(
    suggestion: Suggestion,
    token: UnverifiedToken,
    recognized: Recognized | None,
    discovery: Discovery | None,
    base: Terms,
) -> None:
    table, comments = suggestion.table, suggestion.comments
    if token.alg not in get_args(Algorithm):
        raise UnusableToken(
            "algorithm", f"a token signed with {printable(token.alg)}, which Revoker does not verify"
        )
    if token.alg not in base.algorithms:
        table["algorithms"] = [token.alg]
    if token.alg in HMAC_KEY_BYTES:
        table["algorithms"] = [token.alg]
        table["hmac_secret_file"] = "issuer.secret"
        comments["hmac_secret_file"] = (
            f"REPLACE: a file with the shared secret, at least {HMAC_KEY_BYTES[token.alg]} bytes; who has it "
            "can make tokens"
        )
    elif discovery is not None:
        table["jwks_uri"] = discovery.jwks_uri
        if discovery.jwks_uri.startswith("http:") and is_local(discovery.jwks_uri):
            table["jwks_insecure"] = True
    elif recognized is not None and recognized.jwks_uri:
        if recognized.jwks_uri.startswith("http:"):
            table["jwks_insecure"] = True
            comments["jwks_insecure"] = "plain http, as in iss: for tests alone"
        table["jwks_uri"] = recognized.jwks_uri
        comments["jwks_uri"] = "the usual place; --discover URL reads it from the provider"
    elif recognized is not None and recognized.provider.profile == "kubernetes":
        table["jwks_file"] = "cluster.jwks"
        comments["jwks_file"] = "REPLACE: kubectl get --raw /openid/v1/jwks >cluster.jwks"
    else:
        table["jwks_uri"] = KEYS_PLACEHOLDER
        comments["jwks_uri"] = "REPLACE: jwks_uri of the provider's discovery document, or use --discover URL"


def _add_lifetime(suggestion: Suggestion, payload: dict[str, Any], base: Terms) -> None:
    iat, exp = payload.get("iat"), payload.get("exp")
    if type(iat) not in (int, float) or type(exp) not in (int, float):
        return
    lifetime = float(exp) - float(iat)  # type: ignore[arg-type]  # both are numbers
    if base.issuer.max_token_lifetime < lifetime <= 10 * 366 * 86400:
        suggestion.table["max_token_lifetime"] = math.ceil(lifetime / _LIFETIME_STEP_S) * _LIFETIME_STEP_S
        suggestion.comments["max_token_lifetime"] = "the lifetime of this token; shorter ones are safer"


def _add_options(
    suggestion: Suggestion,
    token: UnverifiedToken,
    names: ClaimNames,
    base: Terms,
    discovery: Discovery | None,
) -> None:
    """Lines that are printed as comments, and notes."""
    payload, provider = token.payload, suggestion.provider
    sends = provider.sends_logout_tokens if provider is not None else None
    if discovery is not None:
        sends = discovery.logout_tokens
    if sends is not False and not is_machine(payload, names):
        client = present(names.client_id, payload)
        audience = printable(payload[client] if client else "replace-this")
        suggestion.optional.append(
            f"backchannel_audience = {audience}  # the client_id that gets the logout tokens"
        )
        if not present(names.sid, payload) and base.logout_ends == "session":
            suggestion.optional.append('backchannel_ends = "user"  # the access token names no session')
    if is_id_token(token, scope_of(payload, names)) and not base.id_tokens:
        suggestion.optional.append(
            "accept_id_tokens = true  # WARNING: an ID token is meant for the client, not for an API"
        )
    if provider is not None and provider.profile == "entra":
        suggestion.notes.append(
            "Entra dates iat up to 5 minutes back, so a login within 5 minutes after log out everywhere is "
            "not active; iat_backdated = 300 avoids that, and lets tokens of those minutes survive"
        )
        if payload.get("aud") in ("00000003-0000-0000-c000-000000000000", "https://graph.microsoft.com"):
            suggestion.notes.append(
                "tokens for Microsoft Graph can't be verified: request one for your own API"
            )
    if provider is not None and provider.profile == "okta" and "/oauth2/" not in payload["iss"]:
        suggestion.notes.append(
            "tokens of Okta's org authorization server can't be verified: use a custom one (/oauth2/default)"
        )
    if discovery is not None and payload["iss"] not in discovery.issuers:
        documented = ", ".join(printable(issuer) for issuer in discovery.issuers) or "no issuer"
        suggestion.notes.append(
            f"MISMATCH: the discovery document has {documented}, the token has {printable(payload['iss'])}; "
            "check that both are of the same provider"
        )
    if discovery is not None and discovery.logout_tokens and not discovery.sid_in_logout_tokens:
        suggestion.notes.append("its logout tokens do not name the session, so each ends the user")


def _own_sid(payload: dict[str, Any]) -> str | None:
    """A claim for the session that the operator has added under a name of their own, which is a URL."""
    return next((name for name in payload if re.fullmatch(r"https?://.+/(?:sid|session_id)", name)), None)


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return printable(value)
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return f"{{ {', '.join(f'{name} = {_toml(item)}' for name, item in value.items())} }}"
        case _:
            return str(value)
