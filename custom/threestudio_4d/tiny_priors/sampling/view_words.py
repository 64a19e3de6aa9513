"""What a caption says of the side that an object is seen from, as ``text-prompt-processor`` says it to a prior.

Assets face azimuth 0 as their makers made them; most animals and figures do, many still objects have no front. The
cameras of training pictures stay below 45 degrees, so "overhead" is said of the highest of them here, while
``text-prompt-processor`` says it of cameras above 60.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Endings of a caption; the last says nothing of the view.
VIEW_WORDS = (", side view", ", front view", ", back view", ", overhead view", "")
ANY_VIEW = len(VIEW_WORDS) - 1
FRONT_DEG, BACK_DEG, OVERHEAD_DEG = 30.0, 30.0, 35.0


def view_numbers(elevation: Tensor, azimuth: Tensor) -> Tensor:
    """Which of ``VIEW_WORDS`` fits each camera, [B] long; angles [B] in degrees.

    >>> view_numbers(torch.tensor([0.0, 0.0, 40.0]), torch.tensor([350.0, 90.0, 180.0])).tolist()
    [1, 0, 3]
    """
    turn = ((azimuth + 180) % 360 - 180).abs()
    number = torch.zeros_like(turn, dtype=torch.long)
    number = torch.where(turn < FRONT_DEG, 1, number)
    number = torch.where(turn > 180 - BACK_DEG, 2, number)
    return torch.where(elevation > OVERHEAD_DEG, 3, number)


def draw_views(elevation: Tensor, azimuth: Tensor, u: Tensor, share: float) -> Tensor:
    """The number of the words that fit each camera for a ``share`` of them, else ``ANY_VIEW``; u [B] is uniform."""
    return torch.where(u < share, view_numbers(elevation, azimuth), ANY_VIEW)
