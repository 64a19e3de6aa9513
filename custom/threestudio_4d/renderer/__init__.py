"""How representations become pictures: ``volume/`` marches rays through fields, ``gaussian/`` splats Gaussians."""

from . import volume  # noqa: F401
