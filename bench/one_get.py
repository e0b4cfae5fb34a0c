"""The median time of one GET by the service's own client, one at a time: in µs, for a URL of a store."""

import statistics
import sys
import time

import uvloop

from revoker.store.wire.addresses import address_of
from revoker.store.wire.command_channel import CommandChannel

_TIMES = 5000


async def main() -> None:
    channel = CommandChannel(address_of(sys.argv[1], timeout=5).connect, timeout=5)
    took = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        await channel.execute("GET", "rv:jti:main:nothing")
        took.append(time.perf_counter() - began)
    await channel.close()
    print(statistics.median(took) * 1e6)


if __name__ == "__main__":
    uvloop.run(main())
