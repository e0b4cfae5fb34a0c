"""The set of revoked tokens of an edge, compared with a plain dictionary."""

import pytest

from revoker.models import Issuer
from revoker.store.keys import Keys
from revoker.store.mirror.copy import Copy
from revoker.store.mirror.feed_lines import Loss
from revoker.store.mirror.revoked_tokens import RevokedTokens
from revoker.store.transfer import records

_TOKENS = 5_000
"""Several in each segment."""


def test_what_has_not_expired_is_found_after_the_rest_of_its_segment_was_removed() -> None:
    expiries = {f"rv:jti:main:token-{number}": 1_000 + number % 7 for number in range(_TOKENS)}
    tokens = RevokedTokens()
    for key, expiry in expiries.items():
        tokens.add(key, expiry)
    for now in (999, 1_000, 1_003, 1_005):
        for _ in tokens.remove_expired(now):
            pass
        left = {key for key, expiry in expiries.items() if expiry > now}
        assert {key for key in expiries if tokens.has(key)} == left
        assert tokens.count == len(left) > 0


def test_a_token_that_is_added_again_after_its_removal_is_found() -> None:
    tokens = RevokedTokens()
    tokens.add("rv:jti:main:a", 1_000)
    for _ in tokens.remove_expired(1_000):
        pass
    assert not tokens.has("rv:jti:main:a")
    tokens.add("rv:jti:main:a", 2_000)
    tokens.add("rv:jti:main:a", 1_500)  # an earlier end shortens nothing
    for _ in tokens.remove_expired(1_999):
        pass
    assert tokens.has("rv:jti:main:a")
    assert tokens.count == 1


def test_a_token_that_was_never_added_is_not_found() -> None:
    tokens = RevokedTokens()
    for number in range(_TOKENS):
        tokens.add(f"rv:jti:main:{number}", 1_000)
    assert not any(tokens.has(f"rv:jti:other:{number}") for number in range(_TOKENS))


def test_many_are_looked_up_together_as_one_by_one() -> None:
    tokens = RevokedTokens()
    for number in range(0, _TOKENS, 2):
        tokens.add(f"rv:jti:main:{number}", 1_000)
    asked = [None, *(f"rv:jti:main:{number}" for number in range(_TOKENS)), None]
    assert tokens.which_of(asked) == [key is not None and tokens.has(key) for key in asked]
    assert sum(tokens.which_of(asked)) == _TOKENS / 2


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("with_client", [False, True])
def test_what_applies_to_many_tokens_is_found_as_for_one(lost: bool, with_client: bool) -> None:
    issuer = Issuer(name="main", iss="https://idp.example.com")
    keys = Keys("edge")
    copy = Copy(keys, {issuer.iss: issuer})
    copy.add(records.Jti(iss="main", jti="revoked", at=100, exp=1_000), 0)
    if lost:
        copy.add(Loss(before=50), 0)
    if with_client:
        copy.add(records.Client(iss="main", client_id="web", before=70), 0)
    asked = [
        (
            jti and keys.jti(issuer, jti),
            None,
            None,
            client and keys.client_cutoff(issuer, client),
            keys.issuer_cutoff(issuer),
            keys.revoked_keys(issuer),
        )
        for jti in ("revoked", "other", None)
        for client in ("web", "app", None)
    ]
    found = copy.find_all(asked)
    assert found == [copy.find(token_keys) for token_keys in asked]
    assert [state.jti is not None for state in found] == [True] * 3 + [False] * 6
    assert [state.client is not None for state in found] == [with_client, False, False] * 3
    assert {state.loss for state in found} == {50_000 if lost else 0}
