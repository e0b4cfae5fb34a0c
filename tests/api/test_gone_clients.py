"""Clients that ask and go away: what only they waited for is given up, what changes anything is not."""

import asyncio
import json
import socket
import struct
from urllib.parse import urlsplit

import pytest

from revoker.server.connections import Connection
from tests.rig import forge
from tests.rig.service import SECRETS

CLIENTS = 1000


@pytest.fixture
async def revoker(start, own_valkey):
    """A service that waits for its store far longer than any test does."""
    return await start(own_valkey, redis={"timeout": 30}, server={"max_in_progress": 2 * CLIENTS})


@pytest.fixture
def lost_connections(monkeypatch):
    """The connections whose end the service has noticed."""
    lost, found = Connection.connection_lost, []

    def connection_lost(self, exc):
        lost(self, exc)
        found.append(self)

    monkeypatch.setattr(Connection, "connection_lost", connection_lost)
    return found


def request(path, body=None, *, bearer=SECRETS["admin"], **headers):
    sent = b"" if body is None else json.dumps(body).encode()
    headers = {
        "Host": "x",
        "Authorization": f"Bearer {bearer}",
        "Content-Type": "application/json",
        "Content-Length": len(sent),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + sent


async def asked(revoker, data):
    """A connection on which this was sent."""
    address = urlsplit(revoker.url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(data)
    return writer


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


def lookups(revoker):
    """Requests for verdicts of every kind."""
    token = revoker.token()
    items = [forge.claims(jti=str(n)) for n in range(10)]
    return [
        request("/introspect", {"token": token}),
        request("/introspect", forge.claims()),
        request("/introspect", {"token": token}, Expect="100-continue"),
        request("/introspect/batch", {"tokens": [*items, {"token": token}]}),
        request("/forward-auth", bearer=token, X_Revoker_Key=SECRETS["gateway"]),
        request("/forward-auth/below?a=b", bearer=token, X_Revoker_Key=SECRETS["gateway"]),
    ]


@pytest.mark.parametrize("leave", ["close", "abort"])
async def test_who_has_gone_takes_nobodys_place_while_the_store_is_stalled(revoker, own_valkey, leave):
    admission, token = revoker.service._services.admission, revoker.token()
    assert await revoker.active(token)
    before = len(asyncio.all_tasks())
    own_valkey.hang()
    kinds = lookups(revoker)
    staying = asyncio.create_task(revoker.active(token))
    gone = [await asked(revoker, kinds[n % len(kinds)]) for n in range(CLIENTS)]
    await until(lambda: admission.in_progress == CLIENTS + 1)

    for client in gone:
        getattr(client.transport, leave)()
    await until(lambda: admission.in_progress == 1)
    await until(lambda: len(asyncio.all_tasks()) <= before + 4)  # that of the one who stays, and its own

    assert not staying.done()
    own_valkey.resume()
    assert await staying, "nobody's going has ended another's lookup"
    store = revoker.service.store.lookups
    await until(lambda: not store.in_flight and not store.waiting)
    assert await revoker.active(token)


async def test_a_batch_of_a_thousand_is_given_up_whole_and_another_like_it_is_not(revoker, own_valkey):
    lookups = revoker.service.store.lookups
    tokens = [forge.claims(jti=str(n)) for n in range(1000)]

    def waiting():
        pending = [*lookups.waiting, *(lookup for batch in lookups.in_flight for lookup in batch.requests)]
        return sum(not answer.done() for _, answer, place in pending if place is not None)

    own_valkey.hang()
    gone = await asked(revoker, request("/introspect/batch", {"tokens": tokens}))
    staying = asyncio.create_task(revoker.post("/introspect/batch", {"tokens": tokens}))
    await until(lambda: waiting() == 2 * len(tokens))
    gone.transport.abort()
    await until(lambda: waiting() == len(tokens))
    own_valkey.resume()
    answer = await staying
    assert answer.json == {"results": [{"active": True}] * len(tokens)}


@pytest.mark.parametrize("path", ["/revoke", "/revoke-user", "/revoke-session", "/block-user"])
async def test_a_revocation_is_brought_to_its_end_though_nobody_waits_for_it(
    revoker, own_valkey, events, lost_connections, path
):
    claims = forge.claims()
    assert await revoker.active(claims)
    own_valkey.hang()
    named = {"/revoke": "jti", "/revoke-session": "sid"}.get(path, "sub")
    gone = await asked(revoker, request(path, {"iss": claims["iss"], named: claims[named]}))
    in_progress = revoker.service._metrics.requests_in_progress._value.get
    await until(lambda: in_progress() == 1)
    gone.transport.abort()
    await until(lambda: lost_connections)
    own_valkey.resume()
    await until(lambda: any(event.get("path") == path for event in events))
    assert not await revoker.active(claims)


def close(writer):
    """FIN: the client sends no more."""
    writer.close()


def reset(writer):
    """RST: the client's program has ended, or lost its patience."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@pytest.mark.parametrize("leave", [close, reset])
@pytest.mark.parametrize("start_line", ["POST /nothing", "GET /revoke", "POST /revoke", "POST /introspect"])
async def test_a_client_that_goes_before_it_may_send_its_body_is_no_failure(
    revoker, events, lost_connections, leave, start_line
):
    metrics, clients = revoker.service._metrics, 20
    head = f"{start_line} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    before = len(asyncio.all_tasks())
    for _ in range(clients):
        leave(await asked(revoker, head.encode()))
    await until(lambda: len(lost_connections) == clients and len(asyncio.all_tasks()) <= before)

    assert not [event for event in events if event["log_level"] in {"warning", "error"}]
    assert metrics.requests_in_progress._value.get() == 0
    failures = [sample.value for sample in request_counts(metrics) if sample.labels["status"] == "500"]
    assert not any(failures)


def request_counts(metrics):
    metrics.deferred.flush()
    [family] = metrics.requests.collect()
    return [sample for sample in family.samples if sample.name.endswith("_total")]


async def test_who_has_gone_before_the_body_was_asked_for_leaves_no_line_in_the_log(
    revoker, events, lost_connections
):
    head = request("/revoke", {"jti": "j"}, Expect="100-continue").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    for _ in range(20):
        close(await asked(revoker, head))
    await until(lambda: len(lost_connections) == 20)
    assert (await revoker.post("/revoke", {"token": "x"})).status == 200

    assert [event["status"] for event in events if event["event"] == "request"] == [200]
