"""The chart on a real API server: every object admitted, and a release from its installation to its end."""

import json

import pytest
import yaml

from tests.deploy.conftest import CHART, CI_VALUES
from tests.kubernetes.conftest import succeeding

LEAST = CHART / "ci/trial-values.yaml"
PLATFORM = CHART / "ci/platform-values.yaml"
LEFT_ALONE = {"revoker-callers", "revoker-valkey"}


def templates(objects):
    """The pods that these objects make, as pods."""
    for item in objects:
        template = item if item["kind"] == "Pod" else item.get("spec", {}).get("template")
        if template is not None:
            metadata = {"name": f"{item['kind']}-{item['metadata']['name']}".lower()}
            spec = json.loads(json.dumps(template["spec"]))
            for claim in item.get("spec", {}).get("volumeClaimTemplates", []):
                spec["volumes"] = [
                    *spec.get("volumes", []),
                    {"name": claim["metadata"]["name"], "persistentVolumeClaim": {"claimName": "claim"}},
                ]
            spec.pop("serviceAccountName", None)
            spec.pop("priorityClassName", None)
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def rendered(cluster, values, namespace):
    result = cluster.helm("template", "revoker", CHART, "--namespace", namespace, "--values", values)
    objects = [item for item in yaml.safe_load_all(result.stdout) if item]
    for item in objects:
        item["metadata"].setdefault("namespace", namespace)
    return objects


def install(cluster, namespace, *arguments, chart=CHART, values=LEAST, command="install"):
    """Install or upgrade the release; a Job that helm waits for succeeds."""
    with succeeding(cluster, "job", namespace):
        options = ("--namespace", namespace, "--timeout", "180s")
        given = ("--values", values) if values else ()
        return cluster.helm(command, "revoker", chart, *options, *given, *arguments)


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_the_server_takes_every_object_strictly_and_warns_of_none(cluster, namespace, values):
    text = yaml.safe_dump_all(rendered(cluster, values, namespace))
    result = cluster.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"),
        given=text,
    )
    assert "Warning" not in result.stderr


def test_the_server_would_find_a_misspelt_field(cluster, namespace):
    objects = rendered(cluster, LEAST, namespace)
    [service] = [
        item for item in objects if item["kind"] == "Service" and item["metadata"]["name"] == "revoker"
    ]
    service["spec"]["clusterIp"] = "None"
    result = cluster.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"),
        *("--namespace", namespace),
        given=yaml.safe_dump(service),
        check=False,
    )
    assert result.returncode != 0
    assert "clusterIp" in result.stderr


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_every_pod_is_admitted_by_the_restricted_standard(cluster, namespace, values):
    pods = list(templates(rendered(cluster, values, namespace)))
    assert len(pods) >= 2
    cluster.kubectl(
        *("create", "--dry-run=server", "--validate=strict", "--filename=-", "--namespace", namespace),
        given=yaml.safe_dump_all(pods),
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("runAsNonRoot", False), ("seccompProfile", {"type": "Unconfined"}), ("runAsUser", 0)],
)
def test_a_pod_with_more_rights_would_not_be(cluster, namespace, field, value):
    pod = next(templates(rendered(cluster, LEAST, namespace)))
    pod["spec"]["securityContext"][field] = value
    result = cluster.kubectl(
        *("create", "--dry-run=server", "--filename=-", "--namespace", namespace),
        given=yaml.safe_dump(pod),
        check=False,
    )
    assert result.returncode != 0
    assert 'violates PodSecurity "restricted' in result.stderr


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_it_is_installed_and_what_is_in_the_cluster_is_what_was_rendered(cluster, namespace, values):
    result = install(cluster, namespace, values=values)
    assert "Warning" not in result.stderr
    assert "would violate PodSecurity" not in result.stderr
    [deployment] = [
        item
        for item in cluster.get("deployments", namespace).values()
        if item["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
    ]
    [service] = [
        item
        for item in cluster.get("services", namespace).values()
        if item["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
    ]
    assert service["spec"]["selector"].items() <= deployment["spec"]["selector"]["matchLabels"].items()
    if values == PLATFORM:
        assert service["spec"]["ipFamilies"] == ["IPv6", "IPv4"]
        cluster.helm("uninstall", "revoker", "--namespace", namespace)  # its rules are in another namespace


def test_the_check_is_run_by_helm(cluster, namespace):
    install(cluster, namespace)
    with succeeding(cluster, "pod", namespace):
        result = cluster.helm("test", "revoker", "--namespace", namespace, "--timeout", "180s")
    assert "Succeeded" in result.stdout


def test_a_release_is_upgraded_rolled_back_and_uninstalled(cluster, namespace):
    install(cluster, namespace)
    found = cluster.get("secrets", namespace)
    secrets = {name: item["data"] for name, item in found.items() if name in LEFT_ALONE}
    assert secrets.keys() == LEFT_ALONE
    assert "revoker-store" in cluster.get("configmaps", namespace)

    install(
        cluster, namespace, "--set=replicaCount=5", "--set=config.revocation.leeway=31", command="upgrade"
    )
    upgraded = cluster.get("deployments", namespace)["revoker"]
    assert upgraded["spec"]["replicas"] == 5
    assert cluster.get("jobs", namespace) == {}, "the store is declared new once"

    cluster.helm("rollback", "revoker", "1", "--namespace", namespace, "--timeout", "180s")
    rolled_back = cluster.get("deployments", namespace)["revoker"]
    assert rolled_back["spec"]["replicas"] == 2
    checksums = [
        item["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        for item in (upgraded, rolled_back)
    ]
    assert checksums[0] != checksums[1]
    for name, data in secrets.items():
        assert cluster.get("secrets", namespace)[name]["data"] == data

    cluster.helm("uninstall", "revoker", "--namespace", namespace)
    assert {*cluster.get("secrets", namespace)} == LEFT_ALONE
    assert {*cluster.get("configmaps", namespace)} - {"kube-root-ca.crt"} == {"revoker-store"}
    for kind in ("deployments", "statefulsets", "services", "poddisruptionbudgets", "jobs", "pods"):
        assert cluster.get(kind, namespace) == {}, kind

    install(cluster, namespace)  # takes over what was kept
    for name, data in secrets.items():
        assert cluster.get("secrets", namespace)[name]["data"] == data


@pytest.mark.parametrize("how", ["--reset-values", "--reuse-values", "--reset-then-reuse-values"])
def test_a_release_with_values_of_0_1_is_upgraded_without_a_change(cluster, namespace, chart_of_0_1, how):
    install(cluster, namespace, chart=chart_of_0_1)
    before = cluster.get("deployments", namespace)["revoker"]

    values = LEAST if how == "--reset-values" else None
    install(cluster, namespace, how, command="upgrade", values=values)

    after = cluster.get("deployments", namespace)["revoker"]
    assert after["spec"] == before["spec"], "no pod is replaced"
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    valkey = cluster.get("statefulsets", namespace)["revoker-valkey"]
    assert valkey["metadata"]["generation"] == 1


def test_new_values_can_be_set_on_a_release_that_has_none(cluster, namespace, chart_of_0_1):
    """The server refuses changes of selectors and other fields that are fixed: none of these is one."""
    install(cluster, namespace, chart=chart_of_0_1)
    changes = {
        "commonLabels": {"app.kubernetes.io/part-of": "identity"},
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
        "service": {"ipFamilyPolicy": "PreferDualStack", "trafficDistribution": "PreferSameZone"},
        "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
        "global": {"imageRegistry": "mirror.example.com", "imagePullSecrets": ["mirror"]},
    }
    given = [f"--set-json={name}={json.dumps(value)}" for name, value in changes.items()]
    install(cluster, namespace, *given, command="upgrade")
    pod = cluster.get("deployments", namespace)["revoker"]["spec"]["template"]
    assert pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "identity"
    assert "runAsUser" not in pod["spec"]["securityContext"]
    assert pod["spec"]["containers"][0]["image"].startswith("mirror.example.com/")
