"""Composition root of a canary: it runs rounds, and has metrics and health on a port of its own."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import structlog
from prometheus_client import CollectorRegistry

from revoker.api.admission import Admission
from revoker.api.dispatch import ops_paths
from revoker.api.envelope import Dispatcher
from revoker.api.probes import Health
from revoker.canary.asking import Target, Upstream
from revoker.canary.rounds import Outcome, Rounds, Sleep, TokenMaker
from revoker.config.canary import CanarySettings
from revoker.elapsed_time import Clock, elapsed
from revoker.errors import ConfigError
from revoker.metrics import CanaryMetrics, Metrics
from revoker.tokens.jwk import UnusableKey
from revoker.tokens.private_keys import SigningKey, key_in

_log = structlog.get_logger("service")

_SCRAPES_AT_ONCE: Final = 16


def load_key(settings: CanarySettings) -> SigningKey:
    """The key that signs the tokens.

    Raises:
        ConfigError: the file holds none.
    """
    try:
        return key_in(Path(settings.canary.key_file)).key
    except (OSError, UnusableKey) as fault:
        raise ConfigError([f"canary.key_file: {fault}"]) from None


@asynccontextmanager
async def opened(
    settings: CanarySettings, *, wall: Clock = time.time, now: Clock = elapsed, sleep: Sleep = asyncio.sleep
) -> AsyncIterator[Rounds]:
    """Rounds of these settings; their connections are closed at exit."""
    terms = settings.canary
    maker = TokenMaker(
        load_key(settings),
        issuer=terms.issuer,
        audience=terms.audience,
        timeout_s=terms.timeout_seconds,
        wall=wall,
    )
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
    ) as http:
        yield Rounds(
            [Target(http, target, settings.upstream) for target in settings.targets],
            Upstream(http, settings.upstream),
            maker.make,
            timeout_s=terms.timeout_seconds,
            now=now,
            sleep=sleep,
        )


class Canary:
    """A canary; attributes as :class:`revoker.server.lifecycle.Service`."""

    ops = None
    ext_authz = None

    def __init__(self, settings: CanarySettings, *, sleep: Sleep = asyncio.sleep) -> None:
        """Nothing connects before :meth:`start`; ``sleep`` makes the pauses."""
        self._settings = settings
        self._sleep = sleep
        self._metrics = CanaryMetrics(CollectorRegistry(), [target.name for target in settings.targets])
        self._failures: dict[str, str] = {}
        self._rounds_done = 0
        self._stack = AsyncExitStack()
        self._repeating: asyncio.Task[None] | None = None
        self.health: Final = Health(self._problems, self.started)
        self.main: Final = Dispatcher(
            ops_paths(self.health, self._metrics.registry),
            admission=Admission(_SCRAPES_AT_ONCE),
            metrics=Metrics(CollectorRegistry()),  # not published: see CanaryMetrics
        )

    async def start(self) -> None:
        """Begin to run rounds."""
        rounds = await self._stack.enter_async_context(opened(self._settings, sleep=self._sleep))
        self._repeating = asyncio.create_task(self._repeat(rounds))

    async def close(self) -> None:
        """End the round, and close every connection."""
        if self._repeating is not None:
            self._repeating.cancel()
            await asyncio.gather(self._repeating, return_exceptions=True)
        await self._stack.aclose()

    def drain(self) -> None:
        """Report not ready."""
        self.health.draining = True

    def started(self) -> bool:
        """Whether a round is over."""
        return self._rounds_done > 0

    def conflicts(self) -> list[str]:
        """None stop a canary."""
        return []

    def _problems(self) -> dict[str, str]:
        return {f"target_{name}": problem for name, problem in self._failures.items()}

    async def _repeat(self, rounds: Rounds) -> None:
        due = elapsed()
        while True:
            try:
                self._record(await rounds.run())
            except Exception:  # noqa: BLE001  # the next round may succeed; an alert reports that none does
                _log.exception("canary_round_failed")
            due = max(due + self._settings.canary.every_seconds, elapsed())
            await self._sleep(due - elapsed())

    def _record(self, outcomes: list[Outcome]) -> None:
        self._rounds_done += 1
        self._failures = {
            outcome.target: outcome.failures[0].problem for outcome in outcomes if outcome.failures
        }
        for outcome in outcomes:
            for failure in outcome.failures:
                self._metrics.failures.labels(outcome.target, failure.reason).inc()
                _log.warning(
                    "canary_failed", target=outcome.target, reason=failure.reason, problem=failure.problem
                )
            if outcome.seconds is not None:
                self._metrics.seconds.labels(outcome.target).observe(outcome.seconds)
            if not outcome.failures:
                self._metrics.last_success.labels(outcome.target).set(time.time())
        _log.info(
            "canary_round",
            refused=len(outcomes) - len(self._failures),
            failed=len(self._failures),
            slowest_seconds=round(max((outcome.seconds or 0.0 for outcome in outcomes), default=0.0), 6),
        )
