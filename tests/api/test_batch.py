"""``POST /introspect/batch``: what is a batch, and what is answered in which place."""

import asyncio
import io
import json
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.rig import forge
from tests.rig.service import SECRETS

row = pytest.mark.row


async def test_a_batch_is_json(revoker):
    assert (await revoker.post("/introspect/batch", form={"tokens": "x"})).error == (400, "invalid_request")


@row("HTTP-02")
async def test_a_batch_has_at_most_a_thousand_tokens_and_17_mib(revoker):
    claims = forge.claims()
    full = await revoker.post("/introspect/batch", {"tokens": [claims] * 1000})
    over = await revoker.post("/introspect/batch", {"tokens": [claims] * 1001})
    credential = aiohttp.encode_basic_auth("admin", SECRETS["admin"])
    huge = await revoker.ask(
        "POST",
        "/introspect/batch",
        data=io.BytesIO(b" " * (17 * 1024 * 1024 + 1)),
        headers={"Content-Type": "application/json", "Authorization": credential},
    )

    assert full.json == {"results": [{"active": True}] * 1000}
    assert over.error == (400, "invalid_request")
    assert huge.error == (413, "invalid_request")


async def test_a_malformed_item_spoils_its_own_place_only(revoker):
    claims = forge.claims()
    twice = json.dumps(claims)[:-1] + ',"jti":"other"}'
    items = [
        *(json.dumps(claims), "1", "{}", '{"token":1}', '{"token":""}', '{"token":"x"}', twice, "null"),
        *(json.dumps(forge.claims(iss=forge.ABSENT)), json.dumps(forge.claims(iss="https://x"))),
        *('{"token":"a","token":"b"}', json.dumps({"token": revoker.token()}), '{"jti":"\\ud800"}'),
    ]
    answer = await revoker.post("/introspect/batch", ('{"tokens":[' + ",".join(items) + "]}").encode())

    if answer.status == 400:  # one that is no JSON at all spoils the whole
        items.pop()
        answer = await revoker.post("/introspect/batch", ('{"tokens":[' + ",".join(items) + "]}").encode())
    results = answer.json["results"]
    bad, no = {"error": "invalid_request"}, {"active": False}
    assert results[:11] == [{"active": True}, bad, bad, bad, bad, no, bad, bad, bad, no, bad]
    assert results[11]["active"] is True and results[11]["sub"] == "user-1"
    assert all(result == bad for result in results[12:])


async def test_a_batch_answers_in_order_what_it_knows_and_what_it_must_verify(revoker):
    good = [revoker.token(sub=f"user-{place}") for place in range(40)]
    forged = forge.token(forge.rsa_key("thief"), {"kid": revoker.key.kid})
    revoked = revoker.token()
    await revoker.post("/revoke", {"token": revoked})
    items = [{"token": token} for token in good] + [forge.claims()] * 5
    items[7:7] = [{"token": forged}, {"token": revoked}, {"token": good[3]}, {"token": "x"}]

    first, again = [(await revoker.post("/introspect/batch", {"tokens": items})).json for _ in range(2)]

    assert first == again
    results = first["results"]
    users = [result.get("sub") for result in results]
    expected = [f"user-{place}" for place in range(40)]
    assert users == [*expected[:7], None, None, "user-3", None, *expected[7:], *[None] * 5]
    assert [result["active"] for result in results[7:11]] == [False, False, True, False]
    assert results[-5:] == [{"active": True}] * 5


@pytest.mark.parametrize("seen_before", [False, True])
async def test_a_key_that_is_withdrawn_while_a_batch_is_read_verifies_nothing_in_it(
    revoker, tmp_path, seen_before
):
    good = [revoker.token() for _ in range(3)]
    if seen_before:
        assert all([await revoker.active(token) for token in good])
    (tmp_path / "main.jwks").write_text(json.dumps(forge.jwks(forge.rsa_key("successor"))))
    makes_keys_be_read = forge.token(forge.rsa_key("unknown"))

    batch = {"tokens": [{"token": token} for token in (good[0], makes_keys_be_read, *good)]}
    results = (await revoker.post("/introspect/batch", batch)).json["results"]

    assert results == [{"active": False}] * 5


@pytest.mark.parametrize(
    "body",
    [
        b'{"tokens":[{"token":"x"}],"\\u0074okens":[{"token":"y"}]}',
        b'{"tokens":[{"token":"x"}],"tokens":[{"token":"x"}]}',
        b'{"tokens":[{"token":"x"}],"x":1,"x":2}',
        b'{"x":1, "tokens" : [{"token":"x"}], "x":2}',
        b'{"tokens":[{"token":"x"}],"x":"\xff"}',
    ],
)
async def test_what_surrounds_the_items_of_a_batch_is_read_as_strictly_as_any_body(revoker, body):
    assert (await revoker.post("/introspect/batch", body)).error == (400, "invalid_request")


@pytest.mark.parametrize("sent", [b'{"y": 1}', b'[ {"token" : "x"} ,1 ]', b'"\\u0074okens"'])
async def test_what_else_a_batch_says_changes_nothing(revoker, sent):
    body = b'{\n "x": %b, "tokens" : [ {"token" : "x"} ,1 ] }' % sent
    answer = await revoker.post("/introspect/batch", body)
    assert answer.json == {"results": [{"active": False}, {"error": "invalid_request"}]}


async def test_no_more_is_read_twice_of_a_batch_than_of_a_single_body(revoker):
    """What is odd is parsed in whole by a slow reader, while everybody else waits."""
    padding = b'"' + b"x" * 65536 + b'"'
    odd = b'{"token":"x","y":%b}' % padding
    item = await revoker.post("/introspect/batch", b'{"tokens":[%b,{"token":"x"}]}' % odd)
    around = await revoker.post("/introspect/batch", b'{"tokens":[],"y":%b}' % padding)

    assert item.json == {"results": [{"error": "invalid_request"}, {"active": False}]}
    assert around.error == (400, "invalid_request")


async def test_others_get_their_turn_while_a_long_batch_is_read(revoker):
    """No time is measured: turns of the event loop are counted, from the last byte to the answer."""
    item = json.dumps(forge.claims(), separators=(",", ":"))[:-1] + ',"y":"' + "\\n" * 31_000 + '"}'
    items = 240
    body = ('{"tokens":[' + ",".join([item] * items) + "]}").encode()
    credential = aiohttp.encode_basic_auth("gateway", SECRETS["gateway"])
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(revoker.url).port)
    writer.write(
        f"POST /introspect/batch HTTP/1.1\r\nHost: x\r\nAuthorization: {credential}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    writer.write(body[:-1])
    await writer.drain()
    assert (await revoker.ask("GET", "/livez")).status == 200
    writer.write(body[-1:])
    answering = asyncio.ensure_future(reader.read(-1))
    turns = 0
    while not answering.done():
        turns += 1
        await asyncio.sleep(0)
    writer.close()
    answer = answering.result()

    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"results": [{"active": True}] * items}
    assert turns > items


async def test_a_duplicate_list_of_tokens_is_malformed(revoker):
    body = b'{"tokens":[],"tokens":[{"token":"x"}]}'

    assert (await revoker.post("/introspect/batch", body)).error == (400, "invalid_request")


@pytest.mark.parametrize("tokens", [None, {}, "x", 1])
async def test_tokens_are_a_list(revoker, tokens):
    assert (await revoker.post("/introspect/batch", {"tokens": tokens})).error == (400, "invalid_request")
