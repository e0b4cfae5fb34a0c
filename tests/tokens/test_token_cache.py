"""What is remembered of verified tokens, and until when."""

import json

import pytest

from revoker.errors import InvalidToken
from revoker.tokens.cache import TokenCache
from tests.rig import forge
from tests.rig.forge import rsa_key, token
from tests.tokens.conftest import trusting

KEY = rsa_key()


class Entry:
    """An entry whose key is live until a test changes that."""

    def __init__(self):
        self.key = self
        self.live = True


def test_what_was_not_used_for_longest_makes_room():
    cache = TokenCache(2)
    first, second, third = Entry(), Entry(), Entry()
    cache.put("first", first)
    cache.put("second", second)
    assert cache.get("first") is first

    cache.put("third", third)

    assert [cache.get(token) for token in ("first", "second", "third")] == [first, None, third]
    assert len(cache) == 2


def test_room_is_bounded_in_bytes_too():
    cache = TokenCache(1000, max_bytes=100, bytes_of=lambda token, _: len(token))
    for text in ("a" * 40, "b" * 40, "c" * 40, "c" * 40):
        cache.put(text, Entry())
    assert [cache.get(letter * 40) is not None for letter in "abc"] == [False, True, True]
    assert cache.bytes == 80

    cache.put("d" * 101, Entry())

    assert (len(cache), cache.bytes) == (0, 0)


def test_an_entry_that_is_put_again_is_there_once_and_stays_longest():
    cache = TokenCache(2)
    newer = Entry()
    for text, entry in (("a", Entry()), ("b", Entry()), ("a", newer), ("c", Entry())):
        cache.put(text, entry)

    assert (cache.get("a"), cache.get("b"), len(cache)) == (newer, None, 2)


def test_an_entry_whose_key_is_dead_is_gone():
    cache = TokenCache(2)
    entry = Entry()
    cache.put("token", entry)
    entry.live = False

    assert cache.get("token") is None
    assert len(cache) == 0


async def test_a_verified_token_is_remembered_by_its_text_alone(verifier_of):
    verifier = await verifier_of(KEY)
    text = token(KEY)
    assert verifier.cached(text) is None

    verified = await verifier.verify(text)

    assert verifier.cached(text) is verified
    assert await verifier.verify(text) is verified
    assert verifier.cached(text + "=") is None
    assert verifier.cached(token(KEY, sub="another")) is None


async def test_every_token_is_counted_once_as_a_hit_or_a_miss(verifier_of, metrics):
    verifier = await verifier_of(KEY)
    text = token(KEY)
    assert verifier.cached(text) or await verifier.verify(text)
    await verifier.verify(text)
    verifier.cached(text)
    with pytest.raises(InvalidToken):
        await verifier.verify("x")

    counted = {
        result: metrics.registry.get_sample_value("revoker_token_cache_total", {"result": result})
        for result in ("hit", "miss")
    }
    assert counted == {"hit": 2, "miss": 2}


async def test_the_cache_holds_no_more_than_its_limit(key_file, metrics):
    verifier = trusting(await key_file(KEY), metrics, cache_size=3)
    texts = [token(KEY, jti=str(number)) for number in range(5)]
    for text in texts:
        await verifier.verify(text)

    assert [verifier.cached(text) is not None for text in texts] == [False, False, True, True, True]


@pytest.mark.parametrize(
    "later",
    [
        forge.jwks(rsa_key("rsa-2")),
        forge.jwks(rsa_key("rsa-2").jwk(kid="rsa-1")),
        forge.jwks(KEY.jwk(kid="renamed")),
        forge.jwks(KEY.jwk(use="enc"), rsa_key("rsa-2")),
        forge.jwks(KEY.jwk(alg="PS256"), rsa_key("rsa-2")),
    ],
    ids=[
        "another",
        "same name, other key",
        "same key, other name",
        "other use",
        "other algorithm",
    ],
)
async def test_a_key_that_leaves_its_set_takes_its_tokens_along(verifier_of, tmp_path, later):
    verifier = await verifier_of(KEY)
    text = token(KEY)
    verified = await verifier.verify(text)
    replace(tmp_path / "main.json", later)
    with pytest.raises(InvalidToken):
        await verifier.verify(token(KEY, {"kid": "unknown, so that the file is read again"}))

    assert not verified.key.live
    assert verifier.cached(text) is None
    with pytest.raises(InvalidToken, match="signature"):
        await verifier.verify(text)


async def test_a_key_whose_algorithm_is_changed_takes_its_tokens_along(verifier_of, tmp_path):
    verifier = await verifier_of(KEY, algorithms=("RS256", "PS256"))
    text = token(KEY)
    await verifier.verify(text)
    replace(tmp_path / "main.json", forge.jwks(KEY.jwk(alg="PS256")))
    with pytest.raises(InvalidToken):
        await verifier.verify(token(KEY, {"kid": "unknown, so that the file is read again"}))

    assert verifier.cached(text) is None


async def test_a_key_keeps_its_tokens_as_long_as_it_stays_in_its_set(verifier_of, tmp_path):
    verifier = await verifier_of(KEY)
    text = token(KEY)
    verified = await verifier.verify(text)
    replace(tmp_path / "main.json", forge.jwks(rsa_key("rsa-2"), KEY.jwk(x5c=["anything"])))

    assert await verifier.verify(token(rsa_key("rsa-2")))
    assert verifier.cached(text) is verified

    replace(tmp_path / "main.json", forge.jwks(rsa_key("rsa-2")))
    with pytest.raises(InvalidToken):
        await verifier.verify(token(KEY, {"kid": "unknown, so that the file is read again"}))
    assert verifier.cached(text) is None


def replace(path, key_set):
    """Put another file in its place, as Kubernetes and careful people do."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(key_set))
    new.replace(path)
