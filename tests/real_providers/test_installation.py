"""A download that breaks off is a provider that cannot be had here, and no failure of the suite."""

import http.server
import shutil
import threading

import pytest

from tests.real_providers import installation
from tests.real_providers.installation import INSTALLATIONS, UnavailableError, download

BREAKS_OFF = {
    "before its length": (b"Content-Length: 5000", b"x" * 500),
    "within a chunk": (b"Transfer-Encoding: chunked", b"400\r\n" + b"x" * 500),
    "before the last chunk": (b"Transfer-Encoding: chunked", b"1f4\r\n" + b"x" * 500 + b"\r\n"),
}


@pytest.fixture(params=BREAKS_OFF)
def url(request):
    """Of a server whose answers end too early."""
    header, body = BREAKS_OFF[request.param]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n\r\n" + body)
            self.close_connection = True

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_that_breaks_off_is_out_of_reach(url, tmp_path):
    with pytest.raises(UnavailableError, match="is out of reach"):
        download(f"{url}/keycloak.zip", tmp_path / "keycloak.zip")


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is missing")
def test_a_package_of_npm_that_breaks_off_is_out_of_reach(url, tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "FOLDER", tmp_path / "providers")
    for name, value in {"registry": url, "cache": str(tmp_path / "cache"), "fetch_retries": "0"}.items():
        monkeypatch.setenv(f"npm_config_{name}", value)

    with pytest.raises(UnavailableError, match="a download is out of reach"):
        INSTALLATIONS["oidc-provider"].ensure()

    assert not INSTALLATIONS["oidc-provider"].installed()
