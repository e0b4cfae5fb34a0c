"""RFC 8414 metadata and the JWK Set of the sessions kept here."""

import json

import jwt
import pytest

from revoker.api.well_known import MAX_AGE_S
from revoker.tokens.keystore import AHEAD_S, generate, retire
from revoker.tokens.refresh_tokens import new_refresh_key_file

ISSUER = "https://sessions.example.com"
METADATA = "/.well-known/oauth-authorization-server"
JWKS = "/.well-known/jwks.json"
NOW = 1_700_000_000.0


@pytest.fixture
def keys(tmp_path):
    """A folder with one key that signs."""
    folder = tmp_path / "keys"
    generate(folder, "ES256", NOW)
    return folder


@pytest.fixture
def keeper(start, valkey, tmp_path, keys):
    """Start a service that keeps sessions."""
    new_refresh_key_file(tmp_path / "refresh.key")

    async def begin(**changes):
        sections = {
            "issuer": ISSUER,
            "audiences": ["api://orders"],
            "signing_keys_dir": str(keys),
            "refresh_key_file": str(tmp_path / "refresh.key"),
        }
        server = {"server": changes.pop("server")} if "server" in changes else {}
        return await start(valkey, sessions={**sections, **changes}, **server)

    return begin


async def get(running, path, **headers):
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with running.http.get(running.url + path, headers=sent, allow_redirects=False) as response:
        return response.status, response.headers, await response.read()


async def published(running):
    status, _, body = await get(running, JWKS)
    assert status == 200
    return json.loads(body)["keys"]


@pytest.mark.row("8414-01", "8414-03", "8414-04", "8414-07", "D-03")
async def test_metadata_names_every_endpoint_under_the_issuer(keeper):
    status, headers, body = await get(await keeper(), METADATA)

    assert status == 200
    assert headers["Content-Type"] == "application/json"
    metadata = json.loads(body)
    methods = {
        name: metadata.pop(name) for name in list(metadata) if name.endswith("_auth_methods_supported")
    }
    assert metadata == {
        "issuer": ISSUER,
        "token_endpoint": f"{ISSUER}/token",
        "jwks_uri": f"{ISSUER}/.well-known/jwks.json",
        "introspection_endpoint": f"{ISSUER}/introspect",
        "revocation_endpoint": f"{ISSUER}/revoke",
        "response_types_supported": [],
        "grant_types_supported": ["refresh_token"],
    }
    assert len(methods) == 3 and all(methods.values())


@pytest.mark.row("8414-01")
@pytest.mark.parametrize(
    ("issuer", "path"),
    [
        ("https://example.com/t1", "/t1"),
        ("https://example.com/t1/", "/t1"),
        ("https://example.com/a/b", "/a/b"),
        ("https://example.com/{t}", ""),
        ("https://example.com/", ""),
    ],
)
async def test_the_path_of_the_issuer_comes_behind_the_well_known_one(keeper, issuer, path):
    running = await keeper(issuer=issuer)

    status, _, body = await get(running, METADATA + path)

    assert status == 200
    metadata = json.loads(body)
    assert metadata["issuer"] == issuer
    assert metadata["token_endpoint"] == f"{issuer.rstrip('/')}/token"
    assert (await get(running, f"{METADATA}/other"))[0] == 404


@pytest.mark.row("8414-01")
@pytest.mark.parametrize("path", [METADATA, JWKS])
async def test_only_get_and_head_are_answered(keeper, path):
    running = await keeper()

    answer = await running.post(path, {}, caller=None)
    assert (answer.status, answer.json["error"]) == (405, "invalid_request")
    async with running.http.head(running.url + path) as response:
        assert response.status == 200
        assert response.headers["ETag"]


@pytest.mark.row("8414-02")
async def test_the_issuer_is_what_tokens_say_whatever_a_request_says_of_its_host(keeper):
    running = await keeper()
    _, _, honest = await get(running, METADATA)

    _, _, metadata = await get(
        running, METADATA, Host="evil.example", X_Forwarded_Host="evil.example", X_Forwarded_Proto="http"
    )

    assert metadata == honest
    login = await running.post("/sessions", {"sub": "alice"})
    token = login.json["access_token"]
    assert jwt.decode(token, options={"verify_signature": False})["iss"] == json.loads(metadata)["issuer"]


@pytest.mark.row("8414-05")
async def test_the_ways_to_authenticate_that_are_published_are_the_ways_that_work(keeper):
    running = await keeper()
    metadata = json.loads((await get(running, METADATA))[2])
    token = running.token()
    forms = {
        "client_secret_basic": {"caller": "admin", "form": {"token": token}},
        "client_secret_post": {
            "caller": None,
            "form": {"token": token, "client_id": "admin", "client_secret": "admin-secret"},
        },
        "Bearer": {
            "caller": None,
            "form": {"token": token},
            "headers": {"Authorization": "Bearer admin-secret"},
        },
    }

    assert metadata["introspection_endpoint_auth_methods_supported"] == list(forms)
    assert metadata["revocation_endpoint_auth_methods_supported"] == list(forms)
    for sent in forms.values():
        assert (await running.post("/introspect", **sent)).json["active"] is True
    assert (await running.post("/introspect", form={"token": token}, caller=None)).status == 401
    for sent in forms.values():
        assert (await running.post("/revoke", **sent)).status == 200


@pytest.mark.row("8414-05")
async def test_refreshing_needs_no_authentication_and_says_so(keeper):
    running = await keeper()
    metadata = json.loads((await get(running, METADATA))[2])
    refresh_token = (await running.post("/sessions", {"sub": "alice"})).json["refresh_token"]

    answer = await running.post(
        "/token", form={"grant_type": "refresh_token", "refresh_token": refresh_token}, caller=None
    )

    assert answer.status == 200
    assert metadata["token_endpoint_auth_methods_supported"] == [
        "none",
        "client_secret_basic",
        "client_secret_post",
    ]


@pytest.mark.row("8414-06")
async def test_no_signing_algorithm_is_published_where_no_assertion_is_taken(keeper):
    metadata = json.loads((await get(await keeper(), METADATA))[2])

    assert not [name for name in metadata if "signing_alg" in name]


@pytest.mark.row("8414-09")
@pytest.mark.parametrize("path", [METADATA, JWKS])
async def test_any_web_page_may_read_it_without_credentials(keeper, path):
    _, headers, _ = await get(await keeper(), path, Origin="https://app.example.com")

    assert headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in headers


@pytest.mark.row("8414-10")
@pytest.mark.parametrize("path", [METADATA, JWKS])
async def test_a_cache_that_has_it_gets_304_without_a_body(keeper, path):
    running = await keeper()
    _, headers, _ = await get(running, path)

    assert headers["Cache-Control"] == "public, max-age=300"
    for etags in (headers["ETag"], f"W/{headers['ETag']}", f'"other", {headers["ETag"]}', "*"):
        status, again, body = await get(running, path, If_None_Match=etags)
        assert (status, body) == (304, b"")
        assert (again["ETag"], again["Cache-Control"]) == (headers["ETag"], headers["Cache-Control"])
    assert (await get(running, path, If_None_Match='"other"'))[0] == 200


@pytest.mark.row("JWKS-01", "JWKS-02")
async def test_the_key_set_holds_public_halves_alone(keeper, keys):
    for alg in ("RS256", "PS256", "EdDSA"):
        generate(keys, alg, NOW)
    running = await keeper()

    entries = await published(running)

    assert sorted(entry["alg"] for entry in entries) == ["ES256", "EdDSA", "PS256", "RS256"]
    assert len({entry["kid"] for entry in entries}) == 4
    for entry in entries:
        assert entry.keys() <= {"kty", "crv", "x", "y", "n", "e", "kid", "use", "alg"}
        assert entry["use"] == "sig"
        jwt.PyJWK(entry)


@pytest.mark.row("JWKS-02", "JWKS-03")
async def test_while_keys_change_tokens_of_both_verify_and_no_private_half_shows(keeper, keys):
    running = await keeper()
    source = running.service._services.sessions.signing_keys
    old = (await running.post("/sessions", {"sub": "alice"})).json["access_token"]
    old_kid = jwt.get_unverified_header(old)["kid"]

    new_kid = generate(keys, "EdDSA", NOW, ahead=1).key.kid
    retire(keys, old_kid, NOW + 2, keep=1_000_000_000)
    await source.look_again()
    new = (await running.post("/sessions", {"sub": "alice"})).json["access_token"]

    entries = {entry["kid"]: entry for entry in await published(running)}
    assert entries.keys() == {old_kid, new_kid}
    assert not any("d" in entry for entry in entries.values())
    assert jwt.get_unverified_header(new)["kid"] == new_kid
    for token, kid in ((old, old_kid), (new, new_kid)):
        assert await running.active(token)
        key = jwt.PyJWK(entries[kid])
        assert jwt.decode(
            token, key, algorithms=[entries[kid]["alg"]], audience="api://orders", issuer=ISSUER
        )


@pytest.mark.row("JWKS-03")
def test_a_new_key_is_published_for_longer_than_caches_keep_the_set():
    assert AHEAD_S > MAX_AGE_S


async def test_a_revoked_key_leaves_the_set_and_signs_nothing_more(keeper, keys):
    running = await keeper()
    generate(keys, "ES256", NOW)
    await running.service._services.sessions.signing_keys.look_again()
    before = await published(running)
    token = (await running.post("/sessions", {"sub": "alice"})).json["access_token"]
    stolen = jwt.get_unverified_header(token)["kid"]
    assert await running.active(token)

    assert (await running.post("/revoke-key", {"kid": stolen, "iss": ISSUER})).status == 200

    assert [entry["kid"] for entry in await published(running)] == [
        entry["kid"] for entry in before if entry["kid"] != stolen
    ]
    assert not await running.active(token)
    after = (await running.post("/sessions", {"sub": "alice"})).json["access_token"]
    assert jwt.get_unverified_header(after)["kid"] != stolen
    assert await running.active(after)


async def test_without_sessions_nothing_is_published(revoker):
    assert (await get(revoker, JWKS))[0] == 404
    assert (await get(revoker, METADATA))[0] == 404
