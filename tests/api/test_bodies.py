"""What is no request, or none that an endpoint can read, gets a clear answer and does nothing."""

import contextlib
import gzip
import json

import aiohttp
import pytest

from revoker import errors
from revoker.api.error_responses import REPLIES
from tests.api.conftest import Wire
from tests.rig import forge
from tests.rig.service import OTHER_ISSUER, SECRETS

row = pytest.mark.row

POSTS = {
    "/introspect": {"token": "x"},
    "/introspect/batch": {"tokens": []},
    "/revoke": {"token": "x"},
    "/revoke-user": {"sub": "s", "iss": forge.ISSUER},
    "/revoke-session": {"sid": "s", "iss": forge.ISSUER},
    "/revoke-client": {"client_id": "c", "iss": forge.ISSUER},
    "/revoke-claim": {"claim": "grant_id", "value": "g", "iss": OTHER_ISSUER},
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
    return {"Authorization": aiohttp.encode_basic_auth("admin", SECRETS["admin"])}


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
@pytest.mark.parametrize(
    "shown", [b"coffee", b"\xff", b"100-continue, coffee", b"100-continue\r\nExpect: \xff"]
)
@pytest.mark.parametrize("path", ["/introspect", "/introspect/batch", "/revoke", "/livez", "/nowhere", "//"])
async def test_nothing_else_can_be_expected(revoker, path, shown, events):
    for method in (b"GET", b"POST", b"OPTIONS", b"DELETE"):
        head = b"%b %b HTTP/1.1\r\nHost: x\r\nExpect: %b\r\nContent-Length: 0\r\n\r\n"
        answer = await Wire(revoker.url).send(head % (method, path.encode(), shown))
        assert answer.startswith(b"HTTP/1.1 417 "), answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
            "error": "invalid_request",
            "error_description": "only 100-continue can be expected",
        }
    assert not [event for event in events if event["log_level"] == "error"]


@pytest.mark.parametrize("shown", ["coffee", "\xff", "100-continue"])
async def test_what_a_users_client_expects_is_no_matter_of_the_gateways_question(revoker, shown):
    headers = {"X-Revoker-Key": "gateway-secret", "Authorization": f"Bearer {revoker.token()}"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"GET /forward-auth HTTP/1.1\r\nHost: x\r\nExpect: {shown}\r\n{lines}\r\n"
    answer = await Wire(revoker.url).send(head.encode("latin-1"))
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/nowhere", "/livez", "/introspect"])
async def test_a_client_of_http_1_0_is_not_asked_for_a_body(revoker, path):
    """It does not know what that is (RFC 9110 §10.1.1)."""
    head = f"POST {path} HTTP/1.0\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n"
    answer = await Wire(revoker.url).send(head.encode())
    assert b" 100 " not in answer.partition(b"\r\n")[0]


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


NO_NUMBERS = [
    "nan",
    "-nan",
    "NaN",
    "inf",
    "-inf",
    "Infinity",
    "1e999",
    "9" * 30,
    "9" * 400,
    "9" * 5000,
    "0x1",
]


@pytest.mark.parametrize("number", NO_NUMBERS, ids=lambda number: f"{number[:9]} {len(number)}")
async def test_what_is_no_number_in_a_form_or_query_is_malformed(revoker, number):
    claims = {name: str(value) for name, value in forge.claims().items() if name != "scope"}
    dated = {
        "/explain": [claims | {name: number} for name in ("iat", "exp", "auth_time", "nbf")],
        "/revoke": [{"iss": forge.ISSUER, "jti": "j", "exp": number}],
        "/block-user": [{"iss": forge.ISSUER, "sub": "s", "until": number}],
        "/revoke-user": [{"iss": forge.ISSUER, "sub": "s", "before": number}],
        "/revoke-session": [{"iss": forge.ISSUER, "sid": "s", "before": number}],
        "/revoke-client": [{"iss": forge.ISSUER, "client_id": "c", "before": number}],
        "/revoke-claim": [{"iss": OTHER_ISSUER, "claim": "grant_id", "value": "g", "before": number}],
        "/revoke-issuer": [{"iss": forge.ISSUER, "before": number}],
    }
    for path, forms in dated.items():
        for form in forms:
            assert (await revoker.post(path, form=form)).error == (400, "invalid_request"), (path, form)


@pytest.mark.parametrize("exponent", [53, 64, 308, 400, 1030, 14_000])
async def test_a_number_in_json_that_no_date_comes_near_is_malformed(revoker, exponent):
    for path, asked in {
        "/revoke": {"jti": "j", "exp": 2**exponent},
        "/block-user": {"sub": "s", "until": 2**exponent},
        "/revoke-user": {"sub": "s", "before": 2**exponent},
    }.items():
        answer = await revoker.post(path, {"iss": forge.ISSUER, **asked})
        assert answer.error == (400, "invalid_request"), path
