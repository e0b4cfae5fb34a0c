"""All settings of a service, from one TOML file and from the environment (``REVOKER_<SECTION>__<KEY>``).

A section's meaning, defaults and valid values are in a module of its own. All problems are reported at once,
one per line, by the name of the setting and without its value, which may be a secret.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

from pydantic import Strict

from revoker.config.callers import CallerSettings
from revoker.config.console import ConsoleSettings
from revoker.config.cross_checks import problems_between_sections
from revoker.config.feed import FeedSettings
from revoker.config.issuers import IssuerSettings
from revoker.config.loading import Kind, list_of, overlay, read, tables_of, validated, variables
from revoker.config.profiles import PROFILES
from revoker.config.redis import RedisSettings
from revoker.config.revocation import RevocationSettings
from revoker.config.section import Section
from revoker.config.server import ServerSettings
from revoker.config.sessions import SESSIONS_NAME, SessionSettings


class Settings(Section):
    """All settings."""

    server: ServerSettings = ServerSettings()
    redis: RedisSettings = RedisSettings()
    revocation: RevocationSettings = RevocationSettings()
    feed: FeedSettings = FeedSettings()
    console: ConsoleSettings = ConsoleSettings()
    issuers: Annotated[tuple[IssuerSettings, ...], Strict(False)] = ()
    callers: Annotated[tuple[CallerSettings, ...], Strict(False)] = ()
    sessions: SessionSettings | None = None


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the file, if any; the environment overrides it.

    Raises:
        ConfigError: with all problems of file and environment.
    """
    return settle(read(path) if path else {}, environ)


def settle(values: dict[str, Any], environ: Mapping[str, str]) -> Settings:
    """As :func:`load`, of values shaped like the file."""
    return settled(values, environ, Settings)


def settled(values: dict[str, Any], environ: Mapping[str, str], model: type[Kind]) -> Kind:
    """As :func:`settle`, for settings of any kind of process."""
    values = deepcopy(values)
    problems = [
        *overlay(values, environ, model),
        *_read_secrets(values),
        *problems_between_sections(values),
    ]
    _apply_profiles(values)
    _name_issuers(values)
    return validated(values, problems, model)


def describes_service(environ: Mapping[str, str]) -> bool:
    """Whether the environment alone configures issuers, callers or sessions."""
    sections = {path[0] for _, path in variables(environ)}
    return not sections.isdisjoint({"issuers", "callers", "sessions"})


def _apply_profiles(values: dict[str, Any]) -> None:
    """Add the defaults of each issuer's profile."""
    for table in tables_of(values, "issuers"):
        profile = PROFILES.get(table["profile"]) if isinstance(table.get("profile"), str) else None
        for name, default in (profile or {}).items():
            if isinstance(default, dict) and isinstance(table.get(name), dict):
                table[name] = {**default, **table[name]}
            else:
                table.setdefault(name, deepcopy(default))


def _read_secrets(values: dict[str, Any]) -> Iterator[str]:
    """Read ``redis.url_file`` into ``redis.url``; the store reads ``redis.password_file`` at every login."""
    redis = values.get("redis")
    if not isinstance(redis, dict):
        return
    if path := redis.get("url_file"):
        if "url" in redis:
            yield "redis.url_file: give either redis.url or redis.url_file"
        elif isinstance(path, str):
            try:
                redis["url"] = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                yield "redis.url_file: can't be read; give the path of a readable file"
    if path := redis.get("password_file"):
        url = redis.get("url", "embedded:")
        if not isinstance(path, str) or not isinstance(url, str):
            return
        try:
            password = Path(path).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError):
            yield "redis.password_file: can't be read; give the path of a readable file"
            return
        _, separator, rest = url.partition("://")
        user = rest.partition("/")[0].rpartition("@")[0]
        if not password:
            yield "redis.password_file: is empty"
        elif not separator:
            yield "redis.password_file: the embedded store has no password"
        elif ":" in user:
            yield "redis.password_file: redis.url has a password already"


def _name_issuers(values: dict[str, Any]) -> None:
    """Turn issuer URLs in callers' ``issuers`` into names."""
    names = {
        iss: table.get("name")
        for table in tables_of(values, "issuers")
        for iss in (table.get("issuer"), *list_of(table.get("issuer_aliases")))
        if isinstance(iss, str)
    }
    sessions = values.get("sessions")
    if isinstance(sessions, dict) and isinstance(sessions.get("issuer"), str):
        names[sessions["issuer"]] = SESSIONS_NAME
    for caller in tables_of(values, "callers"):
        if isinstance(caller.get("issuers"), list):
            caller["issuers"] = [
                (names.get(issuer) or issuer) if isinstance(issuer, str) else issuer
                for issuer in caller["issuers"]
            ]
