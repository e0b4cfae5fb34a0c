"""The setup of `revoker serve` without a configuration, for trials and development only.

Everything is in ``.revoker/`` of the working directory, made at the first start and used again:
the embedded store's data, an issuer's key pair, the secrets of two callers.
"""

import json
import os
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from revoker.auth import digest, new_secret
from revoker.config.schema import Settings, settle
from revoker.errors import ConfigError
from revoker.tokens import keystore
from revoker.tokens.private_keys import SigningKey, key_in
from revoker.tokens.refresh_tokens import new_refresh_key_file
from revoker.tokens.secret_files import write_private

FOLDER: Final = Path(".revoker")
ISSUER: Final = "https://dev.revoker.test"
SESSIONS_ISSUER: Final = "https://sessions.revoker.test"
AUDIENCE: Final = "api://dev"
CLIENT: Final = "dev-client"
KEY_VARIABLE: Final = "REVOKER_DEV_TOKEN_KEY"
ADMIN_SCOPES: Final = ("introspect", "revoke", "revoke-all", "sessions", "read")


@dataclass(frozen=True, slots=True, kw_only=True)
class Development:
    """The setup; everything but the settings is written to ``dev.env``."""

    folder: Path
    settings: Settings
    gateway_secret: str
    admin_secret: str

    @property
    def key_file(self) -> Path:
        return self.folder / "dev-key.pem"


def prepare(environ: Mapping[str, str], folder: Path = FOLDER) -> Development:
    """Make the files that are missing in ``folder``, and the settings that use them.

    Raises:
        ConfigError: the folder can't be used, or the environment has a wrong setting.
    """
    folder = folder.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        saved = _read_env(folder / "dev.env")
        gateway = saved.get("REVOKER_GATEWAY_SECRET") or new_secret()[0]
        admin = saved.get("REVOKER_ADMIN_SECRET") or new_secret()[0]
        key = _key(folder / "dev-key.pem")
        write_private(folder / "dev-jwks.json", json.dumps({"keys": [key.public]}, indent=1).encode())
        _make_session_keys(folder)
    except (OSError, ValueError) as error:
        raise ConfigError([f"{folder}: is not usable for the development setup: {error}"]) from None
    settings = settle(
        {
            "redis": {"url": f"embedded:{folder / 'store'}"},
            "console": {"secret_sign_in": True},
            "issuers": [
                {
                    "name": "dev",
                    "issuer": ISSUER,
                    "audiences": [AUDIENCE],
                    "algorithms": [key.alg],
                    "jwks_file": str(folder / "dev-jwks.json"),
                }
            ],
            "callers": [
                {"name": "gateway", "secret_sha256": [digest(gateway)], "scopes": ["introspect"]},
                {"name": "admin", "secret_sha256": [digest(admin)], "scopes": list(ADMIN_SCOPES)},
            ],
            "sessions": {
                "issuer": SESSIONS_ISSUER,
                "audiences": [AUDIENCE],
                "signing_keys_dir": str(folder / "keys"),
                "refresh_key_file": str(folder / "refresh.key"),
            },
        },
        environ,
    )
    return Development(folder=folder, settings=settings, gateway_secret=gateway, admin_secret=admin)


def _make_session_keys(folder: Path) -> None:
    if not (folder / "keys").exists():
        keystore.generate(folder / "keys", "ES256", time.time())
    if not (folder / "refresh.key").exists():
        new_refresh_key_file(folder / "refresh.key")


def welcome(development: Development, url: str) -> str:
    """Write ``dev.env`` for the service at ``url``; returns a text with three commands to paste."""
    lines = {
        "REVOKER_URL": url,
        "REVOKER_GATEWAY_SECRET": development.gateway_secret,
        "REVOKER_ADMIN_SECRET": development.admin_secret,
        KEY_VARIABLE: str(development.key_file),
    }
    env = development.folder / "dev.env"
    write_private(env, "".join(f"{name}={shlex.quote(value)}\n" for name, value in lines.items()).encode())
    token = mint({"sub": "alice"}, key_file=development.key_file)
    curl = "curl -sk" if url.startswith("https:") else "curl -s"
    introspect = f"{curl} -u gateway:{development.gateway_secret} -w '\\n' -d token={token} {url}/introspect"
    revoke = (
        f"{curl} -u admin:{development.admin_secret} -w '\\n' -H 'Content-Type: application/json'"
        f""" -d '{{"sub": "alice"}}' {url}/revoke-user"""
    )
    return (
        f"Revoker serves {url} with a development setup; its secrets are in {env}.\n"
        "Paste, to introspect a fresh token, log its user out everywhere, and introspect it again:\n\n"
        f"{introspect}\n\n{revoke}\n\n{introspect}\n\n"
        f"More tokens, from this folder: {_this_program()} dev-token --sub bob\n"
        + (
            f"Console: {url}/console; sign in as admin with {development.admin_secret}\n"
            if development.settings.console.enabled
            else ""
        )
    )


def _this_program() -> str:
    """The shell command of this program: `revoker` only if the PATH finds this very script by that name."""
    script = Path(sys.argv[0])
    if script.name != "revoker":
        return f"{shlex.quote(sys.executable)} -m revoker"
    found = shutil.which("revoker")
    if found is not None and script.exists() and script.samefile(found):
        return "revoker"
    return shlex.quote(str(script))


def key_file(environ: Mapping[str, str]) -> Path:
    """The key that `revoker dev-token` signs with; ``dev.env`` sets the variable that names it."""
    return Path(environ.get(KEY_VARIABLE) or FOLDER / "dev-key.pem")


def dev_token(
    sub: Annotated[str, typer.Option(help="The user.")],
    ttl: Annotated[int, typer.Option(help="Seconds until it expires.")] = 3600,
    client_id: Annotated[str, typer.Option(help="The client it was issued to.")] = CLIENT,
    sid: Annotated[str | None, typer.Option(help="The session it belongs to.")] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Any claim; the value as JSON or text, null leaves it out."),
    ] = None,
) -> None:
    """Mint a token that `revoker serve` without a configuration accepts."""
    claims = {"sub": sub, "client_id": client_id, "sid": sid, **dict(map(_claim, claim or []))}
    typer.echo(mint(claims, ttl=ttl, key_file=key_file(os.environ)))


def _claim(text: str) -> tuple[str, object]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise typer.BadParameter("write it as name=value", param_hint="--claim")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def mint(claims: Mapping[str, Any], *, key_file: Path, ttl: int = 3600) -> str:
    """A token that the development setup accepts; a claim that is None is left out.

    Raises:
        ConfigError: the file is missing, or holds no key.
    """
    try:
        key = key_in(key_file).key
    except OSError:
        problem = f"{key_file}: no such file; `revoker serve` without a configuration makes it"
        raise ConfigError([problem]) from None
    except ValueError as error:
        raise ConfigError([f"{key_file}: {error}"]) from None
    now = int(time.time())
    defaults = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "client_id": CLIENT,
        "jti": secrets.token_urlsafe(16),
        "iat": now,
        "exp": now + ttl,
    }
    merged = {**defaults, **claims}
    return key.sign({name: value for name, value in merged.items() if value is not None})


def _key(path: Path) -> SigningKey:
    if not path.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(path, pem)
    return key_in(path).key


def _read_env(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    pairs = (line.partition("=") for line in path.read_text(encoding="utf-8").splitlines())
    return {name: "".join(shlex.split(value)) for name, separator, value in pairs if separator}
