"""Where the commands of a page are run: a folder with `revoker` on the PATH, a store, and services on it."""

import asyncio
import json
import os
import shutil
import stat
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Any

from revoker.auth import digest
from tests.rig import forge
from tests.rig.probes import within
from tests.rig.servers import Valkey
from tests.rig.service import HANGS_S, PATIENT_S, SECRETS, Running, Start
from tests.rig.shell_blocks import matches_page

PREFIX = "rv"
ISSUER = {"name": "main", "issuer": forge.ISSUER, "audiences": [forge.AUDIENCE], "jwks_file": "main.jwks"}
SCOPES = ["introspect", "revoke", "sessions", "read"]


class Bench:
    """One for each page; its blocks are run one after the other.

    Attributes:
        folder: The working directory.
        environ: Variables that the page takes for granted, such as ``REVOKER_URL``.
        words: What a reader puts in the place of other words, such as ``<secret>``.
        running: The service that was started last.
        printed: What the last command of a page has printed.
    """

    running: Running
    printed: str

    def __init__(self, folder: Path, valkey: Valkey, start: Start) -> None:
        self.folder = folder
        self.valkey = valkey
        self.environ: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self._start = start
        self._programs = folder / "bin"
        self._programs.mkdir()
        (folder / "main.jwks").write_text(json.dumps(forge.jwks(forge.rsa_key("main-1"))))
        (self._programs / "revoker").symlink_to(Path(sys.executable).parent / "revoker")
        curl = shutil.which("curl")
        self.program("curl", f'exec {curl} --fail-with-body "$@"')  # or an error would pass for an answer

    def program(self, name: str, script: str) -> None:
        """Put a program on the PATH."""
        file = self._programs / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    async def serve(self, **changes: Any) -> Running:
        """Start a service whose address and whose secret of ``admin`` the commands use."""
        callers = [
            {"name": name, "secret_sha256": [digest(secret)], "scopes": SCOPES}
            for name, secret in (*SECRETS.items(), ("support", "support-secret"))
        ]
        self.running = await self._start(self.valkey, prefix=PREFIX, **{"callers": callers, **changes})
        self.environ |= {"REVOKER_URL": self.running.url, "REVOKER_ADMIN_SECRET": SECRETS["admin"]}
        return self.running

    async def configure(self, **sections: Any) -> None:
        """Write `revoker.toml`, which also `REVOKER_CONFIG` names, and declare its store new."""
        settings = {
            "redis": {"url": self.valkey.url, "key_prefix": PREFIX, "timeout": PATIENT_S},
            "issuers": [ISSUER],
            "callers": [
                {"name": "admin", "secret_sha256": [digest(SECRETS["admin"])], "scopes": ["introspect"]}
            ],
            **sections,
        }
        text = "\n".join(f"{name} = {_toml(value)}" for name, value in settings.items())
        (self.folder / "revoker.toml").write_text(text)
        self.environ["REVOKER_CONFIG"] = "revoker.toml"
        await self.run("revoker store init")

    async def run(self, script: str, status: int = 0) -> str:
        """What a script prints; it must end with this status."""
        for word, value in self.words.items():
            assert word in script
            script = script.replace(word, value)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REVOKER")}
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", script),
            cwd=self.folder,
            env={**inherited, **self.environ, "PATH": f"{self._programs}:{os.environ['PATH']}"},
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            async with within(HANGS_S, f"the end of {script}"):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == status, (script, out.decode() + err.decode())
        return out.decode()

    async def check(self, command: str, shown: str, status: int = 0) -> None:
        """Run a command, and compare what it prints with what its page shows, if that shows anything."""
        self.printed = await self.run(command, status)
        assert not shown or matches_page(self.printed, shown), (
            f"{command}\nprints\n{self.printed}\nand not\n{shown}"
        )


def _toml(value: Any) -> str:
    """A value as TOML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
