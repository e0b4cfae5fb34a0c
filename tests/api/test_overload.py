"""More than can be answered is refused early; what administrators do gets through."""

import asyncio
import contextlib
import json
import types

import pytest

from revoker.api.admission import (
    BURST_SECONDS,
    EPISODE_SECONDS,
    OVERLOADED,
    PAUSE_SECONDS,
    RECOVERY_SECONDS,
    Admission,
)
from tests.rig import forge
from tests.rig.network import Network

LIMIT = 3


@pytest.fixture
async def revoker(start, valkey):
    """A service whose store is so far away that requests stay under way for a while."""
    with Network() as network:
        far = types.SimpleNamespace(url=f"redis://127.0.0.1:{network.relay(valkey.port, delay=0.1)}/0")
        yield await start(far, redis={"timeout": 10}, server={"max_in_progress": LIMIT})


@contextlib.asynccontextmanager
async def crowd(revoker, ask, size=4 * LIMIT):
    """So many gateways ask again and again; yields their answers once one of them was refused."""
    answers, refused = [], asyncio.Event()

    async def gateway():
        while True:
            answer = await ask()
            answers.append(answer)
            if answer.status == 503:
                refused.set()

    async with asyncio.TaskGroup() as together:
        asking = [together.create_task(gateway()) for _ in range(size)]
        await refused.wait()
        yield answers
        for task in asking:
            task.cancel()


async def forward_auth(revoker, token, method="GET"):
    headers = {"X-Revoker-Key": "gateway-secret", "Authorization": f"Bearer {token}"}
    async with revoker.http.request(method, revoker.url + "/forward-auth", headers=headers) as answer:
        return types.SimpleNamespace(status=answer.status, body=await answer.read())


async def test_a_crowd_is_refused_and_the_rest_is_answered(revoker):
    token = revoker.token()

    async def ask():
        return await revoker.post("/introspect", {"token": token}, caller="gateway")

    async with crowd(revoker, ask) as answers:
        while sum(answer.status == 200 for answer in answers) < 10 * LIMIT:
            await asyncio.sleep(0.01)
    assert {answer.status for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status == 503:
            assert answer.error == (503, "temporarily_unavailable")
            assert answer.headers["Retry-After"] == "1"
            assert answer.headers["Content-Type"] == "application/json"
        else:
            assert answer.json["active"] is True
    refusals = sum(answer.status == 503 for answer in answers)
    exposed = (await revoker.ask("GET", "/metrics")).body.decode()
    counted = next(line for line in exposed.splitlines() if '{cause="overload"}' in line)
    assert float(counted.split()[1]) >= refusals


async def test_revocations_and_health_get_through_a_crowd(revoker):
    token = revoker.token(sub="alice")

    async def ask():
        return await forward_auth(revoker, token)

    async with crowd(revoker, ask) as answers:
        for _ in range(5):
            done = await revoker.post("/revoke-user", {"sub": "alice", "iss": forge.ISSUER})
            assert done.status == 200
            assert (await revoker.ask("GET", "/readyz")).status == 200
        before = len(answers)
        while not any(answer.status == 401 for answer in answers[before:]):
            await asyncio.sleep(0.01)
    assert not any(answer.status == 200 for answer in answers[before + 4 * LIMIT :])


async def test_after_the_crowd_everybody_is_answered(revoker):
    token = revoker.token()

    async def ask():
        return await revoker.post("/introspect", {"token": token}, caller="gateway")

    async with crowd(revoker, ask):
        pass
    while (await ask()).status != 200:
        await asyncio.sleep(0.05)


async def test_clients_that_send_slowly_take_nobodys_place(revoker):
    host, port = "127.0.0.1", int(revoker.url.rsplit(":", 1)[1])
    slow = [await asyncio.open_connection(host, port) for _ in range(4 * LIMIT)]
    for _, writer in slow:
        writer.write(b"POST /introspect HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
        await writer.drain()
    token = revoker.token()
    for _ in range(4):
        assert await revoker.active(token)
    for _, writer in slow:
        writer.close()


async def test_a_head_request_is_refused_without_a_body(revoker):
    token = revoker.token()

    async def ask():
        return await forward_auth(revoker, token, "HEAD")

    async with crowd(revoker, ask) as answers:
        pass
    assert {answer.body for answer in answers} == {b""}


@pytest.fixture
async def near(start, valkey, idp):
    """A service whose store is near, and the keys of whose issuer ``main`` are fetched."""
    return await start(valkey, main=idp.terms, server={"max_in_progress": LIMIT})


WAYS_TO_ASK = {
    "introspect": lambda revoker, token: revoker.post("/introspect", {"token": token}, caller="gateway"),
    "form": lambda revoker, token: revoker.post("/introspect", form={"token": token}, caller="gateway"),
    "batch": lambda revoker, token: revoker.post(
        "/introspect/batch", {"tokens": [{"token": token}]}, caller="gateway"
    ),
    "forward-auth": forward_auth,
}


@pytest.mark.parametrize("ask", WAYS_TO_ASK.values(), ids=WAYS_TO_ASK)
async def test_who_waits_for_an_issuers_keys_takes_nobodys_place(near, idp, ask):
    admission = near.service._services.admission
    other = forge.token(forge.rsa_key("other-1"), iss="https://other.example.com", jti="other")
    assert await near.active(near.token())
    idp.gate.clear()
    idp.fetched.clear()
    unknown = forge.rsa_key("main-2")
    waiting = [
        asyncio.create_task(ask(near, forge.token(unknown, jti=str(number)))) for number in range(4 * LIMIT)
    ]
    await idp.fetched.wait()
    fetches = idp.fetches

    for _ in range(4 * LIMIT):
        assert await near.active(near.token())
        assert await near.active(other)
        assert (await forward_auth(near, near.token())).status == 200
    assert not any(task.done() for task in waiting)
    assert admission.in_progress == 0

    idp.keys = forge.jwks(near.key, unknown)
    idp.gate.set()
    answers = await asyncio.gather(*waiting)
    assert {answer.status for answer in answers} == {200}
    assert not any(b'"active":false' in answer.body for answer in answers)
    assert (idp.fetches, admission.in_progress) == (fetches, 0)


@pytest.mark.parametrize("at_once", [LIMIT, 1])
async def test_who_went_away_while_waiting_for_keys_is_counted_once(near, idp, at_once):
    """Counted twice, it would let in more than the limit; not uncounted, it would shut others out."""
    admission = near.service._services.admission
    assert await near.active(near.token())
    unknown = forge.rsa_key("main-2")
    idp.gate.clear()
    for first in range(0, LIMIT, at_once):
        waiting = [await _waiting_for_keys(near, unknown, first + number) for number in range(at_once)]
        for reading, writer in waiting:
            assert not reading.done(), "it does not wait for keys"
            writer.transport.abort()
            await asyncio.gather(reading, return_exceptions=True)
        assert await near.active(near.token())
        assert admission.in_progress == 0
    assert idp.fetches > 1
    idp.gate.set()

    assert await near.active(near.token())
    assert (await forward_auth(near, forge.token(unknown, jti="later"))).status == 401
    assert admission.in_progress == 0


async def _waiting_for_keys(revoker, key, number):
    """A request that waits for the key of its token; one that was sent after it has been answered."""
    token = forge.token(key, jti=str(number))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(revoker.url.rpartition(":")[2]))
    lines = ("GET /forward-auth HTTP/1.1", "Host: x", "X-Revoker-Key: gateway-secret")
    writer.write("\r\n".join([*lines, f"Authorization: Bearer {token}", "", ""]).encode())
    reading = asyncio.ensure_future(reader.read(1))
    assert await revoker.active(revoker.token())
    return reading, writer


class Door:
    """An admission on a clock of its own; who is let in stays."""

    def __init__(self):
        self.now = 100.0
        self.admission = Admission(LIMIT, monotonic=lambda: self.now)

    def knock(self, connection=None):
        """Whether a request on this connection is let in."""
        admission = self.admission
        full = admission.in_progress >= admission.limit
        if (admission.overloaded or full) and admission.refuses(connection or Knocking()):
            return False
        admission.in_progress += 1
        return True

    def all_leave(self):
        self.admission.in_progress = 0


class Knocking:
    refused_at = -1.0

    def __init__(self):
        self.paused = []

    def pause(self, seconds):
        self.paused.append(seconds)


def overloaded(door):
    """The door after a crowd that has lasted."""
    for _ in range(LIMIT + 1):
        assert door.knock()
    door.now += BURST_SECONDS + 0.01


def test_a_burst_is_taken_in():
    door = Door()
    for _ in range(10 * LIMIT):
        assert door.knock()


def test_what_is_more_than_a_burst_is_refused_and_not_read_for_a_while():
    door, connection = Door(), Knocking()
    overloaded(door)
    assert not door.knock(connection)
    assert connection.paused == [PAUSE_SECONDS]


def test_there_is_room_again_as_soon_as_some_have_left():
    door = Door()
    overloaded(door)
    assert not door.knock()
    door.all_leave()
    assert door.knock()


def test_who_was_refused_and_did_not_wait_is_refused_again():
    door, hasty, patient = Door(), Knocking(), Knocking()
    overloaded(door)
    assert not door.knock(hasty)
    assert not door.knock(patient)
    door.all_leave()
    door.now += PAUSE_SECONDS
    assert not door.knock(hasty)
    door.now += PAUSE_SECONDS
    assert not door.knock(hasty)
    assert door.knock(patient)


def test_who_did_not_wait_is_let_in_once_there_was_no_crowd_for_a_while():
    door, hasty = Door(), Knocking()
    overloaded(door)
    assert not door.knock(hasty)
    door.all_leave()
    door.now += RECOVERY_SECONDS
    hasty.refused_at = door.now
    assert not door.knock(hasty)
    door.now += 0.01
    assert door.knock(hasty)


def test_a_crowd_that_comes_back_is_no_burst_and_a_later_one_is():
    door = Door()
    overloaded(door)
    assert not door.knock()
    for pause, let_in in ((EPISODE_SECONDS, False), (EPISODE_SECONDS + 0.01, True)):
        door.all_leave()
        door.now += pause
        for _ in range(LIMIT):
            assert door.knock()
        assert door.knock() is let_in


def test_a_refusal_is_the_error_that_it_says():
    body = json.loads(OVERLOADED.body)
    assert set(body) == {"error", "error_description"}
