"""More frames between those of an RGBA clip, drawn by RIFE."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..data.clip import premultiply, unpremultiply
from ..interpolation.rife import RifeInterpolator

GREY = 0.5

Interpolator = Callable[..., torch.Tensor]


def load_interpolator() -> Interpolator:
    """RIFE.

    Raises:
        UserError: its weights are not there.
    """
    return RifeInterpolator({})


def interpolate_clip(
    frames: list[np.ndarray],
    factor: int,
    interpolator: Interpolator,
    loop: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> list[np.ndarray]:
    """``factor - 1`` frames between each pair, at equal steps; in a loop also from the last frame to the first.

    Motion is seen in the frames over grey, from which dark and bright objects both stand out, and alpha moves with it.

    Args:
        frames: uint8 ``[S, S, 4]``, straight alpha; N of them.
        interpolator: called as ``interpolator(first [1, S, S, 4], last, times)``.
        progress: called once a pair.

    Returns:
        uint8 ``[S, S, 4]``; ``(N - 1) * factor + 1`` of them, in a loop ``N * factor``. The given ones are unchanged.
    """
    device = getattr(interpolator, "device", torch.device("cpu"))
    times = [k / factor for k in range(1, factor)]
    out = []
    for k, first in enumerate(frames):
        out.append(first)
        if k == len(frames) - 1 and not loop:
            break
        last = frames[(k + 1) % len(frames)]
        with torch.no_grad():
            drawn = interpolator(_on_grey(first).to(device), _on_grey(last).to(device), times)[0].cpu()
        alpha = drawn[..., 3:].clamp(0, 1)
        colors = torch.minimum((drawn[..., :3] - GREY * (1 - alpha)).clamp(min=0), alpha)
        between = torch.cat([colors, alpha], dim=-1).numpy()
        out.extend(unpremultiply(picture) for picture in between)
        progress()
    return out


def _on_grey(frame: np.ndarray) -> torch.Tensor:
    """``[1, S, S, 4]``: the frame over grey, and alpha."""
    values = torch.from_numpy(premultiply(frame))[None]
    return torch.cat([values[..., :3] + GREY * (1 - values[..., 3:]), values[..., 3:]], dim=-1)
