"""The small networks that turn plane features into raw density and colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from threestudio.utils.config import parse_structured

from ..ops.two_layer import two_layer
from ..values import Count, Whole


@dataclass
class HeadConfig:
    """The network's section, in the words of threestudio's VanillaMLP."""

    otype: Annotated[str, Literal["VanillaMLP"]] = "VanillaMLP"
    activation: Annotated[str, Literal["ReLU"]] = "ReLU"
    output_activation: Annotated[str, Literal["none"]] = "none"
    n_neurons: Count = 32
    n_hidden_layers: Whole = 1


class Head(nn.Module):
    """A bias-free ReLU network ``[N, C] -> [N, n_out]``; its weights are ``layers.0``, ``layers.2``, ...

    ``config`` is read as a ``HeadConfig``. PyTorch's default initialisation.
    """

    def __init__(self, n_in: int, n_out: int, config: Any) -> None:
        super().__init__()
        cfg = parse_structured(HeadConfig, config)
        widths = [n_in] + [cfg.n_neurons] * cfg.n_hidden_layers
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
