"""Signals that come before the service can act on them."""

import contextlib
import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from revoker.auth import digest
from tests.rig import forge
from tests.rig.processes import Process, init_store, until, write_configuration
from tests.rig.servers import free_port
from tests.rig.service import SECRETS
from tests.server.test_one_process import get
from tests.server.test_several_processes import processes


class Reading:
    """A service that reads its configuration: it gets that piece by piece, when the test gives it."""

    def __init__(self, folder, store, workers):
        server = {"port": free_port(), "drain_seconds": 0, "workers": workers}
        self.url = f"http://127.0.0.1:{server['port']}"
        file = write_configuration(folder, store, server=server)
        init_store(folder, file)
        self.configuration = file.read_text()
        self._pipe = folder / "pipe.toml"
        self._renew()
        self.process = Process(folder, "-m", "revoker", "serve", "--config", self._pipe)

    def _renew(self):
        """A pipe of its own for each reading."""
        os.mkfifo(new := self._pipe.with_suffix(".new"))
        new.rename(self._pipe)

    def reads(self):
        """What the service reads from, once it does."""
        pipe = self._pipe.open("w")
        self._renew()
        return pipe


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_during_the_start_is_a_reload_once_that_is_possible(tmp_path, own_valkey, workers):
    starting = Reading(tmp_path, own_valkey.url, workers)
    with starting.process as process:
        with starting.reads() as configuration:
            process.send_signal(signal.SIGHUP)
            configuration.write(starting.configuration)
        changed = starting.configuration.replace(digest(SECRETS["gateway"]), digest("changed meanwhile"))
        with starting.reads() as configuration:  # once: the master reads it for the processes to come
            configuration.write(changed)

        def let_in():
            assert process.process.poll() is None, process.err.read_text()
            headers = {"Authorization": "Bearer changed meanwhile"}
            request = urllib.request.Request(f"{starting.url}/introspect", b"token=x", headers, method="POST")
            try:
                return urllib.request.urlopen(request, timeout=10).status
            except urllib.error.HTTPError as error:
                error.close()
                return error.code if error.code != 503 else None
            except OSError:
                return None

        assert until(let_in) == 200


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_while_it_reads_its_configuration_ends_it_in_order(tmp_path, own_valkey, which):
    starting = Reading(tmp_path, own_valkey.url, 1)
    with starting.process as process, starting.reads() as configuration:
        process.send_signal(which)

        assert process.status() == 0
        assert process.err.read_text() == ""
        assert configuration.writable()


def test_sighup_while_a_process_is_being_built_is_a_reload_and_does_not_end_it(standin, settings, tmp_path):
    with standin({"STANDIN": "builds"}, workers=2) as process:
        building = until(lambda: found if len(found := list(tmp_path.glob("building-*"))) == 2 else None)
        pids = {int(path.name.partition("-")[2]) for path in building}
        settings(callers=3, workers=2)
        for pid in pids:
            os.kill(pid, signal.SIGHUP)
        Path(tmp_path / "built").touch()
        url = process.url()

        until(lambda: {get(url + "/pid")["callers"] for _ in range(16)} == {3})
        assert processes(url).keys() <= pids


CANARY = """
[server]
port = 0
[upstream]
url = "http://127.0.0.1:1"
secret_file = "canary.secret"
[canary]
key_file = "canary.key"
[[targets]]
name = "service"
url = "http://127.0.0.1:1"
"""


@pytest.fixture
def canary(tmp_path):
    """Starts a canary that reads its configuration, which the test writes to the pipe."""
    (tmp_path / "canary.secret").write_text("canary-secret")
    (tmp_path / "canary.key").write_text(json.dumps(forge.ec_key("canary-1").private_jwk()))
    os.mkfifo(pipe := tmp_path / "canary.toml")
    with contextlib.ExitStack() as stack:

        def start(*options):
            process = Process(tmp_path, "-m", "revoker", "canary", *options, "--config", pipe)
            return stack.enter_context(process), stack.enter_context(pipe.open("w"))

        yield start


def test_sighup_while_a_canary_reads_its_configuration_does_not_end_it(canary):
    process, configuration = canary()
    process.send_signal(signal.SIGHUP)
    configuration.write(CANARY)
    configuration.close()

    process.logged("settings not taken over")
    assert process.url()


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_while_a_canary_reads_its_configuration_ends_it_in_order(canary, which):
    process, _ = canary()
    process.send_signal(which)

    assert process.status() == 0
    assert process.err.read_text() == ""


def test_a_single_round_that_is_ended_by_sigterm_is_not_a_success(canary):
    process, _ = canary("--once")
    process.send_signal(signal.SIGTERM)

    assert process.status() == -signal.SIGTERM
