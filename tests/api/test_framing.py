"""Where a request ends, over a raw socket: what can be read in two ways is refused, and ends the connection.

Every shape holds a second request, of an administrator, where somebody who reads the framing otherwise would
find one; it must never be carried out.
"""

import asyncio
import base64
import contextlib
import json
import re

import pytest

from revoker.api import bodies
from revoker.server import connections
from revoker.server.parsed_heads import ParsedHeads
from tests.rig import forge
from tests.rig.service import HANGS_S, SECRETS

row = pytest.mark.row

ADMIN = b"Authorization: Basic " + base64.b64encode(f"admin:{SECRETS['admin']}".encode())
BODY = b'{"token":"canary"}'
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)
LAST = b"0\r\n\r\n"
LOGOUT = json.dumps({"sub": "victim", "iss": forge.ISSUER}).encode()


def request(*lines, body=b"", start=b"POST /introspect HTTP/1.1", end=b"\r\n", host=b"Host: x"):
    head = [start, *([host] if host else []), ADMIN, b"Content-Type: application/json", *lines]
    return end.join([*head, b"", b""]) + body


SMUGGLED = request(b"Content-Length: %d" % len(LOGOUT), start=b"POST /revoke-user HTTP/1.1", body=LOGOUT)

REFUSED = {
    "length, then chunks": request(
        b"Content-Length: %d" % len(LAST + SMUGGLED), CHUNKED, body=LAST + SMUGGLED
    ),
    "chunks, then length": request(
        CHUNKED, b"Content-Length: 4", body=b"%x\r\n%b\r\n" % (len(SMUGGLED), SMUGGLED) + LAST
    ),
    "two lengths": request(LENGTH, b"Content-Length: 0", body=BODY + SMUGGLED),
    "one length twice": request(LENGTH, LENGTH, body=BODY),
    "a list of lengths": request(b"Content-Length: 18, 18", body=BODY),
    "length +": request(b"Content-Length: +18", body=BODY),
    "length -": request(b"Content-Length: -18", body=BODY),
    "length in hex": request(b"Content-Length: 0x12", body=BODY),
    "length that overflows": request(b"Content-Length: %d" % (2**64 + len(BODY)), body=BODY + SMUGGLED),
    "length without digits": request(b"Content-Length: ", body=SMUGGLED),
    "length with a space": request(b"Content-Length: 1 8", body=BODY),
    "length and letters": request(b"Content-Length: 18a", body=BODY),
    "identity": request(b"Transfer-Encoding: identity", body=SMUGGLED),
    "chunked is not last": request(b"Transfer-Encoding: chunked, identity", body=CHUNK + LAST + SMUGGLED),
    "almost chunked": request(b"Transfer-Encoding: xchunked", body=SMUGGLED),
    "chunked after a tab": request(b"Transfer-Encoding: \x0bchunked", body=SMUGGLED),
    "chunked in quotes": request(b'Transfer-Encoding: "chunked"', body=SMUGGLED),
    "chunked twice": request(CHUNKED, CHUNKED, body=CHUNK + LAST + SMUGGLED),
    "space before the colon": request(b"Transfer-Encoding : chunked", body=SMUGGLED),
    "folded coding": request(b"Transfer-Encoding:", b" chunked", body=CHUNK + LAST + SMUGGLED),
    "folded header": request(b"X-Folded: a", b" canary", LENGTH, body=BODY),
    "bare LF everywhere": request(LENGTH, body=BODY, end=b"\n"),
    "bare LF in a header": request(b"X-Odd: a\nContent-Length: 0", LENGTH, body=BODY + SMUGGLED),
    "bare CR in a header": request(b"X-Odd: a\rContent-Length: 0", LENGTH, body=BODY),
    "NUL in a value": request(b"X-Odd: a\0canary", LENGTH, body=BODY),
    "NUL in a name": request(b"X\0Odd: canary", LENGTH, body=BODY),
    "space in a name": request(b"X Odd: canary", LENGTH, body=BODY),
    "no host": request(LENGTH, body=BODY, host=None),
    "two hosts": request(b"Host: canary", LENGTH, body=BODY),
    "space before the method": b" " + request(LENGTH, body=BODY),
    "tabs in the first line": request(LENGTH, body=BODY, start=b"POST\t/introspect\tHTTP/1.1"),
    "HTTP/1.2": request(LENGTH, body=BODY, start=b"POST /introspect HTTP/1.2"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "129 headers": request(*(b"X-%d: canary" % n for n in range(129)), LENGTH, body=BODY),
    "a header of 40 KB": request(b"X-Long: canary" + b"a" * 40_000, LENGTH, body=BODY),
}

CHUNKS_REFUSED = {
    "a size that overflows": b"1000000000000000d\r\n" + BODY,
    "a size of 17 digits": b"FFFFFFFFFFFFFFFFF\r\n" + BODY,
    "a size -": b"-12\r\n" + BODY + b"\r\n" + LAST,
    "a size 0x": b"0x12\r\n" + BODY + b"\r\n" + LAST,
    "no size": b"\r\n" + BODY + b"\r\n" + LAST,
    "a size after a space": b" 12\r\n" + BODY + b"\r\n" + LAST,
    "a size before a space": b"12 \r\n" + BODY + b"\r\n" + LAST,
    "a size that is too small": b"5\r\n" + BODY + b"\r\n" + LAST,
    "bare LF": b"12\n" + BODY + b"\n0\n\n",
    "bare LF after an extension": b"12;a\n" + BODY + b"\r\n" + LAST,
    "CRLF in an extension": b'12;a="\r\n"\r\n' + BODY + b"\r\n" + LAST,
    "framing in a trailer": CHUNK + b"0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
}

SOUND = {
    "a length": request(LENGTH, body=BODY),
    "chunks": request(CHUNKED, body=CHUNK + LAST),
    "many chunks": request(CHUNKED, body=b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + LAST),
    "chunks by any case": request(b"transfer-encoding: CHUNKED", body=CHUNK + LAST),
    "a chunk's extension": request(CHUNKED, body=b'12;a=b;c="d"\r\n' + BODY + b"\r\n" + LAST),
    "leading zeros": request(CHUNKED, body=b"0000012\r\n" + BODY + b"\r\n000\r\n\r\n"),
    "a trailer": request(CHUNKED, body=CHUNK + b"0\r\nX-Trailer: 1\r\n\r\n"),
    "empty lines before it": b"\r\n\r\n" + request(LENGTH, body=BODY),
    "a body where there is none to be": request(LENGTH, start=b"GET /livez HTTP/1.1", body=BODY),
    "an upgrade that is not taken": request(b"Connection: Upgrade", b"Upgrade: websocket", LENGTH, body=BODY),
}


class Wire:
    """A raw connection; answers are read until the service closes it, or has sent so many."""

    def __init__(self, revoker):
        self.port = int(revoker.url.rsplit(":", 1)[1])

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_):
        self.writer.transport.abort()

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def to_end(self):
        """All that comes until the service closes the connection."""
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := await self.reader.read(65536):
                received += data
        return received

    async def answers(self, count):
        """Statuses and bodies of the next answers."""
        found = []
        for _ in range(count):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await self.reader.readexactly(int(length[1]) if length else 0)
            found.append((int(head.split()[1]), body))
        return found


def statuses(received):
    return [int(status) for status in re.findall(rb"^HTTP/\d\.\d (\d{3}) ", received, re.MULTILINE)]


@pytest.fixture
async def wire(revoker):
    """A raw connection; afterwards nothing that it carried was taken for a second request."""
    victim = revoker.token(sub="victim")
    async with Wire(revoker) as wire:
        yield wire
    assert await revoker.active(victim)
    assert (await revoker.post("/introspect", {"token": "x"})).status == 200


@row("HTTP-08", "HTTP-09")
@pytest.mark.parametrize("shape", REFUSED.values(), ids=REFUSED.keys())
async def test_what_can_be_read_in_two_ways_is_refused_and_ends_the_connection(wire, shape):
    await wire.send(shape)
    received = await wire.to_end()
    assert statuses(received) == [400]
    assert b"canary" not in received
    assert b"admin" not in received


@row("HTTP-08", "HTTP-07")
@pytest.mark.parametrize("chunks", CHUNKS_REFUSED.values(), ids=CHUNKS_REFUSED.keys())
async def test_broken_chunks_are_refused_and_end_the_connection(wire, chunks):
    await wire.send(request(CHUNKED, body=chunks + SMUGGLED))
    received = await wire.to_end()
    assert statuses(received) == [400]
    assert b"canary" not in received


@pytest.mark.parametrize("shape", SOUND.values(), ids=SOUND.keys())
async def test_what_is_sound_is_answered_and_the_next_request_too(wire, shape):
    await wire.send(shape + request(LENGTH, body=BODY))
    for status, _ in await wire.answers(2):
        assert status == 200


@pytest.mark.parametrize(
    "old",
    [b"GET /livez\r\n\r\n", request(CHUNKED, start=b"POST /introspect HTTP/1.0", body=CHUNK + LAST)],
    ids=["HTTP/0.9", "HTTP/1.0 with chunks"],
)
async def test_an_old_request_is_the_last_on_its_connection(wire, old):
    await wire.send(old + SMUGGLED)
    assert len(statuses(await wire.to_end())) == 1


async def test_pipelined_requests_are_answered_in_their_order(revoker, wire):
    tokens = [revoker.token(sub=f"user-{n}") for n in range(100)]
    bodies = [json.dumps({"token": token}).encode() for token in tokens]
    await wire.send(b"".join(request(b"Content-Length: %d" % len(body), body=body) for body in bodies))
    answers = await wire.answers(len(tokens))
    assert [json.loads(body)["sub"] for _, body in answers] == [f"user-{n}" for n in range(100)]


@pytest.fixture
def read_again(monkeypatch):
    """Of each time that a head was looked up: whether it came before, and was not parsed again."""
    found = []
    find = ParsedHeads.find

    def noted(self, data):
        parsed = find(self, data)
        found.append(parsed is not None)
        return parsed

    monkeypatch.setattr(ParsedHeads, "find", noted)
    return found


def numbered(revoker, count):
    """Requests whose heads are the same, and the users by whom their answers differ."""
    users = [f"user-{n}" for n in range(10, 10 + count)]
    bodies = [json.dumps({"token": revoker.token(sub=user)}).encode() for user in users]
    return users, [request(b"Content-Length: %d" % len(body), body=body) for body in bodies]


async def subjects(wire, count):
    return [json.loads(body)["sub"] for _, body in await wire.answers(count)]


async def test_requests_with_the_same_head_get_their_own_answers(revoker, wire, read_again):
    users, requests = numbered(revoker, 3)
    assert len({len(sent) for sent in requests}) == 1
    for user, sent in zip(users, requests, strict=True):
        await wire.send(sent)
        assert await subjects(wire, 1) == [user]
    assert read_again == [False, True, True]


async def test_a_head_is_not_remembered_of_a_caller_that_is_refused(wire, read_again):
    sent = re.sub(rb"Authorization: [^\r]*", b"Authorization: Bearer wrong", request(LENGTH, body=BODY))
    for _ in range(2):
        await wire.send(sent)
        assert [status for status, _ in await wire.answers(1)] == [401]
    assert read_again == [False, False]


async def test_a_head_is_forgotten_after_a_time(wire, read_again, monkeypatch):
    monkeypatch.setattr("revoker.server.parsed_heads.FORGOTTEN_AFTER_S", 0.0)
    for _ in range(2):
        await wire.send(request(LENGTH, body=BODY))
        assert [status for status, _ in await wire.answers(1)] == [200]
    assert read_again == [False, False]


@pytest.mark.parametrize("cut", [1, 30, -200, -1])
async def test_a_part_of_the_next_request_is_not_lost_behind_a_head_that_came_before(revoker, wire, cut):
    users, requests = numbered(revoker, 6)
    for user, sent in zip(users[:2], requests[:2], strict=True):
        await wire.send(sent)
        assert await subjects(wire, 1) == [user]
    await wire.send(requests[2] + requests[3][:cut])
    assert await subjects(wire, 1) == users[2:3]
    await wire.send(requests[3][cut:])
    assert await subjects(wire, 1) == users[3:4]
    for user, sent in zip(users[4:], requests[4:], strict=True):
        await wire.send(sent)
        assert await subjects(wire, 1) == [user]


async def test_what_looks_as_a_request_that_came_before_may_be_a_part_of_another(revoker, wire):
    users, requests = numbered(revoker, 4)
    for user, sent in zip(users[:2], requests[:2], strict=True):
        await wire.send(sent)
        assert await subjects(wire, 1) == [user]
    await wire.send(requests[2] + b"POST /introspect/batch HTTP/1.1\r\nX-Odd: ")
    assert await subjects(wire, 1) == users[2:3]
    await wire.send(requests[3])  # the value of X-Odd, other headers, and a body that is no batch
    [(status, answer)] = await wire.answers(1)
    assert (status, json.loads(answer)["error"]) == (400, "invalid_request")


async def test_what_is_behind_a_body_is_not_taken_for_a_part_of_it(revoker, wire):
    _, [one, *_] = numbered(revoker, 1)
    for _ in range(2):
        await wire.send(one)
        assert [status for status, _ in await wire.answers(1)] == [200]
    await wire.send(one + b"canary\r\n\r\n")
    received = await wire.to_end()
    assert statuses(received) in ([200, 400], [400])
    assert b"canary" not in received


async def test_a_head_whose_lines_end_otherwise_is_never_taken_for_one_that_came_before(wire, read_again):
    one = request(LENGTH, body=BODY)
    await wire.send(one)
    await wire.answers(1)
    await wire.send(one.replace(b"\r\n", b"\n"))
    assert statuses(await wire.to_end()) == [400]
    assert read_again == [False, False]


async def test_requests_that_come_while_one_waits_are_answered_in_their_order(revoker, wire):
    users, requests = numbered(revoker, 20)
    for sent in requests[:2]:
        await wire.send(sent)
        await wire.answers(1)
    for sent in requests:
        await wire.send(sent)
    assert await subjects(wire, 20) == users


async def test_what_follows_a_refused_request_is_not_looked_at(wire):
    broken = request(b"Content-Length: x", body=BODY)
    await wire.send(request(LENGTH, body=BODY) + broken + SMUGGLED)
    assert statuses(await wire.to_end()) in ([400], [200, 400])  # the first may be lost with its connection


async def test_one_byte_at_a_time_is_a_request_too(wire):
    for byte in request(CHUNKED, body=CHUNK + LAST):
        await wire.send(bytes([byte]))
        await asyncio.sleep(0)
    assert [status for status, _ in await wire.answers(1)] == [200]


async def test_a_client_that_sends_no_more_has_gone(wire):
    """Its work is freed; whether it would still have read can't be known."""
    await wire.send(request(LENGTH, body=BODY))
    wire.writer.write_eof()
    assert statuses(await wire.to_end()) in ([], [200])


@pytest.mark.parametrize(
    "part",
    [b"", b"POST", request(LENGTH), request(LENGTH, body=BODY[:-1]), request(CHUNKED, body=CHUNK)],
    ids=["nothing", "a method", "a head", "all but a byte", "chunks without an end"],
)
async def test_a_client_that_goes_away_early_harms_nobody(revoker, wire, part, events):
    for _ in range(20):
        async with Wire(revoker) as other:
            await other.send(part)
    await wire.send(request(LENGTH, body=BODY))
    assert [status for status, _ in await wire.answers(1)] == [200]
    assert not [event for event in events if event["log_level"] == "error"]


async def test_a_client_that_goes_away_before_its_answer_harms_nobody(revoker, wire, events):
    for _ in range(20):
        async with Wire(revoker) as other:
            await other.send(request(LENGTH, body=BODY) * 20)
    await wire.send(request(LENGTH, body=BODY))
    assert [status for status, _ in await wire.answers(1)] == [200]
    assert not [event for event in events if event["log_level"] == "error"]


async def test_a_body_that_does_not_come_is_not_waited_for(wire, monkeypatch):
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    await wire.send(request(LENGTH, body=BODY[:-1]))
    received = await wire.to_end()
    assert statuses(received) == [408]
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"] == "invalid_request"


async def test_a_head_that_never_ends_is_cut_off(wire):
    await wire.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
    line = b"X-%d: " + b"a" * 30_000 + b"\r\n"
    with contextlib.suppress(ConnectionError):
        for number in range(100):
            await wire.send(line % number)
    answer = await wire.to_end()
    assert statuses(answer) == [431]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "invalid_request"


LONG = b"Authorization: Bearer " + b"a" * 33_000

BROKEN_HEADS = {
    "an Authorization of 33 kB": LONG,
    "an Authorization of 750 kB": b"Authorization: Bearer " + b"a" * 750_000,
    "750 kB of headers": b"\r\n".join(b"X-%d: " % n + b"a" * 7_500 for n in range(100)),
    "200 headers": b"\r\n".join(b"X-%d: a" % n for n in range(200)),
    "a NUL in Authorization": b"Authorization: Bearer a\0b",
}


@pytest.mark.parametrize("broken", BROKEN_HEADS.values(), ids=BROKEN_HEADS)
@pytest.mark.parametrize("target", [b"/forward-auth", b"/forward-auth/orders?a=b", b"http://x/forward-auth"])
async def test_a_head_that_cannot_be_read_is_401_for_gateways(revoker, target, broken):
    async with Wire(revoker) as wire:
        await wire.send(b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (target, broken))
        answer = await wire.to_end()
    assert statuses(answer) == [401]
    assert b'\r\nWWW-Authenticate: Bearer realm="revoker", error="invalid_request"\r\n' in answer
    assert b"\r\nCache-Control: no-store\r\n" in answer


async def test_a_head_that_comes_in_pieces_and_cannot_be_read_is_401_for_gateways(wire):
    for byte in b"GET /forward-auth HTTP/1.1\r\nHost: x\r\n":
        await wire.send(bytes([byte]))
        await asyncio.sleep(0)
    await wire.send(b"X-Odd: \0\r\n\r\n")

    assert statuses(await wire.to_end()) == [401]


@pytest.mark.parametrize("broken", BROKEN_HEADS.values(), ids=BROKEN_HEADS)
async def test_the_answer_to_a_broken_request_is_not_lost_with_the_input_behind_it(
    revoker, broken, monkeypatch
):
    """A connection that is closed with unread input is reset, and its client may never see the answer."""
    monkeypatch.setattr(connections, "DISCARD_SECONDS", HANGS_S)
    for _ in range(20):
        async with Wire(revoker) as wire:
            await wire.send(b"GET /introspect HTTP/1.1\r\nHost: x\r\n%b\r\n" % broken)
            await wire.send(b"a" * 1_000_000)
            answer = await wire.to_end()
            assert statuses(answer) in ([400], [431])
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "invalid_request"
            assert wire.reader.at_eof()  # not reset


async def test_input_behind_a_broken_request_is_not_read_without_end(wire):
    async def send_without_end():
        while True:
            await wire.send(b"\0" * 1_000_000)

    with pytest.raises(ConnectionError):
        await send_without_end()


async def test_a_head_may_be_long(wire):
    lines = [b"X-%d: " % n + b"a" * 30_000 for n in range(3)]
    await wire.send(request(*lines, LENGTH, body=BODY) * 5)
    assert [status for status, _ in await wire.answers(5)] == [200] * 5


async def test_a_client_that_does_not_read_is_cut_off(revoker, wire, monkeypatch):
    """Nor does it make the service keep answers without end."""
    monkeypatch.setattr(connections, "WRITE_TIMEOUT_S", 0.1)
    wire.writer.transport.pause_reading()
    batch = json.dumps({"tokens": [{"token": "x"}] * 1000}).encode()
    one = request(b"Content-Length: %d" % len(batch), start=b"POST /introspect/batch HTTP/1.1", body=batch)
    with pytest.raises(ConnectionError):
        await wire.send(one * 2000)


async def test_a_client_that_reads_slowly_gets_all(revoker, wire):
    batch = json.dumps({"tokens": [{"token": "x"}] * 1000}).encode()
    one = request(b"Content-Length: %d" % len(batch), start=b"POST /introspect/batch HTTP/1.1", body=batch)
    sending = asyncio.create_task(wire.send(one * 300))
    for status, body in await wire.answers(300):
        assert status == 200
        assert len(json.loads(body)["results"]) == 1000
        await asyncio.sleep(0)
    await sending
