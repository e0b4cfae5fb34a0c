"""`revoker keys`: signing keys, refresh keys, and revoked keys."""

import getpass
import math
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import structlog
import typer

from revoker import logs
from revoker.cli.configuration import (
    ConfigOption,
    IssOption,
    ReasonOption,
    fail,
    find_issuer,
    format_time,
    load_settings,
    with_store,
)
from revoker.config.schema import Settings
from revoker.config.sessions import SessionSettings
from revoker.errors import ConfigError
from revoker.tokens import keystore, refresh_tokens

_audit = structlog.get_logger("audit")

RETIREMENT_MARGIN_S: Final = 60
"""A retired key is published for the life of its last token and this margin for clock differences."""

commands = typer.Typer(
    help="Manage signing keys and refresh keys, or accept a revoked key again.", no_args_is_help=True
)


@commands.command("forget")
def forget(
    kid: Annotated[str, typer.Argument(help="The revoked key.")],
    iss: IssOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
) -> None:
    """Take the revocation of a signing key back: its tokens are accepted again."""
    issuer = find_issuer(load_settings(config), iss)
    if kid in issuer.revoked_kids:
        fail("the key is listed in revoked_kids of the configuration")
    if not with_store(config, lambda store: store.revocations.forget_key(issuer, kid)):
        fail("no such key is revoked")
    _audit.info("key_forgotten", operator=getpass.getuser(), iss=issuer.iss, kid=kid, reason=reason)
    typer.echo("forgotten")


@commands.command("generate")
def generate(
    alg: Annotated[keystore.SigningAlgorithm, typer.Option(help="The signature algorithm.")] = "ES256",
    ahead: Annotated[
        int, typer.Option(min=0, help="Seconds for which the key is published before it signs.")
    ] = keystore.AHEAD_S,
    config: ConfigOption = None,
) -> None:
    """Make a signing key; the first one signs at once. Makes the refresh key too if there is none."""
    sessions = _sessions(load_settings(config))
    refresh_tokens.new_refresh_key_file(Path(sessions.refresh_key_file))
    made = keystore.generate(Path(sessions.signing_keys_dir), alg, time.time(), ahead)
    _audit.info("key_generated", operator=getpass.getuser(), kid=made.key.kid, alg=alg)
    typer.echo(f"{made.key.kid}  {alg}  signs from {format_time((made.signs_from or 0) * 1000)}")


@commands.command("list")
def list_keys(config: ConfigOption = None) -> None:
    """Show the signing keys and the state of each. Whether a key is revoked, only the store knows."""
    folder = Path(_sessions(load_settings(config)).signing_keys_dir)
    keys, unusable = keystore.listed(folder, time.time())
    for entry in keys:
        dated = entry.dated
        state = {
            "next": f"next, signs from {format_time((dated.signs_from or 0) * 1000)}",
            "retiring": f"retiring until {format_time((dated.until or 0) * 1000)}",
        }.get(entry.state, entry.state)
        undated = "" if dated.signs_from is not None or dated.until is not None else ", has no date"
        typer.echo(f"{dated.key.kid}  {dated.key.alg}  {state}{undated}")
    for path, reason in unusable:
        typer.echo(f"{path.name}: {reason}", err=True)


@commands.command("retire")
def retire(
    kid: Annotated[str, typer.Argument(help="The key.")],
    force: Annotated[bool, typer.Option("--force", help="Even if no other key signs yet.")] = False,
    config: ConfigOption = None,
) -> None:
    """Stop signing with a key; it is published until the last of its tokens has expired."""
    settings = load_settings(config)
    sessions = _sessions(settings)
    keep = sessions.access_token_lifetime + settings.revocation.leeway + RETIREMENT_MARGIN_S
    retired = keystore.retire(Path(sessions.signing_keys_dir), kid, time.time(), keep, force=force)
    end = format_time((retired.until or 0) * 1000)
    _audit.info("key_retired", operator=getpass.getuser(), kid=kid, until=end)
    typer.echo(f"{kid}  retiring until {end}")


@commands.command("rotate-refresh")
def rotate_refresh(
    ahead: Annotated[
        int, typer.Option(min=0, help="Seconds within which every instance must have read the new key.")
    ] = keystore.AHEAD_S,
    config: ConfigOption = None,
) -> None:
    """Add a refresh key. Tokens of the two keys before it stay valid, those of older keys do not."""
    path = Path(_sessions(load_settings(config)).refresh_key_file)
    signs_from = math.ceil(time.time() + ahead)
    refresh_tokens.rotate_refresh_keys(path, signs_from=signs_from)
    date = format_time(signs_from * 1000)
    _audit.info("refresh_key_rotated", operator=getpass.getuser(), signs_from=date)
    typer.echo(f"a new refresh key signs from {date}")


def _sessions(settings: Settings) -> SessionSettings:
    logs.configure(stream=sys.stderr)
    if settings.sessions is None:
        raise ConfigError(["sessions: is not configured, so no tokens are signed here"])
    return settings.sessions
