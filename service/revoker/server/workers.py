"""The service as processes: one, or several that share its port; beside them the embedded store.

Several are kept by gunicorn's arbiter, which replaces one that crashed or hangs. Each listens by
itself (SO_REUSEPORT), so the kernel spreads connections evenly; their metrics meet in a folder.
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
from types import FrameType
from typing import Any, Final

import structlog
import uvloop
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

from revoker import logs
from revoker.config.schema import Settings
from revoker.errors import ConfigError, RevokerError
from revoker.server import start_signals
from revoker.server.lifecycle import SHUTDOWN_SECONDS, Listeners, Service, bind, serve, tls_context
from revoker.store.embedded import Embedded, folder_of

HANG_SECONDS: Final = 30
"""A process whose event loop stood still for so long is replaced."""

log = structlog.get_logger("service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to run.

    Attributes:
        settings: As they were at the start.
        read_again: As they are now, for SIGHUP.
        build: Makes the service of one process; the first to import what counts metrics, since that
            decides then whether processes count together.
        ready: Called with the URL, once, when clients get verdicts there.
    """

    settings: Settings
    read_again: Callable[[], Settings]
    build: Callable[[Settings], Service]
    ready: Callable[[str], None]


def run(plan: Plan) -> None:
    """Serve until a signal tells to end; the embedded store ends last.

    Raises:
        ConfigError: a port is taken, a file is not what it should be.
        StoreUnavailable: the embedded store does not start.
    """
    server, url = plan.settings.server, plan.settings.redis.url
    tls_context(server)
    _allow_open_files()
    listeners = bind(server, shared=server.workers > 1)
    with contextlib.ExitStack() as stack:
        if url.startswith("embedded:"):
            stack.enter_context(Embedded(folder_of(url)))
        if server.workers > 1:
            stack.enter_context(_shared_metrics())
            _Master(_Several(plan, listeners)).run()
        else:
            service = plan.build(plan.settings)
            uvloop.run(
                serve(
                    service,
                    listeners,
                    server,
                    read_again=plan.read_again,
                    listening=lambda: _announce(plan, listeners),
                    ready=lambda: plan.ready(listeners.url(server)),
                )
            )


def _allow_open_files() -> None:
    """As many as the system lets: the soft limit is 1,024 nearly everywhere, and a connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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


class _Several(BaseApplication):  # type: ignore[misc]
    """The plan in gunicorn's terms."""

    def __init__(self, plan: Plan, listeners: Listeners) -> None:
        self.plan = plan
        self.listeners = listeners
        super().__init__(prog="revoker")

    def load_config(self) -> None:
        server = self.plan.settings.server
        options = {
            "bind": [_address(each.getsockname()) for each in (*self.listeners.main, *self.listeners.ops)],
            "child_exit": _forget,
            "control_socket_disable": True,
            "graceful_timeout": int(server.drain_seconds + 2 * SHUTDOWN_SECONDS) + 5,
            "logger_class": _Log,
            "loglevel": "warning",
            "reuse_port": True,
            "timeout": HANG_SECONDS,
            "worker_class": _Worker,
            "workers": server.workers,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def read_again(self) -> bool:
        """Take over the callers for processes started from now on; whether they are sound."""
        try:
            callers = self.plan.read_again().callers
        except ConfigError as error:
            log.error("settings not taken over", problems=error.problems)  # noqa: TRY400 -- says all
            return False
        settings = self.plan.settings.model_copy(update={"callers": callers})
        self.plan = replace(self.plan, settings=settings)
        return True


def _address(name: tuple[Any, ...]) -> str:
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _forget(_: Arbiter, worker: Worker) -> None:
    """Leave a dead process out of what the living ones add up to."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 -- see Plan.build

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


class _Log(Logger):  # type: ignore[misc]
    """gunicorn's log among all others."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.error_log.propagate = True
        self.error_log.setLevel(cfg.loglevel.upper())


class _Master(Arbiter):  # type: ignore[misc]
    """Keeps the processes; is told by the same signals as a process that serves alone."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

    def __init__(self, app: _Several) -> None:
        self._told = 0
        self._ending = False
        super().__init__(app)

    def signal(self, sig: int, frame: FrameType | None) -> None:
        if sig in {signal.SIGTERM, signal.SIGINT}:
            self._told += 1
            sig = signal.SIGTERM if self._told == 1 else signal.SIGQUIT
        super().signal(sig, frame)

    def init_signals(self) -> None:
        super().init_signals()
        if start_signals.reload_was_asked():
            self.app.read_again()

    def stop(self, graceful: bool = True) -> None:
        self._ending = True
        super().stop(graceful and self._told < 2)

    def reap_workers(self) -> None:
        try:
            super().reap_workers()
        except HaltServer:  # one could not start
            if not self._ending:
                raise

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        try:
            super().halt(reason, exit_status)
        finally:
            if self._told > 1:  # perhaps only while it ended
                sys.exit(1)

    def handle_hup(self) -> None:
        if self.app.read_again():
            self.kill_workers(signal.SIGHUP)

    def spawn_worker(self) -> int:
        """Start a process; in that process, end it here: what the master holds is not its to close."""
        master = os.getpid()
        # The new process has the master's handlers at first: a signal would be lost there.
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        try:
            return int(super().spawn_worker())
        except SystemExit as end:
            if os.getpid() == master:
                raise
            logs.flush()
            os._exit(end.code if isinstance(end.code, int) else 0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _end_at_once(*_: object) -> None:
    logs.flush()
    os._exit(1)


class _Worker(Worker):  # type: ignore[misc]
    """One of the processes."""

    def init_signals(self) -> None:
        """The master tells; Ctrl-C goes to every process of the terminal, and means the master."""
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        start_signals.hold()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, _end_at_once)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _Master.SIGNALS)

    def load_wsgi(self) -> None:
        self.service = self.app.plan.build(self.app.plan.settings)

    def run(self) -> None:
        self.booted = False  # until clients can connect: one that can't come up ends the master
        try:
            uvloop.run(self._serve())
        except RevokerError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    async def _serve(self) -> None:
        plan, sockets = self.app.plan, [each.sock for each in self.sockets]
        split = len(self.app.listeners.main)
        beating = asyncio.create_task(self._beat())
        await serve(
            self.service,
            Listeners(main=sockets[:split], ops=sockets[split:]),
            plan.settings.server,
            read_again=plan.read_again,
            listening=self._is_listening,
            ready=self._is_ready,
            ending_signals=[signal.SIGTERM],
        )
        beating.cancel()

    def _is_listening(self) -> None:
        self.booted = True
        if self.age == 1:
            _announce(self.app.plan, self.app.listeners)

    def _is_ready(self) -> None:
        if self.age == 1:
            self.app.plan.ready(self.app.listeners.url(self.app.plan.settings.server))

    async def _beat(self) -> None:
        """Tell the master that the event loop turns; end with a master that was killed."""
        while os.getppid() == self.ppid:
            self.notify()
            await asyncio.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
