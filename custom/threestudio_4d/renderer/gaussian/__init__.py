"""3D Gaussian splatting: ``splat`` draws Gaussians from pinhole cameras.

``cameras`` holds the one conversion from the project's camera axes, ``projection`` the EWA mathematics.
``splat_torch`` is the plain PyTorch specification, ``splat_gsplat`` the CUDA kernels of gsplat; both draw the same.
"""

from .splat import BACKENDS, SplatRendering, splat

__all__ = ["BACKENDS", "SplatRendering", "splat"]
