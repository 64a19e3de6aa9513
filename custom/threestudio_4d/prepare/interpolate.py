"""More frames between those of an RGBA clip, drawn by RIFE."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..data.clip import premultiply, unpremultiply
from ..guidance.interpolation.rife import RifeInterpolator

Interpolator = Callable[..., torch.Tensor]


def interpolate_clip(
    frames: list[np.ndarray],
    factor: int,
    loop: bool = False,
    interpolator: Interpolator | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[np.ndarray]:
    """``factor - 1`` frames between each pair, at equal steps; in a loop also from the last frame to the first.

    RIFE draws pictures without alpha, so it draws two: the colours multiplied by alpha, and alpha as a grey picture.

    Args:
        frames: uint8 ``[S, S, 4]``, straight alpha; N of them.
        interpolator: called as ``interpolator(first, last, times)``; by default ``rife-interpolator``.
        progress: called once a pair.

    Returns:
        uint8 ``[S, S, 4]``; ``(N - 1) * factor + 1`` of them, in a loop ``N * factor``. The given ones are unchanged.
    """
    draw = RifeInterpolator({}) if interpolator is None else interpolator
    device = getattr(draw, "device", torch.device("cpu"))
    times = [k / factor for k in range(1, factor)]
    out = []
    for k, first in enumerate(frames):
        out.append(first)
        if k == len(frames) - 1 and not loop:
            break
        last = frames[(k + 1) % len(frames)]
        ends = torch.stack([_two_pictures(frame) for frame in (first, last)]).to(device)
        with torch.no_grad():
            drawn = draw(ends[0], ends[1], times).clamp(0, 1).cpu()
        alpha = drawn[1].mean(-1, keepdim=True)
        between = torch.cat([torch.minimum(drawn[0], alpha), alpha], dim=-1).numpy()
        out.extend(unpremultiply(picture) for picture in between)
        progress()
    return out


def _two_pictures(frame: np.ndarray) -> torch.Tensor:
    """``[2, S, S, 3]``: premultiplied colours, and alpha three times."""
    values = torch.from_numpy(premultiply(frame))
    return torch.stack([values[..., :3], values[..., 3:].expand(-1, -1, 3)])
