"""The lattice march by nerfacc's CUDA traversal: from the near plane in constant steps, so at the same midpoints."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UserError
from .march import Samples
from .occupancy import OccupancyGrid


def march_nerfacc(rays_o: Tensor, rays_d: Tensor, grid: OccupancyGrid, step: float, offsets: Tensor) -> Samples:
    """The samples of ``march_torch`` up to rounding at cell faces; arguments as in ``march``, on CUDA.

    The near plane of each ray is its offset. nerfacc compiles its kernels at the first call (about 40 s, once).
    """
    if not rays_o.is_cuda:
        raise UserError("renderer.sampler: nerfacc needs a CUDA device; use auto or torch on the CPU")
    try:
        from nerfacc.grid import traverse_grids
    except ImportError as error:
        raise UserError(
            "renderer.sampler: nerfacc needs the package nerfacc (pip install nerfacc); or use sampler: auto"
        ) from error
    corner = torch.full((1, 3), grid.radius, device=rays_o.device)
    box = torch.cat([-corner, corner], dim=1)
    intervals, samples, _ = traverse_grids(
        rays_o.float().contiguous(),
        rays_d.float().contiguous(),
        grid.binary[None].contiguous(),
        box,
        near_planes=offsets.float().contiguous(),
        far_planes=torch.full_like(offsets, 1e10, dtype=torch.float32),
        step_size=step,
        cone_angle=0.0,
    )
    midpoints = (intervals.vals[intervals.is_left] + intervals.vals[intervals.is_right]) * 0.5
    return Samples(samples.ray_indices.long(), midpoints)
