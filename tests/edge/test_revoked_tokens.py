"""The set of revoked tokens of an edge, compared with a plain dictionary."""

from revoker.store.mirror.revoked_tokens import RevokedTokens

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
        assert {key for key in expiries if key in tokens} == left
        assert tokens.count == len(left) > 0


def test_a_token_that_is_added_again_after_its_removal_is_found() -> None:
    tokens = RevokedTokens()
    tokens.add("rv:jti:main:a", 1_000)
    for _ in tokens.remove_expired(1_000):
        pass
    assert "rv:jti:main:a" not in tokens
    tokens.add("rv:jti:main:a", 2_000)
    tokens.add("rv:jti:main:a", 1_500)  # an earlier end shortens nothing
    for _ in tokens.remove_expired(1_999):
        pass
    assert "rv:jti:main:a" in tokens
    assert tokens.count == 1


def test_a_token_that_was_never_added_is_not_found() -> None:
    tokens = RevokedTokens()
    for number in range(_TOKENS):
        tokens.add(f"rv:jti:main:{number}", 1_000)
    assert not any(f"rv:jti:other:{number}" in tokens for number in range(_TOKENS))
