"""The processes of the service: one, or several workers that share its port; and the embedded store.

Gunicorn's arbiter runs the workers and replaces one that crashed or hangs. Every worker listens on its own
sockets (SO_REUSEPORT), so that the kernel distributes connections evenly; they share a folder of metrics.
"""

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Final, Protocol

import structlog
import uvloop
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

from revoker import logs
from revoker.config.edge import AnySettings
from revoker.errors import ConfigError, RevokerError
from revoker.server import start_signals
from revoker.server.lifecycle import (
    SHUTDOWN_SECONDS,
    Listeners,
    Service,
    bind,
    serve,
    tls_context,
)
from revoker.store.embedded import Embedded

WORKER_TIMEOUT_SECONDS: Final = 30
"""A worker whose event loop was blocked for this time is replaced."""

log = structlog.get_logger("service")


class Reloadable(Service, Protocol):
    """What is served here: callers may change while it runs."""

    def reload(self, settings: AnySettings) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to run.

    Attributes:
        settings: Those of the start.
        reload_settings: Reads them again, for SIGHUP.
        build: Makes the service of one process. It imports ``prometheus_client``, and nothing before it may:
            the import decides whether processes share their metrics.
        ready: Called with the URL, once, when clients get verdicts there.
        embedded_folder: Of the embedded store, which runs meanwhile; None: there is none.
    """

    settings: AnySettings
    reload_settings: Callable[[], AnySettings]
    build: Callable[[Any], Reloadable]
    ready: Callable[[str], None]
    embedded_folder: Path | None = None


def run(plan: Plan) -> None:
    """Serve until a shutdown signal; the embedded store stops last.

    Raises:
        ConfigError: a port is in use, a file is malformed.
        StoreUnavailable: the embedded store does not start.
    """
    server = plan.settings.server
    tls_context(server)
    _raise_open_file_limit()
    listeners = bind(server, shared=server.workers > 1)
    with contextlib.ExitStack() as stack:
        if plan.embedded_folder is not None:
            stack.enter_context(Embedded(plan.embedded_folder))
        if server.workers > 1:
            stack.enter_context(_shared_metrics())
            _Arbiter(_GunicornApplication(plan, listeners)).run()
        else:
            service = plan.build(plan.settings)
            uvloop.run(
                serve(
                    service,
                    listeners,
                    server,
                    reload=lambda: service.reload(plan.reload_settings()),
                    listening=lambda: _announce(plan, listeners),
                    ready=lambda: plan.ready(listeners.url(server)),
                )
            )


def _raise_open_file_limit() -> None:
    """Raise the soft limit, mostly 1,024, to the hard one: every connection is an open file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _announce(plan: Plan, listeners: Listeners) -> None:
    server = plan.settings.server
    log.info("listening", url=listeners.url(server), workers=server.workers)


@contextlib.contextmanager
def _shared_metrics() -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="revoker-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _GunicornApplication(BaseApplication):  # type: ignore[misc]
    """The plan as gunicorn configures it."""

    def __init__(self, plan: Plan, listeners: Listeners) -> None:
        self.plan = plan
        self.listeners = listeners
        super().__init__(prog="revoker")

    def load_config(self) -> None:
        server = self.plan.settings.server
        options = {
            "bind": [
                _address(listener.getsockname()) for listener in (*self.listeners.main, *self.listeners.ops)
            ],
            "child_exit": _mark_dead,
            "control_socket_disable": True,
            "graceful_timeout": int(server.drain_seconds + 2 * SHUTDOWN_SECONDS) + 5,
            "logger_class": _GunicornLogger,
            "loglevel": "warning",
            "reuse_port": True,
            "timeout": WORKER_TIMEOUT_SECONDS,
            "worker_class": _Worker,
            "workers": server.workers,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def reload_callers(self) -> bool:
        """Use the present callers for workers started from now on; False: the settings are invalid."""
        try:
            callers = self.plan.reload_settings().callers
        except ConfigError as error:
            log.error("settings not taken over", problems=error.problems)  # noqa: TRY400 -- says all
            return False
        settings = self.plan.settings.model_copy(update={"callers": callers})
        self.plan = replace(self.plan, settings=settings)
        return True


def _address(name: tuple[Any, ...]) -> str:
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _mark_dead(_: Arbiter, worker: Worker) -> None:
    """Drop the gauges of a dead worker from the shared metrics."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 -- see Plan.build

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


class _GunicornLogger(Logger):  # type: ignore[misc]
    """Sends gunicorn's log where all others go."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.error_log.propagate = True
        self.error_log.setLevel(cfg.loglevel.upper())


class _Arbiter(Arbiter):  # type: ignore[misc]
    """Runs the workers; handles the signals that a single process handles."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

    def __init__(self, app: _GunicornApplication) -> None:
        self._shutdown_signals = 0
        self._stopping = False
        super().__init__(app)

    def signal(self, sig: int, frame: FrameType | None) -> None:
        if sig in {signal.SIGTERM, signal.SIGINT}:
            self._shutdown_signals += 1
            sig = signal.SIGTERM if self._shutdown_signals == 1 else signal.SIGQUIT
        super().signal(sig, frame)

    def init_signals(self) -> None:
        super().init_signals()
        if start_signals.reload_was_requested():
            self.app.reload_callers()

    def stop(self, graceful: bool = True) -> None:
        self._stopping = True
        super().stop(graceful and self._shutdown_signals < 2)

    def reap_workers(self) -> None:
        try:
            super().reap_workers()
        except HaltServer:  # one could not start
            if not self._stopping:
                raise

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        try:
            super().halt(reason, exit_status)
        finally:
            if self._shutdown_signals > 1:  # the second may have come during the shutdown
                sys.exit(1)

    def handle_hup(self) -> None:
        if self.app.reload_callers():
            self.kill_workers(signal.SIGHUP)

    def spawn_worker(self) -> int:
        """Start a worker, which exits here: it must not run the cleanup of the arbiter."""
        arbiter = os.getpid()
        # A worker has the arbiter's handlers at first, which would lose a signal.
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        try:
            return int(super().spawn_worker())
        except SystemExit as exited:
            if os.getpid() == arbiter:
                raise
            logs.flush()
            os._exit(exited.code if isinstance(exited.code, int) else 0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _exit_at_once(*_: object) -> None:
    logs.flush()
    os._exit(1)


class _Worker(Worker):  # type: ignore[misc]
    """One worker."""

    def init_signals(self) -> None:
        """Leave Ctrl-C, which goes to every process of the terminal, to the arbiter."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        start_signals.install_handlers()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, _exit_at_once)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _Arbiter.SIGNALS)

    def load_wsgi(self) -> None:
        self.service = self.app.plan.build(self.app.plan.settings)

    def run(self) -> None:
        self.booted = False  # until clients can connect: a worker that fails before stops the arbiter
        try:
            uvloop.run(self._serve())
        except RevokerError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    async def _serve(self) -> None:
        plan, sockets = self.app.plan, [listener.sock for listener in self.sockets]
        split = len(self.app.listeners.main)
        notifying = asyncio.create_task(self._notify_arbiter())
        await serve(
            self.service,
            Listeners(main=sockets[:split], ops=sockets[split:]),
            plan.settings.server,
            reload=lambda: self.service.reload(plan.reload_settings()),
            listening=self._is_listening,
            ready=self._is_ready,
            shutdown_signals=[signal.SIGTERM],
        )
        notifying.cancel()

    def _is_listening(self) -> None:
        self.booted = True
        if self.age == 1:
            _announce(self.app.plan, self.app.listeners)

    def _is_ready(self) -> None:
        if self.age == 1:
            self.app.plan.ready(self.app.listeners.url(self.app.plan.settings.server))

    async def _notify_arbiter(self) -> None:
        """Tell the arbiter that the event loop runs; shut down where the arbiter was killed."""
        while os.getppid() == self.ppid:
            self.notify()
            await asyncio.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
