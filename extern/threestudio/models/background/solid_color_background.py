"""``solid-color-background``: one colour, white by default."""

import random
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from threestudio import register
from threestudio.models.background.base import BaseBackground
from threestudio.utils.values import Count, Share

__all__ = ["SolidColorBackground"]


@register("solid-color-background")
class SolidColorBackground(BaseBackground):
    """One colour, fixed or ``learned``; in training replaced by a random one (one for each image) with
    ``random_aug_prob``.
    """

    @dataclass
    class Config(BaseBackground.Config):
        n_output_dims: Count = 3
        color: Annotated[Any, list[Share]] = (1.0, 1.0, 1.0)
        learned: bool = False
        random_aug: bool = False
        random_aug_prob: Share = 0.5

    cfg: Config

    def configure(self) -> None:
        color = torch.as_tensor([float(c) for c in self.cfg.color], dtype=torch.float32)
        self.env_color: Tensor
        if self.cfg.learned:
            self.env_color = nn.Parameter(color)
        else:
            self.register_buffer("env_color", color)

    def forward(self, dirs: Tensor) -> Tensor:
        color = self.env_color.to(dirs).expand(*dirs.shape[:-1], -1)
        if self.training and self.cfg.random_aug and random.random() < self.cfg.random_aug_prob:
            # times zero keeps the parameter in the graph, which distributed training asks for
            noise = torch.rand(dirs.shape[0], 1, 1, self.cfg.n_output_dims, device=dirs.device, dtype=dirs.dtype)
            color = color * 0 + noise
        return color
