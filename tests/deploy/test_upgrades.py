"""What stands in the cluster when the chart is rendered again: it is kept, and not done again."""

import base64
import json

import pytest

from revoker.auth import digest
from tests.deploy.conftest import CHART, Rendered
from tests.deploy.kubernetes_api import KubernetesApi
from tests.deploy.test_chart import LEAST, toml_of

VALUES = {**LEAST, "config.sessions": {"issuer": "https://s.example.com", "audiences": ["a"]}}


@pytest.fixture
def cluster(tmp_path):
    with KubernetesApi(tmp_path) as running:
        yield running


@pytest.fixture
def deploy(helm, cluster):
    """Render the chart with a look at the cluster."""

    def rendered(values, fails=False):
        given = [f"--set-json={name}={json.dumps(value)}" for name, value in values.items()]
        result = helm(
            *("template", "revoker", CHART, "--namespace", "identity"),
            *("--dry-run=server", "--disable-openapi-validation", *given),
            KUBECONFIG=str(cluster.config),
        )
        assert (result.returncode != 0) == fails, result.stderr
        return result.stderr if fails else Rendered(result.stdout)

    return rendered


def test_an_upgrade_keeps_every_generated_secret(deploy, cluster):
    first = deploy(VALUES)
    for secret in first.all("Secret"):
        cluster.add(secret)

    again = deploy({**VALUES, "replicaCount": 5})

    names = {secret["metadata"]["name"] for secret in first.all("Secret")}
    assert names == {"revoker-callers", "revoker-valkey", "revoker-signing-keys", "revoker-refresh-key"}
    for name in names:
        assert again.one("Secret", name)["data"] == first.one("Secret", name)["data"]
    assert toml_of(again) == toml_of(first)
    annotations = [item.server["spec"]["template"]["metadata"]["annotations"] for item in (first, again)]
    assert annotations[0] == annotations[1], "the same configuration must not roll the pods"


def test_without_a_look_at_the_cluster_they_would_be_others(deploy):
    assert (
        deploy(VALUES).one("Secret", "-callers")["data"] != deploy(VALUES).one("Secret", "-callers")["data"]
    )


def test_a_new_caller_gets_a_secret_and_the_others_keep_theirs(deploy, cluster):
    first = deploy(LEAST).one("Secret", "-callers")
    cluster.add(first)
    callers = [{"name": name, "scopes": ["introspect"]} for name in ("gateway", "edge")]

    second = deploy({**LEAST, "callers": callers}).one("Secret", "-callers")

    assert second["data"]["gateway"] == first["data"]["gateway"]
    assert set(second["data"]) == {"gateway", "edge"}


def test_a_signing_key_that_an_operator_added_stays(deploy, cluster):
    keys = deploy(VALUES).one("Secret", "-signing-keys")
    keys["data"]["second.pem"] = base64.b64encode(b"another").decode()
    cluster.add(keys)
    assert deploy(VALUES).one("Secret", "-signing-keys")["data"] == keys["data"]


def test_once_the_config_map_exists_neither_it_nor_the_job_is_rendered(deploy, cluster):
    first = deploy(LEAST)
    cluster.add(first.one("ConfigMap", "-store"))

    again = deploy(LEAST)

    assert first.all("Job")
    assert again.all("Job") == []
    assert [
        config_map
        for config_map in again.all("ConfigMap")
        if config_map["metadata"]["name"] == "revoker-store"
    ] == []
    specs = [item.server["spec"] for item in (first, again)]
    for spec in specs:  # the two differ in the secrets' digests, since no Secret was kept here
        spec["template"]["metadata"]["annotations"].pop("checksum/config")
    assert specs[0] == specs[1], "that the job is gone must not roll the pods"


def test_callers_secrets_of_ones_own_are_read_and_not_made(deploy, cluster):
    values = {**LEAST, "callersSecret.existing": "mine"}
    assert "the Secret mine has no item gateway" in deploy(values, fails=True)
    secrets = {name: base64.b64encode(f"secret of {name}".encode()).decode() for name in ("gateway", "admin")}
    cluster.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}, "data": secrets})

    rendered = deploy(values)

    assert [caller["secret_sha256"] for caller in toml_of(rendered)["callers"]] == [
        [digest("secret of gateway")],
        [digest("secret of admin")],
    ]
    assert [secret["metadata"]["name"] for secret in rendered.all("Secret")] == ["revoker-valkey"]
