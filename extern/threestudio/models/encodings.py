"""Encodings of tiny-cuda-nn in plain PyTorch, for machines without it, and the ones that upstream builds on them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from threestudio.models.hash_grid import HashGrid
from threestudio.utils.base import Updateable
from threestudio.utils.errors import UserError
from threestudio.utils.misc import get_device, tinycudann

__all__ = [
    "Frequency",
    "Identity",
    "ProgressiveBandHashGrid",
    "SphericalHarmonics",
    "TCNNEncoding",
    "TCNNEncodingSpatialTime",
    "make_encoding",
]


class Identity(nn.Module):
    """The input, scaled and shifted: [N, D] -> [N, D]. Config: ``scale=1.0``, ``offset=0.0``."""

    def __init__(self, n_input_dims: int, config: Any) -> None:
        super().__init__()
        self.n_output_dims = n_input_dims
        self.scale, self.offset = config.get("scale", 1.0), config.get("offset", 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset


class Frequency(nn.Module):
    """NeRF's sines and cosines of ``2^k pi x``: [N, D] -> [N, 2 D n_frequencies]. Config: ``n_frequencies=12``."""

    def __init__(self, n_input_dims: int, config: Any) -> None:
        super().__init__()
        count = config.get("n_frequencies", 12)
        self.n_output_dims = 2 * n_input_dims * count
        self.bands: Tensor
        self.register_buffer("bands", math.pi * 2.0 ** torch.arange(count), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        angles = x[..., None] * self.bands
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


class SphericalHarmonics(nn.Module):
    """Real spherical harmonics of directions given as ``(d + 1) / 2``: [N, 3] -> [N, degree^2].

    Config: ``degree=4``, from 1 to 4.
    """

    def __init__(self, n_input_dims: int, config: Any) -> None:
        super().__init__()
        self.degree = config.get("degree", 4)
        if n_input_dims != 3 or not 1 <= self.degree <= 4:
            raise UserError(
                f"SphericalHarmonics has 3 inputs and a degree from 1 to 4 here, got {n_input_dims} and {self.degree}; "
                "higher degrees need tinycudann."
            )
        self.n_output_dims = self.degree**2

    def forward(self, x: Tensor) -> Tensor:
        x, y, z = (x * 2 - 1).unbind(-1)
        xx, yy, zz = x * x, y * y, z * z
        values = [torch.full_like(x, 0.28209479177387814)]
        if self.degree > 1:
            values += [-0.48860251190291987 * y, 0.48860251190291987 * z, -0.48860251190291987 * x]
        if self.degree > 2:
            values += [
                1.0925484305920792 * x * y,
                -1.0925484305920792 * y * z,
                0.94617469575755997 * zz - 0.31539156525251999,
                -1.0925484305920792 * x * z,
                0.54627421529603959 * (xx - yy),
            ]
        if self.degree > 3:
            values += [
                0.59004358992664352 * y * (-3.0 * xx + yy),
                2.8906114426405538 * x * y * z,
                0.45704579946446572 * y * (1.0 - 5.0 * zz),
                0.3731763325901154 * z * (5.0 * zz - 3.0),
                0.45704579946446572 * x * (1.0 - 5.0 * zz),
                1.4453057213202769 * z * (xx - yy),
                0.59004358992664352 * x * (-xx + 3.0 * yy),
            ]
        return torch.stack(values, dim=-1)


_KINDS: dict[str, Callable[[int, Any], nn.Module]] = {
    "HashGrid": HashGrid,
    "DenseGrid": HashGrid,
    "Grid": HashGrid,
    "Frequency": Frequency,
    "SphericalHarmonics": SphericalHarmonics,
    "Identity": Identity,
}


def make_encoding(n_input_dims: int, config: dict[str, Any]) -> nn.Module:
    """tiny-cuda-nn's encoding where it runs, else its twin in PyTorch.

    Raises:
        UserError: an ``otype`` that only tiny-cuda-nn has.
    """
    tcnn = tinycudann()
    if tcnn is not None:
        with torch.cuda.device(get_device()):
            return tcnn.Encoding(n_input_dims, config, dtype=torch.float32)
    if config["otype"] not in _KINDS:
        raise UserError(
            f"The encoding otype '{config['otype']}' needs tinycudann and a GPU. Without them there are "
            f"ProgressiveBandFrequency, ProgressiveBandHashGrid, HashGridSpatialTime, {', '.join(_KINDS)}."
        )
    return _KINDS[config["otype"]](n_input_dims, config)


class TCNNEncoding(nn.Module):
    """An encoding by tiny-cuda-nn's name. [N, n_input_dims] in [0, 1] -> [N, n_output_dims]."""

    def __init__(self, in_channels: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.n_input_dims = in_channels
        self.encoding = make_encoding(in_channels, config)
        self.n_output_dims = self.encoding.n_output_dims

    def forward(self, x: Tensor) -> Tensor:
        return self.encoding(x)


class ProgressiveBandHashGrid(nn.Module, Updateable):
    """A hash grid whose levels open one after the other; closed ones give zeros.

    Config: that of ``HashGrid``, ``start_level``, ``start_step``, ``update_steps``.
    """

    def __init__(self, in_channels: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.n_input_dims = in_channels
        self.encoding = make_encoding(in_channels, {**config, "otype": "Grid", "type": "Hash"})
        self.n_output_dims = self.encoding.n_output_dims
        self.n_level, self.n_features_per_level = config["n_levels"], config["n_features_per_level"]
        self.start_level, self.start_step = config["start_level"], config["start_step"]
        self.update_steps = config["update_steps"]
        self.mask: Tensor
        self.register_buffer("mask", torch.zeros(self.n_output_dims), persistent=False)
        self.update_step(0, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoding(x) * self.mask

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        opened = self.start_level + max(global_step - self.start_step, 0) // self.update_steps
        self.current_level = min(opened, self.n_level)
        self.mask[: self.current_level * self.n_features_per_level] = 1.0


class TCNNEncodingSpatialTime(nn.Module):
    """4D-fy (Bahmani et al., CVPR 2024): the sum of a hash grid of space and one of space and time.

    The time in [0, 1] is set from outside, as ``frame_time``: a number or [N, 1]; None is 0. Config: that of
    ``HashGrid`` and ``static``, which freezes the grid of space and time.
    """

    def __init__(self, in_channels: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.n_input_dims = in_channels
        grid = {**config, "otype": "HashGrid"}
        self.static = config["static"]
        self.encoding = make_encoding(in_channels, grid)
        self.encoding_time = make_encoding(in_channels + 1, grid)
        self.n_output_dims = self.encoding.n_output_dims
        self.frame_time: float | Tensor | None = None
        self.is_video = True
        self.update_occ_grid = False
        if self.static:
            self.set_temp_param_grad(False)

    def set_temp_param_grad(self, requires_grad: bool = False) -> None:
        """Freeze or train the grid of space and time."""
        self.set_param_grad(self.encoding_time, requires_grad)

    def set_param_grad(self, param_list: nn.Module | nn.Parameter, requires_grad: bool = False) -> None:
        """Freeze or train a module or a parameter."""
        param_list.requires_grad_(requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        time = 0.0 if self.frame_time is None else self.frame_time
        time = torch.as_tensor(time, dtype=x.dtype, device=x.device).reshape(-1, 1).expand(len(x), 1)
        return self.encoding(x) + self.encoding_time(torch.cat([x, time], dim=-1))
