"""Convolutions over time alone, done in two dimensions.

Video networks hold ``Conv3d`` layers with kernels (k, 1, 1). Several releases of cuDNN and PyTorch run those slowly or
with much memory in bfloat16 (PyTorch issues 166643 and 174051), one even wrongly (163539). With height and width as one
axis the same layer is a ``conv2d`` with a kernel (k, 1), which has no such trouble.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class TemporalConv3d(nn.Conv3d):
    """A ``Conv3d`` that leaves height and width alone: [B, C, T, H, W] -> [B, C', T', H, W]."""

    def forward(self, video: Tensor) -> Tensor:
        kernel = self.weight.squeeze(-1)
        stride, padding = (self.stride[0], 1), (self.padding[0], 0)
        out = F.conv2d(video.flatten(3), kernel, self.bias, stride, padding, (self.dilation[0], 1), self.groups)
        return out.unflatten(3, video.shape[3:])


def flatten_temporal_convolutions(network: nn.Module) -> int:
    """Make every ``Conv3d`` of a network that looks along time only a :class:`TemporalConv3d`, weights as they are.

    Returns how many there were.
    """
    count = 0
    for module in network.modules():
        if (
            type(module) is nn.Conv3d
            and module.kernel_size[1:] == (1, 1)
            and module.stride[1:] == (1, 1)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and module.padding[1:] == (0, 0)
        ):
            module.__class__ = TemporalConv3d
            count += 1
    return count
