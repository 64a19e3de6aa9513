"""The lattice march of ``march`` as a compiled CPU kernel: rays are walked twice, to count and to write."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...ops.cpu_threads import compiled, inlined, partition, run_parts
from .march import Samples, _lattice_range
from .occupancy import OccupancyGrid


@inlined
def _occupied(x, y, z, binary, radius, inverse_cell):
    n = binary.shape[0]
    if not (abs(x) <= radius and abs(y) <= radius and abs(z) <= radius):
        return False
    i = min(int((x + radius) * inverse_cell), n - 1)
    j = min(int((y + radius) * inverse_cell), n - 1)
    k = min(int((z + radius) * inverse_cell), n - 1)
    return binary[i, j, k]


@compiled
def _walk(rays_o, rays_d, offsets, first, last, binary, radius, inverse_cell, step, counts, starts, out, start, stop):
    """Count the samples of each ray into ``counts``; with room in ``out``, write their midpoints from ``starts``."""
    half = np.float32(0.5)
    for ray in range(start, stop):
        found = 0
        for number in range(first[ray], last[ray] + 1):
            t = offsets[ray] + (np.float32(number) + half) * step
            x = rays_o[ray, 0] + t * rays_d[ray, 0]
            y = rays_o[ray, 1] + t * rays_d[ray, 1]
            z = rays_o[ray, 2] + t * rays_d[ray, 2]
            if _occupied(x, y, z, binary, radius, inverse_cell):
                if out.shape[0] > 0:
                    out[starts[ray] + found] = t
                found += 1
        counts[ray] = found


def march_numba(rays_o: Tensor, rays_d: Tensor, grid: OccupancyGrid, step: float, offsets: Tensor) -> Samples:
    """The samples of ``march_torch``; arguments as in ``march``, on the CPU in float32."""
    low, high = grid.occupied_box
    first, last = _lattice_range(rays_o, rays_d, low, high, step, offsets)
    counts = torch.empty(len(rays_o), dtype=torch.long)
    fixed = (
        rays_o.float().contiguous().numpy(), rays_d.float().contiguous().numpy(), offsets.float().contiguous().numpy(),
        first.numpy(), last.numpy(), grid.binary.numpy(), np.float32(grid.radius), np.float32(1 / grid.cell_size),
        np.float32(step), counts.numpy(),
    )  # fmt: skip
    parts = partition(len(rays_o))
    empty, starts = np.empty(0, np.float32), np.zeros(1, np.int64)
    run_parts(lambda _, start, stop: _walk(*fixed, starts, empty, start, stop), parts)
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    midpoints = torch.empty(total)
    begin, target = (ends - counts).numpy(), midpoints.numpy()
    if total:
        run_parts(lambda _, start, stop: _walk(*fixed, begin, target, start, stop), parts)
    return Samples(torch.repeat_interleave(torch.arange(len(rays_o)), counts, output_size=total), midpoints)
