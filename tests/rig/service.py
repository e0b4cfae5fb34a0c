"""The service in this process, on a free port of 127.0.0.1, and what tests ask it."""

import asyncio
import dataclasses
import json
import re
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.web import TCPSite

from revoker import app
from revoker.auth import digest
from revoker.config.schema import Settings, settle
from revoker.server.connections import Runner
from revoker.server.lifecycle import CONNECTION
from tests.rig import forge
from tests.rig.servers import free_port

PATIENT_S = 10.0
"""``redis.timeout`` of the services under test, unless a test sets another.

A busy machine exceeds the default (0.25 s), and then the answer is 503; it does not exceed this one.
"""

HANGS_S = 120.0
"""After this time a test that waits for something fails; no passing test waits so long."""

OTHER_ISSUER = "https://other.example.com"

SECRETS = {
    "gateway": "gateway-secret",
    "admin": "admin-secret",
    "orders-only": "orders-only-secret",
    "billing": "billing-secret",
    "bound": "bound-secret",
    "one-issuer": "one-issuer-secret",
    "edge": "edge-secret",
}


@dataclasses.dataclass
class Running:
    """A service that answers on ``url``."""

    service: app.Service
    url: str
    http: aiohttp.ClientSession
    key: forge.SigningKey
    close: Callable[[], Awaitable[None]]

    async def post(
        self,
        path: str,
        body: Any = None,
        *,
        caller: str | None = "admin",
        form: Any = None,
        headers: dict[str, str] | None = None,
    ) -> "Answer":
        """POST JSON, or a form; ``caller`` shows its secret by Basic."""
        sent = dict(headers or {})
        if caller is not None:
            sent["Authorization"] = aiohttp.encode_basic_auth(caller, SECRETS[caller])
        content = {"data": form} if form is not None else {"json": body}
        if isinstance(body, bytes):
            content = {"data": body}
            sent.setdefault("Content-Type", "application/json")
        return await self.ask("POST", path, headers=sent, **content)

    async def ask(self, method: str, path: str, **request: Any) -> "Answer":
        """Any request, with nothing added."""
        async with self.http.request(method, self.url + path, **request) as response:
            answer = Answer(response.status, response.headers, await response.read())
        check_documented(method, path, answer)
        return answer

    async def active(self, asked: str | dict[str, Any], caller: str = "gateway") -> bool:
        """Whether a token, by its text or its claims, is active to a gateway."""
        body = {"token": asked} if isinstance(asked, str) else asked
        answer = await self.post("/introspect", body, caller=caller)
        assert answer.status == 200, (answer.status, answer.body)
        verdict = answer.json["active"]
        assert isinstance(verdict, bool)
        return verdict

    def token(self, **changes: Any) -> str:
        """An ordinary token of the issuer ``main``."""
        return (
            forge.token(self.key, jti=str(uuid.uuid4()), **changes)
            if "jti" not in changes
            else forge.token(self.key, **changes)
        )


OPENAPI = json.loads(
    (Path(__file__).parents[2] / "service/revoker/api/openapi.json").read_text(encoding="utf-8")
)

_TEMPLATES = {path: re.compile(re.sub(r"{\w+}", "[^/]+", path)) for path in OPENAPI["paths"]}

_OF_THE_SERVER = frozenset({404, 405, 417, 431})
"""Statuses that every path may have: of requests that reach no operation."""


def check_documented(method: str, target: str, answer: "Answer") -> None:
    """Fail where an operation gives a status or an error that the OpenAPI document does not list for it."""
    path = target.partition("?")[0]
    template = next((one for one, pattern in _TEMPLATES.items() if pattern.fullmatch(path)), "")
    operation = OPENAPI["paths"].get(template, {}).get(method.lower())
    if operation is None or answer.status in _OF_THE_SERVER:
        return
    responses = operation["responses"]
    assert str(answer.status) in responses, f"{method} {template} is not said to answer {answer.status}"
    if (name := responses[str(answer.status)].get("$ref", "").rpartition("/")[2]) != "":
        schema = OPENAPI["components"]["responses"][name]["content"]["application/json"]["schema"]
        codes = schema["properties"]["error"]["enum"]
        assert answer.json["error"] in codes, f"{method} {template} is not said to answer {answer.error}"


@dataclasses.dataclass
class Answer:
    """One response, read; what every response must keep is looked at right away."""

    status: int
    headers: Any
    body: bytes

    def __post_init__(self) -> None:
        assert self.status < 500 or self.status == 503, (self.status, self.body)
        assert self.headers["Cache-Control"] == "no-store"
        assert self.status != 401 or self.headers["WWW-Authenticate"] == 'Basic realm="revoker"'
        assert self.status != 405 or self.headers["Allow"]
        if self.status in {429, 503} and b'"error"' in self.body:
            assert self.headers["Retry-After"].isdigit()
        if self.status >= 400 and b'"error"' in self.body:
            assert set(self.json) == {"error", "error_description"}
            assert re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]*", self.json["error_description"])

    @property
    def error(self) -> tuple[int, str]:
        """Status and OAuth error code."""
        return self.status, self.json["error"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Start = Callable[..., Awaitable[Running]]


def settings_for(url: str, folder: Path, **changes: Any) -> Settings:
    """Settings with two issuers and callers of every kind; ``changes`` by section, or by issuer name."""
    keys = {}
    for name in ("main", "other"):
        keys[name] = folder / f"{name}.jwks"
        keys[name].write_text(json.dumps(forge.jwks(forge.rsa_key(f"{name}-1"))))
    issuer = {"audiences": [forge.AUDIENCE], "algorithms": ["RS256"]}
    scopes = ["introspect", "revoke", "revoke-all", "sessions", "read"]
    callers: dict[str, dict[str, Any]] = {
        "gateway": {"scopes": ["introspect"]},
        "admin": {"scopes": scopes},
        "orders-only": {"scopes": ["introspect"], "audiences": [forge.AUDIENCE]},
        "billing": {"scopes": ["introspect", "revoke"], "audiences": ["api://billing"]},
        "bound": {"scopes": ["introspect", "revoke", "read"], "client_id": "web"},
        "one-issuer": {"scopes": ["introspect", "revoke", "read"], "issuers": ["other"]},
        "edge": {"scopes": ["feed"]},
    }
    changes["other"] = {"claims": {"revocable": ["grant_id"]}, **changes.get("other", {})}
    values: dict[str, Any] = {
        "redis": {"url": url},
        "revocation": {
            "repair_seconds": 0
        },  # tests of what follows from a loss need one that is not repaired
        "issuers": [
            {**issuer, "name": name, "issuer": iss, "jwks_file": str(keys[name]), **changes.pop(name, {})}
            for name, iss in (("main", forge.ISSUER), ("other", OTHER_ISSUER))
        ],
        "callers": [
            {"name": name, "secret_sha256": [digest(SECRETS[name])], **terms}
            for name, terms in callers.items()
        ],
    }
    for section, change in changes.items():
        values[section] = {**values.get(section, {}), **change} if isinstance(change, dict) else change
    return settle(values, {})


async def serve(service: app.Service, tls: ssl.SSLContext | None = None, port: int = 0) -> Running:
    """Answer on a port of 127.0.0.1; 0: on a free one."""
    runner = Runner(service.main, shutdown_timeout=1, **CONNECTION)
    await runner.setup()
    await service.start()
    port = port or free_port()
    await TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HANGS_S))

    async def close() -> None:
        await http.close()
        await runner.cleanup()
        await service.close()

    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    return Running(service, url, http, forge.rsa_key("main-1"), close)


async def until_ready(running: Running, seconds: float = HANGS_S) -> None:
    """Wait until the service says that it has started."""
    deadline = time.monotonic() + seconds
    while True:
        async with running.http.get(running.url + "/readyz") as response:
            if response.status == 200:
                return
            problems = await response.text()
        assert time.monotonic() < deadline, problems
        await asyncio.sleep(0.02)
