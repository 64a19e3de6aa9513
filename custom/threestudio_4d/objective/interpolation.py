"""Interpolation consistency loss (ICL) of Consistent4D (Jiang et al., ICLR 2024, section 3.3).

A run of neighbouring views at one time, or of neighbouring times in one view, should look like a smooth passage: what
lies between its two ends should be what a video interpolator draws there.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def interpolation_consistency_loss(
    images: Tensor, interpolator: Callable[..., Tensor], end_grad: bool = False
) -> Tensor:
    """Mean squared difference between the inner images and what the interpolator draws between the outer ones.

    With images I_0 … I_{B-1} at equal steps, I_m is compared with the interpolation of I_0 and I_{B-1} at m / (B-1),
    m = 1 … B-2; mean over inner images, pixels and channels. All levels and inner images go through one call.

    Args:
        images: ``[L, B, H, W, 3]`` renders of L levels, in [0, 1], ordered along the run.
        interpolator: ``(first [L, H, W, 3], last [L, H, W, 3], timesteps) -> [L, B-2, H, W, 3]``.
        end_grad: let the gradient also reach the two outer images, through the interpolator. By default the drawn
            images are constants, and only the inner renders move, as published.

    Returns:
        ``[L]``, one loss a level.

    Raises:
        ValueError: for another shape, or a run of fewer than three images, which has nothing inside.
    """
    if images.dim() != 5 or images.shape[-1] != 3:
        raise ValueError(f"expected images [L, B, H, W, 3], got {tuple(images.shape)}")
    count = images.shape[1]
    if count < 3:
        raise ValueError(
            f"interpolation consistency needs runs of at least 3 images, got {count}: nothing lies between"
        )
    first, last = images[:, 0], images[:, -1]
    if not end_grad:
        first, last = first.detach(), last.detach()
    drawn = interpolator(first, last, [m / (count - 1) for m in range(1, count - 1)])
    return (images[:, 1:-1] - drawn).square().mean(dim=(1, 2, 3, 4))
