"""Which cells of the scene box hold matter at any time and at any cascade level."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from threestudio.utils.typing import Bool, Float, Tensor

DensityFunction = Callable[[Tensor, Tensor], Tensor]


class OccupancyGrid(nn.Module):
    """A cube of ``resolution^3`` cells over ``[-radius, radius]^3``, refreshed from the field during training.

    A cell keeps a decaying maximum of density times step length, over jittered points in the cell, over stratified
    times in [0, 1], and over the levels of the field: what exists only in a fine level or for a moment is seen. A cell
    is occupied where that exceeds ``min(mean, threshold)`` or is NaN. A new grid is fully occupied. All state is in
    buffers, so a checkpoint restores it.
    """

    def __init__(
        self,
        radius: float,
        resolution: int = 32,
        times: int = 4,
        threshold: float = 0.01,
        decay: float = 0.95,
        warmup_steps: int = 256,
    ) -> None:
        super().__init__()
        self.radius, self.resolution, self.times = float(radius), int(resolution), int(times)
        self.threshold, self.decay, self.warmup_steps = threshold, decay, warmup_steps
        n = self.resolution
        self.register_buffer("occs", torch.zeros(n**3))
        self.register_buffer("binary", torch.ones(n, n, n, dtype=torch.bool))
        #: corners ``[2, 3]`` of the smallest box around all occupied cells
        self.register_buffer("occupied_box", torch.tensor([[-1.0] * 3, [1.0] * 3]) * self.radius)

    @property
    def cell_size(self) -> float:
        """Edge length of a cell in world units."""
        return 2 * self.radius / self.resolution

    def contains(self, points: Float[Tensor, "*N 3"]) -> Bool[Tensor, "*N"]:
        """Whether world points lie inside the box and in an occupied cell."""
        scaled = (points + self.radius) * (1 / self.cell_size)
        n = self.resolution
        cell = scaled.long().clamp_(0, n - 1)
        flat = (cell[..., 0] * n + cell[..., 1]) * n + cell[..., 2]
        inside = (points.abs() <= self.radius).all(dim=-1)
        return self.binary.view(-1)[flat] & inside

    def set_binary(self, binary: Bool[Tensor, "R R R"]) -> None:
        """Set the occupied cells, and the box around them."""
        self.binary.copy_(binary)
        n = self.resolution
        low, high = [], []
        steps = torch.arange(n, device=binary.device)
        for axis in range(3):
            others = [other for other in range(3) if other != axis]
            used = binary.any(dim=others[1]).any(dim=others[0])
            low.append(torch.where(used, steps, n).amin())
            high.append(torch.where(used, steps + 1, 0).amax())
        box = torch.stack([torch.stack(low), torch.stack(high)]).float() * self.cell_size - self.radius
        self.occupied_box.copy_(box)  # low > high when nothing is occupied: every ray then misses it

    @torch.no_grad()
    def refresh(self, density: DensityFunction, step_length: float, global_step: int) -> None:
        """Look at the field again: all cells during warm-up, later a quarter at random and as many occupied ones.

        Args:
            density: maps points ``[P, 3]`` and times ``[P, 1]`` in [0, 1] to densities ``[L, P, 1]``.
            step_length: distance between samples of a ray, in world units.
            global_step: optimizer steps so far.
        """
        cells = self._cells_to_visit(global_step)
        n, device = self.resolution, self.occs.device
        corner = torch.stack([cells // (n * n), cells // n % n, cells % n], dim=-1)
        strata = torch.arange(self.times, device=device)[:, None]
        times = (strata + torch.rand(self.times, len(cells), device=device)) / self.times  # [T, P]
        jitter = torch.rand(self.times, len(cells), 3, device=device)
        points = (corner + jitter) * self.cell_size - self.radius  # [T, P, 3]
        seen = density(points.reshape(-1, 3), times.reshape(-1, 1))  # [L, T P, 1]
        seen = seen.view(-1, len(cells)).amax(dim=0) * step_length
        self.occs[cells] = torch.maximum(self.occs[cells] * self.decay, seen.to(self.occs.dtype))
        occupied = self.occs > self.occs.nanmean().clamp(max=self.threshold)
        # Where the field is NaN it must be seen, so that the loss says so: an empty cell would hide it.
        self.set_binary((occupied | self.occs.isnan()).view(n, n, n))

    def _cells_to_visit(self, global_step: int) -> Tensor:
        total, device = self.resolution**3, self.occs.device
        if global_step < self.warmup_steps:
            return torch.arange(total, device=device)
        count = total // 4
        anywhere = torch.randint(total, (count,), device=device)
        # The number of occupied cells sizes the query: one host sync per refresh, not per step.
        occupied = torch.nonzero(self.binary.view(-1)).squeeze(-1)
        if len(occupied) > count:
            occupied = occupied[torch.randint(len(occupied), (count,), device=device)]
        # A cell named twice must not get one of two different updates by chance.
        return torch.cat([anywhere, occupied]).unique()
