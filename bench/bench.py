"""What all experiments have in common."""

import json
import urllib.request
import uuid
from dataclasses import dataclass
from typing import Any

from bench.load import Load
from bench.material import ISSUER, Material, Workload
from bench.servers import Server, Servers


@dataclass(frozen=True)
class Bench:
    """One session of measuring.

    Attributes:
        seconds: Of one run.
        jtis: Revoked tokens in a full store.
    """

    servers: Servers
    material: Material
    load: Load
    rounds: int
    seconds: float
    connections: int
    jtis: int

    def prove_active(self, server: Server, workload: Workload) -> None:
        """Check that the tokens of the requests to be sent are active.

        Raises:
            RuntimeError: some are not; a refusal is cheaper, so the figures would be too good.
        """
        with workload.bodies.open() as bodies:
            answer = self._post(server, workload.path, next(bodies).strip())
        results = answer.get("results", [answer])
        if len(results) != workload.units or not all(result.get("active") is True for result in results):
            raise RuntimeError(f"{workload.name}: {json.dumps(answer)[:500]}")

    def revoke_one(self, server: Server) -> None:
        """Revoke a token that is in no workload."""
        self._post(server, "/revoke", json.dumps({"iss": ISSUER, "jti": str(uuid.uuid4())}))

    def _post(self, server: Server, path: str, body: str) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": self.material.authorization}
        request = urllib.request.Request(server.url + path, body.encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.loads(response.read() or b"{}")
