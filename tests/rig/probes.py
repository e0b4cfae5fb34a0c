"""What a running service says of itself and of tokens, and the claims to ask it about."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from revoker.store.consistency.epoch import Epoch
from tests.rig import forge
from tests.rig.servers import Valkey
from tests.rig.service import HANGS_S, Answer, Running


def issued(at: float | None = None, **changes: Any) -> dict[str, Any]:
    """Claims of a token that was issued at a time (now), to the fraction of a second."""
    at = time.time() if at is None else at
    return {**forge.claims(now=at, jti=str(uuid.uuid4()), lifetime=600), "iat": at, **changes}


def issued_after(cutoff_ms: int, **changes: Any) -> dict[str, Any]:
    """Claims of the earliest token that a cutoff does not cover, with the default clock skew of 2 s."""
    return issued(cutoff_ms / 1000 + 2.001, **changes)


async def revoke(revoker: Running, claims: Mapping[str, Any]) -> Answer:
    """Revoke one token by its jti."""
    return await revoker.post("/revoke", {name: claims[name] for name in ("iss", "jti", "exp")})


async def status_of(revoker: Running, claims: Mapping[str, Any]) -> int:
    """The status of an introspection, whatever its verdict."""
    return (await revoker.post("/introspect", claims, caller="gateway")).status


async def answers(revoker: Running) -> bool:
    """Whether it gives verdicts."""
    return await status_of(revoker, issued()) == 200


async def readiness(revoker: Running) -> tuple[int, set[str]]:
    """The status of ``/readyz``, and the names of its problems."""
    async with revoker.http.get(revoker.url + "/readyz") as response:
        return response.status, {problem["problem"] for problem in (await response.json())["problems"]}


async def has_problem(revoker: Running, problem: str) -> bool:
    """Whether ``/readyz`` names the problem."""
    return problem in (await readiness(revoker))[1]


async def metric(revoker: Running, sample: str) -> float:
    """The value of a sample, by its name and labels as ``/metrics`` writes them."""
    async with revoker.http.get(revoker.url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return float(next(line for line in lines if line.startswith(sample + " ")).split(" ")[1])


async def eventually(
    condition: Callable[[], Awaitable[bool]],
    within: float = HANGS_S,
    what: str = "what the test waits for",
) -> None:
    """Wait until the condition holds.

    Raises:
        AssertionError: it did not in time.
    """
    deadline = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < deadline, f"did not happen within {within:g} s: {what}"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def within(seconds: float, what: str) -> AsyncIterator[None]:
    """End the block after so many seconds.

    Raises:
        AssertionError: it was not over; the text says what it waited for.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as fault:
        if not limit.expired():
            raise
        raise AssertionError(f"not within {seconds:g} s: {what}") from fault


def epoch_in(valkey: Valkey, revoker: Running) -> Epoch:
    """The epoch that the store holds."""
    with valkey.client() as client:
        text = client.get(revoker.service.store.keys.epoch)
    assert isinstance(text, str)
    epoch = Epoch.parse(text.encode())
    assert epoch is not None
    return epoch


def flush(valkey: Valkey) -> None:
    """FLUSHALL."""
    with valkey.client() as client:
        client.flushall()


class RestrictedUser:
    """A server as a user with only these ACL rights sees it."""

    def __init__(self, server: Valkey, *rights: str) -> None:
        self._server = server
        self.allow(">secret", "on", "~*", "&*", *rights)
        self.url = f"redis://app:secret@127.0.0.1:{server.port}/0"

    def allow(self, *rights: str) -> None:
        """Change the rights."""
        with self._server.client() as client:
            client.execute_command("ACL", "SETUSER", "app", *rights)
