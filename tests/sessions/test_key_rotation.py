"""The rotation of signing keys in Kubernetes as docs/kubernetes.md describes it, with two pods."""

from datetime import UTC, datetime

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from revoker.tokens.refresh_tokens import new_refresh_key_file
from tests.rig.mounted_secret import MountedSecret
from tests.rig.virtual_time import Clockwork
from tests.sessions.conftest import SESSIONS_AUDIENCE, SESSIONS_ISSUER

LIFE_S = 300


def pem():
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Pods:
    """Two instances on one store, each with a mounted folder of signing keys of its own."""

    def __init__(self, valkey, tmp_path, monkeypatch, items):
        new_refresh_key_file(tmp_path / "refresh.key")
        self._tmp_path = tmp_path
        self.folders = [MountedSecret(tmp_path / f"signing-{number}") for number in range(2)]
        for folder in self.folders:
            folder.put(items)
        self.clockwork = Clockwork(valkey, tmp_path, sessions=self._sessions(0))
        self.clockwork.patch(monkeypatch)
        self.running = [self.clockwork.running, self._start(1)]

    def _sessions(self, number):
        return {
            "issuer": SESSIONS_ISSUER,
            "audiences": [SESSIONS_AUDIENCE],
            "access_token_lifetime": LIFE_S,
            "signing_keys_dir": str(self.folders[number].folder),
            "refresh_key_file": str(self._tmp_path / "refresh.key"),
        }

    def _start(self, number):
        return self.clockwork.start_another(self._tmp_path, sessions=self._sessions(number))

    def restart(self, number):
        """The pod is replaced by a new one, in which kubelet has just written the files."""
        self.running[number] = self._start(number)

    def log_in(self, number):
        answer = self.clockwork.run(self.running[number].post("/sessions", {"sub": "alice"}))
        assert answer.status == 201
        return answer.json["access_token"]

    def signed(self):
        """The kids that both sign with; what one signs is active at once at both."""
        kids = []
        for number in range(2):
            token = self.log_in(number)
            self.all_active([token])
            kids.append(jwt.get_unverified_header(token)["kid"])
        return kids

    def all_active(self, tokens):
        for running in self.running:
            for token in tokens:
                assert self.clockwork.run(running.active(token))

    def published(self):
        """The kids of both key sets."""
        sets = []
        for running in self.running:
            answer = self.clockwork.run(running.http.get(running.url + "/.well-known/jwks.json"))
            sets.append({entry["kid"] for entry in self.clockwork.run(answer.json())["keys"]})
        return sets

    def put(self, number, items):
        """Let a pod's folder hold these files, and wait until it publishes other keys than before."""
        before = self.published()[number]
        self.folders[number].put(items)
        while self.published()[number] == before:
            pass


@pytest.fixture
def pods(valkey, tmp_path, monkeypatch):
    made = []

    def begin(items):
        made.append(Pods(valkey, tmp_path, monkeypatch, items))
        return made[0]

    yield begin
    for pods in made:
        pods.clockwork.close()


@pytest.mark.row("JWKS-03")
def test_while_a_key_is_changed_no_pod_calls_inactive_what_the_other_signed(pods):
    old, new = pem(), pem()
    pods = pods({"first.pem": old})
    (first, _) = pods.signed()
    date = int(pods.clockwork.now()) + 1200
    name = f"{datetime.fromtimestamp(date, UTC):%Y-%m-%dT%H%M%SZ}.pem"

    pods.put(0, {"first.pem": old, name: new})
    assert pods.signed() == [first, first]
    assert [len(kids) for kids in pods.published()] == [2, 1]
    pods.restart(0)
    assert pods.signed() == [first, first]
    pods.put(1, {"first.pem": old, name: new})
    assert pods.signed() == [first, first]

    pods.clockwork.pass_time(1200 - 60)
    last = [pods.log_in(number) for number in range(2)]
    assert pods.signed() == [first, first]
    pods.clockwork.pass_time(61)
    (second, other) = pods.signed()
    assert second == other != first
    pods.restart(1)
    assert pods.signed() == [second, second]
    pods.all_active(last)

    pods.clockwork.pass_time(LIFE_S + 60)
    pods.put(1, {name: new})
    assert pods.signed() == [second, second]
    pods.put(0, {name: new})
    assert pods.signed() == [second, second]


def test_a_key_without_a_date_signs_in_no_pod_before_it_was_published(pods):
    old, new = pem(), pem()
    pods = pods({"first.pem": old})
    (first, _) = pods.signed()

    pods.put(0, {"first.pem": old, "second.pem": new})
    assert pods.signed() == [first, first]
    pods.restart(0)
    assert pods.signed() == [first, first]
    pods.put(1, {"first.pem": old, "second.pem": new})

    pods.clockwork.pass_time(300)
    assert pods.signed() == [first, first]
    pods.clockwork.pass_time(400)
    (second, other) = pods.signed()
    assert second == other != first


def test_a_token_of_the_other_pods_key_is_not_called_revoked_where_the_key_is_missing(pods):
    old, new = pem(), pem()
    pods = pods({"first.pem": old})
    pods.put(0, {"1970-01-01T0000Z.pem": new})
    token = pods.log_in(0)
    here, there = pods.running

    answer = pods.clockwork.run(there.post("/revoke", form={"token": token}))
    assert answer.error == (503, "temporarily_unavailable")
    assert pods.clockwork.run(here.active(token))

    pods.folders[1].put({"first.pem": old, "1970-01-01T0000Z.pem": new})
    assert pods.clockwork.run(there.post("/revoke", form={"token": token})).status == 200
    assert not pods.clockwork.run(here.active(token))
