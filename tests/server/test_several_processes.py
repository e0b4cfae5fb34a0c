import concurrent.futures
import contextlib
import os
import signal
import socket
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from tests.rig.processes import ended, until
from tests.rig.servers import free_port
from tests.server.test_one_process import error, get, refused


def processes(url):
    """The process that answers, asked on many connections."""
    answers = [get(url + "/pid")["pid"] for _ in range(24)]
    return {pid: answers.count(pid) for pid in answers}


def two(url):
    """Both processes, once both answer."""
    return until(lambda: found if len(found := processes(url)) == 2 else None)


def crash(url, among):
    """Crash one of these processes; returns when the kernel has taken it from the port."""
    with contextlib.suppress(URLError, ConnectionError):
        urllib.request.urlopen(url + "/crash", timeout=120).close()
    until(lambda: any(ended(pid) for pid in among))


def test_connections_spread_over_processes_that_are_not_the_master(standin):
    with standin(workers=2) as process:
        two(process.url())
        found = processes(process.url())

        assert process.pid not in found
        assert len(found) == 2


def test_a_process_that_crashed_is_replaced(standin):
    with standin(workers=2) as process:
        url = process.url()
        before = two(url)
        crash(url, before)

        after = until(
            lambda: found if len(found := two(url)) == 2 and found.keys() != before.keys() else None
        )
        assert len(after.keys() & before.keys()) == 1
        assert process.process.poll() is None


def test_metrics_add_up_over_the_processes_and_leave_nothing_behind(standin, tmp_path):
    with standin({"TMPDIR": str(tmp_path)}, workers=2) as process:
        url = process.url()
        two(url)
        text = urllib.request.urlopen(url + "/metrics", timeout=120).read().decode()
        counted = float(
            next(line for line in text.splitlines() if line.startswith("requests_total")).split()[1]
        )
        assert counted % 24 == 0
        assert list(tmp_path.glob("revoker-metrics-*"))
        process.send_signal()
        assert process.status() == 0
        assert not list(tmp_path.glob("revoker-metrics-*"))


@pytest.mark.row("K8S-05")
def test_at_sigterm_all_drain_finish_and_close(standin):
    with standin(workers=2) as process, concurrent.futures.ThreadPoolExecutor() as pool:
        url = process.url()
        found = two(url)
        slow = [
            pool.submit(lambda: urllib.request.urlopen(url + "/slow", timeout=120).read()) for _ in range(4)
        ]
        under_way = {}

        def all_have_come():
            report = get(url + "/under-way")
            under_way[report["pid"]] = report["slow"]
            return sum(under_way.values()) == len(slow)

        until(all_have_come)
        process.send_signal()

        assert [answer.result() for answer in slow] == [b"done"] * 4
        assert process.status() == 0
        assert [line["event"] for line in process.lines()].count("closed") == 2
        assert refused(url)
        assert all(ended(pid) for pid in found)


def test_ctrl_c_of_a_terminal_reaches_every_process_and_still_drains(standin):
    with standin(workers=2, drain_seconds=8) as process:
        url = process.url()
        for pid in (*two(url), process.pid):
            os.kill(pid, signal.SIGINT)
        until(lambda: [line["event"] for line in process.lines()].count("draining") == 2)
        assert get(url + "/pid")["draining"] is True

        assert process.status() == 0


@pytest.mark.row("K8S-07")
def test_at_a_second_sigterm_all_end_at_once(standin):
    with standin(workers=2, drain_seconds=300) as process:
        found = two(process.url())
        process.send_signal()
        process.logged("draining")
        process.send_signal()

        assert process.status() == 1
        assert all(ended(pid) for pid in found)


@pytest.mark.row("K8S-07")
def test_at_sighup_every_process_reads_the_callers_again_and_new_ones_have_them_too(standin, settings):
    with standin(workers=2) as process:
        url = process.url()
        found = two(url)
        settings(callers=3, workers=2)
        process.send_signal(signal.SIGHUP)
        until(lambda: {get(url + "/pid")["callers"] for _ in range(16)} == {3})
        assert processes(url).keys() <= found.keys()
        crash(url, found)
        until(lambda: two(url).keys() != found.keys())

        assert {get(url + "/pid")["callers"] for _ in range(16)} == {3}


def test_a_wrong_file_at_sighup_is_logged_and_harms_nobody(standin, settings):
    with standin(workers=2) as process:
        url = process.url()
        found = two(url)
        settings(workers=0)
        process.send_signal(signal.SIGHUP)

        assert process.logged("settings not taken over")["problems"] == ["server.workers: must be at least 1"]
        assert two(url).keys() == found.keys()


@pytest.mark.parametrize(
    ("how", "reason"), [("fails", "the stand-in does not start"), ("breaks", "the stand-in has a bug")]
)
def test_processes_that_can_not_start_end_all_with_the_reason(standin, how, reason):
    with standin({"STANDIN": how}, workers=2) as process:
        assert process.status() == 3
        assert reason in process.err.read_text()


def test_a_process_that_ends_alone_takes_nothing_of_the_others_along(standin, tmp_path):
    with standin({"TMPDIR": str(tmp_path)}, workers=2) as process:
        url = process.url()
        before = two(url)
        os.kill(one := min(before), signal.SIGTERM)
        until(lambda: ended(one))

        assert len(until(lambda: two(url).keys() - {one})) == 2
        assert list(tmp_path.glob("revoker-metrics-*"))


def test_processes_end_when_their_master_was_killed(standin):
    with standin(workers=2) as process:
        found = two(process.url())
        process.process.kill()
        process.status()

        until(lambda: all(ended(pid) for pid in found))


def test_two_services_can_not_share_a_port_by_accident(standin, tmp_path):
    with standin(workers=2) as process:
        port = int(process.url().rpartition(":")[2])
        other = standin(workers=1, port=port)
        other.out, other.err = Path(tmp_path / "out2"), Path(tmp_path / "err2")
        with other:
            assert other.status() == 1
            assert "server.port" in other.err.read_text()


def test_several_processes_serve_every_address_and_a_port_for_health(standin):
    ops_port = free_port()
    with standin(workers=2, host="localhost", ops_port=ops_port) as process:
        port = process.url().rpartition(":")[2]
        for host in {
            address[4][0] for address in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
        }:
            name = f"[{host}]" if ":" in host else host
            found = get(f"http://{name}:{port}/pid")["pid"]
            assert {found, get(f"http://{name}:{ops_port}/ops")["pid"]} <= two(process.url()).keys()
        assert error(f"{process.url()}/ops") == 404
