"""`revoker store`: declare, inspect and accept the data of a store."""

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from revoker.cli.configuration import (
    ClaimOption,
    ConfigOption,
    IssOption,
    fail,
    find_issuer,
    format_time,
    load_settings,
    new_store,
    with_store,
)
from revoker.models import Issuer
from revoker.rules import revocable_value

if TYPE_CHECKING:
    from revoker.store.consistency.epoch import Epoch
    from revoker.store.store import Store

_audit = structlog.get_logger("audit")

commands = typer.Typer(help="Declare, check or accept the data of the store.", no_args_is_help=True)


@commands.command("init")
def init(
    config: ConfigOption = None,
    unless: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Do nothing if this file exists.")
    ] = None,
    or_initialised: Annotated[
        bool, typer.Option("--or-known", help="Exit with status 0 if the store has an epoch already.")
    ] = False,
) -> None:
    """Declare the store new: nothing has been revoked in it, and nothing was lost."""
    if unless is not None and unless.exists():
        typer.echo(f"{unless} exists: nothing to do")
    elif with_store(config, lambda store: store.init()):
        typer.echo("the store is declared new")
    elif or_initialised:
        typer.echo("the store has an epoch already, and keeps it")
    else:
        fail("the store has an epoch already: it is not new (`revoker store check` shows it)")


@commands.command("check")
def check(config: ConfigOption = None) -> None:
    """Show the epoch, and settings that can lose revocations silently; status 1 if there are any."""

    async def inspect(store: "Store") -> "tuple[Epoch | None, dict[str, str]]":
        conflicts = store.issuer_records.conflicts.values()
        problems = {"settings_conflict": "; ".join(conflicts)} if conflicts else {}
        return await store.epoch(), problems | await store.dangers()

    epoch, dangers = with_store(config, inspect, refuse_conflicts=False)
    if epoch is None:
        typer.echo("epoch: none; run `revoker store init` if the store is new")
    else:
        typer.echo(f"epoch: {epoch.id} ({epoch.finding})")
        typer.echo(f"since: {format_time(epoch.noticed)}")
        if epoch.cutoff:
            typer.echo(f"nothing issued before is active: {format_time(epoch.cutoff)}")
    for danger, detail in dangers.items():
        typer.echo(f"{danger}: {detail}")
    if epoch is None or epoch.finding == "refused" or dangers:
        raise typer.Exit(1)
    typer.echo("ok")


@commands.command("accept")
def accept(config: ConfigOption = None) -> None:
    """Accept the data as it is, so that verdicts are given again. Lost revocations stay lost."""
    _report("store_accepted", with_store(config, lambda store: store.accept()))


@commands.command("lost")
def lost(config: ConfigOption = None) -> None:
    """Declare that data was lost, before the first start on a restored snapshot."""
    policy = load_settings(config).revocation.data_loss
    _report("store_declared_lost", with_store(config, lambda store: store.declare_lost(policy)))


def _report(event: str, epoch: "Epoch | None") -> None:
    if epoch is None:
        fail("the store has no epoch: run `revoker store init` if it is new")
    _audit.info(event, operator=getpass.getuser(), epoch=epoch.id, finding=epoch.finding)
    typer.echo(f"epoch: {epoch.id} ({epoch.finding})")


@commands.command("key")
def key(
    kind: Annotated[str, typer.Argument(help="jti, user, session, client, claim, issuer or keys.")],
    value: Annotated[
        str, typer.Argument(help="The jti, sub, sid, client_id or value; nothing for issuer and keys.")
    ] = "",
    claim: ClaimOption = "",
    iss: IssOption = "",
    config: ConfigOption = None,
) -> None:
    """Print the Redis key under which a revocation is stored, for use in a shell."""
    settings = load_settings(config)
    typer.echo(key_of(new_store(settings), kind, find_issuer(settings, iss), value, claim))


def key_of(store: "Store", kind: str, issuer: Issuer, value: str, claim: str) -> str:
    """The Redis key.

    Raises:
        BadParameter: the kind is unknown, a value or the name of a claim is missing, or is given in vain.
    """
    keys = store.keys
    keys_by_kind: dict[str, Callable[[], str]] = {
        "jti": lambda: keys.jti(issuer, value),
        "user": lambda: keys.user_of(issuer, value),
        "session": lambda: keys.session_cutoff(issuer, value),
        "client": lambda: keys.client_cutoff(issuer, value),
        "claim": lambda: keys.claim_cutoff(issuer, claim, revocable_value(claim, value) or ""),
        "issuer": lambda: keys.issuer_cutoff(issuer),
        "keys": lambda: keys.revoked_keys(issuer),
    }
    if kind not in keys_by_kind:
        raise typer.BadParameter(", ".join(keys_by_kind), param_hint="KIND")
    if not value and kind not in {"issuer", "keys"}:
        raise typer.BadParameter(f"a {kind} needs a value", param_hint="VALUE")
    check_claim(kind, claim)
    return keys_by_kind[kind]()


def check_claim(kind: str, claim: str) -> None:
    """Raise ``BadParameter`` if the name of a claim is missing, or given with another kind."""
    if (kind == "claim") != bool(claim):
        raise typer.BadParameter("belongs to the kind claim, which needs it", param_hint="--claim")
