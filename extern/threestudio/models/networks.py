"""Encodings and multilayer perceptrons in plain PyTorch; what upstream runs on tinycudann is refused with an
explanation.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from threestudio.utils.base import Updateable
from threestudio.utils.config import parse_structured
from threestudio.utils.errors import UserError
from threestudio.utils.ops import get_activation
from threestudio.utils.values import Count, Number, Text, Whole

__all__ = [
    "CompositeEncoding",
    "NetworkConfig",
    "NetworkWithInputEncoding",
    "ProgressiveBandFrequency",
    "SphereInitVanillaMLP",
    "VanillaMLP",
    "create_network_with_input_encoding",
    "get_encoding",
    "get_mlp",
]


@dataclass
class NetworkConfig:
    """The section of a network; what ``otype`` has no use for stays without effect, as in tinycudann."""

    otype: Text = "VanillaMLP"
    activation: Annotated[str | None, get_activation] = "ReLU"
    output_activation: Annotated[str | None, get_activation] = None
    n_neurons: Count = 64
    n_hidden_layers: Whole = 1
    sphere_init: bool = False
    sphere_init_radius: Number | None = None
    weight_norm: bool = False


class ProgressiveBandFrequency(nn.Module, Updateable):
    """sin and cos of the input at octaves [..., C] -> [..., 2 C n_frequencies], opened one after the other.

    Config: ``n_frequencies``, ``n_masking_step=0`` (steps until all bands are open; 0 opens them at once).
    """

    def __init__(self, in_channels: int, config: Any) -> None:
        super().__init__()
        self.n_input_dims = in_channels
        self.N_freqs = config["n_frequencies"]
        self.n_output_dims = 2 * in_channels * self.N_freqs
        self.n_masking_step = config.get("n_masking_step", 0)
        self.freq_bands = [2.0**i for i in range(self.N_freqs)]
        self.mask: list[float] = [1.0] * self.N_freqs
        self.update_step(0, 0)

    def forward(self, x: Tensor) -> Tensor:
        bands = [
            f(frequency * x) * m
            for frequency, m in zip(self.freq_bands, self.mask, strict=True)
            for f in (torch.sin, torch.cos)
        ]
        return torch.cat(bands, dim=-1)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        if self.n_masking_step > 0:
            position = global_step / self.n_masking_step * self.N_freqs
            self.mask = [(1 - math.cos(math.pi * min(max(position - i, 0.0), 1.0))) / 2 for i in range(self.N_freqs)]


class CompositeEncoding(nn.Module, Updateable):
    """An encoding, optionally with the scaled input itself in front."""

    def __init__(
        self, encoding: nn.Module, include_xyz: bool = False, xyz_scale: float = 2.0, xyz_offset: float = -1.0
    ) -> None:
        super().__init__()
        self.encoding = encoding
        self.include_xyz, self.xyz_scale, self.xyz_offset = include_xyz, xyz_scale, xyz_offset
        self.n_input_dims = encoding.n_input_dims
        self.n_output_dims = (encoding.n_input_dims if include_xyz else 0) + encoding.n_output_dims

    def forward(self, x: Tensor, *args) -> Tensor:
        encoded = self.encoding(x, *args)
        if not self.include_xyz:
            return encoded
        return torch.cat([x * self.xyz_scale + self.xyz_offset, encoded], dim=-1)


class VanillaMLP(nn.Module):
    """Linear layers without bias and ReLU between them, always in 32 bits. [..., n_in] -> [..., n_out].

    Config: ``n_neurons``, ``n_hidden_layers``, ``output_activation=None``.
    """

    def __init__(self, dim_in: int, dim_out: int, config: Any) -> None:
        super().__init__()
        n_neurons, n_hidden_layers = config["n_neurons"], config["n_hidden_layers"]
        layers: list[nn.Module] = [self.make_linear(dim_in, n_neurons, True, False, config), self.make_activation()]
        for _ in range(n_hidden_layers - 1):
            layers += [self.make_linear(n_neurons, n_neurons, False, False, config), self.make_activation()]
        layers += [self.make_linear(n_neurons, dim_out, False, True, config)]
        self.layers = nn.Sequential(*layers)
        self.output_activation = get_activation(config.get("output_activation", None))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.output_activation(self.layers(x.float()))

    def make_linear(self, dim_in: int, dim_out: int, is_first: bool, is_last: bool, config: Any) -> nn.Module:
        return nn.Linear(dim_in, dim_out, bias=False)

    def make_activation(self) -> nn.Module:
        return nn.ReLU(inplace=True)


class SphereInitVanillaMLP(VanillaMLP):
    """An MLP whose output starts as the signed distance to a sphere (Atzmon and Lipman, SAL): weight norm, softplus.

    Config: as ``VanillaMLP`` plus ``sphere_init_radius``. The first three inputs are the position.
    """

    def make_linear(self, dim_in: int, dim_out: int, is_first: bool, is_last: bool, config: Any) -> nn.Module:
        layer = nn.Linear(dim_in, dim_out, bias=True)
        nn.init.zeros_(layer.bias)
        if is_last:
            nn.init.constant_(layer.bias, -config["sphere_init_radius"])
            nn.init.normal_(layer.weight, mean=math.sqrt(math.pi) / math.sqrt(dim_in), std=0.0001)
        else:
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2) / math.sqrt(dim_out))
            if is_first:
                nn.init.zeros_(layer.weight[:, 3:].data)
        return nn.utils.weight_norm(layer)

    def make_activation(self) -> nn.Module:
        return nn.Softplus(beta=100)


class NetworkWithInputEncoding(nn.Module, Updateable):
    """An encoding followed by a network."""

    def __init__(self, encoding: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.encoding, self.network = encoding, network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.encoding(x))


def get_encoding(n_input_dims: int, config: Any) -> nn.Module:
    """A ``CompositeEncoding`` with ``n_output_dims``; ``config.otype`` names what is inside (as ``.encoding``).

    Raises:
        UserError: an ``otype`` that needs tinycudann, which this host does without.
    """
    if config["otype"] != "ProgressiveBandFrequency":
        raise UserError(
            f"The encoding otype '{config['otype']}' needs tinycudann, which this host does not use. "
            "Use 'ProgressiveBandFrequency', or run the config from an upstream threestudio checkout."
        )
    encoding = ProgressiveBandFrequency(n_input_dims, config)
    return CompositeEncoding(encoding, include_xyz=config.get("include_xyz", False))


def get_mlp(n_input_dims: int, n_output_dims: int, config: Any) -> nn.Module:
    """The network that ``config.otype`` names.

    Raises:
        UserError: an ``otype`` that needs tinycudann, which this host does without.
    """
    config = parse_structured(NetworkConfig, config)
    kinds = {"VanillaMLP": VanillaMLP, "SphereInitVanillaMLP": SphereInitVanillaMLP}
    if config["otype"] not in kinds:
        raise UserError(
            f"The network otype '{config['otype']}' needs tinycudann, which this host does not use. "
            f"Use one of {', '.join(kinds)}, or run the config from an upstream threestudio checkout."
        )
    return kinds[config["otype"]](n_input_dims, n_output_dims, config)


def create_network_with_input_encoding(
    n_input_dims: int, n_output_dims: int, encoding_config: Any, network_config: Any
) -> nn.Module:
    encoding = get_encoding(n_input_dims, encoding_config)
    return NetworkWithInputEncoding(encoding, get_mlp(encoding.n_output_dims, n_output_dims, network_config))
