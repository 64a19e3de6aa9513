"""EWA projection of 3D Gaussians to the picture (Zwicker et al., 2001), as gsplat does it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from threestudio.utils.typing import Float, Tensor

ALPHA_THRESHOLD = 1.0 / 255.0
REACH = 3.33  # standard deviations beyond which even an opaque Gaussian is under the threshold


@dataclass
class Projected:
    """Gaussians on the pictures of cameras, in pixels.

    ``radii`` is the half width and height of the box outside of which a Gaussian counts for nothing; zero where it is
    behind the camera, outside of the picture or too faint.
    """

    means: Float[Tensor, "... N 2"]
    conics: Float[Tensor, "... N 3"]  # xx, xy, yy of the inverse covariance
    depths: Float[Tensor, "... N"]  # along the camera's axis
    radii: Float[Tensor, "... N 2"]


def project(
    means: Float[Tensor, "... N 3"],
    covariances: Float[Tensor, "... N 3 3"],
    opacities: Float[Tensor, "... N"],
    viewmats: Float[Tensor, "... 4 4"],
    intrinsics: Float[Tensor, "... 3 3"],
    height: int,
    width: int,
    eps2d: float,
    near: float,
) -> Projected:
    """Project each batch of Gaussians to its own camera; see ``cameras`` for the matrices."""
    rotation, translation = viewmats[..., :3, :3], viewmats[..., None, :3, 3]
    x, y, z = (means @ rotation.transpose(-1, -2) + translation).unbind(-1)
    seen = z >= near
    safe = torch.where(seen, z, torch.ones_like(z))
    focal_x, focal_y = intrinsics[..., 0, 0, None], intrinsics[..., 1, 1, None]
    centre_x, centre_y = intrinsics[..., 0, 2, None], intrinsics[..., 1, 2, None]
    # The linearisation is taken no farther outside of the picture than 15 % of its size on each side.
    slope_x = _clamp(x / safe, -(centre_x + 0.15 * width) / focal_x, (1.15 * width - centre_x) / focal_x)
    slope_y = _clamp(y / safe, -(centre_y + 0.15 * height) / focal_y, (1.15 * height - centre_y) / focal_y)
    zero = torch.zeros_like(safe)
    jacobian = torch.stack(
        [focal_x / safe, zero, -focal_x * slope_x / safe, zero, focal_y / safe, -focal_y * slope_y / safe], -1
    ).unflatten(-1, (2, 3))
    turned = jacobian @ rotation[..., None, :, :]
    flat = turned @ covariances @ turned.transpose(-1, -2)
    xx, xy, yy = flat[..., 0, 0] + eps2d, flat[..., 0, 1], flat[..., 1, 1] + eps2d
    determinant = xx * yy - xy * xy
    seen = seen & (determinant > 0) & (opacities >= ALPHA_THRESHOLD)
    determinant = torch.where(seen, determinant, torch.ones_like(determinant))
    conics = torch.stack([yy, -xy, xx], -1) / determinant[..., None]
    centres = torch.stack([focal_x * x / safe + centre_x, focal_y * y / safe + centre_y], -1)
    with torch.no_grad():
        reach = (2 * torch.log(opacities.clamp_min(ALPHA_THRESHOLD) / ALPHA_THRESHOLD)).sqrt().clamp_max(REACH)
        radii = (reach[..., None] * torch.stack([xx, yy], -1).clamp_min(0).sqrt()).ceil()
        size = centres.new_tensor([width, height])
        inside = ((centres + radii > 0) & (centres - radii < size)).all(-1)
        radii = radii * (seen & inside)[..., None]
    return Projected(centres, conics, z, radii)


def _clamp(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(value, low), high)
