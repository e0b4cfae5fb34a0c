"""Counts the instructions of one request: no clock and no other load on the machine changes them.

``python -m bench.instructions`` compares them with ``bench/instructions.json``, and fails if a request needs
more by over :data:`MARGIN`; ``--record`` writes the file again. It needs valgrind.

It compares ratios to the floor: another build of Python or another processor changes both alike.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from urllib.parse import urlencode

from bench.callgrind import ABREAST, Abreast, Counted, head
from bench.material import Material, Workload
from bench.servers import Servers
from tests.rig.cpu import Cores
from tests.rig.servers import free_port

MARGIN = 0.05
RECORDED = Path(__file__).with_name("instructions.json")

FLOOR, CLAIMS, WARM, TOKEN = "floor", "claims form", "token form, verified before", "/token, ES256"
ENVELOPE, MAPPED, MAPPED_ENVELOPE = "claims with header", "mapped claims", "mapped claims with header"
EDGE, EDGE_WARM = "edge, claims form", "edge, token form, verified before"
A_BATCH, A_MAPPED_BATCH = "one of a batch of 100 claims", "one of a batch of mapped claims"

COST_OF_MAPPING = {MAPPED: CLAIMS, MAPPED_ENVELOPE: ENVELOPE, A_MAPPED_BATCH: A_BATCH}
"""What is asked of an issuer with other names for four claims and two revocable ones, and of any other."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name} anew")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="instructions-")))
        found = measured(stack, folder)
    if asked.record:
        RECORDED.write_text(json.dumps(found, indent=2) + "\n")
    recorded = json.loads(RECORDED.read_text())
    regressions = list(_compared(found, recorded))
    for mapped, unmapped in COST_OF_MAPPING.items():
        print(f"{mapped} ÷ {unmapped}: {found[mapped] / found[unmapped]:.3f}")
    if any(regressions):
        sys.exit("\n".join(filter(None, regressions)))


def _compared(found: dict[str, int], recorded: dict[str, int]) -> Iterator[str | None]:
    print(f"{'instructions a request':32}{'now':>12}{'÷ floor':>10}{'recorded':>10}{'change':>9}")
    for name, count in found.items():
        ratio = count / found[FLOOR]
        stood = recorded[name] / recorded[FLOOR] if name in recorded else ratio
        change = ratio / stood - 1
        print(f"{name:32}{count:>12,}{ratio:>10.3f}{stood:>10.3f}{change:>+9.1%}")
        if change > MARGIN:
            yield (
                f"{name}: {ratio:.3f} times the instructions of the floor, and {stood:.3f} were recorded. "
                "If this change is worth it, record that: python -m bench.instructions --record"
            )
        elif change < -MARGIN:
            print(f"{name}: cheaper than recorded; python -m bench.instructions --record keeps it so")


def measured(stack: ExitStack, folder: Path) -> dict[str, int]:
    """Instructions of one request, by what is asked."""
    material = Material(folder)
    servers = Servers(stack, folder, Cores.of_this_machine(), material)
    ports = free_port(), free_port(), free_port()
    config = servers.write_configuration(servers.store(), port=ports[1], sessions="ES256", timeout=30)
    floor = Counted(stack, folder, "floor", "bench.floor", str(ports[0]))
    revoker = Counted(stack, folder, "revoker", "bench.quiet", "serve", "--config", str(config))
    for server, port in zip((floor, revoker), ports[:2], strict=True):
        server.await_answer(f"http://127.0.0.1:{port}")

    def sent(server: Counted, port: int, workload: Workload, warm: int = 140, counted: int = 40) -> int:
        bodies = cycle(workload.bodies.read_bytes().split(b"\n"))
        begin = head(workload.path, "application/json", workload.authorization)
        abreast = Abreast(stack, server, port, [bodies] * ABREAST, begin)
        count = server.count(abreast.rounds, warm, counted)
        if abreast.answers[0].count(b'"active":true') != workload.units and server is not floor:
            raise RuntimeError(f"{workload.name}: {abreast.answers[0][:500]!r}")  # a refusal costs less
        return round(count / ABREAST / workload.units)

    claims = material.claims_form()
    upstream = servers.revoker(servers.store())
    config = servers.write_edge_configuration(upstream, ports[2], max_staleness=3600)
    edge = Counted(stack, folder, "edge", "bench.quiet", "edge", "--config", str(config))
    edge.await_answer(f"http://127.0.0.1:{ports[2]}")
    return {
        FLOOR: sent(floor, ports[0], claims),
        CLAIMS: sent(revoker, ports[1], claims),
        ENVELOPE: sent(revoker, ports[1], material.envelopes()),
        MAPPED: sent(revoker, ports[1], material.mapped_claims()),
        MAPPED_ENVELOPE: sent(revoker, ports[1], material.mapped_envelopes()),
        WARM: sent(revoker, ports[1], material.warm_tokens()),
        EDGE: sent(edge, ports[2], claims),
        EDGE_WARM: sent(edge, ports[2], material.warm_tokens()),
        A_BATCH: sent(revoker, ports[1], material.batch_form(), 13, 3),
        A_MAPPED_BATCH: sent(revoker, ports[1], material.mapped_batch(), 13, 3),
        TOKEN: round(_refreshes(stack, revoker, ports[1], material.authorization)),
    }


def _refreshes(stack: ExitStack, server: Counted, port: int, authorization: str) -> float:
    """Every answer's refresh token is what the next request of its connection shows."""
    login = json.dumps({"sub": "alice", "client_id": "web"}).encode()
    logins = Abreast(
        stack, server, port, [cycle([login])] * ABREAST, head("/sessions", "application/json", authorization)
    )
    logins.rounds(1)
    latest = logins.answers

    def bodies(index: int) -> Iterator[bytes]:
        while True:
            refresh_token = json.loads(latest[index])["refresh_token"]
            yield urlencode({"grant_type": "refresh_token", "refresh_token": refresh_token}).encode()

    begin = head("/token", "application/x-www-form-urlencoded")
    refreshing = Abreast(stack, server, port, [bodies(index) for index in range(ABREAST)], begin)
    refreshing.answers = latest
    return server.count(refreshing.rounds, 20, 20) / ABREAST


if __name__ == "__main__":
    main()
