"""Installs the identity providers that this machine can have, and runs the tests with them.

    python -m tests.real_providers
    python -m tests.real_providers keycloak

``REQUIRE_PROVIDERS`` in the environment names those that have to be tested, separated by spaces. If it is not
set, at least one has to be; if it is empty, none has to.
"""

import os
import subprocess
import sys

from tests.real_providers.installation import INSTALLATIONS, UnavailableError


def main(names: list[str]) -> int:
    """Run the tests; not 0 if one fails, or if a provider that is required cannot be tested."""
    required = os.environ.get("REQUIRE_PROVIDERS")
    if unheard_of := {*names, *(required or "").split()} - INSTALLATIONS.keys():
        sys.exit(f"no such provider: {', '.join(sorted(unheard_of))}; there are {', '.join(INSTALLATIONS)}")
    available = []
    for name in names or INSTALLATIONS:
        installation = INSTALLATIONS[name]
        try:
            installation.ensure()
        except UnavailableError as fault:
            print(f"{name} {installation.version}: NOT TESTED: {fault}", flush=True)
        else:
            print(f"{name} {installation.version}: tested", flush=True)
            available.append(name)
    if missing := {*(required or "").split()} - {*available}:
        print(f"required, but not tested: {', '.join(sorted(missing))}", file=sys.stderr)
        return 1
    if not available:
        print("no identity provider can be tested", file=sys.stderr)
        return 0 if required == "" else 1
    longest = ("--timeout", "1200")  # the start of a provider counts to its first test
    command = [sys.executable, "-m", "pytest", *longest, "--durations=5", "tests/real_providers"]
    return subprocess.run(
        command, env={**os.environ, "PROVIDERS": " ".join(available)}, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
