"""The manifests for controllers, taken by a server that has the schemas and rules of their projects."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.conftest import ROOT
from tests.kubernetes.conftest import program

MANIFESTS = ROOT / "deploy/gateways/kubernetes"
VALUES_ONLY = {"istio-mesh"}
"""No objects: values of Istio's chart."""


def apply(cluster, text, check=True):
    options = ("--server-side", "--dry-run=server", "--validate=strict", "--filename=-")
    return cluster.kubectl("apply", *options, given=text, check=check)


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(MANIFESTS.glob("*.yaml")) if path.stem not in VALUES_ONLY],
    ids=lambda path: path.stem,
)
def test_the_server_takes_the_manifest_strictly(cluster, path):
    result = apply(cluster, path.read_text())
    assert "Warning" not in result.stderr
    assert "unrecognized" not in result.stderr


def changed(file, kind, change):
    [item] = [item for item in yaml.safe_load_all((MANIFESTS / file).read_text()) if item["kind"] == kind]
    change(item["spec"])
    return yaml.safe_dump(item)


@pytest.mark.parametrize(
    ("file", "kind", "change"),
    [
        ("envoy-gateway.yaml", "SecurityPolicy", lambda spec: spec["extAuth"]["http"].update(path="/both")),
        ("envoy-gateway.yaml", "SecurityPolicy", lambda spec: spec["extAuth"].update(failopen=True)),
        ("envoy-gateway.yaml", "EnvoyProxy", lambda spec: spec["filterOrder"][0].update(before="ext_authz")),
        ("istio.yaml", "DestinationRule", lambda spec: spec["trafficPolicy"]["tls"].update(mode="CLIENT")),
        ("gateway-api.yaml", "HTTPRoute", lambda spec: spec["rules"][0]["filters"][0].pop("externalAuth")),
        ("traefik.yaml", "IngressRoute", lambda spec: spec["routes"][0].update(middleware=[])),
    ],
    ids=[
        "two paths",
        "misspelt field",
        "unknown filter",
        "unknown mode",
        "filter without settings",
        "misspelt list",
    ],
)
def test_a_mistake_would_be_found(cluster, file, kind, change):
    result = apply(cluster, changed(file, kind, change), check=False)
    assert result.returncode != 0
    assert not result.stderr.startswith("error: no matches for kind"), result.stderr


def read_by_istio(mesh_config):
    return subprocess.run(
        [program("go"), "run", "."],
        cwd=Path(__file__).parent / "meshconfig",
        input=json.dumps(mesh_config),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_mesh_configuration_is_what_istio_reads():
    config = yaml.safe_load((MANIFESTS / "istio-mesh.yaml").read_text())["meshConfig"]
    result = read_by_istio(config)
    assert result.returncode == 0, result.stderr
    config["extensionProviders"][0]["envoyExtAuthzHttp"]["failOpenn"] = False
    assert "failOpenn" in read_by_istio(config).stderr
