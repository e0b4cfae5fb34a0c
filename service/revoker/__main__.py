"""The command line; `revoker` and `python -m revoker` are the same."""

import sys  # the rest is imported below: a signal must not find the process unprepared meanwhile

from revoker.server import start_signals

if sys.argv[1:2] == ["serve"]:
    start_signals.install_handlers()

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from revoker import __version__, logs
from revoker.auth import new_secret
from revoker.cli import development
from revoker.cli import operations as operating
from revoker.cli import transfer as transferring
from revoker.config import schema as settings
from revoker.errors import ConfigError, RevokerError
from revoker.server import workers as processes

if TYPE_CHECKING:
    from revoker.app import Service

command = typer.Typer(
    name="revoker",
    help="Redis-backed token revocation: makes a JWT stop being valid now.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar="REVOKER_CONFIG", metavar="PATH", help="The configuration, a TOML file."),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"revoker {__version__}")
        raise typer.Exit


@command.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it and exit.")
    ] = False,
) -> None:
    pass


@command.command()
def serve(config: ConfigOption = None) -> None:
    """Run the service; without any configuration a development set-up, kept under .revoker/."""
    logs.configure(background=True)
    if config is None and not settings.describes_service(os.environ):
        setup = development.prepare(os.environ)
        plan = processes.Plan(
            settings=setup.settings,
            reload_settings=lambda: development.prepare(os.environ).settings,
            build=_build,
            ready=lambda url: logs.write_text(development.welcome(setup, url)),
        )
    else:
        plan = processes.Plan(
            settings=settings.load(config, os.environ),
            reload_settings=lambda: settings.load(config, os.environ),
            build=_build,
            ready=lambda _: None,
        )
    processes.run(plan)


def _build(values: settings.Settings) -> "Service":
    from revoker import app  # noqa: PLC0415 -- imports what counts metrics; see processes.Plan

    return app.build(values)


@command.command()
def secret() -> None:
    """Make a caller's secret, and the digest of it that the configuration holds."""
    text, sha256 = new_secret()
    typer.echo(
        f"secret  {text}\n"
        f"sha256  {sha256}\n\n"
        "The secret is the caller's, as its password (Basic) or as Bearer; it is shown only here.\n"
        "The digest goes into the configuration, beside the old one while a secret is replaced:\n\n"
        "[[callers]]\n"
        'name = "edge-gateway"\n'
        f'secret_sha256 = ["{sha256}"]\n'
        'scopes = ["introspect"]'
    )


@command.command("dev-token")
def dev_token(
    sub: Annotated[str, typer.Option(help="The user.")],
    ttl: Annotated[int, typer.Option(help="Seconds until it expires.")] = 3600,
    client_id: Annotated[str, typer.Option(help="The client it was issued to.")] = development.CLIENT,
    sid: Annotated[str | None, typer.Option(help="The session it belongs to.")] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Any claim; the value as JSON or text, null leaves it out."),
    ] = None,
) -> None:
    """Mint a token that `revoker serve` without a configuration accepts."""
    claims = {"sub": sub, "client_id": client_id, "sid": sid, **dict(map(_claim, claim or []))}
    typer.echo(development.mint(claims, ttl=ttl, key_file=development.key_file(os.environ)))


def _claim(text: str) -> tuple[str, object]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise typer.BadParameter("write it as name=value", param_hint="--claim")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


command.add_typer(operating.store_commands, name="store")
command.add_typer(operating.cutoff_commands, name="cutoff")
command.add_typer(operating.key_commands, name="keys")
command.command("export")(transferring.export)
command.command("import")(transferring.import_)


def main() -> None:
    """Run the command line; what is wrong with the settings is told one line each, with status 2."""
    try:
        command()
    except ConfigError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        sys.exit(2)
    except RevokerError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
