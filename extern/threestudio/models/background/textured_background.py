"""``textured-background``: a learned panorama."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threestudio import register
from threestudio.models.background.base import BaseBackground
from threestudio.utils.ops import get_activation
from threestudio.utils.values import Count, Pixels

__all__ = ["TexturedBackground"]


@register("textured-background")
class TexturedBackground(BaseBackground):
    """A texture [1, C, height, width] looked up by the azimuth (width) and the polar angle (height) of the
    direction.
    """

    @dataclass
    class Config(BaseBackground.Config):
        n_output_dims: Count = 3
        height: Pixels = 64
        width: Pixels = 64
        color_activation: Annotated[str, get_activation] = "sigmoid"

    cfg: Config

    def configure(self) -> None:
        self.texture = nn.Parameter(torch.randn(1, self.cfg.n_output_dims, self.cfg.height, self.cfg.width))

    def spherical_xyz_to_uv(self, dirs: Tensor) -> Tensor:
        """Directions [*B, 3] to coordinates [*B, 2] in [0, 1]."""
        x, y, z = dirs.unbind(-1)
        u = torch.atan2(y, x) / (2 * math.pi) + 0.5
        v = torch.atan2(torch.sqrt(x**2 + y**2), z) / math.pi
        return torch.stack([u, v], dim=-1)

    def forward(self, dirs: Tensor) -> Tensor:
        grid = self.spherical_xyz_to_uv(dirs.reshape(1, -1, 1, 3)) * 2 - 1
        color = F.grid_sample(self.texture, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        color = color[0, :, :, 0].T.reshape(*dirs.shape[:-1], self.cfg.n_output_dims)
        return get_activation(self.cfg.color_activation)(color)
