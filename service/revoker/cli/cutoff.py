"""`revoker cutoff`: take cutoffs back."""

import getpass
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from revoker.cli.configuration import (
    ClaimOption,
    ConfigOption,
    IssOption,
    ReasonOption,
    find_issuer,
    format_time,
    load_settings,
    with_store,
)
from revoker.cli.store import check_claim, key_of

if TYPE_CHECKING:
    from revoker.store.store import Store

_audit = structlog.get_logger("audit")

commands = typer.Typer(help="Take a cutoff back.", no_args_is_help=True)


@commands.command("lift")
def lift(
    kind: Annotated[str, typer.Argument(help="user, session, client, claim or issuer.")],
    value: Annotated[str, typer.Argument(help="The sub, sid, client_id or value; nothing for issuer.")] = "",
    *,
    claim: ClaimOption = "",
    iss: IssOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
) -> None:
    """Take a cutoff back: the tokens it covered are active again, unless something else revokes them."""
    if kind not in {"user", "session", "client", "claim", "issuer"}:
        raise typer.BadParameter("user, session, client, claim or issuer", param_hint="KIND")
    check_claim(kind, claim)
    issuer = find_issuer(load_settings(config), iss)

    async def lift_cutoff(store: "Store") -> int:
        if kind == "user":
            return await store.revocations.lift_user(issuer, value)
        return await store.revocations.lift(key_of(store, kind, issuer, value, claim))

    cutoff = with_store(config, lift_cutoff)
    _audit.info(
        "cutoff_lifted",
        operator=getpass.getuser(),
        kind=kind,
        claim=claim or None,
        value=value,
        iss=issuer.iss,
        stood=cutoff / 1000,
        reason=reason,
    )
    typer.echo(f"lifted: {format_time(cutoff)}" if cutoff else "there was no such cutoff")
