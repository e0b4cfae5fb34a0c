import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from revoker.errors import ConfigError, StoreUnavailable
from revoker.store import embedded
from revoker.store.embedded import Embedded


def until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def client(url):
    return redis.Redis.from_url(url, socket_timeout=60)


def gone(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def test_what_was_written_survives_a_restart(folder):
    with Embedded(folder) as store, client(store.url) as connection:
        connection.set("revoked", "1")
    with Embedded(folder) as store, client(store.url) as connection:
        assert connection.get("revoked") == b"1"


def test_what_was_acknowledged_survives_the_kill_of_the_server_which_comes_back_by_itself(folder):
    with Embedded(folder) as store:
        with client(store.url) as connection:
            connection.set("revoked", "1")
        killed = store.pid
        os.kill(killed, signal.SIGKILL)
        until(lambda: store.pid != killed and embedded.answers(embedded.socket_of(folder)))
        with client(store.url) as connection:
            assert connection.get("revoked") == b"1"


def test_it_evicts_nothing_and_acknowledges_only_what_is_on_disk_and_opens_no_port(folder):
    with Embedded(folder) as store, client(store.url) as connection:
        wanted = {
            "maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "always", "port": "0",
        }  # fmt: skip
        assert {name: connection.config_get(name)[name] for name in wanted} == wanted


def test_a_folder_is_new_until_it_is_marked(folder):
    with Embedded(folder):
        assert embedded.is_new(folder)
    with Embedded(folder):
        assert embedded.is_new(folder)
        embedded.mark_initialised(folder)
    with Embedded(folder):
        assert not embedded.is_new(folder)


def test_a_folder_that_was_emptied_is_not_new(folder):
    folder.mkdir()
    with Embedded(folder):
        assert not embedded.is_new(folder)


def test_a_second_service_learns_whose_folder_it_is(folder, monkeypatch):
    monkeypatch.setattr(embedded, "LOCK_SECONDS", 0.1)
    with Embedded(folder) as store:
        with pytest.raises(ConfigError, match="another service") as caught:
            Embedded(folder).start()
        assert str(folder) in caught.value.problems[0]
        with client(store.url) as connection:
            assert connection.ping()


def test_the_folder_stays_locked_until_the_server_has_ended_too(folder):
    with Embedded(folder) as store:
        held = []
        for file in Path(f"/proc/{store.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                held.append(str(file.readlink()))

        assert str(folder / "lock") in held


def test_the_command_line_reaches_a_running_server(folder):
    with Embedded(folder) as store, embedded.reached(folder) as url:
        assert url == store.url


def test_the_command_line_starts_a_server_for_the_while(folder):
    with embedded.reached(folder) as url, client(url) as connection:
        assert connection.ping()
    assert not embedded.answers(embedded.socket_of(folder))


@pytest.mark.parametrize("name", ["deep/" * 30 + "store", 'with "quotes" and \\ and 100% ? ünicode'])
def test_the_path_of_the_folder_may_be_long_or_odd(tmp_path, name):
    folder = tmp_path / name
    with Embedded(folder) as store:
        path = embedded.socket_of(folder)
        with client(store.url) as connection:
            assert connection.ping()
    assert not path.exists()


def test_stop_leaves_no_process_behind(folder):
    store = Embedded(folder)
    store.start()
    pid = store.pid
    store.stop()
    assert gone(pid)


def test_the_server_dies_with_a_service_that_is_killed_and_the_folder_is_free_at_once(folder, monkeypatch):
    monkeypatch.setattr(embedded, "LOCK_SECONDS", 120)  # it may take long to die
    script = (
        "import sys, time; from pathlib import Path; from revoker.store.embedded import Embedded\n"
        "store = Embedded(Path(sys.argv[1])); store.start(); print(store.pid, flush=True); time.sleep(600)"
    )
    service = subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE, text=True)
    try:
        pid = int(service.stdout.readline())
        assert not gone(pid)
    finally:
        service.kill()
        service.wait()
        service.stdout.close()
    with Embedded(folder) as store, client(store.url) as connection:
        assert gone(pid)
        assert connection.ping()


def test_a_server_that_can_not_start_is_reported_with_its_log(folder):
    with Embedded(folder):
        pass
    manifest = folder / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("not a manifest\n")
    with pytest.raises(StoreUnavailable, match=r"valkey\.log"):
        Embedded(folder).start()


def test_a_folder_that_can_not_be_made_is_a_problem_of_the_settings(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"redis\.url"):
            Embedded(folder).start()


def test_folder_of_reads_the_url(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert embedded.folder_of("embedded:") == tmp_path / ".revoker/store"
    assert embedded.folder_of("embedded:/data/here") == Path("/data/here")
