"""What platforms ask of a chart: names, networks and users of their own, and upgrades without work."""

import json
import shutil
import tomllib

import pytest
import yaml

from revoker import __version__
from tests.deploy.conftest import CHART, CI_VALUES, Rendered
from tests.deploy.test_chart import LEAST

PLATFORM = CHART / "ci/platform-values.yaml"
EDGES = {CHART / "ci/edge-values.yaml", CHART / "ci/canary-values.yaml"}
VALUES_OF_0_1 = CHART.parent.parent / "tests/deploy/values-0.1.yaml"
SECRETS = {"revoker-callers", "revoker-valkey", "revoker-signing-keys", "revoker-refresh-key"}
"""They are new at every rendering without a cluster; so is the configuration with their digests."""


def pod_specs(rendered):
    return {name: spec for name, _, spec in rendered.pods}


def images(rendered):
    return {
        container["image"]
        for spec in pod_specs(rendered).values()
        for container in [*spec["containers"], *spec.get("initContainers", [])]
    }


def pull_secrets(spec):
    return [secret["name"] for secret in spec.get("imagePullSecrets", [])]


# Images


def test_a_registry_for_all_goes_before_every_image_of_the_chart(render):
    rendered = render({**LEAST, "global": {"imageRegistry": "mirror.example.com/apps/"}})
    assert images(rendered) == {
        f"mirror.example.com/apps/revoker:{__version__}",
        "mirror.example.com/apps/valkey/valkey:8.1-alpine",
    }
    digest = f"sha256:{'0' * 64}"
    pinned = render({**LEAST, "global.imageRegistry": "mirror.example.com", "image.digest": digest})
    assert f"mirror.example.com/revoker@{digest}" in images(pinned)


def test_every_pod_has_the_pull_secrets_once(render):
    for name, spec in pod_specs(render(PLATFORM)).items():
        assert pull_secrets(spec) == ["mirror", "registry"], name


def test_the_trial_valkey_may_have_pull_secrets_of_its_own(render):
    secrets = {"image.pullSecrets": [{"name": "ours"}], "valkey.image.pullSecrets": [{"name": "hub"}]}
    specs = pod_specs(render({**LEAST, **secrets}))
    assert pull_secrets(specs.pop("revoker-valkey")) == ["hub"]
    assert {tuple(pull_secrets(spec)) for spec in specs.values()} == {("ours",)}


# Users


def test_without_a_pinned_user_no_pod_names_one(render):
    for name, spec in pod_specs(render(PLATFORM)).items():
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & spec["securityContext"].keys(), name
        assert spec["securityContext"]["runAsNonRoot"] is True, name


def test_one_of_the_pins_may_go_alone_and_the_trial_valkey_may_have_others(render):
    rendered = render({**LEAST, "podSecurityContext.runAsUser": None, "valkey.podSecurityContext.fsGroup": 7})
    server = rendered.server["spec"]["template"]["spec"]["securityContext"]
    valkey = pod_specs(rendered)["revoker-valkey"]["securityContext"]
    assert "runAsUser" not in server
    assert server["fsGroup"] == 10001
    assert "runAsUser" not in valkey
    assert (valkey["runAsGroup"], valkey["fsGroup"]) == (1000, 7)


# Labels and annotations


def test_common_labels_are_on_every_object_and_pod_and_in_no_selector(render):
    rendered = render(PLATFORM)
    labelled = [obj["metadata"] for obj in rendered.objects] + [metadata for _, metadata, _ in rendered.pods]
    for metadata in labelled:
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "identity", metadata
    selectors = [obj["spec"]["selector"] for obj in rendered.objects if "selector" in obj.get("spec", {})]
    assert "part-of" not in json.dumps(selectors)


def test_labels_of_pods_win_over_common_ones_and_the_charts_own_over_both(render):
    labels = render(PLATFORM).server["spec"]["template"]["metadata"]["labels"]
    assert labels["cost-center"] == "4712"
    more = {"commonLabels": {"a/b": "c"}, "podLabels": {"app.kubernetes.io/name": "other"}}
    labels = render({**LEAST, **more}).server["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "revoker"


def test_annotations_of_the_deployment_are_not_those_of_its_pods(render):
    deployment = render(PLATFORM).server
    assert deployment["metadata"]["annotations"] == {"reloader.example.com/auto": "true"}
    assert "reloader.example.com/auto" not in deployment["spec"]["template"]["metadata"]["annotations"]


# Network


def test_the_service_has_the_families_and_the_address_that_the_platform_gives(render):
    spec = render(PLATFORM).one("Service", "revoker")["spec"]
    assert spec["type"] == "ClusterIP"
    assert spec["clusterIP"] == "None"
    assert (spec["ipFamilyPolicy"], spec["ipFamilies"]) == ("PreferDualStack", ["IPv6", "IPv4"])
    assert spec["trafficDistribution"] == "PreferSameZone"


def test_names_are_resolved_at_the_ports_of_the_platforms_dns(render):
    egress = render(PLATFORM).one("NetworkPolicy", "revoker")["spec"]["egress"]
    assert {(port["port"], port["protocol"]) for port in egress[0]["ports"]} == {(5353, "UDP"), (5353, "TCP")}
    more = {"networkPolicy.enabled": True, "networkPolicy.dns.ports": [53, 8053]}
    egress = render({**LEAST, **more}).one("NetworkPolicy", "revoker")["spec"]["egress"]
    assert sorted({port["port"] for port in egress[0]["ports"]}) == [53, 8053]


def test_the_job_resolves_names_like_the_pods_and_the_check_like_everybody(render):
    rendered = render(PLATFORM)
    specs = pod_specs(rendered)
    for name in ("revoker", "revoker-store-init"):
        assert specs[name]["dnsPolicy"] == "None"
        assert specs[name]["dnsConfig"]["nameservers"] == ["10.0.0.53"]
        assert specs[name]["hostAliases"][0]["ip"] == "10.0.7.12"
    assert "dnsPolicy" not in specs["revoker-check"]


# Containers


def test_a_tunnel_runs_before_the_store_is_declared_new_in_the_job_too(render):
    specs = pod_specs(render(PLATFORM))
    names = {
        name: ([item["name"] for item in spec.get("initContainers", [])], spec["containers"])
        for name, spec in specs.items()
    }
    assert names["revoker"][0] == ["tunnel", "store-init"]
    assert [item["name"] for item in names["revoker"][1]] == ["revoker", "log-shipper"]
    assert names["revoker-store-init"][0] == ["tunnel"]
    assert [item["name"] for item in names["revoker-store-init"][1]] == ["store-init"]


# Scaling and monitoring


def test_metrics_of_ones_own_replace_the_target_of_cpu(render):
    (metric,) = render(PLATFORM).one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["target"]["averageValue"] == "800"
    by_default = render({**LEAST, "autoscaling.enabled": True})
    (metric,) = by_default.one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["resource"]["target"] == {"type": "Utilization", "averageUtilization": 70}


def test_pods_that_are_not_ready_can_be_evicted(render):
    assert render(PLATFORM).one("PodDisruptionBudget")["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert "unhealthyPodEvictionPolicy" not in render(LEAST).one("PodDisruptionBudget")["spec"]


def test_the_monitor_has_its_job_label_and_relabelings_and_the_rules_their_namespace(render):
    rendered = render(PLATFORM)
    monitor = rendered.one("ServiceMonitor")["spec"]
    service = rendered.one("Service", "revoker")
    assert monitor["jobLabel"] in service["metadata"]["labels"], "the operator reads it from the Service"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["relabelings"] == [{"targetLabel": "cluster", "replacement": "eu-1"}]
    assert endpoint["metricRelabelings"][0]["action"] == "drop"
    assert rendered.one("PrometheusRule")["metadata"]["namespace"] == "monitoring"
    own = render({**LEAST, "prometheusRule.enabled": True}).one("PrometheusRule")
    assert "namespace" not in own["metadata"]


# Upgrades and repetition


def without_secrets(rendered):
    """All that must be the same when nothing has changed."""
    objects = json.loads(json.dumps([obj for obj in rendered.objects if obj["kind"] != "Secret"]))
    for obj in objects:
        if obj["kind"] == "ConfigMap":
            obj["data"].pop("revoker.toml", None)
            obj["data"].pop("edge.toml", None)
        if obj["kind"] in {"Deployment", "DaemonSet"}:
            (obj["spec"]["template"]["metadata"]["annotations"] or {}).pop("checksum/config", None)
    return objects


def configured(rendered):
    """The configurations of the service (none where it is the operator's), without digests of secrets."""
    found = [
        tomllib.loads(item["data"]["revoker.toml"])
        for item in rendered.all("ConfigMap")
        if "revoker.toml" in item["data"]
    ]
    for toml in found:
        for caller in toml["callers"]:
            del caller["secret_sha256"]
    return found


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_rendered_twice_it_is_the_same(helm, values):
    first, second = (
        Rendered(helm("template", "revoker", CHART, "--values", values).stdout) for _ in range(2)
    )
    assert {secret["metadata"]["name"] for secret in first.all("Secret")} <= SECRETS
    assert without_secrets(first) == without_secrets(second)


def test_values_of_0_1_in_full_render_what_the_defaults_do(render, tmp_path):
    issuers = tmp_path / "issuers.yaml"
    least = {"config": {"issuers": LEAST["config.issuers"]}, "valkey": {"enabled": True}}
    issuers.write_text(yaml.safe_dump(least))
    of_0_1 = render(VALUES_OF_0_1, "--values", issuers)
    assert without_secrets(of_0_1) == without_secrets(render(issuers))


@pytest.mark.parametrize("values", sorted(set(CI_VALUES) - EDGES), ids=lambda path: path.stem)
def test_an_upgrade_that_reuses_the_values_of_0_1_needs_none_of_the_new_ones(helm, render, tmp_path, values):
    """`helm upgrade --reuse-values` takes the defaults of the chart that is installed, not of the new one.

    Edges are new. To begin to use them, an upgrade takes the new defaults (``--reset-then-reuse-values``).
    """
    chart = tmp_path / "revoker"
    shutil.copytree(CHART, chart)
    shutil.copy(VALUES_OF_0_1, chart / "values.yaml")
    result = helm("template", "revoker", chart, "--namespace", "identity", "--values", values)
    assert result.returncode == 0, result.stderr
    of_0_1 = Rendered(result.stdout)
    assert configured(of_0_1) == configured(render(values)), "pods would be replaced"
    if values != PLATFORM:
        assert without_secrets(of_0_1) == without_secrets(render(values))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "commonLabels"),
        ({"service.ipFamilyPolicy": "Dual"}, "/service/ipFamilyPolicy"),
        ({"service.ipFamilies": ["ipv6"]}, "/service/ipFamilies/0"),
        ({"networkPolicy.dns.ports": []}, "/networkPolicy/dns/ports"),
        ({"podDisruptionBudget.unhealthyPodEvictionPolicy": "Never"}, "unhealthyPodEvictionPolicy"),
        ({"extraContainers": [{"image": "x"}]}, "/extraContainers/0"),
        ({"dnsPolicy": "cluster"}, "/dnsPolicy"),
        ({"global.imagePullSecrets": [7]}, "/global/imagePullSecrets/0"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(helm, change, name):
    given = [f"--set-json={key}={json.dumps(value)}" for key, value in {**LEAST, **change}.items()]
    result = helm("template", "revoker", CHART, *given)
    assert result.returncode != 0
    assert name in result.stderr


def test_as_a_part_of_another_chart_it_takes_globals_that_it_does_not_know(render):
    render({**LEAST, "global": {"storageClass": "fast"}})
