"""The small networks that turn plane features into raw density and colour."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..ops.two_layer import two_layer

_KEYS = ("otype", "activation", "output_activation", "n_neurons", "n_hidden_layers")


class Head(nn.Module):
    """A bias-free ReLU network ``[N, C] -> [N, n_out]``; its weights are ``layers.0``, ``layers.2``, ...

    The config is that of threestudio's VanillaMLP: ``otype: VanillaMLP``, ``activation: ReLU``,
    ``output_activation: none``, ``n_neurons``, ``n_hidden_layers``. PyTorch's default initialisation.
    """

    def __init__(self, n_in: int, n_out: int, config: Any) -> None:
        super().__init__()
        unknown = sorted(set(config) - set(_KEYS))
        if unknown:
            raise UserError(f"mlp_network_config has unknown keys {unknown}; valid keys are {', '.join(_KEYS)}")
        for key, only in (("otype", "VanillaMLP"), ("activation", "ReLU"), ("output_activation", "none")):
            if config.get(key, only) != only:
                raise UserError(f"mlp_network_config.{key} is {config[key]!r}; cascade-kplanes supports {only!r}")
        widths = [n_in] + [int(config["n_neurons"])] * int(config["n_hidden_layers"])
        layers: list[nn.Module] = []
        for narrow, wide in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(narrow, wide, bias=False), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], n_out, bias=False))

    @property
    def weights(self) -> list[Tensor]:
        """Weight matrices ``[out, in]`` from input to output."""
        return [layer.weight for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, features: Tensor) -> Tensor:
        """``[N, C] -> [N, n_out]``."""
        hidden = features
        weights = self.weights
        if len(weights) == 2:
            return two_layer(features, *weights)
        for weight in weights[:-1]:
            hidden = F.relu(F.linear(hidden, weight), inplace=True)
        return F.linear(hidden, weights[-1])

    def input_gradient(self, features: Tensor) -> Tensor:
        """Gradient ``[N, C]`` of a single output with respect to the features ``[N, C]``; itself differentiable."""
        weights = self.weights
        active = []
        hidden = features
        for weight in weights[:-1]:
            hidden = F.relu(F.linear(hidden, weight), inplace=True)
            active.append((hidden > 0).to(hidden.dtype))
        gradient = weights[-1].expand(features.shape[0], -1)
        for weight, mask in zip(reversed(weights[:-1]), reversed(active), strict=True):
            gradient = (gradient * mask) @ weight
        return gradient
