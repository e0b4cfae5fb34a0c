import base64
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revoker.errors import ConfigError
from revoker.tokens.refresh_tokens import (
    RefreshKey,
    RefreshKeyFile,
    RefreshToken,
    RefreshTokens,
    load_refresh_keys,
    looks_like,
    new_refresh_key_file,
    rotate_refresh_keys,
)
from tests.rig import forge
from tests.tokens.conftest import Clock

KEY, OLD_KEY = RefreshKey(b"k" * 32), RefreshKey(b"o" * 32)
TEXT = forge.base64url(bytes(range(32)))
"""Of a key, as a key file has it."""
TOKENS = RefreshTokens(lambda: [KEY])
SID = forge.base64url(bytes(range(28)))

sids = st.binary(min_size=28, max_size=28).map(forge.base64url)
generations = st.integers(0, 2**32 - 1)
clients = st.text(st.characters(exclude_categories=["Cs"]), max_size=256)


def payload_of(token):
    return base64.urlsafe_b64decode(token.removeprefix("rvr_") + "==")


@given(sids, generations, clients)
def test_a_token_says_what_it_was_made_of(sid, generation, client_id):
    token = TOKENS.make(sid, generation, client_id)

    assert TOKENS.read(token) == RefreshToken(sid, generation, client_id)
    assert looks_like(token)
    assert token.isascii() and "=" not in token


@given(sids, generations, clients)
@settings(max_examples=10)
def test_a_token_with_any_one_bit_changed_is_refused(sid, generation, client_id):
    raw = payload_of(TOKENS.make(sid, generation, client_id))

    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert TOKENS.read("rvr_" + forge.base64url(changed)) is None


@given(st.data())
def test_a_token_with_any_one_character_changed_is_refused(data):
    token = TOKENS.make(SID, 7, "web")
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters().filter(lambda character: character != token[place]))

    assert TOKENS.read(token[:place] + other + token[place + 1 :]) is None


@given(st.text())
def test_no_other_text_is_read(text):
    assert TOKENS.read(text) is None
    assert TOKENS.read("rvr_" + text) is None


@given(st.binary(max_size=200))
def test_bytes_without_the_key_are_not_read(raw):
    assert TOKENS.read("rvr_" + forge.base64url(raw)) is None


@given(sids, generations, clients)
def test_the_mac_is_hmac_sha_256_of_a_label_and_all_fields(sid, generation, client_id):
    raw = payload_of(TOKENS.make(sid, generation, client_id))
    message = b"revoker refresh token 1\0" + raw[:32] + raw[64:]

    assert raw[32:64] == hmac.digest(KEY.secret, message, "sha256")


@pytest.mark.parametrize("extra", ["=", "==", " ", "\n", "A", "AA", "."])
def test_nothing_may_follow_a_token(extra):
    assert TOKENS.read(TOKENS.make(SID, 1, "web") + extra) is None


def test_the_same_generation_gives_the_same_token_and_the_next_another():
    assert TOKENS.make(SID, 1, "web") == TOKENS.make(SID, 1, "web")
    assert TOKENS.make(SID, 1, "web") != TOKENS.make(SID, 2, "web")


def test_a_client_id_is_bounded_in_bytes():
    assert TOKENS.read(TOKENS.make(SID, 1, "é" * 512)) == RefreshToken(SID, 1, "é" * 512)
    with pytest.raises(ValueError, match="too long"):
        TOKENS.make(SID, 1, "é" * 512 + "x")


@pytest.mark.parametrize("sid", ["", "session-1", forge.base64url(bytes(27)), forge.base64url(bytes(29))])
def test_only_a_sid_that_was_minted_here_gets_a_token(sid):
    with pytest.raises(ValueError):
        TOKENS.make(sid, 1, "web")


def test_no_access_token_looks_like_a_refresh_token():
    assert not looks_like(forge.token(forge.ec_key()))


def test_the_first_key_signs_and_all_of_them_verify():
    both = RefreshTokens(lambda: [KEY, OLD_KEY])
    of_old = RefreshTokens(lambda: [OLD_KEY]).make(SID, 1, "web")

    assert both.make(SID, 1, "web") == TOKENS.make(SID, 1, "web")
    assert both.read(of_old) == RefreshToken(SID, 1, "web")
    assert TOKENS.read(of_old) is None


def test_a_key_signs_nothing_before_its_time_and_is_believed_all_along():
    now = [999.0]
    tokens = RefreshTokens(lambda: [RefreshKey(KEY.secret, 1000), OLD_KEY], clock=lambda: now[0])

    assert tokens.make(SID, 1, "web") == RefreshTokens(lambda: [OLD_KEY]).make(SID, 1, "web")
    assert tokens.read(TOKENS.make(SID, 1, "web")) == RefreshToken(SID, 1, "web")
    now[0] = 1000.0
    assert tokens.make(SID, 1, "web") == TOKENS.make(SID, 1, "web")


@pytest.fixture
def watched(tmp_path):
    """A key file, the tokens made by it, and a clock that is moved by hand."""
    path, clock = tmp_path / "refresh.key", Clock()
    new_refresh_key_file(path)
    return path, RefreshTokens(RefreshKeyFile(path, monotonic=clock).keys), clock


def test_a_key_file_that_changes_is_read_again_within_a_second(watched):
    path, tokens, clock = watched
    before = tokens.make(SID, 1, "web")

    rotate_refresh_keys(path, signs_from=0)
    assert tokens.make(SID, 1, "web") == before
    clock.now += 1

    after = tokens.make(SID, 1, "web")
    assert after != before
    assert tokens.read(before) == tokens.read(after) == RefreshToken(SID, 1, "web")


@pytest.mark.parametrize("broken", [None, "half a k"])
def test_while_the_key_file_is_broken_the_last_keys_stay_and_that_is_logged_once(watched, broken, events):
    path, tokens, clock = watched
    before, good = tokens.make(SID, 1, "web"), path.read_text()

    path.unlink()
    if broken:
        path.write_text(broken)
    for _ in range(2):
        clock.now += 1
        assert tokens.make(SID, 1, "web") == before
    assert [event["event"] for event in events] == ["refresh keys not read"]

    path.write_text(f"{forge.base64url(KEY.secret)}\n{good}")
    clock.now += 1
    assert tokens.make(SID, 1, "web") == TOKENS.make(SID, 1, "web")


def test_a_new_key_file_is_for_its_owner_alone_and_holds_a_key(tmp_path):
    path = tmp_path / "refresh.key"
    new_refresh_key_file(path)

    (key,) = load_refresh_keys(path)
    assert len(key.secret) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["refresh.key"]


def test_a_key_file_that_is_there_is_not_replaced(tmp_path):
    path = tmp_path / "refresh.key"
    new_refresh_key_file(path)
    before = path.read_bytes()

    new_refresh_key_file(path)

    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["refresh.key"]


def test_after_a_rotation_old_tokens_are_read_and_the_new_key_signs_from_its_date(tmp_path):
    path = tmp_path / "refresh.key"
    new_refresh_key_file(path)
    token = RefreshTokens(lambda: load_refresh_keys(path)).make(SID, 1, "web")

    rotate_refresh_keys(path, signs_from=2000)

    before = RefreshTokens(lambda: load_refresh_keys(path), clock=lambda: 1999)
    after = RefreshTokens(lambda: load_refresh_keys(path), clock=lambda: 2000)
    assert before.make(SID, 1, "web") == token
    assert after.make(SID, 1, "web") != token
    assert after.read(token) == RefreshToken(SID, 1, "web")
    assert path.stat().st_mode & 0o777 == 0o600


def test_rotation_keeps_the_newest_keys_only(tmp_path):
    path = tmp_path / "refresh.key"
    new_refresh_key_file(path)
    first = load_refresh_keys(path)[0].secret
    for _ in range(2):
        rotate_refresh_keys(path, signs_from=2000)
    assert first in [key.secret for key in load_refresh_keys(path)]

    rotate_refresh_keys(path, signs_from=2000)

    assert first not in [key.secret for key in load_refresh_keys(path)]
    assert len(load_refresh_keys(path)) == 3


@pytest.mark.parametrize(
    "contents",
    [
        "",
        "\n\n",
        forge.base64url(bytes(31)),
        forge.base64url(bytes(33)),
        TEXT + "=",
        TEXT + " soon",
        TEXT + "\nshort",
        "é" * 43,
        (TEXT + "\n") * 100,
    ],
)
def test_a_key_file_that_is_weak_or_unclear_stops_the_start_without_quoting_it(tmp_path, contents):
    path = tmp_path / "refresh.key"
    path.write_text(contents)

    with pytest.raises(ConfigError, match=r"sessions\.refresh_key_file: ") as wrong:
        load_refresh_keys(path)

    assert all(len(word) < 40 for word in str(wrong.value).split())


def test_a_key_file_that_is_not_there_stops_the_start(tmp_path):
    with pytest.raises(ConfigError, match="can't be read"):
        load_refresh_keys(tmp_path / "refresh.key")
