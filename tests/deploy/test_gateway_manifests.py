"""The manifests for controllers: what they pass on and copy, where the key is, and that they fail closed.

Their schemas are tried by tests/kubernetes, on a real API server.
"""

import re

import pytest
import yaml
from cloudcoil.models.cert_manager.v1 import Certificate, Issuer
from kubernetes_validate import validate
from kubernetes_validate.utils import SchemaNotFoundError

from tests.deploy.conftest import ROOT
from tests.deploy.test_chart import NEWEST

MANIFESTS = ROOT / "deploy/gateways/kubernetes"
FILES = sorted(MANIFESTS.glob("*.yaml"))
IDENTITY = {"x-auth-subject", "x-auth-session", "x-auth-client", "x-auth-scope"}
OF_REVOKER = {"x-revoker-key", "x-revoker-require", "x-revoker-cookie"}


def objects(name):
    return [found for found in yaml.safe_load_all((MANIFESTS / f"{name}.yaml").read_text()) if found]


def one(file, kind, name=None):
    [found] = [
        item for item in objects(file) if item["kind"] == kind and name in {None, item["metadata"]["name"]}
    ]
    return found


def lowered(names):
    return {name.strip().lower() for name in (names.split(",") if isinstance(names, str) else names)}


def annotations(file, prefix):
    found = one(file, "Ingress")["metadata"]["annotations"]
    return {key.removeprefix(prefix): value for key, value in found.items()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_kubernetes_itself_knows_is_valid(path):
    for item in objects(path.stem):
        if "kind" in item:
            try:
                validate(item, NEWEST, strict=True)
            except SchemaNotFoundError:
                assert "." in item["apiVersion"], item["kind"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_page_names_the_file(path):
    assert f"deploy/gateways/kubernetes/{path.name}" in (ROOT / "docs/kubernetes-gateways.md").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_secret_is_in_a_manifest(path):
    text = re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE)
    values = re.findall(r"X-Revoker-Key: +(\S+)", text, re.IGNORECASE)
    assert set(values) <= ({"change-me"} if path.stem == "ingress-nginx" else {'""'})


def test_certificates_are_what_cert_manager_takes():
    for item in objects("client-certificate"):
        model = {"Certificate": Certificate, "Issuer": Issuer}[item["kind"]]
        read = model.model_validate(item).model_dump(mode="json", by_alias=True, exclude_unset=True)
        assert read == item
    client = one("client-certificate", "Certificate", "revoker-client")["spec"]
    assert client["usages"] == ["client auth"]
    assert client["issuerRef"]["name"] == "callers"


def test_envoy_gateway():
    auth = one("envoy-gateway", "SecurityPolicy")["spec"]["extAuth"]
    assert auth["failOpen"] is False
    assert auth["statusOnError"] == 503
    assert lowered(auth["headersToExtAuth"]) == {"authorization", "x-revoker-key"}
    assert lowered(auth["http"]["headersToBackend"]) == IDENTITY
    assert auth["http"]["pathOverride"] == "/forward-auth"

    injection = one("envoy-gateway", "HTTPRouteFilter")["spec"]["credentialInjection"]
    assert injection["overwrite"] is True
    assert injection["credential"]["valueRef"]["name"] == "revoker-key"
    [order] = one("envoy-gateway", "EnvoyProxy")["spec"]["filterOrder"]
    assert (order["name"].rpartition(".")[2], order["before"].rpartition(".")[2]) == (
        "credential_injector",
        "ext_authz",
    )
    [rule] = one("envoy-gateway", "HTTPRoute")["spec"]["rules"]
    [removed] = [item for item in rule["filters"] if item["type"] == "RequestHeaderModifier"]
    assert removed["requestHeaderModifier"]["remove"] == ["X-Revoker-Key"], "the backend does not get the key"
    headers = one("envoy-gateway", "ClientTrafficPolicy")["spec"]["headers"]
    assert lowered(headers["earlyRequestHeaders"]["remove"]) == IDENTITY | OF_REVOKER
    assert headers["withUnderscoresAction"] == "DropHeader"


def test_istio():
    [mesh] = objects("istio-mesh")
    providers = {item["name"]: item["envoyExtAuthzHttp"] for item in mesh["meshConfig"]["extensionProviders"]}
    policies = [item for item in objects("istio") if item["kind"] == "AuthorizationPolicy"]
    assert {policy["spec"]["provider"]["name"] for policy in policies} == set(providers)
    for provider in providers.values():
        assert provider["failOpen"] is False
        assert provider["statusOnError"] == "503"
        assert provider["includeRequestHeadersInCheck"] == ["authorization"]
        assert lowered(provider.get("includeAdditionalHeadersInCheck", [])) <= {"x-revoker-require"}
        assert lowered(provider["headersToUpstreamOnAllow"]) == IDENTITY
        assert provider["pathPrefix"] == "/forward-auth"
        assert provider["service"].endswith("/" + one("istio", "DestinationRule")["spec"]["host"])
    tls = one("istio", "DestinationRule")["spec"]["trafficPolicy"]["tls"]
    assert (tls["mode"], tls["credentialName"]) == ("MUTUAL", "revoker-client")


def test_istio_asks_about_every_path_of_a_host_with_and_without_its_port():
    """Several CUSTOM providers on one workload would refuse everything; its paths do not end at a ``;``."""
    policy = one("istio", "AuthorizationPolicy")
    [rule] = policy["spec"]["rules"]
    assert rule == {"to": [{"operation": {"hosts": ["orders.example.com", "orders.example.com:*"]}}]}


def test_the_patch_of_istio_is_that_of_the_tested_configuration_of_envoy():
    [patch] = one("istio", "EnvoyFilter")["spec"]["configPatches"]
    ours = patch["patch"]["value"]["typed_config"]
    envoy = yaml.safe_load((ROOT / "deploy/gateways/envoy/envoy.yaml").read_text())
    listener = envoy["static_resources"]["listeners"][0]
    tested = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert ours["@type"] == tested["@type"]
    assert (
        ours["common_http_protocol_options"]["headers_with_underscores_action"]
        == (tested["common_http_protocol_options"]["headers_with_underscores_action"])
    )
    [own], [theirs] = (config["early_header_mutation_extensions"] for config in (ours, tested))
    assert own["typed_config"]["@type"] == theirs["typed_config"]["@type"]
    removed = [
        {mutation["remove"] for mutation in extension["typed_config"]["mutations"]}
        for extension in (own, theirs)
    ]
    assert removed[0] == IDENTITY | OF_REVOKER
    assert removed[1] <= removed[0]


def test_traefik():
    middlewares = {
        item["metadata"]["name"]: item["spec"] for item in objects("traefik") if item["kind"] == "Middleware"
    }
    auth = middlewares["ask-revoker"]["forwardAuth"]
    assert auth["address"].startswith("https://")
    assert auth["tls"]["certSecret"] == "revoker-client"
    assert "insecureSkipVerify" not in auth["tls"]
    assert lowered(auth["authRequestHeaders"]) == {"authorization", "x-revoker-require"}
    assert lowered(auth["authResponseHeaders"]) == IDENTITY
    removed = middlewares["remove-claims"]["headers"]["customRequestHeaders"]
    assert set(removed.values()) == {""}
    assert lowered(removed) == IDENTITY | OF_REVOKER
    routes = one("traefik", "IngressRoute")["spec"]["routes"]
    standalone = yaml.safe_load((ROOT / "deploy/gateways/traefik/routes.yaml").read_text())["http"]
    for route, name in zip(routes[:2], ("ambiguous-path", "upgrade"), strict=True):
        assert route["match"] == standalone["routers"][name]["rule"]
        assert route["priority"] == standalone["routers"][name]["priority"]
        assert [item["name"] for item in route["middlewares"]] == ["refuse"]
    assert middlewares["refuse"] == standalone["middlewares"]["refuse"]
    for route in routes[2:]:
        [first] = [item["name"] for item in route["middlewares"]]
        chain = [item["name"] for item in middlewares[first].get("chain", {"middlewares": []})["middlewares"]]
        assert (chain or [first])[0] == "remove-claims"
        assert "ask-revoker" in chain or "/public/" in route["match"]
        if "demand-reports" in chain:
            assert chain.index("demand-reports") < chain.index("ask-revoker") < chain.index("clear-demand")


def test_ingress_nginx():
    given = annotations("ingress-nginx", "nginx.ingress.kubernetes.io/")
    assert given["auth-url"].endswith("/forward-auth")
    assert lowered(given["auth-response-headers"]) == IDENTITY
    headers = one("ingress-nginx", "ConfigMap")
    assert (
        given["auth-proxy-set-headers"] == f"{headers['metadata']['namespace']}/{headers['metadata']['name']}"
    )
    emptied = {name.lower() for name, value in headers["data"].items() if value == ""}
    assert emptied == OF_REVOKER - {"x-revoker-key"} | {"cookie"}
    assert "auth-cache-key" not in given
    assert not [name for name in given if "snippet" in name]


def test_haproxy_ingress():
    given = annotations("haproxy-ingress", "haproxy-ingress.github.io/")
    assert given["auth-url"] == "svc://identity/revoker:8080/forward-auth"
    assert lowered(given["auth-headers-request"]) == {"authorization"}
    assert lowered(given["auth-headers-succeed"]) == IDENTITY
    config = one("haproxy-ingress", "ConfigMap")["data"]
    assert config["cross-namespace-services"] == "allow"
    assert "http-restrict-req-hdr-names delete" in config["config-defaults"]


def test_gateway_api():
    [rule] = one("gateway-api", "HTTPRoute")["spec"]["rules"]
    [only] = rule["filters"]
    auth = only["externalAuth"]
    assert auth["protocol"] == "HTTP"
    assert auth["http"]["path"] == "/forward-auth"
    assert "allowedHeaders" not in auth["http"], "Authorization goes along without"
    assert lowered(auth["http"]["allowedResponseHeaders"]) == IDENTITY
    gateway = one("gateway-api", "Gateway")["spec"]
    assert gateway["tls"]["backend"]["clientCertificateRef"] == {"name": "revoker-client"}
    assert one("gateway-api", "BackendTLSPolicy")["spec"]["validation"]["hostname"] == "revoker.identity.svc"
