"""I3D (Carreira & Zisserman 2017, *Quo Vadis, Action Recognition?*): Inception-v1 with three-dimensional filters.

Own network with the parameter names of the widely used file ``i3d_pretrained_400.pt`` (Kinetics-400, as VideoGPT and
the Consistent4D evaluator load it), so that the file loads strictly. Every convolution and pooling pads with zeros to
``ceil(size / stride)``, the odd one at the end, as TensorFlow's "SAME".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: frames below this leave nothing for VideoGPT's last pooling, which spans two steps of eight frames
MINIMUM_FRAMES = 9

# name -> (in, 1x1, 3x3 reduce, 3x3, second 3x3 reduce, second 3x3, after the pool)
_MIXED = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}


def _pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zeros around [B, C, T, H, W] so that a window gives ceil(size / stride) values along each axis."""
    pads: list[int] = []
    for size, window, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max(window - (size % step or step), 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class ConvUnit(nn.Module):
    """Convolution, batch normalisation, ReLU; or, for the logits, a convolution with bias alone."""

    def __init__(self, width: int, out: int, kernel: int = 1, stride: int = 1, logits: bool = False):
        super().__init__()
        self.conv3d = nn.Conv3d(width, out, kernel, stride, bias=logits)
        self.bn = None if logits else nn.BatchNorm3d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(_pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return x if self.bn is None else F.relu(self.bn(x))


class InceptionBlock(nn.Module):
    """Four branches side by side: 1x1, two of 1x1 then 3x3, and pooling then 1x1."""

    def __init__(self, width: int, one: int, reduce1: int, three1: int, reduce2: int, three2: int, pooled: int):
        super().__init__()
        self.b0 = ConvUnit(width, one)
        self.b1a, self.b1b = ConvUnit(width, reduce1), ConvUnit(reduce1, three1, 3)
        self.b2a, self.b2b = ConvUnit(width, reduce2), ConvUnit(reduce2, three2, 3)
        self.b3b = ConvUnit(width, pooled)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], 1)


def _max_pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    return F.max_pool3d(_pad_same(x, kernel, stride), kernel, stride)


class I3D(nn.Module):
    """Clips [B, 3, T, 224, 224] in [-1, 1] to logits [B, classes] averaged over time.

    Args:
        epsilon: of the batch normalisations.
        pooled_steps: steps of eight frames that the last pooling averages; T must reach into the last of them.
    """

    def __init__(self, classes: int = 400, epsilon: float = 1e-5, pooled_steps: int = 2):
        super().__init__()
        self.pooled_steps = pooled_steps
        self.Conv3d_1a_7x7 = ConvUnit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = ConvUnit(64, 64)
        self.Conv3d_2c_3x3 = ConvUnit(64, 192, 3)
        for name, widths in _MIXED.items():
            self.add_module(name, InceptionBlock(*widths))
        self.logits = ConvUnit(1024, classes, logits=True)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = epsilon
        self.requires_grad_(False).eval()

    @classmethod
    def of_consistent4d(cls) -> I3D:
        """With the constants of Consistent4D's evaluator; any number of frames."""
        return cls(epsilon=1e-3, pooled_steps=1)

    def forward(self, clips: Tensor) -> Tensor:
        x = _max_pool(self.Conv3d_1a_7x7(clips), (1, 3, 3), (1, 2, 2))
        x = _max_pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in _MIXED:
            if name == "Mixed_4b":
                x = _max_pool(x, (3, 3, 3), (2, 2, 2))
            elif name == "Mixed_5b":
                x = _max_pool(x, (2, 2, 2), (2, 2, 2))
            x = getattr(self, name)(x)
        x = F.avg_pool3d(x, (self.pooled_steps, 7, 7), stride=1)
        return self.logits(x).mean((2, 3, 4))
