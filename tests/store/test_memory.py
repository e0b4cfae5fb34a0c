from bench.memory import bytes_a_revocation
from tests.rig.servers import Valkey


def test_a_revoked_jti_costs_at_most_125_bytes(tmp_path):
    server = Valkey(tmp_path / "valkey", "--appendonly", "no").start()
    try:
        with server.client() as client:
            assert bytes_a_revocation(client, 50_000) <= 125
    finally:
        server.kill()
