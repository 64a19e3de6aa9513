"""``neural-environment-map-background``: a small network of the view direction."""

import random
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from threestudio import register
from threestudio.models.background.base import BaseBackground
from threestudio.models.networks import NetworkConfig, get_encoding, get_mlp
from threestudio.utils.ops import get_activation
from threestudio.utils.values import Count, Share

__all__ = ["NeuralEnvironmentMapBackground"]


@register("neural-environment-map-background")
class NeuralEnvironmentMapBackground(BaseBackground):
    """Encoding and MLP of the direction. ``eval_color`` replaces it outside of training; ``random_aug`` mixes
    solid colours in.
    """

    @dataclass
    class Config(BaseBackground.Config):
        n_output_dims: Count = 3
        color_activation: Annotated[str, get_activation] = "sigmoid"
        dir_encoding_config: dict = field(default_factory=lambda: {"otype": "SphericalHarmonics", "degree": 3})
        mlp_network_config: Annotated[dict, NetworkConfig] = field(
            default_factory=lambda: {"otype": "VanillaMLP", "activation": "ReLU", "n_neurons": 16, "n_hidden_layers": 2}
        )
        random_aug: bool = False
        random_aug_prob: Share = 0.5
        eval_color: tuple[float, float, float] | None = None
        share_aug_bg: bool = False

    cfg: Config

    def configure(self) -> None:
        self.encoding = get_encoding(3, self.cfg.dir_encoding_config)
        self.network = get_mlp(self.encoding.n_output_dims, self.cfg.n_output_dims, self.cfg.mlp_network_config)

    def forward(self, dirs: Tensor) -> Tensor:
        if not self.training and self.cfg.eval_color is not None:
            fixed = torch.tensor(list(self.cfg.eval_color), dtype=dirs.dtype, device=dirs.device)
            return fixed.expand(*dirs.shape[:-1], self.cfg.n_output_dims)
        encoded = self.encoding(((dirs + 1.0) / 2.0).reshape(-1, 3))
        color = self.network(encoded).view(*dirs.shape[:-1], self.cfg.n_output_dims)
        color = get_activation(self.cfg.color_activation)(color)
        if self.training and self.cfg.random_aug and random.random() < self.cfg.random_aug_prob:
            # times zero keeps the parameters in the graph, which distributed training asks for
            n_colors = 1 if self.cfg.share_aug_bg else dirs.shape[0]
            color = color * 0 + torch.rand(n_colors, 1, 1, self.cfg.n_output_dims).to(dirs).expand(*dirs.shape[:-1], -1)
        return color
