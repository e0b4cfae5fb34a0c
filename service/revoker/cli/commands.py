"""The command line: every command, and how errors are reported."""

import sys
from typing import Annotated

import typer

from revoker import __version__
from revoker.auth import new_secret
from revoker.cli import canary, config, cutoff, development, issuer, keys, store, transfer
from revoker.cli.edge import edge
from revoker.cli.serve import serve
from revoker.errors import ConfigError, RevokerError

command = typer.Typer(
    name="revoker",
    help="Redis-backed token revocation: makes a JWT invalid before it expires.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"revoker {__version__}")
        raise typer.Exit


@command.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


@command.command()
def secret() -> None:
    """Make a caller's secret, and its digest for the configuration."""
    text, sha256 = new_secret()
    typer.echo(
        f"secret  {text}\n"
        f"sha256  {sha256}\n\n"
        "Give the secret to the caller, for Basic or Bearer authentication; it is not shown again.\n"
        "Put the digest into the configuration, beside the old one while a secret is replaced:\n\n"
        "[[callers]]\n"
        'name = "edge-gateway"\n'
        f'secret_sha256 = ["{sha256}"]\n'
        'scopes = ["introspect"]'
    )


command.command()(serve)
command.command()(edge)
command.add_typer(canary.commands, name="canary")
command.command("dev-token")(development.dev_token)
command.add_typer(config.commands, name="config")
command.add_typer(store.commands, name="store")
command.add_typer(cutoff.commands, name="cutoff")
command.add_typer(keys.commands, name="keys")
command.add_typer(issuer.commands, name="issuer")
command.command("export")(transfer.export)
command.command("import")(transfer.import_)


def main() -> None:
    """Run the command line; problems with the settings are printed one per line, with status 2."""
    try:
        command()
    except ConfigError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        sys.exit(2)
    except RevokerError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
