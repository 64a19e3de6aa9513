"""Quaternions w, x, y, z and rotation matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from threestudio.utils.typing import Float, Tensor


def matrix_of_quaternion(quats: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3 3"]:
    """Rotation matrices; quaternions of any length but zero."""
    w, x, y, z = F.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def multiply_quaternions(a: Float[Tensor, "... 4"], b: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """The rotation ``b``, then ``a``."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    parts = [
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    ]
    return torch.stack(parts, -1)


def quaternion_of_matrix(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, " 4"]:
    """One of the two unit quaternions of a rotation: the eigenvector of Bar-Itzhack's symmetric matrix."""
    r = rotation
    symmetric = torch.stack(
        [
            torch.stack([r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]),
            torch.stack([r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]]),
            torch.stack([r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1]]),
            torch.stack([r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1]]),
        ]
    )
    return torch.linalg.eigh(symmetric).eigenvectors[:, -1]
