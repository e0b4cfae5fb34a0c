import contextlib
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import urllib.request
from base64 import b64encode
from pathlib import Path
from urllib.error import HTTPError

import pytest

from revoker.auth import digest
from revoker.cli import development
from revoker.errors import ConfigError
from revoker.store import embedded
from tests.rig import forge
from tests.rig.processes import Process, ended, until
from tests.rig.servers import free_port


def serving(folder, **environ):
    return Process(
        folder,
        "-m",
        "revoker",
        "serve",
        REVOKER_SERVER__PORT="0",
        REVOKER_SERVER__DRAIN_SECONDS="0",
        REVOKER_REDIS__TIMEOUT="10",
        **environ,
    )


def printed(process):
    """The lines to paste, once they are printed."""
    return until(
        lambda: (
            lines
            if len(
                lines := [line for line in process.out.read_text().splitlines() if line.startswith("curl ")]
            )
            == 3
            else None
        )
    )


def pasted(line):
    """What curl answers to the line, split as a shell does."""
    words = shlex.split(line)
    assert words[0] == "curl"
    options = {"-u": None, "-d": None, "-H": "Content-Type: application/x-www-form-urlencoded", "-w": None}
    url, at = None, 1
    while at < len(words):
        if words[at] in options:
            options[words[at]] = words[at + 1]
            at += 1
        elif words[at] != "-s":
            url = words[at]
        at += 1
    headers = dict(
        [options["-H"].split(": ")], Authorization=f"Basic {b64encode(options['-u'].encode()).decode()}"
    )
    request = urllib.request.Request(url, options["-d"].encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def every_process_is_ready(url):
    def ready():
        try:
            urllib.request.urlopen(url + "/readyz", timeout=120).close()
        except HTTPError as error:
            error.close()
            return False
        return True

    until(lambda: all(ready() for _ in range(16)))


def read_by_a_shell(env):
    script = f"set -a; . {shlex.quote(str(env))}; exec env -0"
    output = subprocess.run(["sh", "-c", script], check=True, capture_output=True, env={}, text=True).stdout
    return {
        k: v for k, _, v in (pair.partition("=") for pair in output.split("\0")) if k.startswith("REVOKER_")
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_the_printed_lines_work_and_what_was_revoked_stays_so_over_a_restart(tmp_path, workers):
    with serving(tmp_path, REVOKER_SERVER__WORKERS=str(workers)) as process:
        introspect, revoke, again = printed(process)
        every_process_is_ready(process.url())
        assert pasted(introspect)["sub"] == "alice"
        assert pasted(revoke)["sub"] == "alice"
        assert pasted(again) == {"active": False}
        first = read_by_a_shell(tmp_path / ".revoker/dev.env")
        process.send_signal(signal.SIGINT)
        assert process.status() == 0

    with serving(tmp_path) as process:
        url = printed(process)[0].split()[-1]
        assert pasted(introspect.rpartition(" ")[0] + f" {url}") == {"active": False}
        second = read_by_a_shell(tmp_path / ".revoker/dev.env")
        assert introspect.split()[-1].startswith(first.pop("REVOKER_URL"))
        assert url.startswith(second.pop("REVOKER_URL"))
        assert first == second


def test_the_store_ends_with_the_service_however_that_ends(tmp_path):
    for signal_, status in ((signal.SIGTERM, 0), (signal.SIGKILL, -9)):
        with serving(tmp_path) as process:
            printed(process)
            socket = embedded.socket_of(tmp_path / ".revoker/store")  # elsewhere if that path is long
            assert embedded.answers(socket)
            process.send_signal(signal_)
            assert process.status() == status
        until(lambda socket=socket: not embedded.answers(socket))


def test_dev_env_is_what_a_script_needs_and_its_owner_s_alone(tmp_path):
    with serving(tmp_path) as process:
        printed(process)
        env = tmp_path / ".revoker/dev.env"
        values = read_by_a_shell(env)

        assert stat.S_IMODE(env.stat().st_mode) == 0o600
        assert values.keys() == {
            "REVOKER_URL", "REVOKER_GATEWAY_SECRET", "REVOKER_ADMIN_SECRET", "REVOKER_DEV_TOKEN_KEY",
        }  # fmt: skip
        assert values["REVOKER_URL"] == process.url()
        key = Path(values["REVOKER_DEV_TOKEN_KEY"])
        assert key.is_absolute()
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_token_of_dev_token_is_active(tmp_path):
    with serving(tmp_path) as process:
        line = shlex.split(printed(process)[0])
        with Process(tmp_path / ".revoker", "-m", "revoker", "dev-token", "--sub", "bob",
                     **read_by_a_shell(tmp_path / ".revoker/dev.env")) as minting:  # fmt: skip
            assert minting.status() == 0
        token = minting.out.read_text().strip()
        line = [f"token={token}" if word.startswith("token=") else word for word in line]

        assert pasted(shlex.join(line))["sub"] == "bob"


@pytest.mark.parametrize("program", [("-m", "revoker"), (Path(sys.executable).with_name("revoker"),)])
def test_the_printed_command_mints_a_token_in_that_folder_as_it_is(tmp_path, program):
    service = serving(tmp_path)
    service.arguments = [sys.executable, *map(str, program), "serve"]
    with service as process:
        printed(process)
        hint = next(line for line in process.out.read_text().splitlines() if line.startswith("More tokens"))
        minted = subprocess.run(
            ["sh", "-c", hint.partition(": ")[2]],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": service.environ["PYTHONPATH"]},
            capture_output=True,
            text=True,
        )

    assert minted.returncode == 0, minted.stderr
    assert forge.parts(minted.stdout.strip())


def test_the_environment_still_applies(tmp_path):
    settings = development.prepare(
        {"REVOKER_SERVER__PORT": "9000", "REVOKER_REVOCATION__LEEWAY": "7"}, tmp_path / "r"
    ).settings

    assert (settings.server.port, settings.revocation.leeway) == (9000, 7)


def test_the_console_is_off_until_the_environment_enables_it_and_then_it_is_announced(tmp_path):
    made = development.prepare({}, tmp_path / "off")
    assert not made.settings.console.enabled
    assert "8080/console" not in development.welcome(made, "http://127.0.0.1:8080")
    made = development.prepare({"REVOKER_CONSOLE__ENABLED": "true"}, tmp_path / "on")
    assert made.settings.console.secret_sign_in
    assert f"http://127.0.0.1:8080/console; sign in as admin with {made.admin_secret}" in development.welcome(
        made, "http://127.0.0.1:8080"
    )


def test_the_callers_are_those_of_the_contract(tmp_path):
    made = development.prepare({}, tmp_path / "r")
    callers = {caller.name: caller for caller in made.settings.callers}

    assert callers["gateway"].scopes == ("introspect",)
    assert callers["admin"].scopes == ("introspect", "revoke", "revoke-all", "sessions", "read")
    assert callers["gateway"].secret_sha256 == (digest(made.gateway_secret),)
    assert callers["admin"].secret_sha256 == (digest(made.admin_secret),)


def test_secrets_and_key_are_fresh_in_every_folder(tmp_path):
    one, other = (development.prepare({}, tmp_path / name) for name in "ab")

    assert one.gateway_secret != other.gateway_secret
    assert one.key_file.read_bytes() != other.key_file.read_bytes()


def test_the_paths_may_hold_spaces(tmp_path):
    folder = tmp_path / "my project's/.revoker"
    made = development.prepare({}, folder)
    development.welcome(made, f"http://127.0.0.1:{free_port()}")

    assert read_by_a_shell(folder / "dev.env")["REVOKER_DEV_TOKEN_KEY"] == str(made.key_file)
    assert development.prepare({}, folder).admin_secret == made.admin_secret


def test_a_folder_or_key_that_cannot_be_used_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        development.prepare({}, tmp_path / "file")
    development.prepare({}, tmp_path / "r")
    (tmp_path / "r/dev-key.pem").write_text("no key")
    with pytest.raises(ConfigError, match="development setup"):
        development.prepare({}, tmp_path / "r")


def children(process):
    """Processes that it started, by name."""
    pids = []
    for file in Path(f"/proc/{process.pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # its thread has ended
            pids += map(int, file.read_text().split())
    names = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
            names[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
    return names


def store_of(process):
    return next((pid for pid, name in children(process).items() if name == "valkey-server"), None)


def test_the_store_of_a_killed_service_is_gone_too(tmp_path):
    with serving(tmp_path, REVOKER_SERVER__WORKERS="2") as process:
        printed(process)
        started = children(process)
        assert len(started) == 3
        process.process.kill()
        process.status()

    until(lambda: all(ended(pid) for pid in started))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_store_that_died_comes_back_with_what_was_revoked(tmp_path, workers):
    with serving(tmp_path, REVOKER_SERVER__WORKERS=str(workers)) as process:
        introspect, revoke, _ = printed(process)
        every_process_is_ready(process.url())
        pasted(revoke)
        killed = store_of(process)
        os.kill(killed, signal.SIGKILL)
        until(lambda: store_of(process) not in {killed, None})
        until(lambda: verdict(introspect) == {"active": False})

        process.send_signal()
        assert process.status() == 0


def test_one_worker_tells_within_a_moment_what_the_others_have_counted(tmp_path):
    def counts_of(url):
        text = urllib.request.urlopen(f"{url}/metrics", timeout=120).read().decode()
        series = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
        return [
            float(series.get(name, 0))
            for name in ('revoker_verdicts_total{verdict="active"}', "revoker_introspection_seconds_count")
        ]

    with serving(tmp_path, REVOKER_SERVER__WORKERS="2") as process:
        introspect, _, _ = printed(process)
        every_process_is_ready(process.url())
        for _ in range(24):
            pasted(introspect)
        until(lambda: counts_of(process.url()) == [24, 24])


def verdict(line):
    """What is answered; None while there is no verdict."""
    try:
        return pasted(line)
    except HTTPError as error:
        error.close()
        return None


def test_a_second_service_in_the_same_folder_is_refused_with_the_reason(tmp_path):
    with serving(tmp_path) as process:
        printed(process)
        second = serving(tmp_path)
        second.out, second.err = tmp_path / "out2", tmp_path / "err2"
        with second:
            assert second.status() == 2
        assert second.err.read_text() == (
            f"redis.url: another service has the embedded store in {tmp_path}/.revoker/store\n"
        )
        assert embedded.answers(embedded.socket_of(tmp_path / ".revoker/store"))
