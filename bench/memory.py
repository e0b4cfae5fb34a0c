"""What one revoked jti costs in the store's memory: ``python -m bench.memory [how many]``."""

import sys
import tempfile
import time
import uuid
from pathlib import Path

import redis

from revoker.models import Issuer
from revoker.store.keys import Keys
from revoker.store.scripts import TEXTS
from tests.rig.servers import Valkey

MAIN = Issuer(name="main", iss="https://idp.example.com")
PIPELINED = 5000


def used(client: redis.Redis) -> int:
    """Bytes in use once the server has moved all keys to its tables' present size.

    What lies in the buffers of clients is not data.
    """
    deadline = time.monotonic() + 60
    while True:
        memory: dict[str, int] = client.info("memory")
        if not memory.get("mem_overhead_db_hashtable_rehashing") or time.monotonic() > deadline:
            return memory["used_memory"] - memory["mem_clients_normal"]
        time.sleep(0.1)


def bytes_a_revocation(client: redis.Redis, count: int) -> float:
    """Revoke so many tokens by the service's own script and say what one of them costs."""
    keys = Keys("rv")
    tail = (keys.seq, keys.share("bench"), keys.writers, keys.epoch)
    digest = client.script_load(TEXTS["revoke_token"].decode())
    client.evalsha(digest, 5, keys.jti(MAIN, "first"), *tail, "", 86_492_000, "", "", 0, 0)
    before = used(client)
    for start in range(0, count, PIPELINED):
        pipeline = client.pipeline(transaction=False)
        for _ in range(min(PIPELINED, count - start)):
            jti = keys.jti(MAIN, str(uuid.uuid4()))
            pipeline.evalsha(digest, 5, jti, *tail, "", 86_492_000, "", "", 0, 0)
        pipeline.execute()
    return (used(client) - before) / count


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        server = Valkey(Path(folder), "--appendonly", "no").start()
        try:
            with server.client() as client:
                version = client.info("server").get("valkey_version", "?")
                cost = bytes_a_revocation(client, count)
                print(f"Valkey {version}: {cost:.1f} bytes for one of {count:,} revoked jtis")
        finally:
            server.kill()


if __name__ == "__main__":
    main()
