"""`revoker store`: declare, inspect and accept the data of a store."""

import dataclasses
import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

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
    from revoker.store.report import Report
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
def check(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check all that the service needs of the store; status 1 if anything is wrong or cannot be seen."""
    report = with_store(config, lambda store: store.check(), refuse_conflicts=False, adopt=False)
    url = _without_password(load_settings(config).redis.url)
    typer.echo(_as_json(url, report) if as_json else _as_text(url, report))
    if not report.ok:
        raise typer.Exit(1)


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _as_json(url: str, report: "Report") -> str:
    epoch = report.epoch
    return json.dumps(
        {
            "ok": report.ok,
            "store": url,
            "servers": report.servers,
            "epoch": epoch
            and {"id": epoch.id, "finding": epoch.finding, "noticed": epoch.noticed, "cutoff": epoch.cutoff},
            "checked": report.checked,
            "refused": [dataclasses.asdict(refusal) for refusal in report.refused],
            "problems": [dataclasses.asdict(problem) for problem in report.problems],
        },
        indent=2,
    )


def _as_text(url: str, report: "Report") -> str:
    lines = [f"store: {url}", *(f"server: {server}" for server in report.servers)]
    if (epoch := report.epoch) is not None:
        lines += [f"epoch: {epoch.id} ({epoch.finding})", f"since: {format_time(epoch.noticed)}"]
        if epoch.cutoff:
            lines.append(f"nothing issued before is active: {format_time(epoch.cutoff)}")
    if report.checked:
        lines += ["", "checked:", *(f"  {name}: {seen}" for name, seen in report.checked.items())]
    for problem in report.problems:
        lines += ["", f"{problem.name}: {problem.detail}"]
        if problem.name == "refused_commands":
            lines += [
                f"  {refusal.command}: {refusal.words} (needed for {refusal.needed_for})"
                for refusal in report.refused
            ]
        lines += [f"  means: {problem.means}", f"  do: {problem.do}"]
    return "\n".join([*lines, "", "ok" if report.ok else f"problems: {len(report.problems)}"])


@commands.command("rights")
def rights(config: ConfigOption = None) -> None:
    """Print the rights that the service and these commands need, as rules of Redis ACLs."""
    from revoker.store.rights import sentinel_commands  # noqa: PLC0415

    settings = load_settings(config)
    url = urlsplit(settings.redis.url)
    rules = new_store(settings).acl_rules()
    typer.echo(
        "# As an administrator, on every server; then ACL SAVE, or CONFIG REWRITE:\n"
        f"ACL SETUSER {url.username or 'revoker'} reset on >PASSWORD resetchannels {rules}\n"
        "# Access string of ElastiCache and MemoryDB:\n"
        f"on {rules}"
    )
    if url.scheme.endswith("+sentinel"):
        allowed = " ".join(f"+{name}" for name in sentinel_commands())
        typer.echo(
            "# On every Sentinel:\n"
            f"ACL SETUSER {settings.redis.sentinel_username or url.username or 'revoker'} reset on >PASSWORD"
            f" -@all {allowed}"
        )


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
