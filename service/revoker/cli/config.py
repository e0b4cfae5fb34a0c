"""`revoker config`: check a configuration without the network, print its schema, or an example."""

import contextlib
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer

from revoker.cli.configuration import ConfigOption, faults_of_files, is_development, load_settings
from revoker.config.canary import CanarySettings, is_canary, load_canary
from revoker.config.edge import AnySettings, EdgeSessionSettings, EdgeSettings, is_edge, load_edge
from revoker.config.loading import read
from revoker.config.schema import Settings
from revoker.errors import ConfigError
from revoker.tokens import keystore

commands = typer.Typer(
    help="Check a configuration without the network, print its schema, or an example.", no_args_is_help=True
)

SCHEMA_ID: Final = "urn:revoker:configuration"

_EXAMPLES: Final[dict[str, dict[str, object]]] = {
    "redis": {"url": "rediss://valkey.internal:6379/0"},
    "issuers": {
        "name": "main",
        "issuer": "https://idp.example.com",
        "audiences": ["api://orders"],
        "jwks_uri": "https://idp.example.com/jwks.json",
    },
    "callers": {"name": "edge-gateway", "secret_sha256": ["0" * 64], "scopes": ["introspect"]},
    "sessions": {
        "issuer": "https://sessions.example.com",
        "audiences": ["api://orders"],
        "signing_keys_dir": "keys",
        "refresh_key_file": "refresh.key",
    },
}
"""What most configurations set, by section. The digest is that of no secret anybody has."""


@commands.command()
def check(config: ConfigOption = None) -> None:
    """Check a configuration, and the files that it names; nothing is contacted.

    Exit status 2 and one line for every fault.
    """
    if is_development(config):
        raise ConfigError(["--config: give a configuration, or set REVOKER_CONFIG"])
    values = {} if config is None else read(config)
    if is_canary(values):
        settings_of_canary = load_canary(config, os.environ)
        _check_key(settings_of_canary)
        typer.echo(f"{config}: a canary of {len(settings_of_canary.targets)} targets; no faults")
        return
    settings = load_edge(config, os.environ) if is_edge(values) else load_settings(config)
    if problems := [*faults_of_files(settings), *_unusable_keys(settings)]:
        raise ConfigError(problems)
    nobody = "no callers, so nobody may introspect or revoke"
    parts = [f"{len(settings.issuers)} issuers"]
    parts.append(f"{len(settings.callers)} callers" if settings.callers else nobody)
    parts.append("sessions" if settings.sessions else "no sessions")
    if isinstance(settings, EdgeSettings):
        parts.append(f"an edge of {len(settings.upstream.url)} upstreams")
    typer.echo(f"{config or 'the environment'}: {', '.join(parts)}; no faults")


def _unusable_keys(settings: AnySettings) -> Iterator[str]:
    """The signing keys that the service would skip."""
    if settings.sessions is not None and not isinstance(settings.sessions, EdgeSessionSettings):
        with contextlib.suppress(ConfigError):  # a folder that can't be read is among the faults of files
            _, unusable = keystore.listed(Path(settings.sessions.signing_keys_dir), now=0)
            yield from (f"sessions.signing_keys_dir: {path.name}: {fault}" for path, fault in unusable)


def _check_key(settings: CanarySettings) -> None:
    from revoker.canary.process import load_key  # noqa: PLC0415  # imports prometheus_client

    load_key(settings)


@commands.command()
def schema() -> None:
    """Print the JSON Schema of the TOML file, for editors and pipelines.

    It has the names, types and ranges. `revoker config check` also checks what settings mean together.
    """
    typer.echo(schema_text(), nl=False)


def schema_text() -> str:
    """The schema as JSON (draft 2020-12)."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID}
    return json.dumps({**head, **Settings.model_json_schema()}, indent=2, ensure_ascii=False) + "\n"


@commands.command()
def example() -> None:
    """Print a configuration with every setting: those to adapt, and the others with their defaults."""
    typer.echo(example_text(), nl=False)


def example_text() -> str:
    """TOML. What has a default is a comment, so that only what most configurations need is set."""
    document = Settings.model_json_schema()
    tables = [
        "# A configuration of Revoker with every setting. Check it: revoker config check --config PATH",
        "# Make the digest of a caller's secret: revoker secret",
    ]
    for section, field in document["properties"].items():
        reference = next(_references(field))
        lists = section in {"issuers", "callers"}
        tables += _table(document["$defs"], section, reference, _EXAMPLES.get(section, {}), lists=lists)
    text = "\n".join(tables) + "\n"
    tomllib.loads(text)
    return text


def _references(schema: Any) -> Iterator[str]:
    """The names of the definitions that a part of a schema refers to."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        for part in schema.values():
            yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def _table(
    definitions: dict[str, Any], path: str, name: str, values: dict[str, object], *, lists: bool = False
) -> Iterator[str]:
    """The lines of a section, and of the sections below it, which are comments as a whole."""
    definition = definitions[name]
    head = f"[[{path}]]" if lists else f"[{path}]"
    below = {key: found for key, field in definition["properties"].items() for found in _references(field)}
    commented = "" if values or "." not in path else "# "
    optional = path == "sessions"
    yield ""
    yield from _comment(definition["description"])
    if optional:
        yield "# To let Revoker keep sessions, remove the comment marks of [sessions] and of its settings."
        commented = "# "
    yield f"{commented}{head}"
    for key, field in definition["properties"].items():
        if key in below:
            continue
        yield from _comment(field["description"])
        if key in values:
            yield f"{'# ' if optional else ''}{key} = {_toml(values[key])}"
        else:
            yield f"# {key} = {_toml(_default(field))}"
    for key, found in below.items():
        yield from _table(definitions, f"{path}.{key}", found, {})


def _comment(text: str) -> list[str]:
    return [f"# {line}".rstrip() for line in text.splitlines()]


def _default(field: dict[str, Any]) -> object:
    """The default; where that is to be absent, a value that it could have."""
    if (default := field["default"]) is not None:
        return default
    kind = field["anyOf"][0]
    return kind["enum"][0] if "enum" in kind else True


def _toml(value: object) -> str:
    """A value as TOML, on which JSON agrees for texts, numbers, truth values and lists of them."""
    return json.dumps(value, ensure_ascii=False)
