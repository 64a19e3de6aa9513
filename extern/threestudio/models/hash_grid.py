"""Multiresolution hash encoding in plain PyTorch (Mueller et al., SIGGRAPH 2022, "Instant neural graphics primitives").

Points of the unit cube in 1 to 7 dimensions are looked up in L grids of growing resolution, and the features of the L
lookups are concatenated. Fine grids share a table of fixed size through a hash. Levels, tables, hash and the order of
the parameters are those of tiny-cuda-nn, so that the two can read each other's ``params``.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threestudio.utils.errors import UserError

__all__ = ["HashGrid", "Level", "level_table"]

#: factors of the spatial hash, one for each dimension
PRIMES = (1, 2654435761, 805459861, 3674653429, 2097192037, 1434869437, 2165219737)

#: half the width of the initial values
INITIAL = 1e-4

_32_BITS = 0xFFFFFFFF


class Level(NamedTuple):
    """One grid: cells a unit is cut into (a real number), texels along an axis, texels of its table."""

    scale: float
    resolution: int
    size: int

    def is_hashed(self, dimensions: int) -> bool:
        """Whether the grid has more texels than its table."""
        return self.resolution**dimensions > self.size


def level_table(
    dimensions: int,
    n_levels: int = 16,
    base_resolution: int = 16,
    per_level_scale: float = 2.0,
    log2_hashmap_size: int | None = 19,
) -> list[Level]:
    """The grids of an encoding.

    Level l has the scale ``base_resolution * per_level_scale^l - 1`` and ``ceil(scale) + 1`` texels along an axis; its
    table holds all of them, in multiples of 8, but no more than ``2^log2_hashmap_size`` (None: no limit).
    """
    levels = []
    for number in range(n_levels):
        # in single precision, as tiny-cuda-nn has it: a product that lands beside an integer changes the resolution
        growth = torch.exp2(torch.tensor(number * math.log2(per_level_scale), dtype=torch.float32))
        scale = float(growth * base_resolution - 1)
        resolution = math.ceil(scale) + 1
        size = -(-(resolution**dimensions) // 8) * 8
        if log2_hashmap_size is not None:
            size = min(size, 2**log2_hashmap_size)
        levels.append(Level(scale, resolution, size))
    return levels


class HashGrid(nn.Module):
    """Points [N, D] in [0, 1] -> features [N, n_levels n_features_per_level], linear or smooth between texels.

    Args:
        n_input_dims: D.
        config: tiny-cuda-nn's keys and defaults: ``n_levels`` 16, ``n_features_per_level`` 2, ``log2_hashmap_size``
            19, ``base_resolution`` 16, ``per_level_scale`` 2.0, ``interpolation`` "Linear" or "Smoothstep"; ``otype``
            "DenseGrid" or ``type`` "Dense" gives every level a table of its own for all texels.

    ``params`` holds the tables of all levels one after the other, texel by texel.
    """

    def __init__(self, n_input_dims: int, config: Any) -> None:
        super().__init__()
        if not 1 <= n_input_dims <= len(PRIMES):
            raise ValueError(f"A hash grid has 1 to {len(PRIMES)} dimensions, got {n_input_dims}.")
        kind = config.get("type", "Hash") if config["otype"] == "Grid" else config["otype"].removesuffix("Grid")
        if kind not in ("Hash", "Dense"):
            raise UserError(f"A grid's type is 'Hash' or 'Dense', got '{kind}' ('Tiled' needs tinycudann).")
        interpolation = config.get("interpolation", "Linear")
        if interpolation not in ("Linear", "Smoothstep"):
            raise UserError(f"A grid's interpolation is 'Linear' or 'Smoothstep', got '{interpolation}'.")
        self.smooth = interpolation == "Smoothstep"
        self.n_input_dims = n_input_dims
        self.n_features = config.get("n_features_per_level", 2)
        self.levels = level_table(
            n_input_dims,
            config.get("n_levels", 16),
            config.get("base_resolution", 16),
            config.get("per_level_scale", 2.0),
            config.get("log2_hashmap_size", 19) if kind == "Hash" else None,
        )
        self.n_output_dims = len(self.levels) * self.n_features
        total = sum(level.size for level in self.levels)
        self.params = nn.Parameter(torch.empty(total * self.n_features).uniform_(-INITIAL, INITIAL))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        tables = self.params.view(-1, self.n_features).split([level.size for level in self.levels])
        return torch.cat([self._look_up(x, level, table) for level, table in zip(self.levels, tables, strict=True)], -1)

    def _look_up(self, x: Tensor, level: Level, table: Tensor) -> Tensor:
        position = x * level.scale + 0.5
        cell = position.detach().floor()
        fraction = position - cell
        if self.smooth:
            fraction = fraction.square() * (3 - 2 * fraction)
        shares = torch.stack([1 - fraction, fraction], dim=-1)  # [N, D, 2]
        weights = shares[:, 0]
        for axis in range(1, self.n_input_dims):
            weights = (weights[..., None] * shares[:, axis, None]).flatten(1)
        features = F.embedding(_corners(cell.long(), level), table)  # [N, 2^D, n_features]
        return (features * weights[..., None]).sum(1)


def _corners(cell: Tensor, level: Level) -> Tensor:
    """Rows [N, 2^D] of a level's table for the corners of cells [N, D]; the first axis changes most slowly."""
    dimensions = cell.shape[1]
    texels = torch.stack([cell, cell + 1], dim=-1)  # [N, D, 2]
    hashed = level.is_hashed(dimensions)
    index = texels.new_zeros(len(cell), 1)
    for axis in range(dimensions):
        if hashed:
            part = texels[:, axis, None] * PRIMES[axis] & _32_BITS
            index = (index[..., None] ^ part).flatten(1)
        else:
            index = (index[..., None] + texels[:, axis, None] * level.resolution**axis).flatten(1)
    return index % level.size
