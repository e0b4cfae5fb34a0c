"""The documented rotation of signing keys, in pods that learn of it one after the other."""

import asyncio
import itertools
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from revoker.metrics import Metrics
from revoker.tokens.signing import SigningKeys
from tests.rig.mounted_secret import MountedSecret

BEGIN = 1_700_000_000
LIFE_S = 300
"""Of the tokens."""
LATE_S = 120
"""Between two pods that learn of the same change."""
STEP_S = 20
OLD, NEW = (
    ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for _ in range(2)
)


class Pod:
    """One process with a mounted folder; it can be started again."""

    def __init__(self, folder, clock):
        self.mounted = MountedSecret(folder)
        self._clock = clock

    def start(self):
        metrics = Metrics(CollectorRegistry(), ["sessions"])
        self.keys = SigningKeys("sessions", self.mounted.folder, metrics, clock=self._clock)

    def signs(self):
        return self.keys.signer(self._clock(), ()).kid

    def verifies(self, kid):
        """As for a token: the folder is read again before its key is called unknown."""
        if not self.keys.knows(kid):
            asyncio.run(self.keys.look_again())
        return self.keys.knows(kid)


moments = st.integers(0, 2400 // STEP_S).map(lambda step: step * STEP_S)


def rotate(changes, restarts):
    """Run two pods for 40 minutes; ``changes`` are what each folder holds from when on.

    Returns:
        The kids that were signed with, in turn, by each pod.
    """
    now = BEGIN
    signed = []
    used = ([], [])
    with tempfile.TemporaryDirectory() as name:
        pods = [Pod(Path(name) / str(number), lambda: now) for number in range(2)]
        for now in range(BEGIN, BEGIN + 2400, STEP_S):
            for pod, own, own_restarts, kids in zip(pods, changes, restarts, used, strict=True):
                if now - BEGIN in own:
                    pod.mounted.put(own[now - BEGIN])
                if now == BEGIN or now - BEGIN in own_restarts:
                    pod.start()
                else:
                    asyncio.run(pod.keys.look_again())
                kid = pod.signs()
                signed.append((now, kid))
                if kid not in kids:
                    kids.append(kid)
            for at, kid in signed:
                if now < at + LIFE_S:
                    assert all(pod.verifies(kid) for pod in pods), f"{kid} after {now - BEGIN} s"
    return used


@settings(max_examples=20)
@given(
    late=st.lists(st.integers(0, LATE_S // STEP_S).map(lambda step: step * STEP_S), min_size=4, max_size=4),
    restarts=st.tuples(st.lists(moments, max_size=4), st.lists(moments, max_size=4)),
)
def test_no_pod_calls_inactive_what_another_signed_while_the_key_is_changed(late, restarts):
    date = BEGIN + 1000
    name = f"{datetime.fromtimestamp(date, UTC):%Y-%m-%dT%H%M%SZ}.pem"
    removed = date - BEGIN + 3 * LIFE_S
    changes = [
        {
            0: {"first.pem": OLD},
            100 + late[number]: {"first.pem": OLD, name: NEW},
            removed + late[2 + number]: {name: NEW},
        }
        for number in range(2)
    ]

    used = rotate(changes, restarts)

    assert used[0] == used[1]
    assert len(used[0]) == 2


@settings(max_examples=20)
@given(
    late=st.lists(st.integers(0, LATE_S // STEP_S).map(lambda step: step * STEP_S), min_size=2, max_size=2),
    restarts=st.tuples(st.lists(moments, max_size=4), st.lists(moments, max_size=4)),
)
def test_nor_where_the_new_key_has_no_date_and_a_later_name(late, restarts):
    changes = [
        {0: {"first.pem": OLD}, 100 + late[number]: {"first.pem": OLD, "second.pem": NEW}}
        for number in range(2)
    ]

    rotate(changes, restarts)


def test_without_a_date_a_later_name_signs_after_ten_minutes():
    changes = [{0: {"first.pem": OLD}, at: {"first.pem": OLD, "second.pem": NEW}} for at in (100, 160)]

    used = rotate(changes, ([], []))

    assert used[0] == used[1]
    assert len(used[0]) == 2


@pytest.mark.parametrize("size", [3, 4])
def test_a_mounted_folder_holds_what_it_was_given(tmp_path, size):
    mounted = MountedSecret(tmp_path / "keys")
    for items in itertools.permutations(
        [{"a": b"1"}, {"a": b"2", "b": b"3"}, {"b": b"4"}, {"c": b"5"}], size
    ):
        for files in items:
            mounted.put(files)
            found = {path.name: path.read_bytes() for path in mounted.folder.glob("[!.]*")}
            assert found == files
