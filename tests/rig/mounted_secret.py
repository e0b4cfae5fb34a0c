"""Pods whose folders of signing keys change as kubelet changes them."""

import shutil
from pathlib import Path


class MountedSecret:
    """A folder as kubelet mounts a Secret: links to ``..data``, which is exchanged as a whole.

    Every file gets a new time at every change, and all files have it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._versions = 0
        folder.mkdir()

    def put(self, items: dict[str, bytes]) -> None:
        """Let the folder hold these files and no others."""
        self._versions += 1
        version = self.folder / f"..version-{self._versions}"
        version.mkdir()
        for name, contents in items.items():
            (version / name).write_bytes(contents)
        data = self.folder / "..data"
        old = data.resolve() if data.is_symlink() else None
        new = self.folder / "..data_tmp"
        new.symlink_to(version.name)
        new.replace(data)
        for name in items:
            link = self.folder / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        for link in self.folder.iterdir():
            if link.is_symlink() and not link.name.startswith("..") and link.name not in items:
                link.unlink()
        if old is not None:
            shutil.rmtree(old)
