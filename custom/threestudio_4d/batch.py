"""What a batch of cameras may hold beside what a part asks for.

threestudio's systems hand whole batches on, ``renderer(**batch)`` and ``guidance(rgb, prompt_utils, **batch)``: a part
takes the names that it needs, leaves the others of this list alone, and refuses the rest, which would be a mistake of
the caller that goes unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["BATCH_KEYS", "check_rest_of_batch"]

BATCH_KEYS = frozenset(
    [
        *("index", "height", "width", "rays_o", "rays_d", "rays_d_flatten", "c2w", "fovy", "mvp_mtx", "proj_mtx"),
        *("camera_positions", "light_positions", "elevation", "azimuth", "camera_distances", "noise"),
        *("rgb", "mask", "ref_depth", "ref_normal", "random_camera", "rgb_as_latents", "levels"),
        *("timestamps", "frame_indices", "frame_index", "split_name", "relation", "moment", "num_frames"),
    ]
)


def check_rest_of_batch(rest: Mapping[str, Any], owner: Any) -> None:
    """Raise a ``TypeError`` for a keyword argument of ``owner`` that no batch has."""
    unknown = sorted(set(rest) - BATCH_KEYS)
    if unknown:
        raise TypeError(f"{type(owner).__name__} got an unexpected keyword argument '{unknown[0]}'")
