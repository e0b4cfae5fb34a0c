"""As much of a Kubernetes API as helm asks before it renders: what kinds there are, and what stands."""

import http.server
import json
import threading

KINDS = {
    "v1": {
        "secrets": "Secret",
        "configmaps": "ConfigMap",
        "services": "Service",
        "serviceaccounts": "ServiceAccount",
        "pods": "Pod",
    },
    "apps/v1": {"deployments": "Deployment", "statefulsets": "StatefulSet"},
    "batch/v1": {"jobs": "Job"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
}


class KubernetesApi:
    """Holds objects by path; `with` it serves them."""

    def __init__(self, folder):
        self.objects = {}
        cluster = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                found = cluster.answer(self.path.split("?")[0])
                missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound"}
                body = json.dumps(found or {**missing, "code": 404}).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.config = folder / "kubeconfig"
        cluster_at = {"server": f"http://127.0.0.1:{self.server.server_port}"}
        self.config.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": cluster_at}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "users": [{"name": "u", "user": {}}],
                    "current-context": "c",
                }
            )
        )

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def add(self, rendered, namespace="identity", release="revoker"):
        """Keep what was rendered, as an installation would, with helm's marks on it."""
        plural = next(
            name for name, kind in KINDS[rendered["apiVersion"]].items() if kind == rendered["kind"]
        )
        path = f"/api/v1/namespaces/{namespace}/{plural}/{rendered['metadata']['name']}"
        marks = {"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": namespace}
        metadata = {"namespace": namespace, **rendered["metadata"]}
        metadata["annotations"] = {**metadata.get("annotations", {}), **marks}
        self.objects[path] = {**rendered, "metadata": metadata}

    def answer(self, path):
        if path == "/version":
            return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            groups = [
                {
                    "name": group,
                    "versions": [{"groupVersion": f"{group}/v1", "version": "v1"}],
                    "preferredVersion": {"groupVersion": f"{group}/v1", "version": "v1"},
                }
                for group in ("apps", "batch", "policy")
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if version in KINDS:
            resources = [
                {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
                for name, kind in KINDS[version].items()
            ]
            return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        return self.objects.get(path)
