"""``make test-image``: build the image and run it, where this machine can; elsewhere say NOT TESTED, and why.

With ``REQUIRE_IMAGE=1`` that fails.
"""

import os
import shutil
import subprocess
import sys

import pytest

from tests.image_build.conftest import apt_source


def obstacle():
    """Why the image cannot be built and run here; None: it can."""
    if os.geteuid() != 0:
        return "this is not root"
    missing = [program for program in ("buildah", "mmdebstrap") if shutil.which(program) is None]
    if missing:
        return f"there is no {' and no '.join(missing)} (apt-get install buildah mmdebstrap)"
    mount = ("unshare", "--mount", "sh", "-c", "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt")
    if subprocess.run(mount, capture_output=True).returncode != 0:
        return "mounts are not allowed"
    if (source := apt_source()) is None:
        return "this is no Debian"
    with source.open() as text:
        simulated = subprocess.run(
            ("mmdebstrap", "--simulate", "--variant=essential", "bookworm", "/dev/null", "-"),
            stdin=text,
            capture_output=True,
        )
    return "Debian's packages cannot be reached" if simulated.returncode != 0 else None


def main():
    if (why := obstacle()) is not None:
        print(f"image: NOT TESTED, since {why}")
        return 1 if os.environ.get("REQUIRE_IMAGE") else 0
    return pytest.main(["tests/image_build"])


if __name__ == "__main__":
    sys.exit(main())
