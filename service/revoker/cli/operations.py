"""What an operator does by hand: `revoker store`, `revoker cutoff`, `revoker keys`.

What counts metrics is imported only where it is used, as `revoker.server.workers.Plan` wants it.
"""

import asyncio
import contextlib
import getpass
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import structlog
import typer

from revoker import logs
from revoker.cli import development
from revoker.config import schema as settings
from revoker.config.schema import SessionSettings, Settings
from revoker.errors import ConfigError
from revoker.models import Issuer
from revoker.store import embedded
from revoker.tokens import keystore
from revoker.tokens import refresh_tokens as refresh

if TYPE_CHECKING:
    from revoker.store.consistency.epoch import Epoch
    from revoker.store.store import Store

_audit = structlog.get_logger("audit")

RETIREMENT_MARGIN_S = 60
"""Beyond the life of the last token: for clocks that differ."""

Result = TypeVar("Result")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar="REVOKER_CONFIG", metavar="PATH", help="The configuration, a TOML file."),
]
IssOption = Annotated[str, typer.Option("--iss", help="The issuer: its name or its `iss`.")]

store_commands = typer.Typer(
    help="Say what the store is, after it was made, lost or restored.", no_args_is_help=True
)
cutoff_commands = typer.Typer(help="Take a cutoff back.", no_args_is_help=True)
key_commands = typer.Typer(help="Signing keys.", no_args_is_help=True)


@store_commands.command("init")
def init(
    config: ConfigOption = None,
    unless: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Do nothing where this file is: it was done before.")
    ] = None,
    or_known: Annotated[
        bool, typer.Option("--or-known", help="Leave a store that has an epoch as it is, with status 0.")
    ] = False,
) -> None:
    """Say beforehand that this store is new: nothing has been revoked in it, and nothing was lost."""
    if unless is not None and unless.exists():
        typer.echo(f"{unless} says that it was done")
    elif with_store(config, lambda store: store.init()):
        typer.echo("the store is declared new")
    elif or_known:
        typer.echo("the store has an epoch already, and keeps it")
    else:
        _fail("the store has an epoch already: it is not new (`revoker store check` shows it)")


@store_commands.command("check")
def check(config: ConfigOption = None) -> None:
    """Show the epoch and what would lose revocations silently; status 1 where something would."""

    async def look(store: "Store") -> "tuple[Epoch | None, dict[str, str]]":
        conflicts = store.issuer_records.conflicts.values()
        problems = {"settings_conflict": "; ".join(conflicts)} if conflicts else {}
        return await store.epoch(), problems | await store.dangers()

    epoch, dangers = with_store(config, look, refuse_conflicts=False)
    if epoch is None:
        typer.echo("epoch: none; `revoker store init` where the store is new")
    else:
        typer.echo(f"epoch: {epoch.id} ({epoch.finding})")
        typer.echo(f"since: {_date(epoch.noticed)}")
        if epoch.cutoff:
            typer.echo(f"nothing issued before is active: {_date(epoch.cutoff)}")
    for danger, detail in dangers.items():
        typer.echo(f"{danger}: {detail}")
    if epoch is None or epoch.finding == "refused" or dangers:
        raise typer.Exit(1)
    typer.echo("ok")


@store_commands.command("accept")
def accept(config: ConfigOption = None) -> None:
    """Accept the data as it is: verdicts are given again. What was lost stays lost."""
    _declared("store_accepted", with_store(config, lambda store: store.accept()))


@store_commands.command("lost")
def lost(config: ConfigOption = None) -> None:
    """Say that data was lost, before the first start on a restored snapshot."""
    policy = _settings(config).revocation.data_loss
    _declared("store_declared_lost", with_store(config, lambda store: store.declare_lost(policy)))


def _declared(event: str, epoch: "Epoch | None") -> None:
    if epoch is None:
        _fail("the store has no epoch: `revoker store init` where it is new")
    else:
        _audit.info(event, operator=getpass.getuser(), epoch=epoch.id, finding=epoch.finding)
        typer.echo(f"epoch: {epoch.id} ({epoch.finding})")


@store_commands.command("key")
def key(
    kind: Annotated[str, typer.Argument(help="jti, user, session, client, issuer or keys.")],
    value: Annotated[
        str, typer.Argument(help="The jti, sub, sid or client_id; nothing for issuer and keys.")
    ] = "",
    iss: IssOption = "",
    config: ConfigOption = None,
) -> None:
    """Print the Redis key of a thing, for a shell."""
    values = _settings(config)
    store = _store(values)
    typer.echo(_key_of(store, kind, _issuer(values, iss), value))


@cutoff_commands.command("lift")
def lift(
    kind: Annotated[str, typer.Argument(help="user, session, client or issuer.")],
    value: Annotated[str, typer.Argument(help="The sub, sid or client_id; nothing for issuer.")] = "",
    iss: IssOption = "",
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
    config: ConfigOption = None,
) -> None:
    """Take a cutoff back: what it covered is active again, unless something else stands against it."""
    if kind not in {"user", "session", "client", "issuer"}:
        raise typer.BadParameter("user, session, client or issuer", param_hint="KIND")
    issuer = _issuer(_settings(config), iss)

    async def take_back(store: "Store") -> int:
        if kind == "user":
            return await store.revocations.lift_user(issuer, value)
        return await store.revocations.lift(_key_of(store, kind, issuer, value))

    stood = with_store(config, take_back)
    _audit.info(
        "cutoff_lifted",
        operator=getpass.getuser(),
        kind=kind,
        value=value,
        iss=issuer.iss,
        stood=stood / 1000,
        reason=reason,
    )
    typer.echo(f"lifted: {_date(stood)}" if stood else "there was no such cutoff")


@key_commands.command("forget")
def forget(
    kid: Annotated[str, typer.Argument(help="The revoked key.")],
    iss: IssOption = "",
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
    config: ConfigOption = None,
) -> None:
    """Take the revocation of a signing key back: its tokens count again."""
    values = _settings(config)
    issuer = _issuer(values, iss)
    if kid in issuer.revoked_kids:
        _fail("the key stands in revoked_kids of the configuration")
    if not with_store(config, lambda store: store.revocations.forget_key(issuer, kid)):
        _fail("no such key is revoked")
    _audit.info("key_forgotten", operator=getpass.getuser(), iss=issuer.iss, kid=kid, reason=reason)
    typer.echo("forgotten")


@key_commands.command("generate")
def generate(
    alg: Annotated[keystore.SigningAlgorithm, typer.Option(help="What it signs with.")] = "ES256",
    ahead: Annotated[
        int, typer.Option(min=0, help="Seconds for which it is published before it signs.")
    ] = keystore.AHEAD_S,
    config: ConfigOption = None,
) -> None:
    """Make a signing key; where there is none yet it signs at once. Makes the refresh key too if absent."""
    sessions = _sessions(_settings(config))
    refresh.new_refresh_key_file(Path(sessions.refresh_key_file))
    made = keystore.generate(Path(sessions.signing_keys_dir), alg, time.time(), ahead)
    _audit.info("key_generated", operator=getpass.getuser(), kid=made.key.kid, alg=alg)
    typer.echo(f"{made.key.kid}  {alg}  signs from {_date((made.signs_from or 0) * 1000)}")


@key_commands.command("list")
def list_keys(config: ConfigOption = None) -> None:
    """Show the signing keys and what each does now; of those that were revoked the store knows."""
    folder = Path(_sessions(_settings(config)).signing_keys_dir)
    keys, unusable = keystore.listed(folder, time.time())
    for each in keys:
        dated = each.dated
        when = {
            "next": f"next, signs from {_date((dated.signs_from or 0) * 1000)}",
            "retiring": f"retiring until {_date((dated.until or 0) * 1000)}",
        }
        undated = "" if dated.signs_from is not None or dated.until is not None else ", has no date"
        typer.echo(f"{dated.key.kid}  {dated.key.alg}  {when.get(each.state, each.state)}{undated}")
    for path, reason in unusable:
        typer.echo(f"{path.name}: {reason}", err=True)


@key_commands.command("retire")
def retire(
    kid: Annotated[str, typer.Argument(help="The key.")],
    force: Annotated[bool, typer.Option("--force", help="Even where no other key signs yet.")] = False,
    config: ConfigOption = None,
) -> None:
    """Let a key sign nothing more; it is published until the last of its tokens has expired."""
    values = _settings(config)
    sessions = _sessions(values)
    keep = sessions.access_token_lifetime + values.revocation.leeway + RETIREMENT_MARGIN_S
    retired = keystore.retire(Path(sessions.signing_keys_dir), kid, time.time(), keep, force=force)
    end = _date((retired.until or 0) * 1000)
    _audit.info("key_retired", operator=getpass.getuser(), kid=kid, until=end)
    typer.echo(f"{kid}  retiring until {end}")


@key_commands.command("rotate-refresh")
def rotate_refresh(
    ahead: Annotated[
        int, typer.Option(min=0, help="Seconds in which every instance must have read it.")
    ] = keystore.AHEAD_S,
    config: ConfigOption = None,
) -> None:
    """Add a refresh key; the two before it go on being believed, older ones do not."""
    path = Path(_sessions(_settings(config)).refresh_key_file)
    signs_from = math.ceil(time.time() + ahead)
    refresh.rotate_refresh_keys(path, signs_from=signs_from)
    _audit.info("refresh_key_rotated", operator=getpass.getuser(), signs_from=_date(signs_from * 1000))
    typer.echo(f"a new refresh key signs from {_date(signs_from * 1000)}")


def _sessions(values: Settings) -> SessionSettings:
    logs.configure(stream=sys.stderr)
    if values.sessions is None:
        raise ConfigError(["sessions: is not configured, so no tokens are signed here"])
    return values.sessions


def _key_of(store: "Store", kind: str, issuer: Issuer, value: str) -> str:
    keys = store.keys
    makers: dict[str, Callable[[], str]] = {
        "jti": lambda: keys.jti(issuer, value),
        "user": lambda: keys.user_of(issuer, value),
        "session": lambda: keys.session_cutoff(issuer, value),
        "client": lambda: keys.client_cutoff(issuer, value),
        "issuer": lambda: keys.issuer_cutoff(issuer),
        "keys": lambda: keys.revoked_keys(issuer),
    }
    if kind not in makers:
        raise typer.BadParameter(", ".join(makers), param_hint="KIND")
    if not value and kind not in {"issuer", "keys"}:
        raise typer.BadParameter(f"a {kind} needs a value", param_hint="VALUE")
    return makers[kind]()


def _settings(config: Path | None) -> Settings:
    if config is None and not settings.describes_service(os.environ):
        return development.prepare(os.environ).settings
    return settings.load(config, os.environ)


def _issuer(values: Settings, named: str) -> Issuer:
    from revoker import app  # noqa: PLC0415

    issuers = app.issuers_of(values)
    fitting = [each for each in issuers.values() if named in {"", each.name, each.iss}]
    if len(fitting) != 1:
        raise ConfigError([f"--iss: one of {', '.join(each.name for each in issuers.values())}"])
    return fitting[0]


def _store(values: Settings) -> "Store":
    from prometheus_client import CollectorRegistry  # noqa: PLC0415

    from revoker import app  # noqa: PLC0415
    from revoker.metrics import Metrics  # noqa: PLC0415

    return app.store_of(values, app.issuers_of(values), Metrics(CollectorRegistry()))


def with_store(
    config: Path | None,
    work: "Callable[[Store], Awaitable[Result]]",
    *,
    patience: float = 0.0,
    refuse_conflicts: bool = True,
) -> Result:
    """Do something with the store of a configuration.

    Args:
        config: The file.
        work: What to do, once the bounds that the store remembers hold for it.
        patience: A time-out of so many seconds at least.
        refuse_conflicts: Whether nothing is done where the service would not start either, since the
            settings name an issuer otherwise than the store does.

    Raises:
        ConfigError: such a conflict.
    """
    logs.configure(stream=sys.stderr)
    values = _settings(config)
    redis = values.redis.model_copy(update={"timeout": max(values.redis.timeout, patience)})
    values = values.model_copy(update={"redis": redis})

    async def run() -> Result:
        store = _store(values)
        try:
            await store.issuer_records.adopt()
            if refuse_conflicts:
                store.issuer_records.refuse_conflicts()
            return await work(store)
        finally:
            await store.close()

    with _reachable(values):
        return asyncio.run(run())


@contextlib.contextmanager
def _reachable(values: Settings) -> Iterator[None]:
    """An embedded store that does not run is started for the while."""
    url = values.redis.url
    if url.startswith("embedded:"):
        with embedded.reached(embedded.folder_of(url)):
            yield
    else:
        yield


def _date(at_ms: float) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _fail(problem: str) -> NoReturn:
    sys.stderr.write(f"{problem}\n")
    raise typer.Exit(1)
