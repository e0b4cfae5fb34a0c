"""What the chart renders, used by the real service on a real Valkey."""

import base64
import json
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest

from revoker.config import schema as settings
from tests.deploy.conftest import CHART
from tests.deploy.test_chart import LEAST
from tests.rig import forge
from tests.rig.certificates import Authority
from tests.rig.processes import Process, until
from tests.rig.servers import free_port


class Pod:
    """The files of a rendered pod under ``root``, in place of /etc/revoker, and its containers' commands."""

    def __init__(self, rendered, root, others):
        self.root = root
        self.spec = rendered.server["spec"]["template"]["spec"]
        sources = {obj["metadata"]["name"]: obj for obj in rendered.objects if "data" in obj}
        sources.pop("revoker-store", None)  # not there yet when the first pods start
        sources |= others
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        for container in self.containers:
            for mount in container["volumeMounts"]:
                self.mount(volumes[mount["name"]], self.path(mount["mountPath"]), sources)

    @property
    def containers(self):
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def path(self, inside):
        return self.root / inside.lstrip("/")

    def mount(self, volume, folder, sources):
        folder.mkdir(parents=True, exist_ok=True)
        source = volume.get("configMap") or volume.get("secret")
        if source is None:
            return
        found = sources.get(source.get("name") or source.get("secretName"))
        if found is None:
            assert source["optional"]
            return
        data = {
            name: base64.b64decode(text) if found["kind"] == "Secret" else text.encode()
            for name, text in found["data"].items()
        }
        items = source.get("items") or [{"key": name, "path": name} for name in data]
        for item in items:
            (folder / item["path"]).write_bytes(
                data[item["key"]].replace(b"/etc/revoker/", f"{self.root}/etc/revoker/".encode())
            )

    def command(self, name, **environ):
        """Arguments and environment of a container."""
        container = next(item for item in self.containers if item["name"] == name)
        env = {variable["name"]: variable["value"] for variable in container["env"]}
        env["REVOKER_CONFIG"] = str(self.path(env["REVOKER_CONFIG"]))
        arguments = [
            str(self.path(argument)) if argument.startswith("/etc/") else argument
            for argument in container["args"]
        ]
        return arguments, env | environ


def jwks_of_main():
    return json.dumps(forge.jwks(forge.rsa_key("main-1")))


WITH_FILES = {
    **LEAST,
    "jwks": {"main.json": jwks_of_main()},
    "config.issuers": [
        {
            "name": "main",
            "issuer": forge.ISSUER,
            "audiences": [forge.AUDIENCE],
            "jwks_file": "/etc/revoker/jwks/main.json",
        }
    ],
    "config.server.drain_seconds": 0,
}
SESSIONS = {"issuer": "https://sessions.example.com", "audiences": [forge.AUDIENCE]}


def run(pod, name, **environ):
    arguments, env = pod.command(name, **environ)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("REVOKER")}
    return subprocess.run(
        [sys.executable, "-m", "revoker", *arguments],
        env=inherited | {"PYTHONPATH": str(CHART.parent.parent)} | env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_rendered_configuration_starts_the_service_and_the_check_passes(render, tmp_path, own_valkey):
    rendered = render({**WITH_FILES, "config.sessions": SESSIONS})
    pod = Pod(rendered, tmp_path / "pod", {})
    with own_valkey.client() as client:
        password = (pod.path("/etc/revoker/redis") / "password").read_text()
        client.config_set("requirepass", password)
    ports = {"http": free_port(), "ops": free_port()}
    environ = {
        "REVOKER_REDIS__URL": own_valkey.url,
        "REVOKER_SERVER__PORT": str(ports["http"]),
        "REVOKER_SERVER__OPS_PORT": str(ports["ops"]),
        "REVOKER_SERVER__HOST": "127.0.0.1",
    }

    first = run(pod, "store-init", **environ)
    assert first.returncode == 0, first.stderr
    assert "declared new" in first.stdout
    second = run(pod, "store-init", **environ)  # the other replica, or the Job
    assert second.returncode == 0, second.stderr
    assert "keeps it" in second.stdout

    arguments, env = pod.command("revoker", **environ)
    (folder := tmp_path / "process").mkdir()
    with Process(folder, "-m", "revoker", *arguments, **env) as process:
        process.url()
        container = pod.spec["containers"][0]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            wanted = container[probe]["httpGet"]
            url = f"http://127.0.0.1:{ports[wanted['port']]}{wanted['path']}"
            until(lambda url=url: answers(url))
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['ops']}/readyz") as response:
            assert json.load(response) == {"status": "ok", "problems": []}

        check = rendered.one("Pod", "-check")["spec"]["containers"][0]
        check_environ = {variable["name"]: variable.get("value") for variable in check["env"]}
        reference = next(variable for variable in check["env"] if variable["name"] == "CHECK_SECRET")
        secret = reference["valueFrom"]["secretKeyRef"]
        callers = rendered.one("Secret", secret["name"])["data"]
        check_environ["CHECK_SECRET"] = base64.b64decode(callers[secret["key"]]).decode()
        check_environ["CHECK_URL"] = f"http://127.0.0.1:{ports['http']}"
        check_environ["CHECK_OPS_URL"] = f"http://127.0.0.1:{ports['ops']}"
        passed = subprocess.run(
            [sys.executable, *check["command"][1:]], env=check_environ, capture_output=True, text=True
        )
        assert passed.returncode == 0, passed.stdout + passed.stderr
        assert passed.stdout.count("ok      ") == 3
        check_environ["CHECK_SECRET"] = "wrong"
        failed = subprocess.run(
            [sys.executable, *check["command"][1:]], env=check_environ, capture_output=True
        )
        assert failed.returncode == 1


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.status == 200
    except OSError:
        return False


def test_once_the_config_map_is_there_an_empty_store_is_not_declared_new(render, tmp_path, own_valkey):
    rendered = render({**WITH_FILES, "valkey.enabled": False, "config.redis.url": own_valkey.url})
    pod = Pod(rendered, tmp_path, {})
    arguments, _ = pod.command("store-init")
    note = rendered.one("ConfigMap", "-store")
    (folder := pod.path("/etc/revoker/store")).mkdir(parents=True, exist_ok=True)
    for name, text in note["data"].items():
        (folder / name).write_text(text)

    result = run(pod, "store-init")

    assert result.returncode == 0, result.stderr
    assert arguments[arguments.index("--unless") + 1] in result.stdout
    with own_valkey.client() as client:
        assert client.get("rv:epoch") is None


def test_while_the_store_is_down_declaring_it_new_fails_and_is_tried_again(render, tmp_path):
    url = f"redis://127.0.0.1:{free_port()}/0"
    pod = Pod(render({**WITH_FILES, "valkey.enabled": False, "config.redis.url": url}), tmp_path, {})
    assert run(pod, "store-init").returncode == 1


@pytest.mark.parametrize("values", ["trial", "production", "sessions"])
def test_the_configuration_of_every_ci_values_loads(render, tmp_path, values):
    rendered = render(CHART / f"ci/{values}-values.yaml")
    secret = {"kind": "Secret", "data": {"tls.crt": "", "tls.key": "", "ca.crt": ""}}
    authority = base64.b64encode(Authority(tmp_path / "authority").certificate.read_bytes()).decode()
    others = dict.fromkeys(("revoker-tls", "revoker-certificate", "callers-ca"), secret) | {
        "valkey-ca": {"kind": "Secret", "data": {"ca.crt": authority}},
        "valkey-credentials": {
            "kind": "Secret",
            "data": {"valkey-password": base64.b64encode(b"p%ss/word").decode()},
        },
        "store": {"kind": "Secret", "data": {"url": base64.b64encode(b"redis://:pw@valkey:6379/1").decode()}},
    }
    pod = Pod(rendered, tmp_path, others)
    _, environ = pod.command("revoker")
    config = environ.pop("REVOKER_CONFIG")

    loaded = settings.load(Path(config), environ)

    if values == "production":
        assert loaded.redis.url.startswith("rediss://valkey.data.svc:6379/0?ssl_ca_certs=")
        assert Path(loaded.redis.password_file).read_text() == "p%ss/word"
        assert loaded.server.drain_seconds == 7.5
        assert loaded.revocation.max_token_lifetime == 7776000
        assert loaded.issuers[0].audiences == ("api://orders", 'api://a&b<c>"d"')
        assert loaded.callers[1].client_id == "orders-web"
    if values == "sessions":
        assert loaded.redis.url == "redis://:pw@valkey:6379/1"
        assert loaded.sessions is not None
        assert loaded.sessions.max_sessions_per_user == 5
        assert loaded.revocation.leeway == 10


def test_the_package_has_all_that_the_image_runs(tmp_path):
    """The Lua scripts are data of the package: without them the image would start and then fail."""
    root = CHART.parent.parent
    source = tmp_path / "src"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    shutil.copytree(root / "service", source / "service", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source),
        ],
        check=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == {
        str(path.relative_to(root / "service"))
        for path in (root / "service").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ".egg-info" not in str(path)
    }
