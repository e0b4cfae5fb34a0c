"""Envoy's ext_authz over gRPC: ``deploy/gateways/envoy/envoy-grpc.yaml`` on the real Envoy."""

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.gateways.conftest import _backend, until_asked
from tests.gateways.interruptible_link import InterruptibleLink
from tests.rig import forge
from tests.rig.ext_authz import listening
from tests.rig.gateways import ENVOY_GRPC, patient, started
from tests.rig.servers import Valkey, free_port
from tests.rig.service import HANGS_S, Running

IDENTITY = ("x-auth-subject", "x-auth-session", "x-auth-client", "x-auth-scope")
FORGED = dict.fromkeys(IDENTITY, "forged")


@dataclasses.dataclass
class Front:
    url: str
    http: aiohttp.ClientSession
    revoker: Running
    store: Valkey
    link: InterruptibleLink
    stop_revoker: Callable[[], object]

    async def get(self, token=None, path="/orders", headers=()):
        sent = [*dict(headers).items()] if isinstance(headers, dict) else [*headers]
        if token is not None:
            sent.append(("Authorization", f"Bearer {token}"))
        async with self.http.get(self.url + path, headers=sent) as response:
            body = await response.read()
            seen = json.loads(body)["headers"] if response.status == 200 and body else []
            return response.status, response.headers.copy(), seen


def seen(backend, name):
    return [value for key, value in backend if key == name]


@contextlib.asynccontextmanager
async def fronted(start, store, folder: Path, changed: Callable[[str], str] = str) -> AsyncIterator[Front]:
    port = free_port()
    revoker = await start(store, server={"grpc_port": port})
    async with contextlib.AsyncExitStack() as stack:
        listener = await stack.enter_async_context(listening(revoker))
        link = InterruptibleLink(port)
        await link.open()
        stack.push_async_callback(link.close)
        backend = await _backend()
        stack.push_async_callback(backend.close)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HANGS_S))
        )

        url = await stack.enter_async_context(
            started(
                ENVOY_GRPC,
                folder,
                http,
                revoker.key,
                revoker=link.port,
                backend=backend.port,
                further_ports={"9191": link.port},
                changed=lambda text: changed(patient(text)),
            )
        )
        await until_asked(http, url, revoker.token())
        yield Front(url, http, revoker, store, link, lambda: listener.stop(0))


@pytest.fixture
async def front(start, own_valkey, tmp_path):
    async with fronted(start, own_valkey, tmp_path / "gateway") as running:
        yield running


async def test_only_an_active_token_reaches_the_backend_with_who_it_is(front):
    token = front.revoker.token(sub="alice", scope="a b")
    status, _, backend = await front.get(token, headers=FORGED)
    assert status == 200
    assert [seen(backend, name) for name in IDENTITY] == [["alice"], ["session-1"], ["web"], ["a b"]]
    for refused in (None, "x.y.z", forge.token(forge.rsa_key("stranger"))):
        status, headers, _ = await front.get(refused, headers=FORGED)
        assert (status, headers["Cache-Control"]) == (401, "no-store")
        assert headers["WWW-Authenticate"].startswith('Bearer realm="revoker"')
    await front.revoker.post("/revoke", {"token": token})
    assert (await front.get(token))[0] == 401
    dpop = front.revoker.token(cnf={"jkt": "x"})
    assert (await front.get(dpop))[1]["WWW-Authenticate"].startswith("DPoP ")


async def test_requirements_and_cookie_are_those_of_the_route(front):
    good = front.revoker.token(scope="reports:read")
    assert (await front.get(good, "/reports/1"))[0] == 200
    status, headers, _ = await front.get(front.revoker.token(scope="a"), "/reports/1")
    assert (status, 'scope="reports:read"' in headers["WWW-Authenticate"]) == (403, True)
    cookie = {"Cookie": f"a=b; __Host-session={good}"}
    assert (await front.get(path="/app/", headers=cookie))[0] == 200
    assert (await front.get(path="/orders", headers=cookie))[0] == 401
    lines = [("Cookie", "a=b"), ("Cookie", f"__Host-session={good}")]
    assert (await front.get(path="/app/", headers=lines))[0] == 200
    forged = {"X-Revoker-Cookie": "__Host-session", "X-Revoker-Require": "nonsense", "X-Revoker-Key": "x"}
    assert (await front.get(path="/orders", headers={**cookie, **forged}))[0] == 401
    assert (await front.get(good, headers=forged))[0] == 200
    twice = [("Cookie", f"__Host-session={good}"), ("Cookie", f"__Host-session={front.revoker.token()}")]
    assert (await front.get(path="/app/", headers=twice))[0] == 401
    assert (await front.get(path="/public/x", headers=FORGED))[0] == 200
    assert (await front.get(good, headers=[("Authorization", f"Bearer {good}")]))[0] == 401


async def test_without_a_verdict_nothing_passes(front):
    token = front.revoker.token()
    front.store.kill()
    assert (await front.get(token))[0] == 503
    await front.stop_revoker()
    assert (await front.get(token))[0] == 503


async def test_an_answer_that_does_not_come_is_no_verdict(front):
    token = front.revoker.token()
    front.link.answers_pass.clear()  # and nothing sets it: the gateway must give up by itself
    assert (await front.get(token))[0] == 503


def opened(text):
    return text.replace("failure_mode_allow: false", "failure_mode_allow: true")


async def test_with_failure_mode_allow_only_no_verdict_opens(start, own_valkey, tmp_path):
    """What a user can send is always an answer, so that nobody opens the route."""
    async with fronted(start, own_valkey, tmp_path / "gateway", opened) as front:
        for refused in (None, "x", "x" * 17_000, "\xff\xfe", "a b"):
            assert (await front.get(refused))[0] == 401, refused
        assert (await front.get(front.revoker.token(scope="a"), "/reports/1"))[0] == 403
        front.store.kill()
        assert (await front.get(front.revoker.token()))[0] == 200


def as_by_default(text):
    """Without what the configuration does beyond the least."""
    lines = text.splitlines(keepends=True)
    if "encode_raw_headers" not in text:
        return text
    allowed = next(n for n, line in enumerate(lines) if "allowed_headers:" in line)
    del lines[allowed : allowed + 5]
    return "".join(
        line for line in lines if "encode_raw_headers" not in line and "- remove: x-" not in line
    ).replace(
        "                      mutations:\n", "                      mutations: [{remove: x-nothing}]\n"
    )


async def test_headers_of_the_answer_replace_those_of_the_client(start, own_valkey, tmp_path):
    async with fronted(start, own_valkey, tmp_path / "gateway", as_by_default) as front:
        bare = front.revoker.token(sid=forge.ABSENT, client_id=forge.ABSENT, scope=forge.ABSENT)
        status, _, backend = await front.get(bare, headers=[*FORGED.items(), *FORGED.items()])
        assert status == 200
        assert seen(backend, "x-auth-subject") == ["user-1"]
        for name in IDENTITY[1:]:
            assert seen(backend, name) in ([], [""]), name
        for extra in ([("Authorization", f"Bearer {bare}")], [("X-Odd", "\xff\xfe")]):
            status = (await front.get(bare, headers=extra))[0]
            assert status == (401 if extra[0][0] == "Authorization" else 200)


async def test_a_wrong_key_of_the_gateway_is_no_verdict(start, own_valkey, tmp_path):
    def wrong(text):
        return opened(text).replace("%ENVIRONMENT(REVOKER_KEY)%", "wrong")

    async with fronted(start, own_valkey, tmp_path / "gateway", wrong) as front:
        assert (await front.get("x"))[0] == 200
