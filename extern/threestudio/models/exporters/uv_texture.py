"""Baking a function on the surface into a texture, on the CPU."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from threestudio.models.mesh import Mesh

__all__ = ["bake_texture", "rasterize_uv"]


def rasterize_uv(mesh: Mesh, resolution: int) -> tuple[Tensor, Tensor]:
    """Which surface point every texel shows.

    Args:
        mesh: with texture coordinates; texel (row, column) has its centre at u = (column + 0.5) / resolution and
            v = (row + 0.5) / resolution.

    Returns:
        positions [resolution, resolution, 3] and mask [resolution, resolution] (bool), on the device of the mesh.
    """
    uv = mesh.v_tex.detach().cpu().double().numpy()[mesh.t_tex_idx.cpu().numpy()] * resolution - 0.5
    corners = mesh.v_pos.detach().cpu().double().numpy()[mesh.t_pos_idx.cpu().numpy()]
    image = np.zeros((resolution, resolution, 3), dtype=np.float32)
    mask = np.zeros((resolution, resolution), dtype=bool)
    for triangle, positions in zip(uv, corners, strict=True):
        low = np.clip(np.ceil(triangle.min(axis=0) - 1e-9).astype(int), 0, resolution - 1)
        high = np.clip(np.floor(triangle.max(axis=0) + 1e-9).astype(int), 0, resolution - 1)
        if (high < low).any():
            continue
        (x0, y0), (x1, y1), (x2, y2) = triangle
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-12:
            continue
        x, y = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))
        b1 = ((x - x0) * (y2 - y0) - (x2 - x0) * (y - y0)) / area
        b2 = ((x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)) / area
        b0 = 1 - b1 - b2
        covered = (b0 >= -1e-6) & (b1 >= -1e-6) & (b2 >= -1e-6)
        weights = np.stack([b0, b1, b2], axis=-1)[covered]
        image[y[covered], x[covered]] = weights @ positions
        mask[y[covered], x[covered]] = True
    device = mesh.v_pos.device
    return torch.from_numpy(image).to(device), torch.from_numpy(mask).to(device)


def bake_texture(
    mesh: Mesh, resolution: int, function: Callable[[Tensor], dict[str, Tensor]], padding: int = 4
) -> dict[str, Tensor]:
    """Textures [resolution, resolution, C] of ``function(points [N, 3]) -> {name: [N, C]}``, bled ``padding``
    texels outwards.
    """
    positions, mask = rasterize_uv(mesh, resolution)
    textures = {}
    for name, values in function(positions[mask]).items():
        texture = torch.zeros(resolution, resolution, values.shape[-1], device=values.device)
        texture[mask] = values.float()
        textures[name] = _bleed(texture, mask, padding)
    return textures


def _bleed(texture: Tensor, mask: Tensor, padding: int) -> Tensor:
    """Fill empty texels next to filled ones with the mean of those, ``padding`` times."""
    image, filled = texture.cpu().numpy(), mask.cpu().numpy().astype(np.float32)
    kernel = np.ones((3, 3), dtype=np.float32)
    for _ in range(padding):
        total = cv2.filter2D(image * filled[..., None], -1, kernel, borderType=cv2.BORDER_CONSTANT)
        total = total.reshape(image.shape)
        count = cv2.filter2D(filled, -1, kernel, borderType=cv2.BORDER_CONSTANT)
        new = (filled == 0) & (count > 0)
        image[new] = total[new] / count[new][:, None]
        filled[new] = 1
    return torch.from_numpy(image).to(texture.device)
