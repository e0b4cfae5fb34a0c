"""What is no request, or none that an endpoint can read, gets a clear answer and does nothing."""

import contextlib
import gzip
import io
import json

import pytest

from service import errors
from service.api.errors import REPLIES
from tests import forge
from tests.api.conftest import Wire

row = pytest.mark.row

POSTS = {
    "/introspect": {"token": "x"},
    "/introspect/batch": {"tokens": []},
    "/revoke": {"token": "x"},
    "/revoke-user": {"sub": "s", "iss": forge.ISSUER},
    "/revoke-session": {"sid": "s", "iss": forge.ISSUER},
    "/revoke-client": {"client_id": "c", "iss": forge.ISSUER},
    "/revoke-issuer": {"iss": forge.ISSUER},
    "/revoke-key": {"iss": forge.ISSUER, "kid": "k"},
    "/block-user": {"sub": "s", "iss": forge.ISSUER},
    "/unblock-user": {"sub": "s", "iss": forge.ISSUER},
    "/explain": {"token": "x"},
}
FORMS = [path for path in POSTS if path != "/introspect/batch"]
GETS = ["/livez", "/readyz", "/metrics"]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

every_endpoint = pytest.mark.parametrize("path", POSTS)


@row("HTTP-01", "HTTP-06")
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
@every_endpoint
async def test_other_methods_are_told_the_one_that_is_allowed(revoker, path, method):
    answer = await revoker.ask(method, path)

    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


@row("HTTP-01")
@pytest.mark.parametrize("path", GETS)
async def test_what_can_be_got_can_be_asked_about_and_nothing_else(revoker, path):
    got, asked = await revoker.ask("GET", path), await revoker.ask("HEAD", path)
    posted = await revoker.ask("POST", path, data=b"x")

    assert (got.status, asked.status, asked.body) == (200, 200, b"")
    assert (posted.status, posted.headers["Allow"]) == (405, "GET,HEAD")


@row("HTTP-06")
@pytest.mark.parametrize(
    "path", ["/", "/introspect/", "/Introspect", "//introspect", "/introspect/x", "/%2e%2e/x", "/admin"]
)
async def test_there_is_nothing_at_other_paths(revoker, path):
    answer = await revoker.post(path, {"token": "x"})

    assert answer.error == (404, "invalid_request")


@row("HTTP-02", "7662-20")
@pytest.mark.parametrize(
    "media",
    [
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/jwt",
        "",
        "x",
        "application/json+x",
    ],
)
@every_endpoint
async def test_bodies_of_other_types_are_refused(revoker, path, media):
    answer = await revoker.post(path, b"token=x", headers={"Content-Type": media})

    assert answer.error == (415, "invalid_request")


@row("7662-20")
@pytest.mark.parametrize("charset", ["; charset=UTF-8", ";charset=utf-8", ""])
async def test_media_types_have_parameters_and_no_case(revoker, charset):
    token = revoker.token()
    for media, body in {
        "application/X-WWW-form-URLencoded": f"token={token}".encode(),
        "Application/JSON": json.dumps({"token": token}).encode(),
    }.items():
        answer = await revoker.post("/introspect", body, headers={"Content-Type": media + charset})
        assert answer.json["active"] is True


async def test_a_batch_is_json(revoker):
    assert (await revoker.post("/introspect/batch", form={"tokens": "x"})).error == (400, "invalid_request")


@row("HTTP-02")
@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("chunked", [False, True], ids=["length known", "length unknown"])
async def test_a_body_beyond_the_limit_is_refused(revoker, path, chunked):
    body = json.dumps({**POSTS[path], "more": "x" * 65536}).encode()

    async def chunks():
        yield body

    headers = {"Content-Type": "application/json"}
    answer = await (
        revoker.ask("POST", path, data=chunks(), headers=headers | _admin(revoker))
        if chunked
        else revoker.post(path, body)
    )

    assert answer.error == (413, "invalid_request")


def _admin(revoker):
    import aiohttp

    from tests.conftest import SECRETS

    return {"Authorization": aiohttp.encode_basic_auth("admin", SECRETS["admin"])}


@row("HTTP-02")
async def test_a_batch_has_at_most_a_thousand_tokens_and_17_mib(revoker):
    claims = forge.claims()
    full = await revoker.post("/introspect/batch", {"tokens": [claims] * 1000})
    over = await revoker.post("/introspect/batch", {"tokens": [claims] * 1001})
    huge = await revoker.ask(
        "POST",
        "/introspect/batch",
        data=io.BytesIO(b" " * (17 * 1024 * 1024 + 1)),
        headers={"Content-Type": "application/json", **_admin(revoker)},
    )

    assert full.json == {"results": [{"active": True}] * 1000}
    assert over.error == (400, "invalid_request")
    assert huge.error == (413, "invalid_request")


@row("HTTP-02")
@pytest.mark.parametrize("seen_before", [False, True])
@every_endpoint
async def test_a_compressed_body_is_refused_and_never_unpacked(revoker, path, seen_before):
    if seen_before:
        await revoker.post(path, POSTS[path])
    for body in (json.dumps(POSTS[path]).encode(), b" " * 30_000_000):
        headers = {"Content-Encoding": "gzip"}
        answer = await revoker.post(path, gzip.compress(body, 1), headers=headers)
        assert answer.error == (415, "invalid_request")


@row("HTTP-07", "7662-21")
@pytest.mark.parametrize(
    "body",
    [
        b"token=A&token=B",
        b"token=A&token=A",
        b"token=A&token=",
        b"token=A&token_type_hint=x&token_type_hint=y",
        b"token=%",
        b"token=%4",
        b"token=%zz",
        b"token=%ff",
        b"token=%c3%28",
        b"token=%ed%a0%80",
        b"token=\xc3\xa9",
        b"token=\xff",
        b"&".join(b"p%d=1" % number for number in range(65)) + b"&token=x",
        b"",
        b"&&&",
        b"=",
        b"x" * 60000,
    ],
    ids=lambda body: body[:24].decode("latin-1") + str(len(body)),
)
@pytest.mark.parametrize("path", ["/introspect", "/revoke", "/explain"])
async def test_a_form_that_is_broken_or_can_be_read_in_two_ways_is_malformed(revoker, path, body):
    assert (await revoker.post(path, body, headers=FORM)).error == (400, "invalid_request")


@row("HTTP-07")
@pytest.mark.parametrize(
    "body", [b"token=%00", b"token=" + b"+" * 100, b"token=a;b", b"token=x&" + b"&" * 40], ids=range(4)
)
async def test_a_form_that_is_odd_but_sound_is_read(revoker, body):
    assert (await revoker.post("/introspect", body, headers=FORM)).json == {"active": False}


@row("HTTP-07")
@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{",
            b"{}x",
            b"[]",
            b"null",
            b'"x"',
            b"1",
            b'{"a":\xff}',
            b'{"a":1,"a":1}',
            b"\xef\xbb\xbf{}",
        ),
        *(b'{"a":NaN}', b'{"x":' + b"[" * 30000, b'{"x":"\\ud800"}', '{"é":1}'.encode("utf-16")),
    ],
    ids=lambda body: body[:16].decode("latin-1") + str(len(body)),
)
@every_endpoint
async def test_json_that_is_broken_or_no_object_is_malformed(revoker, path, body):
    sound = json.dumps(POSTS[path]).encode()
    members = body[:-1] + b"," + sound[1:] if body[:1] == b"{" and body[-1:] == b"}" else body
    if path.startswith("/introspect") and b'"a":1,"a"' in body:
        return  # members that nobody reads may stand twice there

    assert (await revoker.post(path, members)).error == (400, "invalid_request")


@pytest.mark.parametrize("seen_before", [False, True])
@every_endpoint
async def test_nothing_is_read_from_the_query(revoker, path, seen_before):
    if seen_before:
        await revoker.post(path, POSTS[path])

    assert (await revoker.post(path + "?x=1", POSTS[path])).error == (400, "invalid_request")


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
    assert all(each == bad for each in results[12:])


async def test_a_batch_answers_in_order_what_it_knows_and_what_it_must_verify(revoker):
    good = [revoker.token(sub=f"user-{place}") for place in range(40)]
    forged = forge.token(forge.rsa_key("thief"), {"kid": revoker.key.kid})
    revoked = revoker.token()
    await revoker.post("/revoke", {"token": revoked})
    items = [{"token": each} for each in good] + [forge.claims()] * 5
    items[7:7] = [{"token": forged}, {"token": revoked}, {"token": good[3]}, {"token": "x"}]

    first, again = [(await revoker.post("/introspect/batch", {"tokens": items})).json for _ in range(2)]

    assert first == again
    results = first["results"]
    users = [each.get("sub") for each in results]
    told = [f"user-{place}" for place in range(40)]
    assert users == [*told[:7], None, None, "user-3", None, *told[7:], *[None] * 5]
    assert [each["active"] for each in results[7:11]] == [False, False, True, False]
    assert results[-5:] == [{"active": True}] * 5


@pytest.mark.parametrize("seen_before", [False, True])
async def test_a_key_that_is_withdrawn_while_a_batch_is_read_verifies_nothing_in_it(
    revoker, tmp_path, seen_before
):
    good = [revoker.token() for _ in range(3)]
    if seen_before:
        assert all([await revoker.active(each) for each in good])
    (tmp_path / "main.jwks").write_text(json.dumps(forge.jwks(forge.rsa_key("successor"))))
    makes_keys_be_read = forge.token(forge.rsa_key("unknown"))

    batch = {"tokens": [{"token": each} for each in (good[0], makes_keys_be_read, *good)]}
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


@pytest.mark.parametrize("said", [b'{"y": 1}', b'[ {"token" : "x"} ,1 ]', b'"\\u0074okens"'])
async def test_what_else_a_batch_says_changes_nothing(revoker, said):
    body = b'{\n "x": %b, "tokens" : [ {"token" : "x"} ,1 ] }' % said
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


async def test_a_list_of_tokens_that_stands_twice_is_malformed(revoker):
    body = b'{"tokens":[],"tokens":[{"token":"x"}]}'

    assert (await revoker.post("/introspect/batch", body)).error == (400, "invalid_request")


@pytest.mark.parametrize("tokens", [None, {}, "x", 1])
async def test_tokens_are_a_list(revoker, tokens):
    assert (await revoker.post("/introspect/batch", {"tokens": tokens})).error == (400, "invalid_request")


# Below HTTP


def head(*more, path="/introspect", length=None):
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *more]
    lines += [] if length is None else [f"Content-Length: {length}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


NO_HTTP = {
    "length and chunks": head("Transfer-Encoding: chunked", length=5) + b"0\r\n\r\n",
    "two lengths": head("Content-Length: 5", length=6) + b"canary",
    "two hosts": head("Host: y", length=0),
    "folded header": head("X-Folded: a\r\n canary", length=0),
    "bad chunk": head("Transfer-Encoding: chunked") + b"canary\r\n",
    "header too long": head("X-Long: canary" + "a" * 40_000, length=0),
    "line too long": b"POST /canary" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01canary\r\n\r\n",
    "header without a name": head(": canary", length=0),
    "bare CR": b"POST /introspect HTTP/1.1\rHost: canary\r\n\r\n",
    "negative length": head(length=-1),
    "NUL": head("X-Nul: canary\0", length=0),
}


@row("HTTP-08", "HTTP-06", "HTTP-09", "HTTP-07")
@pytest.mark.parametrize("data", NO_HTTP.values(), ids=NO_HTTP.keys())
async def test_bytes_that_are_no_request_are_refused_without_an_echo(wire, data, events, caplog):
    answer = await wire.send(data)

    status, body = answer.split(b"\r\n", 1)[0], answer.partition(b"\r\n\r\n")[2]
    assert status.endswith(b" 400 Bad Request")
    assert b"\r\nCache-Control: no-store\r\n" in answer
    assert json.loads(body)["error"] == "invalid_request"
    assert b"canary" not in answer
    assert "canary" not in repr(events) + caplog.text
    assert not [event for event in events if event["log_level"] in {"error", "warning"}]


@row("HTTP-07")
@pytest.mark.parametrize("path", ["/introspect", "/revoke", "/introspect/batch"])
async def test_a_body_that_breaks_off_is_nobodys_fault_but_the_clients(revoker, wire, path, events):
    credential = f"Authorization: {_admin(revoker)['Authorization']}"
    for data in (
        head(credential, path=path, length=50) + b'{"tok',
        head(credential, "Transfer-Encoding: chunked", path=path) + b'5\r\n{"tok\r\n',
    ):
        with contextlib.suppress(TimeoutError, EOFError):
            await wire.send(data, then_close=True, seconds=0.3)

    assert not [event for event in events if event["log_level"] == "error"]
    assert (await revoker.post("/introspect", {"token": "x"})).status == 200


@pytest.mark.parametrize("path", ["/introspect", "/revoke"])
async def test_a_client_that_waits_to_be_asked_for_the_body_is_asked(revoker, path):
    credential = f"Authorization: {_admin(revoker)['Authorization']}"

    answer = await Wire(revoker.url).send(head(credential, "Expect: 100-continue", path=path, length=13))

    assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"


@row("HTTP-06")
@pytest.mark.parametrize("path", ["/introspect", "/revoke", "/livez"])
async def test_nothing_else_can_be_expected(revoker, path):
    answer = await revoker.ask("GET" if path == "/livez" else "POST", path, headers={"Expect": "coffee"})

    assert answer.error == (417, "invalid_request")


# The table


def leaves(kind):
    return {kind} if not kind.__subclasses__() else set().union(*map(leaves, kind.__subclasses__()))


def test_every_error_that_can_reach_a_caller_has_a_reply():
    never_leave = {errors.ConfigError, errors.InvalidToken}

    ours = {kind for kind in leaves(errors.RevokerError) if kind.__module__ == errors.__name__}
    assert all(REPLIES.keys() & set(kind.__mro__) for kind in ours - never_leave)
    for kind, reply in REPLIES.items():
        assert 400 <= reply.status <= 503, kind
        assert reply.status != 401 or "WWW-Authenticate" in reply.headers, kind
        assert reply.status not in {429, 503} or reply.headers["Retry-After"].isdigit(), kind
        assert reply.error.replace("_", "").isalpha(), kind


@pytest.mark.parametrize("colon", [":", " :", "\t:", "\n:", "\r\n :"])
@pytest.mark.parametrize("name", ["jti", "sub", "iat", "iss", "sid", "j\\u0074i"])
async def test_a_claim_that_stands_twice_is_malformed_however_it_is_written(revoker, name, colon):
    claims = json.dumps(forge.claims(), separators=(",", ":"))
    twice = f'{claims[:-1]},"{name}"{colon}{json.dumps(1 if name == "iat" else "other")}}}'

    assert (await revoker.post("/introspect", twice.encode())).error == (400, "invalid_request")
    results = (await revoker.post("/introspect/batch", f'{{"tokens":[{claims},{twice}]}}'.encode())).json
    assert results["results"] == [{"active": True}, {"error": "invalid_request"}]
