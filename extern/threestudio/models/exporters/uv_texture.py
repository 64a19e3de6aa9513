"""Baking a function on the surface into a texture, on the CPU."""

from collections.abc import Callable

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
    # What is too narrow to hold the centre of a texel has texels all the same.
    along = _edge_points(np.concatenate([uv, corners], axis=-1))
    columns, rows = np.clip(np.round(along[:, :2]).astype(int), 0, resolution - 1).T
    image[rows, columns], mask[rows, columns] = along[:, 2:], True
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


def _edge_points(triangles: np.ndarray) -> np.ndarray:
    """Points [N, C] on the edges of ``triangles`` [F, 3, C], at most half a unit of the first two channels apart."""
    starts, ends = (corners.reshape(-1, triangles.shape[-1]) for corners in (triangles, np.roll(triangles, -1, axis=1)))
    counts = np.ceil(2 * np.linalg.norm((ends - starts)[:, :2], axis=1)).astype(int) + 1
    edge = np.repeat(np.arange(len(counts)), counts)
    place = (np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)) / counts[edge]
    return starts[edge] + place[:, None] * (ends - starts)[edge]


def bake_texture(mesh: Mesh, resolution: int, function: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Textures [resolution, resolution, C] of ``function(points [N, 3]) -> {name: [N, C]}``; texels that show no
    surface repeat the nearest one that does, so that filters find nothing foreign at the seams.
    """
    from scipy.ndimage import distance_transform_edt

    positions, mask = rasterize_uv(mesh, resolution)
    nearest = distance_transform_edt(~mask.cpu().numpy(), return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(nearest).to(positions.device).long()
    textures = {}
    for name, values in function(positions[mask]).items():
        texture = torch.zeros(resolution, resolution, values.shape[-1], device=values.device)
        texture[mask] = values.float()
        textures[name] = texture[rows, columns]
    return textures
