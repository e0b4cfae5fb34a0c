"""``/forward-auth``: where the token comes from, and which tokens it cannot judge."""

import pytest

from tests.api.conftest import Wire
from tests.rig import forge

BEARER = 'Bearer realm="revoker"'
INVALID = f'{BEARER}, error="invalid_request"'


@pytest.fixture
def ask(revoker):
    """Ask as a gateway that names a cookie; headers are pairs or texts."""

    async def go(*headers, cookie="session", method="GET"):
        sent = [("X-Revoker-Key", "gateway-secret")]
        sent += [("X-Revoker-Cookie", cookie)] if cookie is not None else []
        sent += headers
        async with revoker.http.request(method, f"{revoker.url}/forward-auth", headers=sent) as response:
            return response.status, response.headers.get("WWW-Authenticate")

    return go


COOKIES = (
    "{0}={1}",
    '{0}="{1}"',
    "a=b; {0}={1}; c=d",
    "a=b;{0}={1};c=d",
    "nameless; {0}={1}; x",
    "other{0}=x; {0}={1}",
    "a=b; \t{0} = {1}\t;",
    'q="x y"; {0}={1}',
    "a==;; ;={0}; {0}={1}",
)


@pytest.mark.parametrize("name", ["session", "__Host-session", "__Secure-s", "a.b_c~1", "$Version"])
async def test_the_token_is_in_the_cookie_that_the_gateway_names(revoker, ask, name):
    for cookies in COOKIES:
        line = cookies.format(name, revoker.token())
        assert (await ask(("Cookie", line), cookie=name))[0] == 200, cookies


@pytest.mark.parametrize("joint", [",", ", ", ",\t", "; z=1,"])
async def test_lines_that_a_gateway_has_joined_by_a_comma_are_read_as_lines(revoker, ask, joint):
    """Envoy and Caddy join them; the backend gets the lines, and might read the other one."""
    first, second = revoker.token(), revoker.token()
    joined = f"session={first}{joint}session={second}"
    assert (await ask(("Cookie", joined)))[0] == 401
    assert (await ask(("Cookie", f"a=b{joint}session={first}")))[0] == 401
    assert (await ask(("Cookie", f"a=b{joint}session2=x; session={first}")))[0] == 200
    for authorization in (f"Basic eA=={joint}Bearer {second}", f"Basic eA=={joint}dpop {second}"):
        sent = [("Authorization", authorization), ("Cookie", f"session={first}")]
        assert await ask(*sent) == (401, INVALID), authorization


async def test_any_line_of_cookies_may_have_it(revoker, ask):
    token = revoker.token()
    assert (await ask(("Cookie", "a=b"), ("Cookie", f"session={token}"), ("Cookie", "c=d")))[0] == 200


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "DELETE"])
async def test_any_method_may_have_a_cookie(revoker, ask, method):
    assert (await ask(("Cookie", f"session={revoker.token()}"), method=method))[0] == 200
    assert await ask(method=method) == (401, BEARER)


async def test_a_cookie_that_the_gateway_does_not_name_is_not_read(revoker, ask):
    token = revoker.token()
    assert await ask(("Cookie", f"session={token}"), cookie=None) == (401, BEARER)
    for other in ("Session", "session2", "sess", "__Host-session"):
        assert await ask(("Cookie", f"{other}={token}")) == (401, BEARER)


async def test_without_a_token_in_the_cookie_the_challenge_has_no_error(ask):
    assert await ask() == (401, BEARER)
    for cookies in ("a=b", "session=", 'session=""', "session", ""):
        assert await ask(("Cookie", cookies)) == (401, BEARER), cookies


@pytest.mark.parametrize(
    "cookies",
    [
        ["session={0}; session={1}"],
        ["session={0}; session={0}"],
        ["session={0}", "session={1}"],
        ["session={0}; session="],
    ],
)
async def test_two_cookies_of_the_name_are_ambiguous(revoker, ask, cookies):
    tokens = revoker.token(), revoker.token()
    status, challenge = await ask(*(("Cookie", line.format(*tokens)) for line in cookies))
    assert (status, challenge.startswith(INVALID)) == (401, True)
    assert "more than one cookie" in challenge


async def test_a_cookie_that_is_no_token_is_malformed(ask):
    for value in ("a b", "a,b", '"a', 'a"b"', "a%20b", "é", '""x""'):
        assert await ask(("Cookie", f"session={value}")) == (401, INVALID), value


async def test_a_cookie_is_judged_as_a_header_is(revoker, ask):
    revoked = revoker.token(jti="revoked-cookie")
    assert (await ask(("Cookie", f"session={revoked}")))[0] == 200
    await revoker.post("/revoke", {"token": revoked})
    status, challenge = await ask(("Cookie", f"session={revoked}"))
    assert (status, 'error="invalid_token"' in challenge) == (401, True)
    low = ("Cookie", f"session={revoker.token(scope='a')}")
    assert (await ask(low, ("X-Revoker-Require", "scope=b")))[0] == 403
    assert (await ask(low, ("X-Revoker-Require", "scope=a")))[0] == 200


async def test_header_and_cookie_must_agree_since_a_backend_may_read_the_other_one(revoker, ask):
    good, other = revoker.token(), revoker.token()
    cookie = ("Cookie", f"session={good}")
    assert (await ask(cookie, ("Authorization", f"Bearer {good}")))[0] == 200
    for token in (other, "x"):
        status, challenge = await ask(cookie, ("Authorization", f"Bearer {token}"))
        assert (status, challenge.startswith(INVALID)) == (401, True)
        assert "different tokens" in challenge
    assert (await ask(("Cookie", "session="), ("Authorization", f"Bearer {other}")))[0] == 200
    assert (await ask(("Authorization", f"Bearer {other}")))[0] == 200


@pytest.mark.parametrize("authorization", ["Basic dXNlcjpwYXNz", "Digest x", "Negotiate abc"])
async def test_another_scheme_has_no_token_so_that_the_cookie_counts(revoker, ask, authorization):
    assert (await ask(("Authorization", authorization), ("Cookie", f"session={revoker.token()}")))[0] == 200
    assert await ask(("Authorization", authorization)) == (401, BEARER)


async def test_a_good_cookie_does_not_heal_a_malformed_header(revoker, ask):
    cookie = ("Cookie", f"session={revoker.token()}")
    for authorization in ("Bearer", "Bearer a b", 'Bearer "x"', "Bearer a,b"):
        assert await ask(cookie, ("Authorization", authorization)) == (401, INVALID), authorization
    twice = [("Authorization", f"Bearer {revoker.token()}")] * 2
    assert await ask(cookie, *twice) == (401, INVALID)


async def test_a_cookie_name_that_is_none_is_a_fault_of_the_gateway(revoker, ask):
    token = ("Authorization", f"Bearer {revoker.token()}")
    for name in ("", " ", "a b", "a=b", "a;b", "a,b", '"a"', "é", "x" * 257):
        for headers in ([token], []):
            answer = await ask(*headers, cookie=name)
            assert answer == (403, f'{BEARER}, error="insufficient_scope"'), name


async def test_two_cookie_names_are_a_fault_of_the_gateway(revoker, ask):
    cookie = ("Cookie", f"session={revoker.token()}")
    assert (await ask(("X-Revoker-Cookie", "session"), cookie))[0] == 403


# Tokens that need a proof


@pytest.mark.row("POP-04", "POP-07")
@pytest.mark.parametrize(
    ("cnf", "scheme", "reason"),
    [
        ({"jkt": "abc"}, "DPoP", "a DPoP key (jkt)"),
        ({"jkt": "abc", "x5t#S256": "abc"}, "DPoP", "a DPoP key (jkt)"),
        ({"x5t#S256": "abc"}, "Bearer", "a client certificate (x5t#S256)"),
        ({"kid": "k"}, "Bearer", "a key (cnf)"),
        ({}, "Bearer", "a key (cnf)"),
    ],
)
async def test_a_bound_token_is_refused_with_the_reason(revoker, ask, cnf, scheme, reason):
    token = revoker.token(cnf=cnf)
    expected = (
        401,
        (
            f'{scheme} realm="revoker", error="invalid_token", '
            f'error_description="the token is bound to {reason}, and possession cannot be checked here"'
        ),
    )
    assert await ask(("Authorization", f"Bearer {token}")) == expected
    assert await ask(("Cookie", f"session={token}")) == expected
    assert await ask(("Authorization", f"Bearer {token}"), ("DPoP", "a.b.c")) == expected


async def test_the_reason_is_given_for_active_tokens_only(revoker, ask):
    revoked = revoker.token(cnf={"jkt": "abc"})
    await revoker.post("/revoke", {"token": revoked})
    forged = forge.token(forge.rsa_key("stranger"), cnf={"jkt": "abc"})
    for token in (revoked, forged):
        status, challenge = await ask(("Authorization", f"Bearer {token}"))
        assert (status, challenge.startswith(BEARER)) == (401, True)
        assert "the token is not active" in challenge


@pytest.mark.parametrize("scheme", ["DPoP", "dpop", "DPOP"])
async def test_the_scheme_dpop_is_refused_with_the_reason(revoker, ask, scheme):
    expected = (
        401,
        'DPoP realm="revoker", error="invalid_token", error_description="DPoP proofs are not checked here"',
    )
    for token in (revoker.token(), revoker.token(cnf={"jkt": "abc"}), "x"):
        assert await ask(("Authorization", f"{scheme} {token}")) == expected
        assert await ask(("Authorization", f"{scheme} {token}"), ("Cookie", f"session={token}")) == expected
    assert await ask(("Authorization", "DPoPx abc")) == (401, BEARER)


# Heads and targets


def request(target, *lines, method="GET"):
    head = [f"{method} {target} HTTP/1.1", "Host: x", "X-Revoker-Key: gateway-secret", *lines]
    return "\r\n".join([*head, "", ""]).encode()


async def status_of(revoker, data):
    answer = await Wire(revoker.url).send(data)
    return int(answer.split(b" ")[1])


@pytest.mark.row("FWD-12")
async def test_heads_up_to_32_kib_are_judged(revoker):
    token = f"Authorization: Bearer {revoker.token()}"
    for lines in (
        ["Cookie: a=" + "x" * 16_000, "X-Other: " + "y" * 15_000],
        [f"X-{n}: " + "y" * 300 for n in range(100)],
        ["Cookie: a=" + "x" * 32_000],
    ):
        data = request("/forward-auth", token, *lines)
        assert len(data) > 31_000
        assert await status_of(revoker, data) == 200
    assert await status_of(revoker, request("/forward-auth/" + "a" * 32_000, token)) == 200


@pytest.mark.row("FWD-12")
@pytest.mark.parametrize(
    "lines",
    [
        ["Cookie: a=" + "x" * 33_000],
        ["Cookie: a=" + "x" * 400_000],
        [f"X-{n}: " + "y" * 30_000 for n in range(100)],  # more than is read at once
        [f"X-{n}: y" for n in range(200)],
    ],
)
async def test_what_is_too_long_is_refused_and_never_without_a_verdict(revoker, lines):
    data = request("/forward-auth", f"Authorization: Bearer {revoker.token()}", *lines)
    assert await status_of(revoker, data) in {401, 431}
    assert await status_of(revoker, request("/forward-auth/" + "a" * 33_000)) in {401, 431}


async def test_a_whole_url_is_judged_as_its_path_is_with_any_method(revoker):
    token = f"Authorization: Bearer {revoker.token()}"
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", "TRACE"):
        for path in ("", "/", "/orders/1?x=y", "?x=y"):
            target = f"http://shop.example:8443/forward-auth{path}"
            assert await status_of(revoker, request(target, token, method=method)) == 200
            assert await status_of(revoker, request(target, method=method)) == 401


async def test_a_method_that_http_does_not_have_is_no_verdict_that_opens(revoker):
    for target in ("/forward-auth", "http://shop.example/forward-auth/orders"):
        assert await status_of(revoker, request(target, method="FROBNICATE")) == 401


async def test_a_whole_url_is_answered_as_its_path_is_on_every_path(revoker):
    routes = revoker.service.main.application.router.routes()
    paths = {(route.method, route.resource.canonical) for route in routes} | {("GET", "/forward-auth")}
    assert len(paths) > 20
    for method, path in sorted(paths - {("HEAD", path) for _, path in paths}):
        body = "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        for query in ("", "?a=b"):
            answers = set()
            for prefix in ("", "http://revoker.example", "HTTPS://u@[::1]:1"):
                target = prefix + path.replace("{sid}", "x") + query
                data = f"{method} {target} HTTP/1.1\r\nHost: x\r\n{body}".encode()
                head, _, rest = (await Wire(revoker.url).send(data)).partition(b"\r\n\r\n")
                answers.add((head.split(b"\r\n")[0], rest if b"/json" in head else b""))
            assert len(answers) == 1, (method, path, answers)
