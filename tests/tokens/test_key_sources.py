"""Where keys come from: files that change, and web servers that misbehave."""

import asyncio
import gzip
import json
import time

import pytest
from aiohttp import web

from revoker.config.schema import settle
from revoker.errors import ConfigError, InvalidToken, KeysUnavailable
from revoker.tokens.key_fetching import COOL_DOWN_S, KEEP_S, JwksByUrl
from revoker.tokens.key_sets import MAX_SET_BYTES
from revoker.tokens.key_sources import key_source
from tests.rig import forge
from tests.rig.forge import ABSENT, hmac_key, jwks, rsa_key, token
from tests.rig.servers import free_port
from tests.rig.service import HANGS_S
from tests.tokens.conftest import Clock, Naps, issuer_settings, trusting

KEY = rsa_key()
NEXT = rsa_key("rsa-2")
EXPIRES_S = 2.0
"""The time-out of a fetch that a test lets expire; every other fetch has :data:`HANGS_S`."""

BOMB = gzip.compress(b" " * 20_000_000 + json.dumps(jwks(NEXT)).encode())


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def naps():
    return Naps()


@pytest.fixture
def timeout_s():
    return HANGS_S


@pytest.fixture
async def source(idp, metrics, clock, naps, timeout_s):
    """A source of the provider's keys that has started to fetch them."""
    made = JwksByUrl("main", idp.url, ["RS256"], metrics, clock=clock, sleep=naps, timeout_s=timeout_s)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def verifier(source, naps, metrics):
    """A verifier whose keys were fetched once."""
    await naps.wait_for(1)
    while not source.ready:
        await naps.end()
    return trusting(source, metrics)


def refreshes(metrics, outcome):
    labels = {"issuer": "main", "outcome": outcome}
    return metrics.registry.get_sample_value("revoker_jwks_refreshes_total", labels)


async def test_keys_are_fetched_before_any_token_asks_for_them(source, naps, idp, metrics):
    await naps.wait_for(1)

    assert (source.ready, source.stale, idp.fetches) == (True, False, 1)
    assert refreshes(metrics, "ok") == 1
    refreshed = metrics.registry.get_sample_value(
        "revoker_jwks_refreshed_timestamp_seconds", {"issuer": "main"}
    )
    assert refreshed == pytest.approx(time.time(), abs=60)


async def test_a_token_that_comes_first_waits_for_the_fetch_under_way(source, idp, metrics):
    assert await trusting(source, metrics).verify(token(KEY))
    assert idp.fetches == 1


async def test_keys_are_refreshed_every_five_minutes(verifier, source, naps, idp):
    await naps.end()
    await naps.end()

    assert idp.fetches == 3
    assert all(270 <= nap <= 300 for nap in naps.durations)
    assert len(set(naps.durations)) == 3


async def test_a_rotation_is_noticed_by_the_refresh(verifier, naps, idp):
    old, new = token(KEY), token(NEXT)
    await verifier.verify(old)
    idp.keys = jwks(NEXT)
    await naps.end()

    assert verifier.cached(old) is None
    assert await verifier.verify(new)
    with pytest.raises(InvalidToken, match="signature"):
        await verifier.verify(old)
    assert idp.fetches == 2 + 1  # at start, the refresh, and for the name that is unknown now


async def test_keys_that_stay_keep_what_they_verified(verifier, naps, idp):
    text = token(KEY)
    verified = await verifier.verify(text)
    idp.keys = jwks(NEXT, KEY)
    await naps.end()

    assert verifier.cached(text) is verified


async def test_an_unknown_name_is_fetched_for_at_once(verifier, idp):
    idp.keys = jwks(KEY, NEXT)

    assert await verifier.verify(token(NEXT))
    assert idp.fetches == 2


async def test_jwt_13_a_flood_of_unknown_names_makes_one_fetch_per_cool_down(verifier, idp, clock):
    for _ in range(3):
        before = idp.fetches
        flood = [token(KEY, {"kid": f"random-{number}"}, jti=str(number)) for number in range(100)]
        for half in (flood[:50], flood[50:]):
            answers = await asyncio.gather(*map(verifier.verify, half), return_exceptions=True)
            assert {type(answer) for answer in answers} == {InvalidToken}
        assert idp.fetches == before + 1
        clock.now += COOL_DOWN_S


async def test_jwt_13_a_token_of_an_unknown_issuer_makes_no_fetch(verifier, idp):
    for kid in ("rsa-1", "rsa-2"):
        with pytest.raises(InvalidToken, match="not trusted"):
            await verifier.verify(token(KEY, {"kid": kid}, iss="https://evil.example.com"))

    assert idp.fetches == 1


@pytest.mark.parametrize(
    "hostile",
    [
        token(KEY, {"alg": "none", "kid": "x"}),
        token(rsa_key("thief"), {"alg": "RS512", "kid": "rsa-1"}),
        token(KEY, {"kid": 1}),
    ],
    ids=["algorithm not allowed", "algorithm not allowed, loaded kid", "malformed"],
)
async def test_jwt_13_a_token_that_no_fetch_can_help_makes_none(verifier, idp, hostile):
    for verify in (verifier.verify, verifier.verify_origin):
        with pytest.raises(InvalidToken):
            await verify(hostile)

    assert idp.fetches == 1


async def test_jwt_12_no_url_of_a_header_is_fetched(verifier, idp):
    paths = []

    async def noting(request):
        paths.append(request.path)
        return await idp.serve_keys(request)

    idp.answer = noting
    for name in ("jku", "x5u"):
        for kid in ("rsa-1", "thief"):
            with pytest.raises(InvalidToken):
                await verifier.verify(token(rsa_key("thief"), {name: f"{idp.url}/{name}", "kid": kid}))

    assert set(paths) == {"/jwks.json"}


async def test_all_who_wait_share_one_fetch(verifier, idp):
    arrived, release = asyncio.Event(), asyncio.Event()

    async def slowly(request):
        arrived.set()
        await release.wait()
        return await idp.serve_keys(request)

    idp.keys, idp.answer = jwks(KEY, NEXT), slowly
    waiting = [asyncio.create_task(verifier.verify(token(NEXT, jti=str(number)))) for number in range(50)]
    await arrived.wait()
    waiting.pop().cancel()
    release.set()

    assert all([await task for task in waiting])
    assert idp.fetches == 2


async def test_loaded_keys_verify_while_a_fetch_is_stalled(verifier, idp):
    arrived, release = asyncio.Event(), asyncio.Event()

    async def stalled(request):
        arrived.set()
        await release.wait()
        return web.Response(status=500)

    idp.answer = stalled
    waiting = asyncio.create_task(verifier.verify(token(NEXT)))
    await arrived.wait()

    assert await verifier.verify(token(KEY))
    release.set()
    with pytest.raises(InvalidToken):
        await waiting


async def _stall(request):
    await asyncio.Event().wait()


async def _drip(request):
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.01)


async def _oversize(request):
    return web.Response(body=json.dumps(jwks(NEXT)).encode() + b" " * MAX_SET_BYTES)


async def _endless(request):
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)


async def _bomb(request):
    return web.Response(body=BOMB, headers={"Content-Encoding": "gzip"})


async def _compressed(request):
    body = gzip.compress(json.dumps(jwks(NEXT)).encode())
    return web.Response(body=body, headers={"Content-Encoding": "gzip"})


async def _redirect(request):
    if request.path == "/elsewhere":
        return web.json_response(jwks(NEXT))
    raise web.HTTPFound("/elsewhere")


async def _truncated(request):
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"keys": [')
    request.transport.abort()
    return response


def _answering(body, status=200, **headers):
    async def answer(request):
        return web.Response(body=body, status=status, headers=headers)

    return answer


MISBEHAVIOUR = {
    "stalls": _stall,
    "drips": _drip,
    "is too large": _oversize,
    "never ends": _endless,
    "sends a bomb": _bomb,
    "compresses unasked": _compressed,
    "redirects": _redirect,
    "hangs up": _truncated,
    "fails": _answering(json.dumps(jwks(NEXT)), 500),
    "has nothing": _answering(b"", 204),
    "says not found": _answering(json.dumps(jwks(NEXT)), 404),
    "sends HTML": _answering(b"<html>sign in</html>"),
    "sends an array": _answering(json.dumps([NEXT.jwk()]).encode()),
    "sends one key": _answering(json.dumps(NEXT.jwk()).encode()),
    "sends keys twice": _answering(b'{"keys": [], "keys": []}'),
    "sends nothing": _answering(b""),
    "has no keys": _answering(b'{"keys": []}'),
    "has keys for encryption alone": _answering(json.dumps(jwks(NEXT.jwk(use="enc"))).encode()),
    "has keys of another algorithm alone": _answering(json.dumps(jwks(rsa_key("pss", "PS256"))).encode()),
    "has junk for keys": _answering(b'{"keys": [1, null, {}]}'),
    "sends bytes": _answering(bytes(range(256))),
}


misbehaving = pytest.mark.parametrize(
    ("answer", "timeout_s"),
    [(answer, EXPIRES_S if answer in {_stall, _drip} else HANGS_S) for answer in MISBEHAVIOUR.values()],
    ids=MISBEHAVIOUR.keys(),
)


@misbehaving
async def test_jwks_05_the_last_good_set_survives_a_provider_that(verifier, source, naps, idp, answer):
    idp.answer = answer

    with pytest.raises(InvalidToken, match="signature"):
        await verifier.verify(token(NEXT))
    assert await verifier.verify(token(KEY))
    assert (source.ready, source.stale) == (True, True)

    idp.answer, idp.keys = idp.serve_keys, jwks(KEY, NEXT)
    while source.stale:
        await naps.end()
    assert await verifier.verify(token(NEXT))
    assert source.stale is False


@misbehaving
async def test_jwks_05_no_verdict_until_the_keys_were_fetched_from_a_provider_that(
    idp, metrics, clock, naps, *, answer, timeout_s
):
    idp.answer = answer
    source = JwksByUrl("main", idp.url, ["RS256"], metrics, clock=clock, sleep=naps, timeout_s=timeout_s)
    await source.start()
    verifier = trusting(source, metrics)
    try:
        for verify in (verifier.verify, verifier.verify_origin):
            with pytest.raises(KeysUnavailable):
                await verify(token(KEY))
        await naps.wait_for(1)
        assert (source.ready, source.stale) == (False, False)

        idp.answer = idp.serve_keys
        while not source.ready:
            await naps.end()
        assert await verifier.verify(token(KEY))
    finally:
        await source.close()


async def test_a_failing_provider_is_asked_less_and_less_often(verifier, naps, idp):
    idp.answer = _answering(b"", 500)
    for _ in range(9):
        await naps.end()
    assert naps.durations[1:] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]

    idp.answer = idp.serve_keys
    await naps.end()
    assert naps.durations[-1] > 200
    idp.answer = _answering(b"", 500)
    await naps.end()
    assert naps.durations[-1] == 0.5


async def test_a_fetch_that_a_token_gave_rise_to_and_that_failed_is_repeated_soon(
    verifier, source, naps, idp
):
    idp.answer = _answering(b'{"keys": []}')
    with pytest.raises(InvalidToken):
        await verifier.verify(token(NEXT))
    assert source.stale
    await naps.wait_for(2)
    assert naps.durations[1] == 0.5

    idp.answer, idp.keys = idp.serve_keys, jwks(KEY, NEXT)
    await naps.end()
    assert not source.stale
    assert await verifier.verify(token(NEXT))


async def test_beyond_those_who_may_wait_for_keys_others_are_answered_at_once(idp, metrics, naps):
    arrived, release = asyncio.Event(), asyncio.Event()

    async def slowly(request):
        arrived.set()
        await release.wait()
        return await idp.serve_keys(request)

    source = JwksByUrl("main", idp.url, ["RS256"], metrics, sleep=naps, timeout_s=HANGS_S, max_waiting=2)
    await source.start()
    await naps.wait_for(1)
    verifier = trusting(source, metrics)
    idp.keys, idp.answer = jwks(KEY, NEXT), slowly
    waiting = [asyncio.create_task(verifier.verify(token(NEXT, jti=str(number)))) for number in range(2)]
    await arrived.wait()

    with pytest.raises(InvalidToken):
        await verifier.verify(token(NEXT, jti="one too many"))
    with pytest.raises(KeysUnavailable):
        await verifier.verify_origin(token(NEXT, jti="one too many"))
    assert await verifier.verify(token(KEY))

    release.set()
    assert all([await task for task in waiting])
    assert idp.fetches == 2
    await source.close()


async def test_nobody_answers_at_all(metrics, naps):
    source = JwksByUrl("main", f"http://127.0.0.1:{free_port()}/", ["RS256"], metrics, sleep=naps)
    await source.start()
    await naps.wait_for(1)

    with pytest.raises(KeysUnavailable):
        await trusting(source, metrics).verify(token(KEY))
    await source.close()


async def test_jwks_05_a_set_that_was_not_refreshed_for_a_day_is_believed_no_longer(
    verifier, source, naps, idp, clock
):
    text = token(KEY)
    await verifier.verify(text)
    clock.now += KEEP_S
    await naps.end()
    idp.answer = _answering(b"", 500)
    clock.now += KEEP_S
    await naps.end()
    assert verifier.cached(text)

    clock.now += 1
    await naps.end()

    assert verifier.cached(text) is None
    assert (source.ready, source.stale) == (False, False)
    with pytest.raises(KeysUnavailable):
        await verifier.verify(text)

    idp.answer = idp.serve_keys
    await naps.end()
    assert await verifier.verify(text)


async def test_the_origin_of_a_name_that_is_in_no_set_is_unknown(verifier, idp, clock):
    text = token(NEXT)
    for fetches in (2, 2, 3):
        with pytest.raises(KeysUnavailable):
            await verifier.verify_origin(text)
        assert idp.fetches == fetches
        clock.now += COOL_DOWN_S / 2

    idp.keys = jwks(KEY, NEXT)
    clock.now += COOL_DOWN_S
    assert await verifier.verify_origin(text)


async def test_a_nameless_token_of_no_key_in_the_set_is_forged_unless_the_set_could_not_be_read(
    verifier, idp, clock
):
    forged = token(rsa_key("thief"), {"kid": ABSENT})
    for _ in range(3):
        with pytest.raises(InvalidToken, match="signature"):
            await verifier.verify_origin(forged)
    assert idp.fetches == 2

    idp.answer = _answering(b"", 500)
    clock.now += COOL_DOWN_S
    for _ in range(2):
        with pytest.raises(KeysUnavailable):
            await verifier.verify_origin(forged)


async def test_a_nameless_token_is_judged_by_a_new_set_before_it_is_taken_for_forged(verifier, idp):
    idp.keys = jwks(KEY, NEXT)

    assert await verifier.verify_origin(token(NEXT, {"kid": ABSENT}))


async def test_where_no_key_has_a_name_a_token_is_forged_only_if_the_keys_were_read_again_for_it(
    idp, metrics, naps
):
    idp.keys = jwks(rsa_key(None))
    source = JwksByUrl("main", idp.url, ["RS256"], metrics, sleep=naps, timeout_s=HANGS_S)
    await source.start()
    await naps.wait_for(1)
    verifier = trusting(source, metrics)

    assert await verifier.verify_origin(token(rsa_key(None), {"kid": "any"}))
    with pytest.raises(InvalidToken, match="signature"):
        await verifier.verify_origin(token(NEXT, {"kid": "any"}))
    for header in ({"kid": "any"}, {"kid": ABSENT}):
        with pytest.raises(KeysUnavailable):  # the issuer may have added a key since
            await verifier.verify_origin(token(NEXT, header))
    await source.close()


async def test_the_origin_of_an_unknown_name_is_uncertain_while_the_provider_fails(verifier, idp, metrics):
    idp.answer = _answering(b"", 500)

    with pytest.raises(KeysUnavailable):
        await verifier.verify_origin(token(NEXT))
    assert refreshes(metrics, "error") == 1


async def test_the_origin_of_an_unknown_name_is_not_judged_by_a_set_that_was_asked_for_before(verifier, idp):
    arrived, release = asyncio.Event(), asyncio.Event()

    async def slowly(request):
        keys = idp.keys
        arrived.set()
        await release.wait()
        return web.json_response(keys)

    idp.answer = slowly
    first = asyncio.create_task(verifier.verify_origin(token(NEXT)))
    await arrived.wait()
    idp.keys = jwks(KEY, NEXT)
    second = asyncio.create_task(verifier.verify_origin(token(NEXT)))
    await asyncio.sleep(0)
    release.set()

    for asked in (first, second):
        with pytest.raises(KeysUnavailable):
            await asked


async def test_the_origin_of_a_forgery_is_certain_once_the_key_it_names_is_loaded(verifier, idp):
    arrived, release = asyncio.Event(), asyncio.Event()

    async def slowly(request):
        arrived.set()
        await release.wait()
        return web.json_response(jwks(KEY, NEXT))

    idp.answer = slowly
    first = asyncio.create_task(verifier.verify_origin(token(NEXT)))
    await arrived.wait()
    text = token(rsa_key("thief"), {"kid": "rsa-2"})
    forged = asyncio.create_task(verifier.verify_origin(text))
    await asyncio.sleep(0)
    release.set()

    assert await first
    with pytest.raises(InvalidToken, match="signature"):
        await forged


async def test_the_origin_of_a_loaded_key_is_certain_though_the_provider_fails(verifier, idp):
    idp.answer = _answering(b"", 500)

    assert (await verifier.verify_origin(token(KEY))).claims.kid == "rsa-1"


async def test_connections_are_closed_and_nothing_is_sent_but_the_request(naps, idp, metrics):
    seen = []

    async def noting(request):
        seen.append(request.headers)
        response = await idp.serve_keys(request)
        response.set_cookie("tracking", "1")
        return response

    idp.answer = noting
    named = idp.url.replace("127.0.0.1", "localhost")  # an address is given no cookies
    source = JwksByUrl("main", named, ["RS256"], metrics, sleep=naps, timeout_s=HANGS_S)
    await source.start()
    await naps.wait_for(1)
    await naps.end()
    await source.close()

    assert source.ready
    assert [headers["Connection"] for headers in seen] == ["close", "close"]
    assert [headers["Accept-Encoding"] for headers in seen] == ["identity", "identity"]
    assert not any("Cookie" in headers for headers in seen)


async def test_a_source_that_is_closed_leaves_nobody_waiting(verifier, source, idp):
    arrived = asyncio.Event()

    async def never(request):
        arrived.set()
        await asyncio.Event().wait()

    idp.answer = never
    waiting = asyncio.create_task(verifier.verify(token(NEXT)))
    await arrived.wait()
    await source.close()

    with pytest.raises(InvalidToken):
        await waiting
    assert await verifier.verify(token(KEY))
    with pytest.raises(InvalidToken):
        await verifier.verify(token(NEXT))


# Files


@pytest.fixture
def file_of_keys(tmp_path):
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(jwks(KEY)))
    return path


@pytest.fixture
async def file_source(file_of_keys, metrics, naps):
    made = key_source(issuer_settings(jwks_file=file_of_keys), metrics)
    made._sleep = naps
    await made.start()
    yield made
    await made.close()


async def test_a_file_is_read_at_start_and_again_when_it_was_replaced(
    file_source, file_of_keys, naps, metrics
):
    verifier = trusting(file_source, metrics)
    old = token(KEY)
    await verifier.verify(old)
    await naps.end()
    assert verifier.cached(old)
    assert refreshes(metrics, "ok") == 1

    new = file_of_keys.with_suffix(".new")
    new.write_text(json.dumps(jwks(NEXT)))
    new.replace(file_of_keys)
    await naps.end()

    assert verifier.cached(old) is None
    assert await verifier.verify(token(NEXT))
    assert set(naps.durations) == {1.0}


@pytest.mark.parametrize(
    "contents",
    [b"", b"{", b"\xff", b'{"keys": []}', json.dumps(jwks(NEXT)).encode() + b" " * MAX_SET_BYTES, None],
    ids=["empty", "half", "binary", "no keys", "too large", "gone"],
)
async def test_the_last_good_set_survives_a_file_that_is_spoilt(
    file_source, file_of_keys, naps, metrics, contents
):
    verifier = trusting(file_source, metrics)
    if contents is None:
        aside = file_of_keys.parent.rename(file_of_keys.parent.with_suffix(".aside"))
    else:
        file_of_keys.write_bytes(contents)
    await naps.end()

    assert file_source.stale
    assert await verifier.verify(token(KEY))
    with pytest.raises(InvalidToken):
        await verifier.verify(token(NEXT))
    with pytest.raises(KeysUnavailable):
        await verifier.verify_origin(token(NEXT))

    if contents is None:
        aside.rename(file_of_keys.parent)
    else:
        file_of_keys.write_text(json.dumps(jwks(KEY)))
    await naps.end()
    assert not file_source.stale


async def test_a_file_may_come_later(tmp_path, metrics):
    path = tmp_path / "jwks.json"
    source = key_source(issuer_settings(jwks_file=path), metrics)
    verifier = trusting(source, metrics)
    await source.start()
    assert not source.ready

    path.write_text(json.dumps(jwks(KEY)))

    assert await verifier.verify(token(KEY))
    assert source.ready
    await source.close()


async def test_a_spoilt_file_is_not_read_again_for_every_token(file_source, file_of_keys, metrics):
    verifier = trusting(file_source, metrics)
    file_of_keys.write_bytes(b"{")
    for number in range(10):
        with pytest.raises(InvalidToken):
            await verifier.verify(token(KEY, {"kid": str(number)}))

    assert refreshes(metrics, "error") == 1


async def test_the_file_is_read_again_before_an_unknown_name_is_refused(file_source, file_of_keys, metrics):
    verifier = trusting(file_source, metrics)
    with pytest.raises(KeysUnavailable):
        await verifier.verify_origin(token(NEXT))

    file_of_keys.write_text(json.dumps(jwks(KEY, NEXT)))

    assert (await verifier.verify_origin(token(NEXT))).claims.kid == "rsa-2"


async def test_a_new_secret_takes_the_place_of_the_old(tmp_path, metrics):
    path = tmp_path / "secret"
    path.write_bytes(b"a" * 32)
    source = key_source(issuer_settings(algorithms=["HS256"], hmac_secret_file=str(path)), metrics)
    verifier = trusting(source, metrics)
    old, new = token(hmac_key(b"a" * 32)), token(hmac_key(b"b" * 32))
    await verifier.verify(old)
    path.write_bytes(b"b" * 32)

    assert await verifier.verify(new)
    assert verifier.cached(old) is None


def settled(**settings):
    issuer = {"name": "main", "issuer": forge.ISSUER, "audiences": [forge.AUDIENCE], **settings}
    return settle({"issuers": [issuer]}, {})


WRONG = {
    "no place": ({}, "exactly one"),
    "two places": ({"jwks_uri": "https://a/", "jwks_file": "b"}, "exactly one"),
    "http": ({"jwks_uri": "http://idp.example.com/jwks.json"}, "https"),
    "file URL": ({"jwks_uri": "file:///etc/passwd", "jwks_insecure": True}, "https"),
    "no URL": ({"jwks_uri": "jwks.json", "jwks_insecure": True}, "https"),
    "HMAC with public keys": ({"jwks_file": "b", "algorithms": ["RS256", "HS256"]}, "algorithms"),
    "RSA with a secret": ({"hmac_secret_file": "b", "algorithms": ["RS256"]}, "algorithms"),
    "none": ({"jwks_file": "b", "algorithms": ["none"]}, "algorithms"),
    "no algorithm": ({"jwks_file": "b", "algorithms": []}, "algorithms"),
    "secret missing": ({"hmac_secret_file": "/nowhere/at/all", "algorithms": ["HS256"]}, "No such file"),
}


@pytest.mark.parametrize(("settings", "problem"), WRONG.values(), ids=WRONG.keys())
def test_unsafe_settings_are_refused(settings, problem):
    with pytest.raises(ConfigError, match=problem) as refused:
        settled(**settings)
    assert refused.value.problems == [str(refused.value)]


@pytest.mark.parametrize("secret", [b"", b"s" * 31, b"s" * 31 + b"\n", b"s" * 31 + b"\r\n"], ids=repr)
def test_jwt_08_a_weak_secret_stops_the_start(tmp_path, secret):
    path = tmp_path / "secret"
    path.write_bytes(secret)

    with pytest.raises(ConfigError, match="at least 256 random bits"):
        settled(algorithms=["HS256"], hmac_secret_file=str(path))


def test_a_shared_secret_that_is_the_text_of_another_kind_of_key_stops_the_start(tmp_path, metrics):
    path = tmp_path / "secret"
    path.write_bytes(b"-----BEGIN PUBLIC KEY-----\n" + b"A" * 64 + b"\n-----END PUBLIC KEY-----\n")

    with pytest.raises(ConfigError, match="another kind of key"):
        key_source(issuer_settings(algorithms=["HS256"], hmac_secret_file=path), metrics)


def test_http_is_for_those_who_ask_for_it(metrics):
    url = "http://127.0.0.1/jwks.json"

    assert isinstance(key_source(issuer_settings(jwks_uri=url, jwks_insecure=True), metrics), JwksByUrl)
