"""A stand-in for extensions of other people: the names of the host that they import, and nothing else."""

from packaging.version import Version

import threestudio

if Version(threestudio.__version__) < Version("0.2.1"):
    raise ValueError("threestudio version must be >= 0.2.1")

from . import parts  # noqa: E402, F401
