"""Gradients of fields by finite differences."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["finite_differences"]


def finite_differences(
    field: Callable[[Tensor], Tensor], points: Tensor, value: Tensor, eps: float, radius: float, central: bool
) -> Tensor:
    """Gradient [*N, 3] of a field at points [*N, 3].

    Args:
        field: points [..., 3] to values [..., 1].
        value: what it is at the points, [*N, 1].
        radius: queries are clamped to the box of this half width.
        central: differences to both sides (six queries a point) instead of to one (three).
    """
    offsets = eps * torch.eye(3, device=points.device, dtype=points.dtype)
    if not central:
        return (field((points[..., None, :] + offsets).clamp(-radius, radius))[..., 0] - value) / eps
    both = torch.stack([points[..., None, :] + offsets, points[..., None, :] - offsets], dim=-3)
    near = field(both.clamp(-radius, radius))[..., 0]
    return 0.5 * (near[..., 0, :] - near[..., 1, :]) / eps
