"""What is no complete answer is no verdict, and is repeated only where that changes nothing."""

import socketserver
import threading

import pytest

from revoker_client import RevokerUnavailable

ACTIVE = b'{"active":true}'


def answer(status, body=b"", *headers):
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Script:
    """A server that plays a script: for a request the next answer; None breaks the connection, b"" hangs."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = 0
        self._end = threading.Event()
        script = self

        class Connection(socketserver.StreamRequestHandler):
            def handle(self):
                while (reply := script.next_reply(self.rfile)) is not None:
                    if reply == b"":
                        script.hang()
                        return
                    self.wfile.write(reply)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection)
        self._server.block_on_close = False  # the client closes its connections later
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def hang(self):
        self._end.wait()

    def next_reply(self, stream):
        """The answer to the next request of a connection; None where it has ended, too."""
        length = 0
        while (line := stream.readline().lower()) not in {b"\r\n", b""}:
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if line == b"":
            return None
        stream.read(length)
        self.requests += 1
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("reply", "after"),
    [
        (answer(503, b'{"error":"temporarily_unavailable"}', "Retry-After: 7"), 7),
        (answer(503, b"", "Retry-After: Wed, 21 Oct 2026 07:28:00 GMT"), None),
        (answer(429, b'{"error":"slow_down"}', "Retry-After: 2"), 2),
        (answer(500, b"<html>"), None),
        (answer(502), None),
        (answer(302, b"", "Location: http://127.0.0.1:9/"), None),
        (answer(200, b""), None),
        (answer(200, b"<html>log in here</html>"), None),
        (answer(200, b"{}"), None),
        (answer(200, b"[]"), None),
        (answer(200, b'{"active":"yes"}'), None),
        (answer(200, b'{"active":1}'), None),
        (answer(200, b'{"active":null}'), None),
        (b"HTTP/1.1 200 x\r\nContent-Length: 99\r\nConnection: close\r\n\r\n" + ACTIVE, None),
        (b"no HTTP\r\n\r\n", None),
    ],
)
async def test_no_complete_answer_is_no_verdict(make, reply, after):
    with Script(reply, None, None) as server:
        with pytest.raises(RevokerUnavailable) as raised:
            await make(server.url, timeout=10).introspect("x")
        assert raised.value.retry_after == after


async def test_a_service_that_does_not_answer_is_no_verdict_and_not_asked_again(make):
    with Script(b"", b"") as server:
        with pytest.raises(RevokerUnavailable, match="Timeout"):
            await make(server.url, timeout=0.2).introspect("x")
        assert server.requests == 1


async def test_a_batch_with_too_few_results_is_no_verdict(make):
    reply = answer(200, b'{"results":[{"active":true}]}')
    with Script(reply) as server, pytest.raises(RevokerUnavailable, match="1 results for 2"):
        await make(server.url, timeout=10).introspect_batch(["x", "y"])


@pytest.mark.parametrize("results", [b'{"results":["x"]}', b'{"results":[{"active":1}]}', b'{"results":{}}'])
async def test_a_batch_with_malformed_results_is_no_verdict(make, results):
    with Script(answer(200, results)) as server, pytest.raises(RevokerUnavailable, match="cannot be read"):
        await make(server.url, timeout=10).introspect_batch(["x"])


async def test_an_item_without_a_verdict_is_an_error_in_its_place(make):
    results = b'{"results":[{"error":"temporarily_unavailable"},{"active":false}]}'
    with Script(answer(200, results)) as server:
        first, second = await make(server.url, timeout=10).introspect_batch(["x", "y"])
    assert isinstance(first, RevokerUnavailable)
    assert not second.active


async def test_a_call_that_changes_nothing_twice_is_repeated_once_after_a_broken_connection(make):
    with Script(answer(200, ACTIVE), None, answer(200, ACTIVE), None, None) as server:
        client = make(server.url, timeout=10)
        assert (await client.introspect("x")).active
        assert (await client.introspect("x")).active
        assert server.requests == 3
        with pytest.raises(RevokerUnavailable):
            await client.introspect("x")
        assert server.requests == 5


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.refresh("token"),
        lambda client: client.begin_session("bob"),
        lambda client: client.elevate_session("sid", acr="mfa"),
        lambda client: client.unblock_user("bob"),
    ],
)
async def test_a_call_that_a_repeat_would_do_twice_is_sent_once(make, call):
    with Script(None, None) as server:
        with pytest.raises(RevokerUnavailable):
            await call(make(server.url, timeout=10))
        assert server.requests == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.revoke("token"),
        lambda client: client.revoke_user("bob"),
        lambda client: client.block_user("bob"),
        lambda client: client.end_session("sid"),
    ],
)
async def test_a_revocation_is_repeated_once(make, call):
    with Script(None, None) as server:
        with pytest.raises(RevokerUnavailable):
            await call(make(server.url, timeout=10))
        assert server.requests == 2


async def test_an_answer_that_is_none_of_revokers_does_not_reach_the_caller_as_success(make):
    reply = answer(200, b"<html>")
    with Script(reply) as server, pytest.raises(RevokerUnavailable, match="cannot be read"):
        await make(server.url, timeout=10).revoke_user("bob")
