"""`revoker canary`."""

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from revoker import logs
from revoker.auth import new_secret
from revoker.cli.configuration import ConfigOption, fail
from revoker.config.canary import ISSUER, CanarySettings, load_canary
from revoker.config.server import ServerSettings
from revoker.errors import ConfigError
from revoker.server import lifecycle
from revoker.tokens.private_keys import SigningKey
from revoker.tokens.secret_files import write_private

if TYPE_CHECKING:
    from revoker.canary.rounds import Outcome

commands = typer.Typer(invoke_without_command=True)


@commands.callback()
def canary(
    context: typer.Context,
    config: ConfigOption = None,
    once: Annotated[
        bool, typer.Option("--once", help="Run one round, print a line for each target, and exit.")
    ] = False,
) -> None:
    """Revoke a token every minute, and measure how soon edges and gateways refuse it (docs/canary.md).

    With `--once`, the exit status is 1 if a target did not refuse the token in time, or could not be asked.
    """
    if context.invoked_subcommand is not None:
        return
    settings = load_canary(config, os.environ)
    if once:
        _run_once(settings)
    else:
        _run(settings)


def _run(settings: CanarySettings) -> None:
    from revoker.canary import process  # noqa: PLC0415  # imports prometheus_client; see workers.Plan

    logs.configure(background=True)
    server = ServerSettings(host=settings.server.host, port=settings.server.port, drain_seconds=0)
    process.load_key(settings)
    listeners = lifecycle.bind(server)
    uvloop.run(
        lifecycle.serve(
            process.Canary(settings),
            listeners,
            server,
            reload=_refuse_reload,
            listening=lambda: lifecycle.log.info("listening", url=listeners.url(server)),
            ready=lambda: None,
        )
    )


def _refuse_reload() -> NoReturn:
    raise ConfigError(["a canary reads its settings at the start alone, and secrets for every request"])


def _run_once(settings: CanarySettings) -> None:
    from revoker.canary import process  # noqa: PLC0415  # as above

    async def run() -> "list[Outcome]":
        async with process.opened(settings) as rounds:
            return await rounds.run()

    outcomes = asyncio.run(run())
    width = max(len(outcome.target) for outcome in outcomes)
    for outcome in outcomes:
        found = [f"{failure.reason}: {failure.problem}" for failure in outcome.failures]
        if outcome.seconds is not None:
            by = " by the others" if found else ""
            found.append(f"refused{by} after {outcome.seconds:.3f} s")
        typer.echo(f"{outcome.target:{width}}  {'; '.join(found)}")
    if any(outcome.failures for outcome in outcomes):
        raise typer.Exit(1)


_CONFIGURATION: Final = """\
# revoker canary --config {config}
[upstream]
url = {url}
secret_file = {secret_file}

[canary]
key_file = {key_file}

[[targets]]
name = "service"
url = {url}
"""

_ADVICE: Final = """\
{folder} has the key, the secret and the configuration of a canary.

1. Copy {jwks} to the service and to all edges, and add to their configuration:

[[issuers]]
name = "canary"
issuer = "{issuer}"
audiences = ["{issuer}"]
algorithms = ["{alg}"]
jwks_file = "{jwks_name}"
max_token_lifetime = 300
restricted = true

[[callers]]
name = "canary"
secret_sha256 = ["{sha256}"]
scopes = ["introspect", "revoke"]
issuers = ["canary"]

2. Restart them. Add edges and gateways to {config} as [[targets]].
3. revoker canary --config {config} --once"""


@commands.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write; it is made.")],
    url: Annotated[str, typer.Option(help="URL of the service.")],
) -> None:
    """Make the key, the secret and the configuration of a canary; print what the service and edges need."""
    folder = folder.absolute()
    key = SigningKey(ec.generate_private_key(ec.SECP256R1()))
    secret, sha256 = new_secret()
    config, jwks = folder / "canary.toml", folder / "canary.jwks.json"
    files = {
        folder / "canary.key": json.dumps(key.secret_jwk(), indent=1),
        folder / "canary.secret": secret,
        config: _CONFIGURATION.format(
            config=config,
            url=json.dumps(url),
            secret_file=json.dumps(str(folder / "canary.secret")),
            key_file=json.dumps(str(folder / "canary.key")),
        ),
    }
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if present := next((path for path in (*files, jwks) if path.exists()), None):
            fail(f"{present} exists; nothing was written")
        for path, text in files.items():
            write_private(path, f"{text.rstrip()}\n".encode(), replace=False)
        jwks.write_text(json.dumps({"keys": [key.public]}, indent=1) + "\n", encoding="utf-8")
    except OSError as fault:
        fail(f"{folder}: can't be used ({fault.strerror})")
    typer.echo(
        _ADVICE.format(
            folder=folder,
            config=config,
            jwks=jwks,
            jwks_name=jwks.name,
            issuer=ISSUER,
            alg=key.alg,
            sha256=sha256,
        )
    )
