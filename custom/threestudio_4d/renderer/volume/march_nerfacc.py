"""The lattice march through nerfacc's CUDA traversal, which finds the candidates; the specification then chooses.

Taken as it is, the traversal decides differently from ``march_torch`` about single samples. It adds steps and cell
faces up in single precision and starts each ray 1e-6 further on, so its midpoints drift from the lattice, and its faces
from where they are, by some 1e-6. A midpoint that lies as close as that to a face of an occupied cell is counted in
where the specification leaves it out, or the other way round, and one sample more or less changes its pixel by the
sample's whole opacity, some 1e-2. Therefore the traversal here sees a grid with one more layer of occupied cells, which
holds every sample of the specification with room to spare, its midpoints are moved back onto the lattice, and the cell
of each is looked up as ``march_torch`` does it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from .march import Samples
from .occupancy import OccupancyGrid


def march_nerfacc(rays_o: Tensor, rays_d: Tensor, grid: OccupancyGrid, step: float, offsets: Tensor) -> Samples:
    """The samples of ``march_torch``, bit for bit; arguments as in ``march``, on CUDA.

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
    radius = grid.radius + grid.cell_size
    corner = torch.full((1, 3), radius, device=rays_o.device)
    _, samples, _ = traverse_grids(
        rays_o.float().contiguous(),
        rays_d.float().contiguous(),
        grown(grid.binary)[None],
        torch.cat([-corner, corner], dim=1),
        near_planes=offsets.float().contiguous(),
        far_planes=rays_o.float().norm(dim=-1) + 2 * radius,  # behind the box; bounds rays without a direction
        step_size=step,
        cone_angle=0.0,
    )
    return choose(samples.ray_indices.long(), samples.vals, rays_o, rays_d, grid, step, offsets)


def grown(binary: Tensor) -> Tensor:
    """``[R, R, R]`` -> ``[R + 2, R + 2, R + 2]``: the occupied cells and all their neighbours, also outside the box."""
    return F.max_pool3d(F.pad(binary[None].float(), (2,) * 6), 3, stride=1)[0] > 0


def choose(
    ray_indices: Tensor, midpoints: Tensor, rays_o: Tensor, rays_d: Tensor, grid: OccupancyGrid, step: float,
    offsets: Tensor,
) -> Samples:  # fmt: skip
    """Those of the candidates, less than half a step off the lattice, that the specification takes, on the lattice."""
    number = ((midpoints - offsets[ray_indices]) / step - 0.5).round()
    midpoints = offsets[ray_indices] + (number.to(offsets.dtype) + 0.5) * step
    points = rays_o[ray_indices] + midpoints[:, None] * rays_d[ray_indices]
    kept = torch.nonzero(grid.contains(points)).squeeze(-1)
    return Samples(ray_indices[kept], midpoints[kept])
