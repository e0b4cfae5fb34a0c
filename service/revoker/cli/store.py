"""`revoker store`: declare, inspect and accept the data of a store."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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

KeyKind = Literal["jti", "user", "session", "client", "claim", "issuer", "keys"]

_audit = structlog.get_logger("audit")

commands = typer.Typer(
    help="Declare, check or accept the data of the store; print a key.", no_args_is_help=True
)


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
    """Accept the data as it is: the service gives verdicts again. Lost revocations stay lost."""
    _report("store_accepted", with_store(config, lambda store: store.accept()))


@commands.command("accept-mapping")
def accept_mapping(
    named: Annotated[str, typer.Argument(metavar="ISSUER", help="The issuer: its name or its `iss`.")],
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Declare that every revocation is found by the new names: no cutoff."),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Accept that the settings name an issuer's claims by other names. All that it has issued is revoked."""
    issuer = find_issuer(load_settings(config), named, "ISSUER")

    async def accept_names(store: "Store") -> tuple[list[str], int, int]:
        changes, cutoff = await store.accept_mapping(issuer, keep=keep)
        of_users = any(change.startswith("sub ") for change in changes)
        return changes, cutoff, await store.blocked_users() if of_users else 0

    changes, cutoff, blocked = with_store(config, accept_names, refuse_conflicts=False)
    if not changes:
        typer.echo(f"nothing to accept: the claims of {issuer.name} are those in the store")
        return
    _audit.info(
        "mapping_accepted",
        operator=getpass.getuser(),
        issuer=issuer.name,
        iss=issuer.iss,
        changes=changes,
        keep=keep,
        cutoff=cutoff / 1000,
    )
    for change in changes:
        typer.echo(change)
    if cutoff:
        typer.echo(f"revoked: all that {issuer.name} has issued up to {format_time(cutoff)}")
    else:
        typer.echo("no cutoff: every revocation is declared to be found by the new names")
    if blocked:
        typer.echo(
            f"blocked users in the store: {blocked}; block those of {issuer.name} again by their new sub"
        )
    typer.echo(f"accepted: the claims of {issuer.name}")


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
    kind: Annotated[KeyKind, typer.Argument(help="What the key revokes.")],
    value: Annotated[
        str, typer.Argument(help="The jti, sub, sid, client_id or value; nothing for issuer and keys.")
    ] = "",
    claim: ClaimOption = "",
    iss: IssOption = "",
    config: ConfigOption = None,
) -> None:
    """Print the Redis key under which a revocation is stored, for use in a shell."""
    check_value(kind, value, claim)
    settings = load_settings(config)
    typer.echo(key_of(new_store(settings), kind, find_issuer(settings, iss), value, claim))


def check_value(kind: KeyKind, value: str, claim: str) -> None:
    """Raises ``BadParameter`` for a value or claim that is missing, or that the kind does not take."""
    if kind in {"issuer", "keys"}:
        if value:
            raise typer.BadParameter(f"{kind} takes no value", param_hint="VALUE")
    elif not value:
        raise typer.BadParameter(f"a {kind} needs a value", param_hint="VALUE")
    if (kind == "claim") != bool(claim):
        raise typer.BadParameter("belongs to the kind claim, which needs it", param_hint="--claim")


def key_of(store: "Store", kind: KeyKind, issuer: Issuer, value: str, claim: str) -> str:
    """The Redis key of a revocation."""
    keys = store.keys
    match kind:
        case "jti":
            return keys.jti(issuer, value)
        case "user":
            return keys.user_of(issuer, value)
        case "session":
            return keys.session_cutoff(issuer, value)
        case "client":
            return keys.client_cutoff(issuer, value)
        case "claim":
            return keys.claim_cutoff(issuer, claim, revocable_value(claim, value) or "")
        case "issuer":
            return keys.issuer_cutoff(issuer)
        case "keys":
            return keys.revoked_keys(issuer)
