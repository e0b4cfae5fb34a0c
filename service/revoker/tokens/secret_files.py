"""Writes files with secrets, atomically and readable by their owner alone."""

import os
import tempfile
from pathlib import Path


def write_private(path: Path, contents: bytes, *, replace: bool = True) -> None:
    """Write a file of mode 0600; no reader sees a part of it, even after a crash.

    Raises:
        FileExistsError: the file exists and ``replace`` is False.
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
