"""threestudio-4d: objects that move, from a clip, as an extension of threestudio.

Importing the package registers its parts with the host (`data`, `geometry`, `renderer`, `guidance`,
`interpolation`, `system`, `results.export`); a YAML file then names them. Tools that need no host
(``python -m threestudio_4d.fetch``) also run where none is installed.
"""

from importlib.util import find_spec

from .versions import check_versions

__version__ = "0.1.0"

OLDEST_HOST = "0.2.1"


def _check_host_version() -> None:
    """Raise ImportError when the importable threestudio lacks the interfaces that this extension uses."""
    from packaging.version import Version

    import threestudio

    found = getattr(threestudio, "__version__", None)
    if found is None or Version(found) < Version(OLDEST_HOST):
        raise ImportError(
            f"threestudio-4d needs threestudio {OLDEST_HOST} or newer; found {found or 'one without a version'} "
            f"in {getattr(threestudio, '__file__', 'an unknown place')}. Update the checkout, "
            "or run this project's own launch.py, which brings its own host."
        )


check_versions()
if find_spec("threestudio") is not None:
    _check_host_version()
    from . import data, geometry, guidance, interpolation, renderer, system  # noqa: F401
    from .results import export  # noqa: F401
