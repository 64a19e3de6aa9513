"""Where samples lie on rays: the specification in plain PyTorch, and the choice between its twins.

Every ray has a lattice of candidate midpoints ``t_k = offset + (k + 1/2) step``, k = 0, 1, …; a candidate becomes a
sample when its point lies in the scene box and in an occupied cell. ``offset`` is one uniform draw in [0, step) per ray
in training (stratified) and 0 in evaluation.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from threestudio.utils.typing import Float, Int, Tensor

from .occupancy import OccupancyGrid

Sampler = Literal["auto", "torch", "numba", "nerfacc"]
SAMPLERS = ("auto", "torch", "numba", "nerfacc")


class Samples(NamedTuple):
    """Samples of all rays, packed: rays in order, and along each ray from near to far."""

    #: ``[M]`` index of the ray
    ray_indices: Int[Tensor, " M"]
    #: ``[M]`` distance of the midpoint along the ray, in world units
    midpoints: Float[Tensor, " M"]


@torch.no_grad()
def march(
    rays_o: Float[Tensor, "R 3"],
    rays_d: Float[Tensor, "R 3"],
    grid: OccupancyGrid,
    step: float,
    offsets: Float[Tensor, " R"] | None = None,
    sampler: Sampler = "auto",
) -> Samples:
    """Sample rays (unit directions) in the occupied cells of ``grid``; ``offsets`` None means 0.

    "auto" is the compiled kernel on the CPU and the PyTorch lattice elsewhere.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; choose one of {', '.join(SAMPLERS)}")
    if offsets is None:
        offsets = torch.zeros_like(rays_o[:, 0])
    if sampler == "nerfacc":
        from .march_nerfacc import march_nerfacc

        return march_nerfacc(rays_o, rays_d, grid, step, offsets)
    if sampler == "numba" or (sampler == "auto" and rays_o.device.type == "cpu"):
        from .march_numba import march_numba

        return march_numba(rays_o, rays_d, grid, step, offsets)
    return march_torch(rays_o, rays_d, grid, step, offsets)


def march_torch(rays_o: Tensor, rays_d: Tensor, grid: OccupancyGrid, step: float, offsets: Tensor) -> Samples:
    """The lattice march; arguments as in ``march``."""
    low, high = grid.occupied_box
    first, last = _lattice_range(rays_o, rays_d, low, high, step, offsets)
    counts = (last - first + 1).clamp_(min=0)
    # Packing needs the number of candidates, and below of samples, on the host: the two syncs of a step.
    total = int(counts.sum())
    rays = torch.arange(len(rays_o), device=rays_o.device)
    ray_indices = torch.repeat_interleave(rays, counts, output_size=total)
    ends = counts.cumsum(0)
    number = torch.arange(total, device=rays_o.device) - (ends - counts - first)[ray_indices]
    midpoints = offsets[ray_indices] + (number.to(offsets.dtype) + 0.5) * step
    points = rays_o[ray_indices] + midpoints[:, None] * rays_d[ray_indices]
    kept = torch.nonzero(grid.contains(points)).squeeze(-1)
    return Samples(ray_indices[kept], midpoints[kept])


def _lattice_range(
    rays_o: Tensor, rays_d: Tensor, low: Tensor, high: Tensor, step: float, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """First and last lattice number of each ray near the box (one candidate of slack either side)."""
    parallel = rays_d.abs() < 1e-12
    inverse = 1 / torch.where(parallel, torch.full_like(rays_d, 1e-12), rays_d)
    to_low, to_high = (low - rays_o) * inverse, (high - rays_o) * inverse
    near = torch.minimum(to_low, to_high).amax(dim=-1)
    far = torch.maximum(to_low, to_high).amin(dim=-1)
    # The chord of a box is at most its diagonal; this also bounds rays without a direction.
    hit = (far >= near) & (far >= 0) & (low < high).all()
    near = torch.where(hit, near, 1.0).clamp(min=0)
    far = torch.where(hit, torch.minimum(far, near + (high - low).norm()), 0.0)
    first = ((near - offsets) / step - 1.5).ceil().long().clamp_(min=0)
    last = ((far - offsets) / step + 0.5).floor().long()
    return first, torch.where(hit, last, -1)
