"""The chart as helm renders it: valid for Kubernetes, safe, and what it says of the service is so."""

import base64
import json
import math
import re
import tomllib

import pytest
import yaml
from cloudcoil.models.cert_manager.v1 import Certificate
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from kubernetes_validate import ValidationError, validate
from kubernetes_validate.utils import SchemaNotFoundError

from revoker import __version__
from revoker.auth import Credentials, digest
from revoker.config.canary import settle_canary
from revoker.config.edge import settle_edge
from revoker.config.schema import settle
from revoker.from_settings import callers_of, issuers_of
from revoker.server.lifecycle import SHUTDOWN_SECONDS
from tests.deploy.conftest import CHART, CI_VALUES

VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
OLDEST, NEWEST = VERSIONS[0], VERSIONS[-1]
MODELS = {
    "monitoring.coreos.com/v1 ServiceMonitor": ServiceMonitor,
    "monitoring.coreos.com/v1 PrometheusRule": PrometheusRule,
    "cert-manager.io/v1 Certificate": Certificate,
}
"""Kinds that Kubernetes itself has no schema of; these are made from the schemas of their operators."""

BY_HAND = {"gateway.networking.k8s.io/v1 HTTPRoute"}
"""No Python package carries the schemas of the Gateway API: its shape is looked at below."""

LEAST = {
    "valkey.enabled": True,
    "config.issuers": [
        {
            "name": "main",
            "issuer": "https://idp.example.com",
            "audiences": ["api://orders"],
            "jwks_uri": "https://idp.example.com/jwks.json",
        }
    ],
}


def kind_of(rendered):
    return f"{rendered['apiVersion']} {rendered['kind']}"


def toml_of(rendered, name="revoker"):
    return tomllib.loads(rendered.one("ConfigMap", name)["data"]["revoker.toml"])


# Form


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_helm_lint_finds_nothing(helm, values):
    result = helm("lint", "--strict", CHART, "--values", values)
    assert result.returncode == 0, result.stdout + result.stderr


def test_helm_lint_is_strict_enough_to_find_something(helm):
    assert helm("lint", "--strict", CHART, "--set", "replicacount=3").returncode != 0


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_in_every_kubernetes_since_the_oldest(chart, version):
    unknown = set()
    for obj in chart.objects:
        try:
            validate(obj, version, strict=True)
        except SchemaNotFoundError:
            unknown.add(kind_of(obj))
    assert unknown <= MODELS.keys() | BY_HAND


def test_the_validation_would_find_a_misspelt_field(chart):
    broken = json.loads(json.dumps(chart.server))
    broken["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(ValidationError):
        validate(broken, NEWEST, strict=True)


def custom(rendered):
    return [obj for obj in rendered.objects if kind_of(obj) in MODELS]


def pruned(custom):
    """What is left of an object when it is read by its schema: unknown fields are not."""
    read = MODELS[kind_of(custom)].model_validate(custom)
    return read.model_dump(mode="json", by_alias=True, exclude_unset=True)


def test_every_custom_resource_is_what_its_operator_takes(chart):
    for item in custom(chart):
        assert pruned(item) == item


@pytest.mark.parametrize("kind", MODELS)
def test_a_misspelt_field_of_a_custom_resource_would_be_found(render, kind):
    rendered = render(CHART / "ci/production-values.yaml")
    broken = json.loads(json.dumps(next(item for item in custom(rendered) if kind_of(item) == kind)))
    broken["spec"]["selectr"] = {}
    assert pruned(broken) != broken


def test_the_chart_says_which_kubernetes_it_is_for():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"
    assert chart["appVersion"] == __version__


def test_ci_values_between_them_render_every_template(helm):
    seen = set()
    for values in CI_VALUES:
        out = helm("template", "revoker", CHART, "--values", values).stdout
        seen |= set(re.findall(r"^# Source: revoker/(\S+)$", out, re.MULTILINE))
    files = {str(path.relative_to(CHART)) for path in CHART.glob("templates/**/*.yaml")}
    assert seen == files


# Custom resources, by hand


def test_the_service_monitor_finds_the_ops_port_of_the_service(render):
    rendered = render(CHART / "ci/production-values.yaml")
    monitor, service = rendered.one("ServiceMonitor")["spec"], rendered.one("Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["path"] == "/metrics"
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert rendered.one("ServiceMonitor")["metadata"]["labels"]["release"] == "prometheus"


def test_the_prometheus_rule_holds_the_rules(render):
    rule = render(CHART / "ci/production-values.yaml").one("PrometheusRule")
    rules = yaml.safe_load((CHART.parent.parent / "deploy/monitoring/rules.yaml").read_text())
    assert rule["spec"] == rules
    for group in rule["spec"]["groups"]:
        assert group["rules"]
        for item in group["rules"]:
            assert isinstance(item["expr"], str)
            assert ("alert" in item) != ("record" in item)


def test_alerts_link_to_the_runbook_wherever_it_is(render):
    rule = render(
        {**LEAST, "prometheusRule.enabled": True, "prometheusRule.runbook": "https://wiki.example/revoker"}
    ).one("PrometheusRule")
    alerts = [item for group in rule["spec"]["groups"] for item in group["rules"] if "alert" in item]
    for alert in alerts:
        url = f"https://wiki.example/revoker#{alert['alert'].lower()}"
        assert alert["annotations"]["runbook_url"] == url


def test_the_route_leads_to_the_service(render):
    rendered = render(CHART / "ci/production-values.yaml")
    route, service = rendered.one("HTTPRoute")["spec"], rendered.one("Service")
    assert route["parentRefs"] == [{"name": "internal", "namespace": "gateways"}]
    (rule,) = route["rules"]
    (backend,) = rule["backendRefs"]
    assert backend["name"] == service["metadata"]["name"]
    assert backend["port"] in {port["port"] for port in service["spec"]["ports"]}
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]


def test_the_certificate_covers_the_names_of_the_service_and_is_what_is_mounted(render):
    rendered = render(CHART / "ci/production-values.yaml")
    certificate = rendered.one("Certificate")["spec"]
    assert {"revoker", "revoker.identity.svc", "revoker.internal.example.com"} <= set(certificate["dnsNames"])
    assert certificate["issuerRef"] == {
        "name": "internal",
        "kind": "ClusterIssuer",
        "group": "cert-manager.io",
    }
    volumes = {volume["name"]: volume for volume in rendered.server["spec"]["template"]["spec"]["volumes"]}
    assert volumes["tls"]["secret"]["secretName"] == certificate["secretName"]


def test_the_dashboard_is_the_one_of_deploy_monitoring(render):
    data = render(CHART / "ci/production-values.yaml").one("ConfigMap", "-dashboard")["data"]
    dashboard = CHART.parent.parent / "deploy/monitoring/dashboard.json"
    assert json.loads(data["revoker.json"]) == json.loads(dashboard.read_text())


# Safety


def test_no_pod_may_do_more_than_the_restricted_standard_lets_it(chart):
    seen = 0
    for name, _, spec in chart.pods:
        seen += 1
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True, name
        assert pod.get("runAsUser") != 0, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        allowed = {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
        for volume in spec.get("volumes", []):
            assert len(allowed & volume.keys()) == 1, (name, volume)
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["requests"], name
            assert container["resources"]["limits"]["memory"], name
    assert seen >= 2


def test_no_secret_is_in_a_config_map_or_a_manifest_that_is_no_secret(chart):
    secrets = {
        base64.b64decode(value).decode()
        for item in chart.all("Secret")
        for value in (item.get("data") or {}).values()
    }
    others = json.dumps([obj for obj in chart.objects if obj["kind"] != "Secret"])
    for secret in secrets:
        assert json.dumps(secret.strip())[1:-1] not in others


def test_generated_secrets_have_256_bits_and_survive_the_end_of_the_release(render):
    for values in (LEAST, {**LEAST, "config.sessions": {"issuer": "https://s.example", "audiences": ["a"]}}):
        rendered = render(values)
        generated = rendered.all("Secret")
        assert {item["metadata"]["annotations"]["helm.sh/resource-policy"] for item in generated} == {"keep"}
        callers = rendered.one("Secret", "-callers")["data"]
        plain = {name: base64.b64decode(value).decode() for name, value in callers.items()}
        assert set(plain) == {"gateway", "admin"}
        for secret in plain.values():
            assert len(base64.urlsafe_b64decode(secret + "=")) == 32
        assert len(set(plain.values())) == 2


def test_the_configuration_has_the_digests_of_the_generated_secrets(render):
    rendered = render(LEAST)
    secrets = rendered.one("Secret", "-callers")["data"]
    for caller in toml_of(rendered)["callers"]:
        assert caller["secret_sha256"] == [digest(base64.b64decode(secrets[caller["name"]]).decode())]


def test_callers_with_digests_of_their_own_get_no_secret(render):
    rendered = render(CHART / "ci/production-values.yaml")
    assert rendered.all("Secret") == []
    assert [len(caller["secret_sha256"]) for caller in toml_of(rendered)["callers"]] == [1, 2]


def test_the_password_of_the_sentinels_is_in_the_secret_of_the_store(render):
    secret = {"name": "credentials", "passwordKey": "store", "sentinelPasswordKey": "sentinels"}
    rendered = render({**LEAST, "valkey.enabled": False, "redis.existingSecret": secret} | {
        "config.redis.url": "redis+sentinel://a:26379,b:26379,c:26379/main"
    })  # fmt: skip
    redis = toml_of(rendered)["redis"]
    [volume] = [
        item for item in rendered.server["spec"]["template"]["spec"]["volumes"] if item["name"] == "redis"
    ]
    paths = {item["key"]: item["path"] for item in volume["secret"]["items"]}
    assert redis["password_file"] == f"/etc/revoker/redis/{paths['store']}"
    assert redis["sentinel_password_file"] == f"/etc/revoker/redis/{paths['sentinels']}"


# Inner agreement


def test_selectors_match_the_pods_they_mean_and_no_others(chart):
    pods = [(name, meta["labels"]) for name, meta, _ in chart.pods]
    server = chart.server["metadata"]["name"]

    def chosen(selector):
        wanted = selector.get("matchLabels", {})
        return {name for name, labels in pods if wanted.items() <= labels.items()}

    for kind in ("Deployment", "StatefulSet"):
        for item in chart.all(kind):
            assert chosen(item["spec"]["selector"]) == {item["metadata"]["name"]}
    for service in chart.all("Service"):
        name = service["metadata"]["name"].removesuffix("-pods")  # a headless one besides
        assert chosen({"matchLabels": service["spec"]["selector"]}) == {name}
    for pod_disruption_budget in chart.all("PodDisruptionBudget"):
        assert chosen(pod_disruption_budget["spec"]["selector"]) == {server}
    for spread in chart.server["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
        assert chosen(spread["labelSelector"]) == {server}
    for horizontal_pod_autoscaler in chart.all("HorizontalPodAutoscaler"):
        assert horizontal_pod_autoscaler["spec"]["scaleTargetRef"]["name"] == server
        assert "replicas" not in chart.server["spec"]


def test_every_volume_is_mounted_and_every_mount_is_a_volume(chart):
    for name, _, spec in chart.pods:
        containers = [*spec["containers"], *spec.get("initContainers", [])]
        mounted = {mount["name"] for container in containers for mount in container.get("volumeMounts", [])}
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        volumes |= {"data"} if name.endswith("-valkey") else set()
        assert mounted == volumes, name


def test_every_file_that_the_configuration_names_is_mounted(chart):
    spec = chart.server["spec"]["template"]["spec"]
    volumes = {entry["name"]: entry for entry in spec["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in spec["containers"][0]["volumeMounts"]}
    for config in chart.all("ConfigMap"):
        for path in re.findall(r"/etc/revoker/[^\"&?]+", config["data"].get("revoker.toml", "")):
            folder, _, file = path.rpartition("/")
            if path in mounts:
                continue
            volume = mounts[folder]
            items = volume.get("secret", {}).get("items")
            assert items is None or file in {item["path"] for item in items}, path


def test_the_ports_of_pods_services_and_configuration_are_the_same(render):
    rendered = render(CHART / "ci/production-values.yaml")
    server = toml_of(rendered)["server"]
    (container,) = rendered.server["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": server["port"], "ops": server["ops_port"]}
    targets = {port["targetPort"] for port in rendered.one("Service")["spec"]["ports"]}
    assert targets == set(ports)


def test_the_time_to_end_is_enough_for_waiting_draining_and_finishing(render):
    for drain in (0, 5, 7.5, 60):
        rendered = render({**LEAST, "config.server.drain_seconds": drain})
        spec = rendered.server["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert stop == math.ceil(drain)
        assert toml_of(rendered)["server"]["drain_seconds"] == drain
        assert spec["terminationGracePeriodSeconds"] >= stop + drain + 2 * SHUTDOWN_SECONDS + 5


def test_a_change_of_configuration_rolls_the_pods_and_nothing_else_does(render):
    values = {**LEAST, "callers": [{"name": "edge", "scopes": ["introspect"], "secret_sha256": ["1" * 64]}]}

    def checksum(**changes):
        template = render({**values, **changes}).server["spec"]["template"]
        return template["metadata"]["annotations"]["checksum/config"]

    assert checksum() == checksum()
    assert checksum() != checksum(**{"config.revocation.leeway": 31})
    assert checksum() != checksum(**{"callers[0].secret_sha256[0]": "2" * 64})
    assert checksum() == checksum(replicaCount=5)


# The store is declared new once


def test_pods_and_job_declare_the_store_new_unless_the_config_map_is_there(render):
    rendered = render(LEAST, release="prod")
    name = "prod-store"
    job, note = rendered.one("Job"), rendered.one("ConfigMap", name)
    for spec in (rendered.server["spec"]["template"]["spec"], job["spec"]["template"]["spec"]):
        (container,) = [
            item
            for item in [*spec.get("initContainers", []), *spec["containers"]]
            if item["name"] == "store-init"
        ]
        guard = container["args"][container["args"].index("--unless") + 1]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        folder, _, file = guard.rpartition("/")
        volume = next(item for item in spec["volumes"] if item["name"] == mounts[folder])
        assert volume["configMap"] == {"name": name, "optional": True}
        assert file in note["data"]


def test_the_config_map_comes_after_the_job_and_stays(render):
    rendered = render(LEAST)
    job, note = (
        rendered.one(kind, ending)["metadata"]["annotations"]
        for kind, ending in (("Job", "-store-init"), ("ConfigMap", "-store"))
    )
    assert job["helm.sh/hook"] == note["helm.sh/hook"] == "post-install,post-upgrade"
    assert int(job["helm.sh/hook-weight"]) < int(note["helm.sh/hook-weight"])
    assert note["helm.sh/resource-policy"] == "keep"
    assert "before-hook-creation" not in note["helm.sh/hook-delete-policy"]


def test_where_it_is_not_wanted_nothing_declares_the_store_new(render):
    rendered = render({**LEAST, "store.init": False})
    assert rendered.all("Job") == []
    assert "initContainers" not in rendered.server["spec"]["template"]["spec"]
    assert [
        config_map
        for config_map in rendered.all("ConfigMap")
        if config_map["metadata"]["name"].endswith("-store")
    ] == []


# Network


def test_the_network_policy_lets_in_gateways_and_prometheus_alone(render):
    spec = render(CHART / "ci/production-values.yaml").one("NetworkPolicy")["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    peers = {
        rule["ports"][0]["port"]: [
            next(iter(item.values()))["matchLabels"]
            for item in rule["from"]
            if item.keys() == {"namespaceSelector"}
        ]
        for rule in spec["ingress"]
    }
    assert peers == {
        "http": [{"kubernetes.io/metadata.name": "gateways"}],
        "ops": [{"kubernetes.io/metadata.name": "monitoring"}],
    }
    out = [(sorted({port["port"] for port in rule["ports"]}), rule["to"]) for rule in spec["egress"]]
    assert [ports for ports, _ in out] == [[53], [6379], [443]]
    assert out[1][1] == [{"ipBlock": {"cidr": "10.0.7.12/32"}}]
    assert out[2][1] == [{"ipBlock": {"cidr": "203.0.113.0/24"}}]


def test_the_console_is_reached_by_its_own_ingress_at_one_path(render):
    rendered = render(CHART / "ci/console-values.yaml")
    [ingress] = rendered.all("Ingress")
    [rule] = ingress["spec"]["rules"]
    [path] = rule["http"]["paths"]
    assert (rule["host"], path["path"]) == ("revoker-admin.example.com", "/console")
    assert path["backend"]["service"] == {"name": "revoker", "port": {"name": "ops"}}
    assert ingress["spec"]["tls"] == [
        {"hosts": ["revoker-admin.example.com"], "secretName": "revoker-admin-tls"}
    ]
    policy = rendered.one("NetworkPolicy")["spec"]
    [ops] = [rule for rule in policy["ingress"] if rule["ports"][0]["port"] == "ops"]
    assert [peer for peer in ops["from"] if "namespaceSelector" in peer] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}
    ]
    console = toml_of(rendered)["console"]
    assert console["client_secret_file"] == "/etc/revoker/console/client-secret"
    assert console["roles_claim"] == ["realm_access", "roles"]


def test_without_a_console_there_is_nothing_of_it(render):
    rendered = render(LEAST)
    assert "console" not in toml_of(rendered)
    assert [item for item in rendered.all("Ingress") if "console" in item["metadata"]["name"]] == []


def test_a_network_policy_lets_out_to_sentinels_too(render):
    to = [{"ipBlock": {"cidr": "10.0.7.0/29"}}]
    policy = {"networkPolicy.enabled": True, "networkPolicy.redis": {"to": to, "ports": [26379]}}
    spec = render({**LEAST, **policy}).one("NetworkPolicy", "revoker")["spec"]
    [store] = [rule for rule in spec["egress"] if rule["to"] == to]
    assert [port["port"] for port in store["ports"]] == [6379, 26379]


def test_a_network_policy_without_peers_lets_nobody_in(render):
    spec = render({**LEAST, "networkPolicy.enabled": True}).one("NetworkPolicy", "revoker")["spec"]
    for rule in spec["ingress"]:
        (own_check,) = rule["from"]
        assert own_check["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"
    for rule in spec["egress"]:
        assert rule["to"], "an empty list would mean everywhere"


# Values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replicacount": 3}, "replicacount"),
        ({"config.redis.url": 7}, "/config/redis/url"),
        ({"config.server.port": 1}, "port"),
        ({"config.revocation.data_loss": "shrug"}, "/config/revocation/data_loss"),
        ({"callers": [{"name": "x", "scopes": ["everything"]}]}, "/callers/0/scopes/0"),
        ({"config.issuers": []}, "at least one issuer"),
        ({"valkey.enabled": False}, "config.redis.url"),
        ({"tls.enabled": True}, "tls.existingSecret"),
        ({"tls.enabled": True, "tls.certManager.enabled": True}, "issuerRef"),
        ({"callersSecret.existing": "mine"}, "the Secret mine has no item gateway"),
        ({"httpRoute.enabled": True}, "parentRefs"),
        ({"ingress.enabled": True}, "ingress.hosts"),
        ({"console.ingress.enabled": True}, "config.console.url"),
        ({"config.console": {"secret_sign_in": True}}, "secret_sign_in"),
        ({"image.digest": "latest"}, "/image/digest"),
    ],
)
def test_values_that_are_wrong_are_refused_with_their_name(helm, change, message):
    given = [f"--set-json={name}={json.dumps(value)}" for name, value in {**LEAST, **change}.items()]
    result = helm("template", "revoker", CHART, *given)
    assert result.returncode != 0
    assert message in result.stderr


def test_every_value_has_a_line_that_says_what_it_is_for():
    text = (CHART / "values.yaml").read_text()
    for name in yaml.safe_load(text):
        block = re.search(rf"((?:^#.*\n)*)^{name}:.*\n((?:^[ ].*\n)*)", text, re.MULTILINE)
        assert "#" in block[0], name


# What a person is message


def test_the_notes_give_three_commands(helm):
    given = [f"--set-json={name}={json.dumps(value)}" for name, value in LEAST.items()]
    result = helm("install", "revoker", CHART, "--dry-run=client", "--namespace", "identity", *given)
    assert result.returncode == 0, result.stderr
    notes = result.stdout.partition("NOTES:")[2]
    assert [line[2:4] for line in notes.splitlines() if re.match(r"  # \d\. ", line)]
    for command in (
        "helm test revoker --namespace identity",
        "port-forward service/revoker",
        "get secret revoker-callers",
    ):
        assert command in notes


def test_the_port_of_grpc_is_that_of_the_configuration(render):
    without = render({**LEAST, "networkPolicy.enabled": True})
    rendered = render({**LEAST, "networkPolicy.enabled": True, "config.server.grpc_port": 9191})

    def ports(chart):
        [container] = chart.server["spec"]["template"]["spec"]["containers"]
        policies = [
            policy for policy in chart.all("NetworkPolicy") if policy["metadata"]["name"] == "revoker"
        ]
        return (
            {port["name"]: port["containerPort"] for port in container["ports"]},
            {port["name"]: port["port"] for port in chart.one("Service", "revoker")["spec"]["ports"]},
            [port["port"] for port in policies[0]["spec"]["ingress"][0]["ports"]],
        )

    assert [("grpc" in found) for found in ports(without)] == [False, False, False]
    container, service, policy = ports(rendered)
    assert (container["grpc"], service["grpc"], policy) == (9191, 9191, ["http", "grpc"])
    assert toml_of(rendered)["server"]["grpc_port"] == 9191


def test_trusted_proxies_reach_the_configuration(render):
    rendered = render({**LEAST, "config.server.trusted_proxies": ["10.0.0.0/8"]})
    assert toml_of(rendered)["server"]["trusted_proxies"] == ["10.0.0.0/8"]


def test_traces_are_off_until_an_endpoint_is_given(render):
    endpoint, collector = "http://collector:4318", [{"namespaceSelector": {}}]
    policy = {**LEAST, "networkPolicy.enabled": True, "networkPolicy.otel.to": collector}
    traced = {"otel.endpoint": endpoint, "otel.env": {"OTEL_RESOURCE_ATTRIBUTES": "a=b"}}

    def found(chart):
        [container] = chart.server["spec"]["template"]["spec"]["containers"]
        out = chart.one("NetworkPolicy", "revoker")["spec"]["egress"]
        ports = [port["port"] for rule in out if rule["to"] == collector for port in rule["ports"]]
        return {v["name"]: v["value"] for v in container["env"] if v["name"].startswith("OTEL_")}, ports

    assert found(render(policy)) == ({}, [])
    assert found(render({**policy, **traced})) == (
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.01",
            "OTEL_RESOURCE_ATTRIBUTES": "a=b",
        },
        [4318],
    )


# Edges


def test_an_edge_on_every_node_follows_the_service(render, tmp_path):
    rendered = render(CHART / "ci/edge-values.yaml")
    edges, service = rendered.one("DaemonSet"), rendered.one("Service", "revoker-edge")
    labels = edges["spec"]["template"]["metadata"]["labels"]
    assert edges["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["internalTrafficPolicy"] == "Local"
    container = edges["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["edge"]
    text = rendered.one("ConfigMap", "revoker-edge")["data"]["edge.toml"]
    values = tomllib.loads(text)
    assert values["upstream"]["url"] == ["http://revoker.identity.svc:8080"]
    assert values["upstream"]["beyond"] == "ask"
    [caller] = [caller for caller in toml_of(rendered)["callers"] if caller["name"] == "edge"]
    assert set(caller["scopes"]) == {"feed", "introspect"}
    secret = base64.b64decode(rendered.one("Secret", "callers")["data"]["edge"]).decode()
    assert caller["secret_sha256"] == [digest(secret)]
    for path, content in (("upstream/secret", secret), ("jwks/main.json", '{"keys": []}')):
        file = tmp_path / path
        file.parent.mkdir()
        file.write_text(content)
    settings = settle_edge(tomllib.loads(text.replace("/etc/revoker", str(tmp_path))), {})
    assert [caller.name for caller in settings.callers] == ["gateway", "admin"]
    assert settings.sessions is not None
    policy = rendered.one("NetworkPolicy", "revoker")["spec"]
    assert edges["spec"]["selector"]["matchLabels"] in [
        peer["podSelector"]["matchLabels"] for peer in policy["ingress"][0]["from"] if "podSelector" in peer
    ]


def test_edges_may_have_a_secret_of_your_own(render):
    own = {"edge.enabled": True, "edge.existingSecret": {"name": "feed", "key": "token"}}
    rendered = render({**LEAST, **own})
    assert "edge" not in [caller["name"] for caller in toml_of(rendered)["callers"]]
    volumes = rendered.one("DaemonSet")["spec"]["template"]["spec"]["volumes"]
    [secret] = [volume["secret"] for volume in volumes if volume["name"] == "upstream"]
    assert secret == {"secretName": "feed", "items": [{"key": "token", "path": "secret"}]}


CANARY = CHART / "ci/canary-values.yaml"


def canary_settings(rendered, folder):
    """The configuration of the rendered canary, with files in place of its mounts."""
    (folder / "canary").mkdir()
    for name in ("canary.key", "canary.secret"):
        (folder / "canary" / name).write_text("contents")
    text = rendered.one("ConfigMap", "revoker-canary")["data"]["canary.toml"]
    return settle_canary(tomllib.loads(text.replace("/etc/revoker", str(folder))), {})


def test_a_canary_asks_the_service_and_every_edge(render, tmp_path):
    rendered = render(CANARY)
    settings = canary_settings(rendered, tmp_path)
    assert settings.upstream.url == "http://revoker.identity.svc:8080"
    assert (settings.canary.every_seconds, settings.canary.timeout_seconds) == (30, 7.5)
    assert [(target.name, target.url, target.all_addresses) for target in settings.targets] == [
        ("service", "http://revoker.identity.svc:8080", False),
        ("edges", "http://revoker-edge-pods.identity.svc:8080", True),
    ]
    pods = rendered.one("Service", "revoker-edge-pods")["spec"]
    assert pods["clusterIP"] == "None"
    edges = rendered.one("DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert pods["selector"].items() <= edges.items()

    deployment = rendered.one("Deployment", "revoker-canary")["spec"]
    pod = deployment["template"]["spec"]
    assert deployment["replicas"] == 1
    assert pod["containers"][0]["args"] == ["canary"]
    assert pod["nodeSelector"] == {"pool": "monitoring"}
    [secret] = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "canary"]
    assert secret == {"secretName": "revoker-canary"}


def test_service_and_edges_know_the_issuer_and_the_caller_of_the_canary(render):
    rendered = render(CANARY)
    edge = tomllib.loads(rendered.one("ConfigMap", "revoker-edge")["data"]["edge.toml"])
    for values in (toml_of(rendered), edge):
        [issuer] = [issuer for issuer in values["issuers"] if issuer["name"] == "canary"]
        assert (issuer["issuer"], issuer["audiences"]) == ("urn:revoker:canary", ["urn:revoker:canary"])
        assert issuer["restricted"] is True
        [caller] = [caller for caller in values["callers"] if caller["name"] == "canary"]
        assert (caller["secret_sha256"], caller["issuers"]) == (["1" * 64], ["canary"])
        assert [issuer["name"] for issuer in values["issuers"]] == ["main", "canary"]
    assert rendered.one("ConfigMap", "revoker-jwks")["data"] == {"canary.json": '{"keys": []}'}
    assert "canary" not in rendered.one("Secret", "callers")["data"]
    for kind, name in (("Deployment", "revoker"), ("DaemonSet", "revoker-edge")):
        pod = rendered.one(kind, name)["spec"]["template"]["spec"]
        mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert "/etc/revoker/jwks" in mounts


def test_a_canary_is_scraped_and_reaches_whom_it_asks(render):
    rendered = render(CANARY)
    labels = rendered.one("Deployment", "revoker-canary")["spec"]["selector"]["matchLabels"]
    service = rendered.one("Service", "revoker-canary")
    [expression] = rendered.one("ServiceMonitor")["spec"]["selector"]["matchExpressions"]
    assert service["metadata"]["labels"]["app.kubernetes.io/component"] in expression["values"]
    for name in ("revoker", "revoker-edge"):
        policy = rendered.one("NetworkPolicy", name)["spec"]
        allowed = [
            peer["podSelector"]["matchLabels"]
            for rule in policy["ingress"]
            if {"port": "http", "protocol": "TCP"} in rule["ports"]
            for peer in rule["from"]
            if "podSelector" in peer
        ]
        assert labels in allowed, name
    [rule] = rendered.one("NetworkPolicy", "revoker-canary")["spec"]["ingress"]
    assert rule["ports"] == [{"port": "ops", "protocol": "TCP"}]


@pytest.mark.parametrize("name", ["edge", "own"])
def test_an_edge_that_asks_the_service_may_ask_about_tokens_of_the_canary(render, tmp_path, name):
    own = {"name": "own", "secret_sha256": [digest("own secret")], "scopes": ["feed", "introspect"]}
    edge = ("--set", f"edge.upstream.beyond=ask,edge.caller={name}")
    rendered = render(CANARY, *edge, "--set-json", f"callers={json.dumps([own])}")
    (tmp_path / "jwks").mkdir()
    (tmp_path / "jwks/canary.json").write_text('{"keys": []}')
    text = rendered.one("ConfigMap", "revoker")["data"]["revoker.toml"]
    settings = settle(tomllib.loads(text.replace("/etc/revoker", str(tmp_path))), {})
    secret = "own secret"
    if name == "edge":
        secret = base64.b64decode(rendered.one("Secret", "callers")["data"]["edge"]).decode()
    callers = callers_of(settings, issuers_of(settings))
    caller = callers.authenticate(Credentials(f"Bearer {secret}", None, None))
    assert (caller.name, caller.default_issuer.name) == (name, "main")
    assert "urn:revoker:canary" in caller.issuers


def test_a_canary_asks_edges_by_a_name_that_every_certificate_has(render, tmp_path):
    tls = ("--set", "tls.enabled=true", "--set")
    rendered = render(CANARY, *tls, "tls.existingSecret=own")
    service, edges = canary_settings(rendered, tmp_path).targets
    assert edges.url == "https://revoker-edge-pods.identity.svc:8080"
    assert edges.server_name == "revoker.identity.svc"
    edge = tomllib.loads(rendered.one("ConfigMap", "revoker-edge")["data"]["edge.toml"])
    assert edge["upstream"]["url"] == [service.url] == [f"https://{edges.server_name}:8080"]

    made = render(CANARY, *tls, "tls.certManager.enabled=true,tls.certManager.issuerRef.name=ca")
    names = made.one("Certificate")["spec"]["dnsNames"]
    assert {"revoker.identity.svc", "revoker-edge.identity.svc"} <= set(names)
    assert not any("edge-pods" in name for name in names)


def test_targets_and_upstream_of_a_canary_may_be_your_own(helm, render, tmp_path):
    gateway = {"name": "orders", "kind": "http", "url": "https://orders.example.com/canary"}
    own = {
        "canary.enabled": True,
        "canary.existingSecret": "own",
        "canary.secretSha256": "1" * 64,
        "canary.jwks": "{}",
        "canary.targets": [gateway],
        "canary.upstream": {"url": "https://revoker.example.com"},
    }
    settings = canary_settings(render({**LEAST, **own}), tmp_path)
    assert settings.upstream.url == "https://revoker.example.com"
    assert [(target.name, target.kind) for target in settings.targets] == [("orders", "http")]
    for name in ("existingSecret", "secretSha256", "jwks"):
        result = helm("template", CHART, "--values", CANARY, "--set", f"canary.{name}=")
        assert f"canary.{name}: " in result.stderr
