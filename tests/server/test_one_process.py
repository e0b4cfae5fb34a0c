import concurrent.futures
import contextlib
import http.client
import json
import signal
import socket
import ssl
import urllib.request
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest

from tests.rig.processes import until
from tests.rig.servers import free_port


def get(url, headers=None, context=None):
    request = urllib.request.Request(url, headers=headers or {})
    with urllib.request.urlopen(request, timeout=120, context=context) as response:
        return json.load(response)


def error(url, headers=None):
    """The status of an answer that is an error."""
    with pytest.raises(HTTPError) as caught:
        get(url, headers)
    caught.value.close()
    return caught.value.code


def refused(url):
    parts = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((parts.hostname, parts.port)) != 0


def test_requests_pass_the_entry_of_the_service(standin):
    with standin() as process, urllib.request.urlopen(process.url() + "/pid") as response:
        assert response.headers["X-Entry"] == "yes"


@pytest.mark.row("K8S-05")
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_at_a_signal_it_drains_and_still_answers_and_then_ends_with_status_0(standin, which):
    with standin(drain_seconds=8) as process:
        url = process.url()
        process.send_signal(which)
        process.logged("draining")
        with urllib.request.urlopen(url + "/pid") as response:
            assert json.load(response)["draining"] is True

        assert process.status() == 0
        assert refused(url)
        assert process.lines()[-1]["event"] == "closed"


@pytest.mark.row("K8S-05")
def test_a_request_under_way_is_answered_before_the_end(standin):
    with standin() as process, concurrent.futures.ThreadPoolExecutor() as pool:
        url = process.url()
        slow = pool.submit(lambda: urllib.request.urlopen(url + "/slow", timeout=120).read())
        until(lambda: get(url + "/under-way")["slow"] == 1)
        process.send_signal()

        assert slow.result() == b"done"
        assert process.status() == 0


@pytest.mark.row("K8S-05")
@pytest.mark.parametrize("path", ["/held", "/held-prebuilt"])
def test_a_request_that_came_before_the_signal_is_the_last_on_its_connection(standin, path):
    """Whether a connection closes is decided as late as the response is written."""
    with standin(drain_seconds=5) as process:
        url = process.url()
        with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)) as connection:
            connection.request("GET", path)
            until(lambda: get(url + "/under-way")["slow"] == 1)
            process.send_signal()
            response = connection.getresponse()

            assert response.read() == b"{}"
            assert response.getheader("Connection") == "close"
        assert process.status() == 0


def ask_until_sent_away(url):
    """Ask as fast as can be on one connection, until an answer says that it is the last."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    answers, closing = 0, False
    while not closing:
        connection.request("GET", "/pid")
        response = connection.getresponse()
        assert response.status == 200
        response.read()
        closing = response.getheader("Connection", "").lower() == "close"
        answers += 1
    connection.close()
    return answers


@pytest.mark.row("K8S-05", "K8S-06")
def test_no_client_is_cut_off_between_two_requests(standin):
    with standin(drain_seconds=5) as process, concurrent.futures.ThreadPoolExecutor(8) as pool:
        url = process.url()
        clients = [pool.submit(ask_until_sent_away, url) for _ in range(8)]
        until(lambda: counted(url) > 100)
        assert not any(client.done() for client in clients)
        process.send_signal()

        assert process.status() == 0
        assert all(client.result() > 1 for client in clients)


def counted(url):
    return get(url + "/under-way")["answered"]


@pytest.mark.row("K8S-07")
def test_at_a_second_sigterm_it_ends_at_once(standin):
    with standin(drain_seconds=300) as process:
        process.url()
        process.send_signal()
        process.logged("draining")
        process.send_signal()

        assert process.status() == 1


def test_sigterm_while_it_starts_ends_it(standin):
    with standin({"STANDIN": "hangs"}) as process:
        until(lambda: caught(process, signal.SIGTERM))
        process.send_signal()

        assert process.status() == 0


def signals(process):
    return Path(f"/proc/{process.pid}/status").read_text()


def caught(process, which):
    mask = next(line for line in signals(process).splitlines() if line.startswith("SigCgt")).split()[1]
    return int(mask, 16) >> (which - 1) & 1


def test_it_says_where_it_is_once_clients_get_verdicts(standin):
    with standin() as process:
        assert process.logged("ready")["url"] == process.url()


def test_before_that_it_answers_already_and_ends_at_sigterm(standin):
    with standin({"STANDIN": "waits"}) as process:
        assert get(process.url() + "/pid")["pid"] == process.pid
        process.send_signal()

        assert process.status() == 0
        assert "ready" not in [line["event"] for line in process.lines()]


def test_a_start_that_fails_is_reported_in_one_line(standin):
    with standin({"STANDIN": "fails"}) as process:
        assert process.status() == 1
        assert process.err.read_text() == "the stand-in does not start\n"


@pytest.mark.row("K8S-07")
def test_at_sighup_the_callers_are_read_again(standin, settings):
    with standin() as process:
        url = process.url()
        assert get(url + "/pid")["callers"] == 1
        settings(callers=3)
        process.send_signal(signal.SIGHUP)

        until(lambda: get(url + "/pid")["callers"] == 3)


@pytest.mark.row("K8S-07")
def test_a_wrong_file_at_sighup_is_logged_and_the_callers_stay(standin, settings):
    with standin() as process:
        url = process.url()
        settings(callers=3, port="wrong")
        process.send_signal(signal.SIGHUP)

        line = process.logged("settings not taken over")
        assert line["problems"] == ["server.port: must be a whole number"]
        assert get(url + "/pid")["callers"] == 1


def test_a_header_takes_a_token_of_16_kib_and_not_one_without_end(standin):
    with standin() as process:
        url = process.url()
        assert get(url + "/pid", {"X-Token": "x" * 16384})["token"] == 16384
        assert error(url + "/pid", {"X-Token": "x" * 40_000}) == 400


def test_a_port_that_is_taken_is_reported_as_a_setting(standin):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with standin(port=port) as process:
            assert process.status() == 1
            assert process.err.read_text().startswith(f"server.port: can't listen on 127.0.0.1 port {port}: ")


def test_health_and_metrics_may_have_a_port_of_their_own(standin):
    ops_port = free_port()
    with standin(ops_port=ops_port) as process:
        url = process.url()
        assert get(f"http://127.0.0.1:{ops_port}/ops")["pid"] == process.pid
        assert error(url + "/ops") == 404


@pytest.mark.parametrize("host", ["localhost", "::1", "::", "0.0.0.0"])
def test_any_host_can_be_listened_on(standin, host):
    with standin(host=host) as process:
        assert get(process.url() + "/pid")["pid"] == process.pid


def test_two_colons_mean_every_address_of_either_family(standin):
    with standin(host="::") as process:
        port = urlsplit(process.url()).port
        assert get(f"http://127.0.0.1:{port}/pid")["pid"] == process.pid


def tls_client(authority, certificate=None):
    context = ssl.create_default_context(cafile=authority)
    if certificate:
        context.load_cert_chain(*certificate)
    return context


def test_tls_asks_for_a_client_certificate_and_needs_none(standin, certificates):
    server = certificates.server
    tls = {
        "tls_cert_file": server[0],
        "tls_key_file": server[1],
        "tls_client_ca_file": certificates.authority,
    }
    with standin(**tls) as process:
        url = process.url() + "/pid"
        assert url.startswith("https://")
        without = get(url, context=tls_client(certificates.authority))
        assert (without["tls"], without["certificate"]) == (True, {})
        with_certificate = get(url, context=tls_client(certificates.authority, certificates.client))
        assert with_certificate["certificate"] == {"commonName": "gateway"}
        with pytest.raises((ssl.SSLError, OSError)):
            get(url, context=tls_client(certificates.authority, certificates.stranger))


def test_tls_before_1_2_is_refused(standin, certificates):
    with standin(tls_cert_file=certificates.server[0], tls_key_file=certificates.server[1]) as process:
        context = tls_client(certificates.authority)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSVersion"):
            context.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSVersion"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError):
            get(process.url() + "/pid", context=context)


def test_a_certificate_that_is_none_is_reported_as_a_setting(standin, certificates, tmp_path):
    file = tmp_path / "not.pem"
    file.write_text("x")
    with standin(tls_cert_file=str(file), tls_key_file=certificates.server[1]) as process:
        assert process.status() == 1
        assert process.err.read_text().startswith("server.tls_cert_file: must be")
    with standin(
        tls_cert_file=certificates.server[0],
        tls_key_file=certificates.server[1],
        tls_client_ca_file=str(file),
    ) as process:
        assert process.status() == 1
        assert process.err.read_text().startswith("server.tls_client_ca_file: must hold")
