"""The oldest libraries that the extension runs on, and what it does without on them.

They are those of the time of upstream threestudio's requirements. What a newer release does better is used where it is
found; where it is not, a warning says so once.
"""

from __future__ import annotations

import inspect
import logging
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from .errors import UserError

logger = logging.getLogger(__name__)

OLDEST_PYTHON = (3, 10)
#: package -> its oldest release
OLDEST = {"torch": "2.0", "diffusers": "0.19", "transformers": "4.28"}


def check_versions() -> None:
    """Raise ImportError when Python or a library is older than the extension can run on."""
    if sys.version_info < OLDEST_PYTHON:
        raise ImportError(f"threestudio-4d needs Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")
    for package, oldest in OLDEST.items():
        found = installed(package)
        if found is not None and older(found, oldest):
            raise ImportError(f"threestudio-4d needs {package} {oldest} or newer, found {found}")


def installed(package: str) -> str | None:
    """Version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def older(found: str, wanted: str) -> bool:
    """Whether one version comes before another one."""
    from packaging.version import Version

    return Version(found) < Version(wanted)


def require_diffusers(oldest: str, what: str) -> None:
    """Raise UserError when diffusers is too old for a kind of model."""
    found = installed("diffusers")
    if found is not None and older(found, oldest):
        raise UserError(f"{what} needs diffusers {oldest} or newer, found {found}")


@cache
def memory_mapping() -> dict[str, bool]:
    """Arguments of ``torch.load`` that leave a file's tensors on disk until they are used (torch 2.1)."""
    import torch

    if "mmap" in inspect.signature(torch.load).parameters:
        return {"mmap": True}
    logger.warning("torch %s cannot map checkpoints: they are read into memory whole", torch.__version__)
    return {}


@cache
def triton_fits() -> bool:
    """Whether the installed Triton takes the memory order of an atomic addition, as the kernels give it (2.1)."""
    import triton
    import triton.language as tl

    if "sem" in inspect.signature(tl.atomic_add).parameters:
        return True
    logger.warning("Triton %s is too old for the plane kernels (2.1): PyTorch looks the planes up", triton.__version__)
    return False
