"""SHA-256 of files, and the versions of the libraries that a result depends on."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path

_LIBRARIES = ("threestudio-4d", "torch", "torchmetrics", "numpy", "pillow", "opencv-python-headless", "transformers")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """Name -> version of Python and of the libraries that read, resize and measure."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
