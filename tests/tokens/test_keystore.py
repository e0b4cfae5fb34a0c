import asyncio
import json
import os
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from revoker.errors import ConfigError, InvalidRequest
from revoker.metrics import Metrics
from revoker.tokens.keystore import AHEAD_S, generate, listed, retire
from revoker.tokens.private_keys import key_in
from revoker.tokens.signing import SigningKeys
from tests.rig import forge

NOW = 1_700_000_000.0


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "made" / "keys"


def states(folder, now):
    return [(entry.dated.key.kid, entry.state) for entry in listed(folder, now)[0]]


def put_pem(folder, name="own.pem", written=NOW - 5000):
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pem)
    os.utime(folder / name, (written, written))
    return key_in(folder / name).key.kid


@pytest.mark.parametrize("alg", ["ES256", "RS256", "PS256", "EdDSA"])
def test_a_generated_key_signs_with_what_was_asked_for(folder, metrics, alg):
    made = generate(folder, alg, NOW)

    source = SigningKeys("sessions", folder, metrics, clock=lambda: NOW)
    signer = source.signer(NOW, ())
    assert (signer.kid, signer.alg) == (made.key.kid, alg)
    assert source.candidates(made.key.kid, alg)


def test_folder_and_file_are_for_their_owner_alone(folder):
    generate(folder, "ES256", NOW)

    (file,) = folder.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_bytes())["d"]


def test_a_folder_that_is_no_folder_is_reported(tmp_path):
    (tmp_path / "keys").write_text("")

    for work in (lambda path: generate(path, "ES256", NOW), lambda path: listed(path, NOW)):
        with pytest.raises(ConfigError, match=r"sessions\.signing_keys_dir"):
            work(tmp_path / "keys")


def test_the_first_key_signs_at_once_and_the_next_one_later(folder):
    first = generate(folder, "ES256", NOW)
    second = generate(folder, "EdDSA", NOW + 100.5)

    assert first.signs_from == NOW
    assert second.signs_from == NOW + 100.5 + AHEAD_S
    a, b = first.key.kid, second.key.kid
    assert states(folder, NOW + 101) == [(a, "signing"), (b, "next")]
    assert states(folder, NOW + 101 + AHEAD_S) == [(a, "superseded"), (b, "signing")]


def test_without_ahead_a_key_signs_at_once_and_the_old_one_can_be_retired_in_the_same_second(folder, metrics):
    first = generate(folder, "ES256", NOW + 0.2).key.kid
    second = generate(folder, "EdDSA", NOW + 0.4, ahead=0).key.kid

    assert states(folder, NOW + 0.4) == [(first, "superseded"), (second, "signing")]
    source = SigningKeys("sessions", folder, metrics, clock=lambda: NOW + 0.4)
    assert source.signer(NOW + 0.4, ()).kid == second
    retire(folder, first, NOW + 0.5, 1000)
    assert states(folder, NOW + 0.5) == [(first, "retiring"), (second, "signing")]


@given(
    moments=st.lists(st.sampled_from([0.0, 0.001, 0.5, 0.999, 1.0]), min_size=2, max_size=6),
    dated_ahead=st.booleans(),
)
def test_keys_of_the_same_second_are_in_the_order_in_which_they_were_made(moments, dated_ahead):
    metrics = Metrics(CollectorRegistry(), ["sessions"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ahead = 600 if dated_ahead else 0
        moments.sort()
        kids = [generate(folder, "EdDSA", NOW + at, ahead=ahead).key.kid for at in moments]
        for number, path in enumerate(sorted(folder.iterdir())):
            os.utime(path, (NOW - number, NOW - number))
        due = NOW + 1 + ahead

        assert [kid for kid, _ in states(folder, due)] == kids
        source = SigningKeys("sessions", folder, metrics, clock=lambda: due)
        assert source.signer(due, ()).kid == kids[-1]
        published = json.loads(source.jwks(due, ()))["keys"]
        assert [entry["kid"] for entry in published] == kids


def test_where_all_keys_are_retired_a_new_one_signs_at_once(folder):
    first = generate(folder, "ES256", NOW)
    retire(folder, first.key.kid, NOW, 1000, force=True)

    assert generate(folder, "ES256", NOW + 5).signs_from == NOW + 5


def test_a_retired_key_is_published_while_its_last_token_lives(folder, metrics):
    old, new = generate(folder, "ES256", NOW).key.kid, generate(folder, "ES256", NOW, ahead=10).key.kid

    retired = retire(folder, old, NOW + 10.5, 990)

    assert retired.until == NOW + 1001
    assert states(folder, NOW + 1000) == [(old, "retiring"), (new, "signing")]
    assert states(folder, NOW + 1001) == [(old, "retired"), (new, "signing")]
    assert SigningKeys("sessions", folder, metrics, clock=lambda: NOW).signer(NOW, ()).kid == new


def test_retiring_again_changes_nothing(folder):
    old = generate(folder, "ES256", NOW).key.kid
    generate(folder, "ES256", NOW, ahead=0)
    first = retire(folder, old, NOW + 10, 990)

    assert retire(folder, old, NOW + 500, 990).until == first.until


def test_the_only_key_that_signs_is_retired_by_force_alone(folder):
    only = generate(folder, "ES256", NOW).key.kid
    waiting = generate(folder, "ES256", NOW).key.kid

    with pytest.raises(InvalidRequest, match="--force"):
        retire(folder, only, NOW + AHEAD_S - 1, 1000)
    assert states(folder, NOW) == [(only, "signing"), (waiting, "next")]

    retire(folder, only, NOW, 1000, force=True)
    assert states(folder, NOW) == [(only, "retiring"), (waiting, "next")]


def test_a_key_beside_which_all_have_no_date_is_retired_by_force_alone(folder, metrics):
    first = put_pem(folder, "first.pem")
    source = SigningKeys("sessions", folder, metrics, clock=lambda: NOW)
    second = put_pem(folder, "second.pem")
    asyncio.run(source.look_again())
    assert source.signer(NOW, ()).kid == first

    with pytest.raises(InvalidRequest, match=r"no date.*--force"):
        retire(folder, first, NOW, 1000)
    asyncio.run(source.look_again())
    assert source.signer(NOW, ()).kid == first

    retire(folder, first, NOW, 1000, force=True)
    asyncio.run(source.look_again())
    assert source.signer(NOW, ()).kid == second


def test_a_key_that_is_not_there_cannot_be_retired(folder):
    generate(folder, "ES256", NOW)

    with pytest.raises(InvalidRequest, match="no such key"):
        retire(folder, "unknown", NOW, 1000)


def test_a_pem_file_is_retired_as_a_jwk_of_the_same_key(folder):
    kid = put_pem(folder)
    generate(folder, "ES256", NOW, ahead=0)

    retire(folder, kid, NOW, 1000)

    assert not (folder / "own.pem").exists()
    left = key_in(folder / "own.pem.jwk")
    assert (left.key.kid, left.signs_from, left.until) == (kid, None, NOW + 1000)


def test_a_pem_file_whose_name_has_a_date_is_retired_with_that_date(folder):
    kid = put_pem(folder, "2023-11-14T2200Z.pem")
    generate(folder, "ES256", NOW, ahead=0)

    retire(folder, kid, NOW, 1000)

    left = key_in(folder / "2023-11-14T2200Z.pem.jwk")
    assert (left.key.kid, left.signs_from, left.until) == (kid, 1_699_999_200.0, NOW + 1000)


def test_a_jwk_without_a_date_has_none_when_it_is_retired(folder):
    folder.mkdir(parents=True)
    path = folder / "given.json"
    path.write_text(json.dumps(forge.ec_key("given").private_jwk()))
    generate(folder, "ES256", NOW, ahead=0)

    retire(folder, "given", NOW, 1000)

    assert key_in(path).signs_from is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_copy_of_a_key_is_retired(folder):
    kid = put_pem(folder)
    (folder / "copy.pem").write_bytes((folder / "own.pem").read_bytes())
    generate(folder, "ES256", NOW, ahead=0)

    retire(folder, kid, NOW, 1000)

    assert sorted(path.name for path in folder.glob("*.pem*")) == ["copy.pem.jwk", "own.pem.jwk"]
    assert all(state == "retiring" for named, state in states(folder, NOW) if named == kid)


def test_files_that_cannot_be_used_are_listed_with_the_reason(folder):
    generate(folder, "ES256", NOW)
    (folder / "weak.pem").write_text("nothing")

    keys, unusable = listed(folder, NOW)

    assert len(keys) == 1
    assert [(path.name, reason) for path, reason in unusable] == [
        ("weak.pem", "neither an unencrypted private key in PEM nor a private JWK")
    ]


def test_a_key_is_named_for_its_day(folder):
    first, second = (generate(folder, "EdDSA", NOW).key.kid for _ in range(2))

    assert first.startswith("20231114-")
    assert first != second
