"""Pinhole cameras as splatting wants them, from the project's camera-to-world matrices."""

from __future__ import annotations

import torch

from threestudio.utils.typing import Float, Tensor

from ...cameras.sphere import focal_length


def world_to_camera(c2w: Float[Tensor, "... 4 4"]) -> Float[Tensor, "... 4 4"]:
    """World to camera axes right, down, forward (OpenCV) from poses with axes right, up, backward (OpenGL).

    The only place where the two meet.
    """
    flip = c2w.new_tensor([1.0, -1.0, -1.0])
    rotation = (c2w[..., :3, :3] * flip).transpose(-1, -2)
    out = torch.zeros_like(c2w)
    out[..., :3, :3] = rotation
    out[..., :3, 3] = -(rotation @ c2w[..., :3, 3:])[..., 0]
    out[..., 3, 3] = 1.0
    return out


def intrinsics(fovy: Float[Tensor, ...], height: int, width: int) -> Float[Tensor, "... 3 3"]:
    """Matrices of square pixels with the principal point in the middle; ``fovy`` in radians.

    The centre of the top left pixel is (0.5, 0.5).
    """
    focal = focal_length(fovy, height)
    out = focal.new_zeros(*focal.shape, 3, 3)
    out[..., 0, 0] = out[..., 1, 1] = focal
    out[..., 0, 2], out[..., 1, 2], out[..., 2, 2] = 0.5 * width, 0.5 * height, 1.0
    return out
