"""`revoker issuer`: settings for an identity provider, and what works with its tokens.

What needs prometheus_client is imported inside functions: see :class:`revoker.server.workers.Plan`.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import msgspec
import typer

from revoker import logs
from revoker.cli.configuration import ConfigOption, fail, load_settings
from revoker.errors import ConfigError

if TYPE_CHECKING:
    from revoker.cli.issuer_report import Failure, Report
    from revoker.cli.pasted_token import UnusableToken

MAX_INPUT_BYTES: Final = 64 * 1024
"""Four times as long as the longest token."""

_PROMPT: Final = (
    "Paste the token, then press Enter and Ctrl-D. A terminal cuts lines of more than 4,000 characters: pipe "
    "longer tokens from a file.\n"
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

commands = typer.Typer(
    help="Settings for an identity provider, from one of its tokens. The token is read from standard input.",
    no_args_is_help=True,
)


@commands.command("suggest")
def suggest(
    discover: Annotated[
        str,
        typer.Option(
            "--discover",
            metavar="URL",
            help="Read the provider's discovery document, and verify the signature. URL: of the issuer "
            "or of the document. Without this option, nothing is fetched.",
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Print the settings of an issuer for a token, and what works with it.

    The output is a part of a configuration file; the report is in its comments. Status 1: the text is no
    access token; 2: there is none, or the URL can't be read.
    """
    from revoker.cli import (  # noqa: PLC0415
        issuer_report,
        issuer_suggestion,
        pasted_token,
        provider_documents,
    )

    logs.configure("warning", stream=sys.stderr)
    try:
        token = pasted_token.read_token(_read_input())
        discovery = asyncio.run(provider_documents.discover(discover)) if discover else None
        suggestion = issuer_suggestion.suggest(token, discovery)
    except pasted_token.UnusableToken as error:
        _fail_unusable(error, as_json=as_json)
    terms = suggestion.terms()
    keys = None
    if discovery is not None and "jwks_uri" in suggestion.table:
        keys = asyncio.run(provider_documents.fetch_keys(discovery.jwks_uri, terms.algorithms))
    logout_tokens = None if discovery is None else discovery.logout_tokens
    report = issuer_report.report(token, terms, keys, logout_tokens=logout_tokens)
    notes = [*report.notes, *suggestion.notes]
    if report.profile is None:
        notes.append("the provider was not recognized: without a profile, its claims are read by their names")
    if as_json:
        _print_json(report, notes, table=suggestion.table, toml=suggestion.toml())
        return
    typer.echo(suggestion.toml())
    typer.echo("# What works with this token and these settings:")
    for line in _lines(report, notes):
        typer.echo(f"# {line}")


@commands.command("check")
def check(
    issuer: Annotated[
        str, typer.Option("--issuer", help="The issuer's name. Without it, the token's iss decides.")
    ] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say whether a token is active with a configuration, as far as that is known without the store.

    The issuer's keys are read or fetched. Status 1: it is not active, and the report says what to set; 2: the
    configuration or the keys can't be read, or there is no token.
    """
    from revoker.cli import issuer_report, issuer_terms, pasted_token  # noqa: PLC0415

    logs.configure("warning", stream=sys.stderr)
    settings = load_settings(config)
    configured = issuer_terms.terms_of(settings)
    if issuer and issuer not in {terms.issuer.name for terms in configured}:
        raise ConfigError([f"--issuer: one of {', '.join(terms.issuer.name for terms in configured)}"])
    try:
        token = pasted_token.read_token(_read_input())
    except pasted_token.UnusableToken as error:
        _fail_unusable(error, as_json=as_json)
    iss = token.payload.get("iss")
    found = [
        terms
        for terms in configured
        if terms.issuer.name == issuer or (not issuer and iss in (terms.issuer.iss, *terms.issuer.aliases))
    ]
    if found:
        keys = asyncio.run(issuer_terms.keys_of(settings, found[0]))
        report = issuer_report.report(token, found[0], keys)
    else:
        report = issuer_report.unknown_issuer(token, configured)
    if as_json:
        _print_json(report, report.notes)
    else:
        for line in _lines(report, report.notes):
            typer.echo(line)
    if report.token_form:
        raise typer.Exit(1)


def _read_input() -> str:
    """The text on standard input.

    Raises:
        ConfigError: it is too long.
    """
    if sys.stdin.isatty():
        sys.stderr.write(_PROMPT)
        sys.stderr.flush()
    raw = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(raw) > MAX_INPUT_BYTES:
        raise ConfigError([f"standard input: is longer than {MAX_INPUT_BYTES // 1024} KiB; give one token"])
    return raw.decode(errors="replace")


def _fail_unusable(error: "UnusableToken", *, as_json: bool) -> NoReturn:
    """Print what the text is, and exit with status 1."""
    if as_json:
        typer.echo(
            json.dumps({"active": False, "why": "malformed", "kind": error.kind, "problem": str(error)})
        )
        raise typer.Exit(1)
    fail(f"not usable: {error}")


def _print_json(report: "Report", notes: list[str], **more: Any) -> None:
    members = {
        "active": not report.token_form,
        "why": report.token_form[0].why if report.token_form else None,
        **msgspec.to_builtins(report),
        "notes": notes,
        **more,
    }
    typer.echo(json.dumps(members, indent=2))


def _lines(report: "Report", notes: list[str]) -> Iterator[str]:
    """The report as text."""
    rows = [("issuer", report.issuer or "not configured"), ("signature", report.signature)]
    if report.profile is not None:
        rows.insert(1, ("profile", report.profile))
    for form, failures in (("token form", report.token_form), ("claims form", report.claims_form)):
        unproven = ", if its signature is valid" if report.signature == "not checked" else ""
        rows.append((form, f"not active: {failures[0].why}" if failures else f"active{unproven}"))
        rows += [("", text) for failure in failures for text in _failure_lines(failure)]
    for action, found in report.actions.items():
        by = f", by {found.claim}" if found.claim else ""
        rows.append((action, f"{found.works}{by}{f': {found.note}' if found.note else ''}"))
    rows += [("note", note) for note in notes]
    for name, text in rows:
        yield f"{name:<20} {text}"


def _failure_lines(failure: "Failure") -> Iterator[str]:
    yield f"  {failure.why}: {failure.problem}"
    if failure.advice:
        yield f"  -> {failure.advice}"
