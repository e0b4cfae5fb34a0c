"""What is wrong between the sections of the settings.

The checks are on raw values, so that what they find is reported together with all other problems.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from revoker.config.console import console_problems
from revoker.config.loading import list_of, tables_of
from revoker.config.revocation import RevocationSettings
from revoker.config.sessions import SESSIONS_NAME, SessionSettings


def problems_between_sections(values: dict[str, Any]) -> Iterator[str]:
    issuers, callers = tables_of(values, "issuers"), tables_of(values, "callers")
    sessions = values.get("sessions")
    if not values.get("issuers") and sessions is None:
        yield "issuers: at least one [[issuers]] or [sessions] is needed"
    own = [sessions] if isinstance(sessions, dict) else []
    yield from _repeated(
        [("sessions", SESSIONS_NAME) for _ in own] + _named(issuers, "issuers", "name"),
        "is used by two issuers; names are unique ([sessions] is named sessions)",
    )
    yield from _repeated(
        [("sessions.issuer", table.get("issuer")) for table in own]
        + _named(issuers, "issuers", "issuer")
        + _aliases(issuers),
        "is used by two issuers; each iss may appear only once",
    )
    yield from _repeated(_named(callers, "callers", "name"), "is used by two callers; names are unique")
    yield from _digest_checks(values, callers)
    yield from _lifetime_checks(values)
    yield from console_problems(values, issuers)
    names = {SESSIONS_NAME for _ in own} | {
        text
        for table in [*issuers, *own]
        for text in (table.get("name"), table.get("issuer"), *list_of(table.get("issuer_aliases")))
        if isinstance(text, str)
    }
    for index, caller in enumerate(callers):
        for place, issuer in enumerate(list_of(caller.get("issuers"))):
            if isinstance(issuer, str) and issuer not in names:
                yield f"callers[{index}].issuers[{place}]: is not an issuer of this configuration"


def _lifetime_checks(values: dict[str, Any]) -> Iterator[str]:
    """Tokens issued here must not live longer than any token may."""
    sessions, revocation = values.get("sessions"), values.get("revocation", {})
    if not isinstance(sessions, dict) or not isinstance(revocation, dict):
        return
    of_session, of_revocation = SessionSettings.model_fields, RevocationSettings.model_fields
    lifetime = sessions.get("access_token_lifetime", of_session["access_token_lifetime"].default)
    maximum = revocation.get("max_token_lifetime", of_revocation["max_token_lifetime"].default)
    if type(lifetime) is int and type(maximum) is int and lifetime > maximum:
        yield "sessions.access_token_lifetime: must be at most revocation.max_token_lifetime"


def _named(tables: list[dict[str, Any]], section: str, key: str) -> list[tuple[str, Any]]:
    return [(f"{section}[{index}].{key}", table.get(key)) for index, table in enumerate(tables)]


def _aliases(issuers: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [
        (f"issuers[{index}].issuer_aliases[{place}]", alias)
        for index, table in enumerate(issuers)
        for place, alias in enumerate(list_of(table.get("issuer_aliases")))
    ]


def _repeated(values: list[tuple[str, Any]], problem: str) -> Iterator[str]:
    """A problem for each setting whose value an earlier one has too."""
    seen: Counter[str] = Counter()
    for place, text in values:
        if isinstance(text, str):
            seen[text] += 1
            if seen[text] > 1:
                yield f"{place}: {problem}"


def _digest_checks(values: dict[str, Any], callers: list[dict[str, Any]]) -> Iterator[str]:
    digests: list[tuple[str, Any]] = []
    server = values.get("server")
    by_certificate = bool(isinstance(server, dict) and server.get("tls_client_ca_file"))
    for index, caller in enumerate(callers):
        own = list_of(caller.get("secret_sha256"))
        name = f"callers[{index}].secret_sha256"
        if not own and not by_certificate and caller.get("secret_sha256", []) == []:
            yield f"{name}: give a digest (see revoker secret), or set server.tls_client_ca_file"
        digests += [
            (f"{name}[{i}]", item.lower() if isinstance(item, str) else None) for i, item in enumerate(own)
        ]
    yield from _repeated(digests, "appears twice; each secret belongs to one caller")
