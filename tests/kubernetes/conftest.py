"""A real API server on a real etcd, without nodes: what it admits and keeps is what a cluster would.

``make test-kubernetes`` builds it (tests/kubernetes/apiserver) and installs helm and kubectl. Nothing runs in
it: where helm waits for a Job or a Pod, the tests say that it has succeeded, as a controller would.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.deploy.conftest import CHART, ROOT, unpacked
from tests.rig.processes import until
from tests.rig.servers import free_port

SERVER = ROOT / ".venv/kubernetes/kube-apiserver"
NAMESPACES = ("identity", "shop", "gateways", "istio-ingress", "ingress-controller", "monitoring")
SCHEMAS = {
    "sigs.k8s.io/gateway-api@v1.6.3": (
        "h1:lKpJa5bGlraC/QeACvCpsHLdmO6y0iKfzVl6gzaFEYc=",
        "config/crd/experimental/gateway.networking.k8s.io_[!v]*.yaml",
    ),
    "istio.io/api@v1.32.0": (
        "h1:37mJvg9I0biYZAEQF+MATs4FNeCpXEIVO3LFpVb6iNM=",
        "kubernetes/customresourcedefinitions.gen.yaml",
    ),
    "github.com/envoyproxy/gateway@v1.9.1": (
        "h1:vAVp6/AlBXJ1aOhp1mxL7fNEzVEfjADUguUhm2wzxQY=",
        "charts/gateway-helm/charts/crds/crds/generated/*.yaml",
    ),
    "github.com/traefik/traefik/v3@v3.7.13": (
        "h1:T8wy9KuaFzCkmXCqAzDy7t73pBDR1DHrJe3pqXpNXTw=",
        "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml",
    ),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        "example/prometheus-operator-crd/*_servicemonitors.yaml",
        "example/prometheus-operator-crd/*_prometheusrules.yaml",
    ),
    "github.com/cert-manager/cert-manager@v1.21.2": (
        "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=",
        "deploy/crds/cert-manager.io_*.yaml",
    ),
}
"""Modules with the schemas (CustomResourceDefinitions) of their projects: checksum, and paths in them."""


def program(name):
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is missing (see make test-kubernetes)", pytrace=False)
    return path


class Cluster:
    """An API server and its store; ``with`` starts and ends both."""

    def __init__(self, folder, kubectl, helm):
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.config = folder / "kubeconfig"
        self.programs = {"kubectl": kubectl, "helm": helm}
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(self.home), "KUBECONFIG": str(self.config)}
        self.token = secrets.token_urlsafe(32)
        self.processes = []

    def __enter__(self):
        if not SERVER.exists():
            pytest.fail("kube-apiserver is missing: make test-kubernetes builds it", pytrace=False)
        key = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        (self.folder / "key.pem").write_bytes(key)
        (self.folder / "tokens.csv").write_text(f"{self.token},admin,admin,system:masters\n")
        client, peer, port = free_port(), free_port(), free_port()
        self.start(
            "etcd",
            program("etcd"),
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        )
        self.start(
            "apiserver",
            SERVER,
            f"--etcd-servers=http://127.0.0.1:{client}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={port}",
            f"--cert-dir={self.folder}/certificates",
            f"--token-auth-file={self.folder}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={self.folder}/key.pem",
            f"--service-account-key-file={self.folder}/key.pem",
        )
        cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
        self.config.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "users": [{"name": "u", "user": {"token": self.token}}],
                    "current-context": "c",
                }
            )
        )
        until(self.ready, "the API server is ready")
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            process.wait(60)

    def start(self, name, *command):
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder))

    def ready(self):
        for name, process in zip(("etcd", "apiserver"), self.processes, strict=True):
            assert process.poll() is None, (self.folder / f"{name}.log").read_text()[-4000:]
        return self.run("kubectl", "get", "--raw=/readyz", check=False).returncode == 0

    def run(self, name, *arguments, given=None, check=True):
        """The result of helm or kubectl."""
        result = subprocess.run(
            [self.programs[name], *map(str, arguments)],
            input=given,
            capture_output=True,
            text=True,
            timeout=300,
            env=self.environ,
        )
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result

    def kubectl(self, *arguments, given=None, check=True):
        return self.run("kubectl", *arguments, given=given, check=check)

    def helm(self, *arguments, check=True):
        return self.run("helm", *arguments, check=check)

    def get(self, kind, namespace):
        """The objects of a kind, by name."""
        found = json.loads(self.kubectl("get", kind, "--namespace", namespace, "--output=json").stdout)
        return {item["metadata"]["name"]: item for item in found["items"]}

    def namespace(self, name):
        """A namespace that admits only pods of the restricted standard."""
        levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
        account = {"apiVersion": "v1", "kind": "ServiceAccount"}
        objects = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": levels}},
            {**account, "metadata": {"name": "default", "namespace": name}},
            {**account, "metadata": {"name": "identity", "namespace": name}},
        ]
        self.kubectl("apply", "--filename=-", given=yaml.safe_dump_all(objects))
        return name


NOW = "2026-01-01T00:00:00Z"


def succeed(cluster, kind, name, namespace):
    """Say of a Job or a Pod that it has succeeded."""
    if kind == "job":
        conditions = [
            {"type": of, "status": "True", "lastTransitionTime": NOW}
            for of in ("SuccessCriteriaMet", "Complete")
        ]
        status = {"succeeded": 1, "startTime": NOW, "completionTime": NOW, "conditions": conditions}
    else:
        status = {"phase": "Succeeded"}
    patch = json.dumps({"status": status})
    options = ("--subresource=status", "--type=merge", f"--patch={patch}", "--namespace", namespace)
    cluster.kubectl("patch", kind, name, *options, check=False)


@contextlib.contextmanager
def succeeding(cluster, kind, namespace):
    """What helm waits for succeeds, while the block runs."""
    ended = threading.Event()

    def work():
        while not ended.wait(0.2):
            for name, item in cluster.get(kind, namespace).items():
                if (
                    not item.get("status", {}).get("succeeded")
                    and item.get("status", {}).get("phase") != "Succeeded"
                ):
                    succeed(cluster, kind, name, namespace)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def schemas():
    """The files with the schemas of all projects, from their Go modules."""
    for module, (checksum, *patterns) in SCHEMAS.items():
        result = subprocess.run(
            [program("go"), "mod", "download", "-json", module],
            capture_output=True,
            text=True,
            timeout=600,
            cwd="/",
        )
        downloaded = json.loads(result.stdout)
        assert downloaded.get("Sum") == checksum, downloaded.get("Error", f"another {module}")
        for pattern in patterns:
            files = sorted(Path(downloaded["Dir"]).glob(pattern))
            assert files, pattern
            yield from files


@pytest.fixture(scope="session")
def cluster(request, tmp_path_factory):
    programs = [unpacked(request.config.cache, name) for name in ("kubectl/kubectl", "helm/helm")]
    with Cluster(tmp_path_factory.mktemp("cluster"), *programs) as running:
        running.kubectl("create", *(f"--filename={file}" for file in schemas()))
        running.kubectl(
            "wait", "--for=condition=Established", "--all", "--timeout=120s", "customresourcedefinitions"
        )
        for name in NAMESPACES:
            running.namespace(name)
        yield running


@pytest.fixture
def namespace(cluster, request):
    """A namespace of the test's own."""
    return cluster.namespace(f"test-{secrets.token_hex(4)}")


@pytest.fixture
def chart_of_0_1(tmp_path):
    """The chart with the defaults of 0.1, as it was installed then."""
    chart = tmp_path / "revoker"
    shutil.copytree(CHART, chart)
    shutil.copy(ROOT / "tests/deploy/values-0.1.yaml", chart / "values.yaml")
    return chart
