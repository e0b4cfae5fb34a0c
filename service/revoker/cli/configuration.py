"""What commands share: the option ``--config``, and the settings, issuers and store that it leads to.

Modules that import prometheus_client are imported inside functions: see :class:`revoker.server.workers.Plan`.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, TypeVar

import typer

from revoker import logs
from revoker.cli import development
from revoker.config import schema
from revoker.config.edge import AnySettings, EdgeSessionSettings
from revoker.config.schema import Settings
from revoker.errors import ConfigError
from revoker.models import Issuer
from revoker.server.lifecycle import tls_context
from revoker.store import embedded
from revoker.tokens import keystore, refresh_tokens

if TYPE_CHECKING:
    from revoker.store.store import Store

Result = TypeVar("Result")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar="REVOKER_CONFIG", metavar="PATH", help="The configuration, a TOML file."),
]
IssOption = Annotated[
    str, typer.Option("--iss", help="The issuer: its name or its `iss`. Needed if there are several.")
]
ClaimOption = Annotated[str, typer.Option("--claim", metavar="NAME", help="For claim: its name.")]
ReasonOption = Annotated[str, typer.Option(help="The reason, for the audit log.")]


def is_development(config: Path | None) -> bool:
    """Whether neither a file nor the environment configures a service."""
    return config is None and not schema.describes_service(os.environ)


def load_settings(config: Path | None) -> Settings:
    """Raises ``ConfigError`` with all that is wrong with the settings."""
    if is_development(config):
        return development.prepare(os.environ).settings
    return schema.load(config, os.environ)


def check_files(settings: AnySettings) -> None:
    """Read the files that settings name and that are not read with them.

    Raises:
        ConfigError: with all that stops the start.
    """
    if problems := list(faults_of_files(settings)):
        raise ConfigError(problems)


def faults_of_files(settings: AnySettings) -> Iterator[str]:
    """A line for each fault that :func:`check_files` finds."""
    try:
        tls_context(settings.server)
    except ConfigError as error:
        yield from error.problems
    for index, issuer in enumerate(settings.issuers):
        if issuer.jwks_file and not os.access(issuer.jwks_file, os.R_OK):
            yield f"issuers[{index}].jwks_file: can't be read; give the path of a readable file"
    if settings.sessions is None or isinstance(settings.sessions, EdgeSessionSettings):
        return
    try:
        keystore.listed(Path(settings.sessions.signing_keys_dir), now=0)
    except ConfigError as error:
        yield from error.problems
    try:
        refresh_tokens.load_refresh_keys(Path(settings.sessions.refresh_key_file))
    except ConfigError as error:
        yield from error.problems


def find_issuer(settings: Settings, named: str, option: str = "--iss") -> Issuer:
    """The issuer that an option names, by its name or any ``iss``; without it the only one.

    Raises:
        ConfigError: there is no such issuer, or it must be named.
    """
    from revoker.from_settings import issuers_of  # noqa: PLC0415

    issuers = {issuer.name: issuer for issuer in issuers_of(settings).values()}.values()
    found = [issuer for issuer in issuers if named in {"", issuer.name, issuer.iss, *issuer.aliases}]
    if len(found) == 1:
        return found[0]
    names = ", ".join(issuer.name for issuer in issuers)
    if named:
        raise ConfigError([f"{option}: {named} is not an issuer of the configuration; they are: {names}"])
    raise ConfigError([f"{option}: name one of the issuers: {names}"])


def new_store(settings: Settings) -> "Store":
    """The store of the settings, not connected yet."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415

    from revoker.from_settings import issuers_of, store_of  # noqa: PLC0415
    from revoker.metrics import Metrics  # noqa: PLC0415

    return store_of(settings, issuers_of(settings), Metrics(CollectorRegistry()))


_LEAST_TIMEOUT_S: Final = 5.0
"""For one round trip of a command, which may carry hundreds of lines; nobody waits as for a verdict."""


def with_store(
    config: Path | None,
    work: "Callable[[Store], Awaitable[Result]]",
    *,
    refuse_conflicts: bool = True,
    adopt: bool = True,
) -> Result:
    """Run ``work`` with the store of a configuration, under the limits that the store remembers.

    Args:
        config: The file.
        work: Run in an event loop of its own.
        refuse_conflicts: Refuse settings that give an issuer another name than the store does, or its claims,
            as the service does when it starts.
        adopt: Whether to read these limits first; False for what must run on any store.

    Raises:
        ConfigError: such a conflict.
    """
    logs.configure(stream=sys.stderr)
    settings = load_settings(config)
    redis = settings.redis.model_copy(update={"timeout": max(settings.redis.timeout, _LEAST_TIMEOUT_S)})
    settings = settings.model_copy(update={"redis": redis})

    async def run() -> Result:
        store = new_store(settings)
        try:
            if adopt:
                await store.issuer_records.adopt()
            if refuse_conflicts:
                store.issuer_records.refuse_conflicts()
            return await work(store)
        finally:
            await store.close()

    with _running(settings.redis.url):
        return asyncio.run(run())


@contextlib.contextmanager
def _running(url: str) -> Iterator[None]:
    """Start an embedded store that is not running, and stop it afterwards."""
    if url.startswith("embedded:"):
        with embedded.reached(embedded.folder_of(url)):
            yield
    else:
        yield


def format_time(ms: float) -> str:
    """ISO 8601 in UTC, of milliseconds since 1970."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def fail(problem: str) -> NoReturn:
    """Print the problem and exit with status 1."""
    sys.stderr.write(f"{problem}\n")
    raise typer.Exit(1)
