"""A byte order mark before JSON is ignored, wherever JSON is read."""

import json

import pytest

from tests.rig import forge

MARK = b"\xef\xbb\xbf"
JSON = {"Content-Type": "application/json"}


async def test_a_mark_before_json_is_ignored_on_every_path_that_reads_json(revoker):
    """Its answer differs in no way from that without a mark, also where the body is refused."""
    routes = revoker.service.main.application.router.routes()
    paths = {route.resource.canonical for route in routes if route.method == "POST"}
    assert len(paths) > 10
    for path in sorted(paths):
        for body in ({}, {"token": revoker.token()}, {"tokens": [{"token": revoker.token()}]}):
            raw = json.dumps(body).encode()
            plain = await revoker.post(path, raw)
            marked = await revoker.post(path, MARK + raw)
            assert (marked.status, marked.body) == (plain.status, plain.body), path


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8"])
async def test_verdicts_are_given_for_marked_bodies(revoker, content_type):
    headers = {"Content-Type": content_type}
    token = revoker.token()
    for _ in range(2):  # the second time the caller is remembered
        raw = MARK + json.dumps({"token": token}).encode()
        answer = await revoker.post("/introspect", raw, caller="gateway", headers=headers)
        assert answer.json["active"] is True
    raw = MARK + json.dumps({"tokens": [{"token": token}]}).encode()
    answer = await revoker.post("/introspect/batch", raw, caller="gateway", headers=headers)
    assert answer.json["results"][0]["active"] is True
    assert (await revoker.post("/revoke", MARK + json.dumps({"token": token}).encode())).status == 200
    assert await revoker.active(token) is False


async def test_only_one_mark_at_the_beginning_is_ignored(revoker):
    raw = json.dumps({"token": revoker.token()}).encode()
    for body in (MARK + MARK + raw, b" " + MARK + raw, MARK):
        for path in ("/introspect", "/introspect/batch", "/revoke"):
            assert (await revoker.post(path, body)).error == (400, "invalid_request")
    duplicate = MARK + b'{"token": "a", "token": "b"}'
    assert (await revoker.post("/introspect", duplicate)).error == (400, "invalid_request")


async def test_a_key_set_may_have_a_mark(start, valkey, tmp_path):
    keys = tmp_path / "marked.jwks"
    keys.write_bytes(MARK + json.dumps(forge.jwks(forge.rsa_key("main-1"))).encode())
    revoker = await start(valkey, main={"jwks_file": str(keys)})
    assert await revoker.active(revoker.token())
