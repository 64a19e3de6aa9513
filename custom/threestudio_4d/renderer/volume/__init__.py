"""Rays through fields: occupancy grid, marching, compositing, and the renderer that joins them.

``dynerf_volume_renderer`` registers ``dynerf-volume-renderer``. ``march`` is the plain PyTorch specification of where
samples lie; ``march_numba`` and ``march_nerfacc`` find the same samples with compiled kernels.
"""

from . import dynerf_volume_renderer  # noqa: F401
