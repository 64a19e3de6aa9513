"""Encodings and multilayer perceptrons by name: tinycudann's run on it where it is installed, else in PyTorch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threestudio.models.encodings import ProgressiveBandHashGrid, TCNNEncoding, TCNNEncodingSpatialTime
from threestudio.utils.base import Updateable
from threestudio.utils.config import config_to_primitive, parse_structured
from threestudio.utils.errors import UserError
from threestudio.utils.misc import get_device, tinycudann
from threestudio.utils.ops import get_activation
from threestudio.utils.values import Count, Number, Text, Whole

__all__ = [
    "CompositeEncoding",
    "NetworkConfig",
    "NetworkWithInputEncoding",
    "ProgressiveBandFrequency",
    "ProgressiveBandHashGrid",
    "SphereInitVanillaMLP",
    "TCNNEncoding",
    "TCNNEncodingSpatialTime",
    "TCNNNetwork",
    "VanillaMLP",
    "create_network_with_input_encoding",
    "default_encoding",
    "default_network",
    "get_encoding",
    "get_mlp",
]


_TINYCUDANN_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "leakyrelu": F.leaky_relu,
    "exponential": torch.exp,
    "sine": torch.sin,
    "squareplus": lambda x: (x + torch.sqrt(x * x + 4)) / 2,
}


def default_encoding() -> dict:
    """The encoding of upstream's implicit geometries: a hash grid of 16 levels, from 16 to 4,096 texels a side."""
    return {
        "otype": "HashGrid",
        "n_levels": 16,
        "n_features_per_level": 2,
        "log2_hashmap_size": 19,
        "base_resolution": 16,
        "per_level_scale": 1.447269237440378,
    }


def default_network() -> dict:
    """The network of upstream's implicit geometries, behind their encoding."""
    return {"otype": "VanillaMLP", "activation": "ReLU", "n_neurons": 64, "n_hidden_layers": 1}


def network_activation(name: str | None) -> Callable[[Tensor], Tensor]:
    """Activation by tiny-cuda-nn's name, or by one that ``get_activation`` knows."""
    return _TINYCUDANN_ACTIVATIONS.get(str(name).lower()) or get_activation(name)


@dataclass
class NetworkConfig:
    """The section of a network; what ``otype`` has no use for stays without effect, as in tinycudann."""

    otype: Text = "VanillaMLP"
    activation: Annotated[str | None, network_activation] = "ReLU"
    output_activation: Annotated[str | None, network_activation] = None
    n_neurons: Count = 64
    n_hidden_layers: Whole = 1
    sphere_init: bool = False
    sphere_init_radius: Number | None = None
    inside_out: bool = False
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
        self.output_activation = network_activation(config.get("output_activation", None))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.output_activation(self.layers(x.float()))

    def make_linear(self, dim_in: int, dim_out: int, is_first: bool, is_last: bool, config: Any) -> nn.Module:
        return nn.Linear(dim_in, dim_out, bias=False)

    def make_activation(self) -> nn.Module:
        return nn.ReLU(inplace=True)


class SphereInitVanillaMLP(VanillaMLP):
    """An MLP whose output starts as the signed distance to a sphere (Atzmon and Lipman, SAL): weight norm, softplus.

    Config: as ``VanillaMLP`` plus ``sphere_init_radius`` and ``inside_out``. The first three inputs are the position.
    """

    def make_linear(self, dim_in: int, dim_out: int, is_first: bool, is_last: bool, config: Any) -> nn.Module:
        layer = nn.Linear(dim_in, dim_out, bias=True)
        nn.init.zeros_(layer.bias)
        if is_last:
            sign = -1 if config.get("inside_out", False) else 1
            nn.init.constant_(layer.bias, -sign * config["sphere_init_radius"])
            nn.init.normal_(layer.weight, mean=sign * math.sqrt(math.pi) / math.sqrt(dim_in), std=0.0001)
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


class TorchNetwork(nn.Module):
    """tiny-cuda-nn's FullyFusedMLP and CutlassMLP in PyTorch: linear layers without bias, [..., n_in] -> [..., n_out].

    Config: ``n_neurons``, ``n_hidden_layers``, ``activation``, ``output_activation``.
    """

    def __init__(self, dim_in: int, dim_out: int, config: dict[str, Any]) -> None:
        super().__init__()
        widths = [dim_in] + [config["n_neurons"]] * config["n_hidden_layers"] + [dim_out]
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.activation = network_activation(config["activation"])
        self.output_activation = network_activation(config["output_activation"])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.output_activation(self.layers[-1](x))


class TCNNNetwork(nn.Module):
    """A network by tiny-cuda-nn's name, with results in single precision. [N, dim_in] -> [N, dim_out]."""

    def __init__(self, dim_in: int, dim_out: int, config: dict[str, Any]) -> None:
        super().__init__()
        tcnn = tinycudann()
        if tcnn is not None:
            with torch.cuda.device(get_device()):
                self.network = tcnn.Network(dim_in, dim_out, config)
        elif config["otype"] in ("FullyFusedMLP", "CutlassMLP"):
            self.network = TorchNetwork(dim_in, dim_out, config)
        else:
            raise UserError(
                f"The network otype '{config['otype']}' needs tinycudann and a GPU. Without them there are VanillaMLP, "
                "SphereInitVanillaMLP, FullyFusedMLP, CutlassMLP."
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).float()


def get_encoding(n_input_dims: int, config: Any) -> nn.Module:
    """A ``CompositeEncoding`` with ``n_output_dims``; ``config.otype`` names what is inside (as ``.encoding``).

    Raises:
        UserError: an ``otype`` that needs tinycudann, where that is not installed.
    """
    kinds = {
        "ProgressiveBandFrequency": ProgressiveBandFrequency,
        "ProgressiveBandHashGrid": ProgressiveBandHashGrid,
        "HashGridSpatialTime": TCNNEncodingSpatialTime,
    }
    encoding = kinds.get(config["otype"], TCNNEncoding)(n_input_dims, _primitive(config))
    return CompositeEncoding(encoding, include_xyz=config.get("include_xyz", False))


def get_mlp(n_input_dims: int, n_output_dims: int, config: Any) -> nn.Module:
    """The network that ``config.otype`` names.

    Raises:
        UserError: an ``otype`` that needs tinycudann, where that is not installed.
    """
    config = parse_structured(NetworkConfig, config)
    kinds = {"VanillaMLP": VanillaMLP, "SphereInitVanillaMLP": SphereInitVanillaMLP}
    return kinds.get(config["otype"], TCNNNetwork)(n_input_dims, n_output_dims, _primitive(config))


def _primitive(config: Any) -> dict[str, Any]:
    return dict(config) if isinstance(config, dict) else config_to_primitive(config)


def create_network_with_input_encoding(
    n_input_dims: int, n_output_dims: int, encoding_config: Any, network_config: Any
) -> nn.Module:
    encoding = get_encoding(n_input_dims, encoding_config)
    return NetworkWithInputEncoding(encoding, get_mlp(encoding.n_output_dims, n_output_dims, network_config))
