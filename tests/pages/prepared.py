"""What has to be there before the blocks of each page are run, and what must be so afterwards."""

import base64
import contextlib
import json
import re
import time
import tomllib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from revoker.tokens.refresh_tokens import new_refresh_key_file
from tests.pages.bench import ISSUER, Bench
from tests.providers.tokens import AUTH0, dated
from tests.rig import forge
from tests.rig.service import SECRETS, Running

Prepare = Callable[[Bench], AbstractAsyncContextManager[int | None]]
"""Around the run of a block; yields the status with which its commands end, None for 0."""

_SUPPORT = ("support", "support-secret")


@contextlib.asynccontextmanager
async def as_before(bench: Bench) -> AsyncIterator[None]:
    """Nothing is needed beside what the blocks before it have left."""
    yield


def _sessions(bench: Bench, issuer: str) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "audiences": [forge.AUDIENCE],
        "signing_keys_dir": str(bench.folder / "signing-keys"),
        "refresh_key_file": str(bench.folder / "refresh.key"),
    }


async def _revoke(running: Running, path: str, body: dict[str, Any]) -> None:
    sent = {"json": body, "headers": {"Authorization": _basic(*_SUPPORT)}}
    answer = await running.ask("POST", path, **sent)
    assert answer.status == 200, answer.body


def _basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


@contextlib.asynccontextmanager
async def one_user(bench: Bench) -> AsyncIterator[None]:
    """The caller ``support`` has logged out a user. The issuer's sessions are those of the service."""
    (bench.folder / "signing-keys").mkdir()
    await bench.run("openssl ecparam -genkey -name prime256v1 -noout -out signing-keys/first.pem")
    new_refresh_key_file(bench.folder / "refresh.key")
    await bench.serve(issuers=[], sessions=_sessions(bench, forge.ISSUER))
    await _revoke(
        bench.running, "/revoke-user", {"sub": "auth0|42", "iss": forge.ISSUER, "reason": "lost phone"}
    )
    yield


@contextlib.asynccontextmanager
async def a_block(bench: Bench) -> AsyncIterator[None]:
    await _revoke(bench.running, "/block-user", {"sub": "auth0|57", "iss": forge.ISSUER, "reason": "fraud"})
    yield


@contextlib.asynccontextmanager
async def three_sessions(bench: Bench) -> AsyncIterator[None]:
    """A user has three, and still has them afterwards."""
    for _ in range(3):
        answer = await bench.running.post("/sessions", {"sub": "auth0|63"})
        assert answer.status == 201, answer.body
    yield
    assert await bench.running.active(answer.json["access_token"])


@contextlib.asynccontextmanager
async def a_grant(bench: Bench) -> AsyncIterator[None]:
    """Tokens of two grants; one of the grants is revoked."""
    running = await bench.serve(main={"claims": {"revocable": ["grant_id", "email"]}})
    tokens = [running.token(grant_id=grant, now=time.time() - 60) for grant in ("g-71", "g-72")]
    assert [await running.active(token) for token in tokens] == [True, True]
    yield
    assert [await running.active(token) for token in tokens] == [False, True]


@contextlib.asynccontextmanager
async def a_revoked_token(bench: Bench) -> AsyncIterator[None]:
    """It is exported."""
    await bench.configure()
    line = {"kind": "jti", "iss": forge.ISSUER, "jti": "0d4c7f1e", "exp": int(time.time()) + 600}
    (bench.folder / "before.ndjson").write_text(json.dumps(line))
    await bench.run("revoker import before.ndjson")
    yield
    assert '"jti":"0d4c7f1e"' in (bench.folder / "revoked.ndjson").read_text()


@contextlib.asynccontextmanager
async def issued_tokens(bench: Bench) -> AsyncIterator[None]:
    """They are revoked."""
    issued = [{"jti": uuid.uuid4().hex, "exp": int(time.time()) + 600, "sub": "alice"} for _ in range(3)]
    (bench.folder / "issued.json").write_text("\n".join(map(json.dumps, issued)))
    yield
    exported = await bench.run("revoker export")
    assert all(f'"jti":"{token["jti"]}"' in exported for token in issued)


@contextlib.asynccontextmanager
async def a_token_of_auth0(bench: Bench) -> AsyncIterator[None]:
    [payload] = [row.payload for row in AUTH0 if row.name == "Auth0"]
    claims = {**dated(payload, int(time.time())), "azp": "Xk2d7Qm1v0LrP9sT4uYb8wNc3zHe6aFg"}
    key = forge.rsa_key("auth0-1")
    token = forge.forge(key, {"alg": "RS256", "typ": "JWT", "kid": key.kid}, claims)
    (bench.folder / "token.txt").write_text(token)
    yield


@contextlib.asynccontextmanager
async def a_token_for_another_api(bench: Bench) -> AsyncIterator[int]:
    """Which is the reason of the status."""
    await bench.configure()
    (bench.folder / "token.txt").write_text(forge.token(forge.rsa_key("main-1"), aud="api://billing"))
    yield 1


@contextlib.asynccontextmanager
async def a_folder_of_keys(bench: Bench) -> AsyncIterator[None]:
    """It is empty, and afterwards a service signs with a key in it."""
    await bench.configure(sessions=_sessions(bench, "https://sessions.example.com"))
    yield
    running = await bench.serve(sessions=_sessions(bench, "https://sessions.example.com"))
    assert (await running.post("/sessions", {"sub": "alice"})).status == 201


@contextlib.asynccontextmanager
async def a_caller_and_a_secret(bench: Bench) -> AsyncIterator[None]:
    running = await bench.serve(issuers=[{**ISSUER, "jwks_file": str(bench.folder / "main.jwks")}])
    bench.words = {"<caller>:<secret>": f"admin:{SECRETS['admin']}", "https://<revoker>": running.url}
    token = running.token(sub="alice", now=time.time() - 60)
    yield
    bench.words = {}
    assert not await running.active(token)


@contextlib.asynccontextmanager
async def a_store(bench: Bench) -> AsyncIterator[None]:
    await bench.configure()
    yield


@contextlib.asynccontextmanager
async def a_secret_in_kubernetes(bench: Bench) -> AsyncIterator[None]:
    """`kubectl` hands over its arguments. The Secret is a folder of keys, and gets one that signs later."""
    (bench.folder / "signing-keys").mkdir()
    await bench.configure(sessions=_sessions(bench, "https://sessions.example.com"))
    await bench.run("openssl ecparam -genkey -name prime256v1 -noout -out signing-keys/first.pem")
    bench.program("kubectl", f'printf "%s\\0" "$@" >{bench.folder}/kubectl')
    yield
    *words, patch = _arguments_of_kubectl(bench)
    assert words == ["patch", "secret", "revoker-signing-keys", "--type", "merge", "--patch"]
    [(name, content)] = json.loads(patch)["data"].items()
    (bench.folder / "signing-keys" / name).write_bytes(base64.b64decode(content, validate=True))
    assert not (bench.folder / "next.pem").exists()
    listed = await bench.run("revoker keys list")
    assert [listed.count("ES256"), listed.count(" signing"), listed.count("signs from")] == [2, 1, 1], listed


@contextlib.asynccontextmanager
async def two_keys_in_kubernetes(bench: Bench) -> AsyncIterator[None]:
    """The first is removed."""
    yield
    *words, patch = _arguments_of_kubectl(bench)
    assert words == ["patch", "secret", "revoker-signing-keys", "--type", "json", "--patch"]
    [change] = json.loads(patch)
    assert change["op"] == "remove"
    (bench.folder / "signing-keys" / change["path"].removeprefix("/data/")).unlink()
    assert (await bench.run("revoker keys list")).count("ES256") == 1


@contextlib.asynccontextmanager
async def a_new_canary(bench: Bench) -> AsyncIterator[None]:
    """A service starts with what it prints."""
    yield
    tables = re.search(r"^\[\[issuers\]\].*(?=^2\.)", bench.printed, re.MULTILINE | re.DOTALL)
    assert tables, bench.printed
    found = tomllib.loads(tables[0])
    [issuer], [caller] = found["issuers"], found["callers"]
    key_set = str(bench.folder / "canary" / issuer["jwks_file"])
    running = await bench.serve(
        issuers=[ISSUER | {"jwks_file": str(bench.folder / "main.jwks")}, issuer | {"jwks_file": key_set}],
        callers=[caller],
    )
    settings = bench.folder / "canary" / "canary.toml"
    settings.write_text(settings.read_text().replace("https://revoker.internal:8080", running.url))


@contextlib.asynccontextmanager
async def one_round(bench: Bench) -> AsyncIterator[None]:
    """The service refuses the token of the canary."""
    yield
    assert re.search(r"^service\b", bench.printed, re.MULTILINE), bench.printed


@contextlib.asynccontextmanager
async def a_canary_in_kubernetes(bench: Bench) -> AsyncIterator[None]:
    """The Secret is made of files that are there."""
    (bench.folder / "canary").rename(bench.folder / "tried")
    bench.program("kubectl", f'printf "%s\\0" "$@" >{bench.folder}/kubectl')
    yield
    *words, key, secret = _arguments_of_kubectl(bench)
    assert words == ["create", "secret", "generic", "revoker-canary"]
    for word in (key, secret):
        assert (bench.folder / word.removeprefix("--from-file=")).read_text()


def _arguments_of_kubectl(bench: Bench) -> list[str]:
    *words, end = (bench.folder / "kubectl").read_text().split("\0")
    assert end == ""
    return words


PREPARED: dict[str, tuple[Prepare, ...]] = {
    "docs/administration.md": (one_user, a_block, three_sessions),
    "docs/canary.md": (a_new_canary, one_round, a_canary_in_kubernetes),
    "docs/claim-revocation.md": (a_grant,),
    "docs/export-import.md": (a_revoked_token, issued_tokens),
    "docs/issuer-commands.md": (a_token_of_auth0, a_token_for_another_api),
    "docs/kubernetes.md": (a_secret_in_kubernetes, two_keys_in_kubernetes),
    "docs/runbook.md": (a_caller_and_a_secret,),
    "docs/signing-keys.md": (a_folder_of_keys,),
    "docs/upgrading.md": (a_store, as_before, as_before),
}
"""By page: for each of its blocks that is run, in their order."""
