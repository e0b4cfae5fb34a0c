"""Files with secrets in them: whole or not there at all, and for their owner alone."""

import os
import tempfile
from pathlib import Path


def write_private(path: Path, contents: bytes, *, replace: bool = True) -> None:
    """Write a file of mode 0600 so that no reader ever finds half of it, even after a crash.

    Raises:
        FileExistsError: it is there and must not be replaced.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # of mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            Path(name).replace(path)
        else:
            path.hardlink_to(name)
    finally:
        Path(name).unlink(missing_ok=True)
