"""A two-layer ReLU network that keeps no hidden activations: backward recomputes them, part by part.

With 16 inputs and 32 hidden units the hidden layer is what fills memory, and on the CPU what leaves the cache. The
parts are sized to stay in a core's second-level cache, and to a share of memory on CUDA.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Rows worked on at once.
ROWS_CPU = 1 << 11
ROWS_CUDA = 1 << 19


def two_layer(features: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """``relu(features @ first.T) @ second.T``.

    Args:
        features: ``[N, C]``.
        first: ``[H, C]`` hidden weights.
        second: ``[O, H]`` output weights.

    Returns:
        ``[N, O]``, once differentiable in all three.
    """
    return _TwoLayer.apply(features, first, second)


def _rows(features: Tensor) -> int:
    return ROWS_CUDA if features.is_cuda else ROWS_CPU


class _TwoLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(features, first, second)
        rows = _rows(features)
        parts = [F.linear(F.linear(part, first).relu_(), second) for part in features.split(rows)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        features, first, second = ctx.saved_tensors
        grad_features = torch.empty_like(features)
        grad_first, grad_second = torch.zeros_like(first), torch.zeros_like(second)
        rows = _rows(features)
        for part, g, out in zip(features.split(rows), grad.split(rows), grad_features.split(rows), strict=True):
            hidden = F.linear(part, first).relu_()
            grad_second.addmm_(g.t(), hidden)
            grad_hidden = torch.ops.aten.threshold_backward(g @ second, hidden, 0)
            grad_first.addmm_(grad_hidden.t(), part)
            torch.mm(grad_hidden, first, out=out)
        return grad_features, grad_first, grad_second
