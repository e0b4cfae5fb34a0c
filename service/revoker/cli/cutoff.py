"""`revoker cutoff`: take cutoffs back."""

import getpass
from typing import TYPE_CHECKING, Annotated, Literal

import structlog
import typer

from revoker.cli.configuration import (
    ClaimOption,
    ConfigOption,
    IssOption,
    ReasonOption,
    fail,
    find_issuer,
    format_time,
    load_settings,
    with_store,
)
from revoker.cli.store import check_value, key_of

if TYPE_CHECKING:
    from revoker.store.store import Store

_audit = structlog.get_logger("audit")

CutoffKind = Literal["user", "session", "client", "claim", "issuer"]

commands = typer.Typer(help="Take a cutoff back.", no_args_is_help=True)


@commands.command("lift")
def lift(
    kind: Annotated[CutoffKind, typer.Argument(help="What the cutoff is for.")],
    value: Annotated[str, typer.Argument(help="The sub, sid, client_id or value; nothing for issuer.")] = "",
    *,
    claim: ClaimOption = "",
    iss: IssOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
) -> None:
    """Take a cutoff back: the tokens it covered are active again, unless something else revokes them."""
    check_value(kind, value, claim)
    issuer = find_issuer(load_settings(config), iss)

    async def lift_cutoff(store: "Store") -> int:
        if kind == "user":
            return await store.revocations.lift_user(issuer, value)
        return await store.revocations.lift(key_of(store, kind, issuer, value, claim))

    cutoff = with_store(config, lift_cutoff)
    if not cutoff:
        fail("there is no such cutoff")
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
    typer.echo(f"lifted: {format_time(cutoff)}")
