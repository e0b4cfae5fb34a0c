"""Asks about users as a gateway does, by HTTP or by gRPC: several calls at once, for some seconds.

``python -m bench.gateway_client http|grpc ADDRESS CALLS SECONDS SECRET BODIES`` prints what it saw as JSON.
Clients in Python are slower than the server: the CPU time of the server is the figure to compare.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import grpc
import uvloop
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse


class _Http:
    """Raw requests, each on a connection that no other uses meanwhile: a client library would cost more."""

    def __init__(self, address: str, secret: str) -> None:
        self._host, _, self._port = address.partition(":")
        self._head = f"GET /forward-auth HTTP/1.1\r\nHost: revoker\r\nX-Revoker-Key: {secret}\r\n"
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, token: str) -> bool:
        """Whether the token is active."""
        if self._free:
            reader, writer = self._free.pop()
        else:
            reader, writer = await asyncio.open_connection(self._host, int(self._port))
        writer.write(f"{self._head}Authorization: Bearer {token}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        self._free.append((reader, writer))
        return head.startswith(b"HTTP/1.1 200 ") and b"\r\nX-Auth-Subject: " in head

    async def close(self) -> None:
        for _, writer in self._free:
            writer.close()


class _Grpc:
    """One channel, as Envoy has."""

    def __init__(self, address: str, secret: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._call = self._channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        self._metadata = (("x-revoker-key", secret),)

    async def ask(self, token: str) -> bool:
        """Whether the token is active."""
        request = CheckRequest()
        request.attributes.request.http.headers["authorization"] = f"Bearer {token}"
        answer = await self._call(request, metadata=self._metadata)
        return bool(answer.ok_response.headers)

    async def close(self) -> None:
        await self._channel.close()


async def run(client: _Http | _Grpc, tokens: Iterator[str], calls: int, seconds: float) -> dict[str, float]:
    """Ask, and return what was seen."""
    latencies: list[float] = []
    failed = 0
    began = time.perf_counter()

    async def work() -> None:
        nonlocal failed
        while (sent := time.perf_counter()) < began + seconds:
            failed += not await client.ask(next(tokens))
            latencies.append(time.perf_counter() - sent)

    await asyncio.gather(*(work() for _ in range(calls)))
    taken = time.perf_counter() - began
    await client.close()
    latencies.sort()
    return {
        "requests": len(latencies),
        "microseconds": taken * 1e6,
        "p50": latencies[len(latencies) // 2] * 1e6,
        "p99": latencies[len(latencies) * 99 // 100] * 1e6,
        "failed": failed,
    }


async def main() -> None:
    protocol, address, calls, seconds, secret, bodies = sys.argv[1:]
    lines = Path(bodies).read_text().splitlines()  # noqa: ASYNC240  # before anything is measured
    tokens = cycle([json.loads(line)["token"] for line in lines])
    client = (_Http if protocol == "http" else _Grpc)(address, secret)
    print(json.dumps(await run(client, tokens, int(calls), float(seconds))))


if __name__ == "__main__":
    uvloop.run(main())
