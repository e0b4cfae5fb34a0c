"""Compares Revoker with other services, as their registries have them."""

import base64
import json
import os
import subprocess
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

from bench.bench import Bench
from bench.material import AUDIENCE, Workload
from bench.report import Section, figure, table
from bench.rounds import Subject, measure
from bench.servers import Server
from tests.rig.servers import free_port

_HERE = Path(__file__).parent
_PYTHON = _HERE / ".venv/bin/python"
_FORM = "application/x-www-form-urlencoded"
_FLOOR = "floor"

_WORDS = {
    _FLOOR: "floor: bare aiohttp on uvloop",
    "claims": "Revoker, claims form",
    "token": "Revoker, token form, verified before",
    "oidc-provider": "oidc-provider (Node.js), opaque tokens in Redis",
    "fastapi": "FastAPI, PyJWT and redis-py on uvicorn with uvloop and httptools, RS256",
    "django": "django-oauth-toolkit under gunicorn (8 threads), tokens in SQLite",
}


def installed() -> bool:
    """Whether ``make bench-peers`` has brought them."""
    return _PYTHON.exists() and (_HERE / "node_modules/oidc-provider").exists()


def run(bench: Bench) -> Section:
    """One process each, on the same core in turn."""
    if not installed():
        raise RuntimeError("the peers are not installed: make bench-peers")
    material = bench.material
    floor, revoker = bench.servers.floor(), bench.servers.revoker(bench.servers.store())
    claims, tokens = material.claims_form(), material.warm_tokens()
    subjects = [
        Subject(_FLOOR, floor.url, floor.process, claims),
        Subject("claims", revoker.url, revoker.process, claims),
        Subject("token", revoker.url, revoker.process, tokens),
        _oidc_provider(bench),
        _fastapi(bench, tokens),
        _django(bench),
    ]
    for subject in subjects[1:]:
        _prove_active(subject)
    results = measure(
        subjects,
        bench.load,
        rounds=bench.rounds,
        seconds=bench.seconds,
        connections=bench.connections,
    )
    rows = [
        (
            _WORDS[name],
            figure(results.rate(name), "{:,.0f}"),
            figure(results.ratio(name, _FLOOR), "{:.2f}"),
            figure(results.p99(name), "{:.1f}", 1e-3),
            figure(results.cpu(name), "{:,.0f}"),
        )
        for name in results.names
    ]
    text = (
        "Every service answers RFC 7662 introspection of active tokens in one process on the same core; "
        "whoever asks is authenticated. None but Revoker looks for cutoffs of users, sessions or clients, or "
        "notices lost data. `make bench-peers` installs them (versions in `bench/peers`) and "
        "measures.\n\n" + table(("", "requests/s", "÷ floor", "p99 ms", "µs CPU a request"), rows)
    )
    return Section("Beside what people would use instead", text)


def _oidc_provider(bench: Bench) -> Subject:
    port = free_port()
    secret = bench.material.secret
    server = bench.servers.start(
        port, _HERE / "oidc_provider.js", port, bench.servers.store().url, secret, program="node"
    )
    authorization = _basic("bench", secret)
    tokens = []
    for _ in range(500):
        request = urllib.request.Request(
            f"{server.url}/token",
            b"grant_type=client_credentials",
            {"Authorization": authorization, "Content-Type": _FORM},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            tokens.append(json.loads(response.read())["access_token"])
    return _subject(
        bench,
        "oidc-provider",
        server,
        path="/token/introspection",
        tokens=tokens,
        authorization=authorization,
    )


def _fastapi(bench: Bench, made: Workload) -> Subject:
    port = free_port()
    jwks = bench.material.folder / "fastapi.jwks"
    jwks.write_text(bench.material.jwks_text())
    server = bench.servers.start(
        port,
        *("-m", "uvicorn", "fastapi_service:app", "--app-dir", _HERE),
        *("--port", port, "--no-access-log", "--log-level", "warning"),
        program=str(_PYTHON),
        environ={
            "STORE": bench.servers.store().url,
            "JWKS": str(jwks),
            "SECRET_SHA256": bench.material.digest,
            "AUDIENCE": AUDIENCE,
        },
    )
    tokens = [json.loads(line)["token"] for line in made.bodies.read_text().splitlines()]
    authorization = bench.material.authorization
    return _subject(bench, "fastapi", server, path="/introspect", tokens=tokens, authorization=authorization)


def _django(bench: Bench) -> Subject:
    port = free_port()
    made = bench.material.folder / "django.tokens"
    env = {"DATABASE": str(bench.material.folder / "django.sqlite3")}
    subprocess.run(
        [str(_PYTHON), str(_HERE / "django_service.py"), str(made)], check=True, env={**os.environ, **env}
    )
    server = bench.servers.start(
        port,
        *("-m", "gunicorn", "--chdir", _HERE, "django_service:application"),
        *("--bind", f"127.0.0.1:{port}", "--workers", 1, "--threads", 8, "--keep-alive", 60),
        program=str(_PYTHON),
        environ=env,
    )
    own, *tokens = made.read_text().splitlines()
    authorization = f"Bearer {own}"
    return _subject(bench, "django", server, path="/introspect", tokens=tokens, authorization=authorization)


def _subject(
    bench: Bench, name: str, server: Server, *, path: str, tokens: list[str], authorization: str
) -> Subject:
    file = bench.material.folder / f"{name}.bodies"
    file.write_text("\n".join(urlencode({"token": token}) for token in tokens))
    return Subject(
        name, server.url, server.process, Workload(name, path, file, authorization, content_type=_FORM)
    )


def _prove_active(subject: Subject) -> None:
    workload = subject.workload
    with workload.bodies.open() as bodies:
        body = next(bodies).strip().encode()
    headers = {"Content-Type": workload.content_type, "Authorization": workload.authorization}
    request = urllib.request.Request(subject.url + workload.path, body, headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        answer = json.loads(response.read())
    if answer.get("active") is not True:
        raise RuntimeError(f"{subject.name}: {answer}")


def _basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()
