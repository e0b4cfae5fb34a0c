"""A real Prometheus that scrapes real instances of the service, with the rules in hurried form."""

import contextlib
import http.client
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

import pytest
import yaml

from revoker.auth import digest
from revoker.config.canary import ISSUER
from tests.rig import forge
from tests.rig.processes import Process, until
from tests.rig.servers import free_port
from tests.rig.service import HANGS_S, PATIENT_S

ROOT = Path(__file__).parent.parent.parent
MONITORING = ROOT / "deploy/monitoring"
SECRET = "a secret of the tests"
EDGE_SECRET = "a secret of the edges"
CANARY_SECRET = "a secret of the canary"
HURRIED = {"5m": "6s", "15m": "8s", "30m": "8s", "1h": "10s", "6h": "12s", "1d": "60s"}
LASTS = "3s"
"""For how long a condition has to hold, where its rule says that. On a busy machine a scrape can fail."""

LATE = """
import time
real = time.time
time.time = lambda: real() + 9
from revoker.cli.commands import main
main()
"""
"""The service on a machine whose clock is 9 s ahead."""

FORGETFUL = """
from revoker.store.consistency.acknowledged import Acknowledged
Acknowledged.__init__.__kwdefaults__["limit"] = 3
from revoker.cli.commands import main
main()
"""
"""The service with room for three revocations."""

FAULTY = """
import revoker.api.verdicts
revoker.api.verdicts.judge = None
from revoker.cli.commands import main
main()
"""
"""The service with a fault of its own: whatever it has to judge fails."""


def tool(name):
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is missing: apt-get install prometheus (make test-monitoring)", pytrace=False)
    return path


def hurried(rules):
    """The same rules with every duration shortened, so that a test needs seconds and not hours."""
    rules = json.loads(json.dumps(rules))
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = re.sub(
                r"(\[|offset )(\d+[mhd])\b", lambda found: found[1] + HURRIED[found[2]], rule["expr"]
            )
            if "for" in rule:
                rule["for"] = LASTS
    return rules


class Prometheus:
    """One server, from start to stop."""

    def __init__(self, folder, targets):
        self.port = free_port()
        self.folder = folder
        self.at = None
        folder.mkdir(parents=True)
        rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())
        (folder / "rules.yaml").write_text(yaml.safe_dump(hurried(rules)))
        scraped = [{"targets": [url.removeprefix("http://") for url in targets]}]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "500ms"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "revoker", "static_configs": scraped}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))

    def __enter__(self):
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    tool("prometheus"),
                    f"--config.file={self.folder}/prometheus.yaml",
                    f"--storage.tsdb.path={self.folder}/data",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        until(self.is_ready)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(120)

    def is_ready(self):
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready").status == 200
        return False

    def ask(self, path, **query):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=HANGS_S) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None

    def query(self, expression):
        """The samples of now, or of the moment that ``at`` was set to."""
        return self.ask("query", query=expression, **({"time": self.at} if self.at else {}))["result"]

    def firing(self):
        """Names of the alerts that fire now."""
        alerts = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def scrapes_all(self):
        """Whether the latest scrape of every target has succeeded."""
        return {target["health"] for target in self.ask("targets", state="active")["activeTargets"]} == {"up"}

    def state(self):
        """What it sees, for the message of a test that fails."""
        alerts = [(alert["state"], alert["labels"], alert["value"]) for alert in self.ask("alerts")["alerts"]]
        targets = [
            (target["scrapeUrl"], target["health"], target["lastError"], target["lastScrapeDuration"])
            for target in self.ask("targets", state="active")["activeTargets"]
        ]
        log = (self.folder / "log").read_text()[-4000:]
        return f"alerts: {alerts}\ntargets: {targets}\nlog: {log}"


class Instance(Process):
    """One process of the service; ``with`` waits until it listens."""

    def __init__(self, folder, store_url, keys_url, *, program=("-m", "revoker"), **sections):
        folder.mkdir(parents=True)
        (folder / "keys").mkdir()
        (folder / "keys/first.json").write_text(json.dumps(forge.ec_key("own-1").private_jwk()))
        shared = folder.parent / "refresh.key"
        if not shared.exists():
            shared.write_text(forge.base64url(bytes(range(32))) + "\n")
        values = {
            "server": {"port": free_port(), "drain_seconds": 0},
            "redis": {"url": store_url, "timeout": PATIENT_S} | sections.pop("redis", {}),
            "revocation": sections.pop("revocation", {}),
            "sessions": {
                "issuer": "https://sessions.example.com",
                "audiences": [forge.AUDIENCE],
                "signing_keys_dir": str(folder / "keys"),
                "refresh_key_file": str(shared),
                "refresh_grace": 0,
            },
        }
        self.config = write(folder / "revoker.toml", values, *shared_tables(folder, keys_url))
        self.port = values["server"]["port"]
        super().__init__(folder, *program, "serve", "--config", self.config)

    def on_store(self, *command):
        """Run a command of `revoker store`."""
        ended = subprocess.run(
            [*self.arguments[:1], "-m", "revoker", "store", *command, "--config", self.config],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=HANGS_S,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def declare_store_new(self):
        self.on_store("init", "--or-known")

    def __enter__(self):
        super().__enter__()
        self.url()
        return self

    def post(self, path, body, *, secret=SECRET, form=False):
        """Status and answer; a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            headers = {
                "Content-Type": "application/x-www-form-urlencoded" if form else "application/json",
                **({"Authorization": f"Bearer {secret}"} if secret else {}),
            }
            encoded = urllib.parse.urlencode(body) if form else json.dumps(body)
            connection.request("POST", path, encoded, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"{}")

    def ready(self):
        with contextlib.suppress(OSError, urllib.error.HTTPError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=60).status == 200
        return False

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"


class Edge(Process):
    """An edge of an instance."""

    def __init__(self, folder, upstream, keys_url):
        folder.mkdir(parents=True)
        (folder / "secret").write_text(EDGE_SECRET)
        self.address = f"http://127.0.0.1:{free_port()}"
        values = {
            "server": {"port": int(self.address.rpartition(":")[2]), "drain_seconds": 0},
            "upstream": {"url": upstream, "secret_file": str(folder / "secret"), "max_staleness": 60},
        }
        config = write(folder / "edge.toml", values, *shared_tables(folder, keys_url))
        super().__init__(folder, "-m", "revoker", "edge", "--config", config)


class Canary(Process):
    """A canary that runs a round every five seconds.

    Args:
        folder: For its configuration and its output.
        upstream: Where it revokes.
        targets: Tables of its configuration.
        patience: Seconds after which a target must refuse what was revoked.
    """

    def __init__(self, folder, upstream, *targets, patience=1):
        folder.mkdir(parents=True)
        (folder / "secret").write_text(CANARY_SECRET)
        (folder / "key").write_text(json.dumps(forge.ec_key("canary-1").private_jwk()))
        self.address = f"http://127.0.0.1:{free_port()}"
        values = {
            "server": {"port": int(self.address.rpartition(":")[2])},
            "upstream": {"url": upstream, "secret_file": str(folder / "secret")},
            "canary": {"key_file": str(folder / "key"), "every_seconds": 5, "timeout_seconds": patience},
        }
        config = write(folder / "canary.toml", values, *(("targets", target) for target in targets))
        super().__init__(folder, "-m", "revoker", "canary", "--config", config)


def shared_tables(folder, keys_url):
    """The issuers and callers of an instance and its edges."""
    (folder / "canary.jwks").write_text(json.dumps(forge.jwks(forge.ec_key("canary-1"))))
    yield (
        "issuers",
        {
            "name": "main",
            "issuer": forge.ISSUER,
            "audiences": [forge.AUDIENCE],
            "jwks_uri": keys_url,
            "jwks_insecure": True,
        },
    )
    yield (
        "issuers",
        {
            "name": "canary",
            "issuer": ISSUER,
            "audiences": [ISSUER],
            "algorithms": ["ES256"],
            "jwks_file": str(folder / "canary.jwks"),
            "restricted": True,
        },
    )
    for name, secret, terms in (
        ("test", SECRET, {"scopes": ["introspect", "revoke", "revoke-all", "sessions"]}),
        ("edge", EDGE_SECRET, {"scopes": ["feed"]}),
        ("canary", CANARY_SECRET, {"scopes": ["introspect", "revoke"], "issuers": ["canary"]}),
    ):
        yield "callers", {"name": name, "secret_sha256": [digest(secret)], **terms}


def write(path, sections, *entries):
    """A configuration: sections, and entries of lists of tables."""
    parts = [
        *(f"[{name}]\n{table(values)}" for name, values in sections.items()),
        *(f"[[{name}]]\n{table(values)}" for name, values in entries),
    ]
    path.write_text("\n".join(parts))
    return path


def table(values):
    """A table of TOML."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


class Keys:
    """An identity provider's JWK Set on the web; ``broken`` makes it answer 500."""

    def __init__(self):
        self.broken = False
        keys = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps(forge.jwks(forge.rsa_key("main-1"))).encode()
                self.send_response(500 if keys.broken else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def keys():
    served = Keys()
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture(autouse=True)
def mended(keys):
    """After each test: what several tests share is set up before any fixture of the next one."""
    yield
    keys.broken = False


def ordinary_traffic(instance, seconds, every=0.01, took=None):
    """Introspections as long as said, by tokens that are active and by one that is not.

    Returns:
        Their statuses.

    Args:
        instance: Which is asked.
        seconds: How long.
        every: Seconds between two of them.
        took: Gets the seconds of each.
    """
    tokens = [forge.token(forge.rsa_key("main-1"), jti=str(uuid.uuid4()), sub=f"user-{n}") for n in range(5)]
    end = time.monotonic() + seconds
    seen = []
    while time.monotonic() < end:
        for token in [*tokens, "no token"]:
            began = time.monotonic()
            seen.append(instance.post("/introspect", {"token": token})[0])
            if took is not None:
                took.append(time.monotonic() - began)
            time.sleep(every)
    return seen


@contextlib.contextmanager
def meanwhile(work):
    """Do the work again and again in a thread until the block ends."""
    stopping = threading.Event()

    def repeat():
        while not stopping.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(120)
