"""What a configuration requires of the tokens of its issuers, and the keys that it gives them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from revoker.cli import provider_documents
from revoker.config.issuers import Algorithm, IssuerSettings
from revoker.config.schema import Settings
from revoker.config.sessions import SessionSettings
from revoker.errors import ConfigError
from revoker.from_settings import issuers_of
from revoker.models import Issuer
from revoker.tokens import keystore
from revoker.tokens.jwk import VerifyingKey, shared_secret
from revoker.tokens.key_sets import read_key_set, require_usable


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a configuration requires of the tokens of one issuer."""

    issuer: Issuer
    audiences: frozenset[str]
    algorithms: frozenset[str]
    client_ids: frozenset[str] = frozenset()
    require_typ: str = ""
    id_tokens: bool = False
    profile: str | None = None
    logout_audience: str = ""
    logout_ends: str = "session"


def terms_of(settings: Settings) -> list[Terms]:
    """The issuers of a configuration, that of ``[sessions]`` among them."""
    issuers = issuers_of(settings)
    terms = [
        Terms(
            issuer=issuers[configured.issuer],
            audiences=frozenset(configured.audiences),
            algorithms=frozenset(configured.algorithms),
            client_ids=frozenset(configured.client_ids),
            require_typ=configured.require_typ,
            id_tokens=configured.accept_id_tokens,
            profile=configured.profile,
            logout_audience=configured.backchannel_audience,
            logout_ends=configured.backchannel_ends,
        )
        for configured in settings.issuers
    ]
    if settings.sessions is not None:
        terms.append(
            Terms(
                issuer=issuers[settings.sessions.issuer],
                audiences=frozenset(settings.sessions.audiences),
                algorithms=frozenset(get_args(Algorithm)),
                require_typ="at+jwt",
            )
        )
    return terms


async def keys_of(settings: Settings, terms: Terms) -> list[VerifyingKey]:
    """The keys that a configuration gives an issuer, read now.

    Raises:
        ConfigError: they can't be read.
    """
    if terms.issuer.own and settings.sessions is not None:
        return _own_keys(settings.sessions)
    configured = next(entry for entry in settings.issuers if entry.name == terms.issuer.name)
    if configured.jwks_uri:
        return await provider_documents.fetch_keys(configured.jwks_uri, configured.algorithms)
    return _keys_in_file(configured)


def _own_keys(sessions: SessionSettings) -> list[VerifyingKey]:
    keys, _ = keystore.listed(Path(sessions.signing_keys_dir), time.time())
    return [entry.dated.key.verifying for entry in keys if entry.state != "retired"]


def _keys_in_file(configured: IssuerSettings) -> list[VerifyingKey]:
    setting = "hmac_secret_file" if configured.hmac_secret_file else "jwks_file"
    try:
        contents = Path(getattr(configured, setting)).read_bytes()
        if configured.hmac_secret_file:
            secret = contents.removesuffix(b"\n").removesuffix(b"\r")
            return [shared_secret(secret, configured.algorithms)]
        return require_usable(*read_key_set(contents, configured.algorithms))
    except OSError as fault:
        raise ConfigError([f"issuer {configured.name}: {setting}: {fault.strerror}"]) from None
    except ValueError as fault:
        raise ConfigError([f"issuer {configured.name}: {setting}: {fault}"]) from None
