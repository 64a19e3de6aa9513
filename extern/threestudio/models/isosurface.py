"""Meshes at the zero level of a field sampled on a grid in the unit cube. Inside is negative; faces point outwards."""

import os

import numpy as np
import torch
from torch import Tensor, nn

from threestudio.models.mesh import Mesh
from threestudio.utils.errors import UserError

__all__ = ["IsosurfaceHelper", "MarchingCubeCPUHelper", "MarchingTetrahedraHelper"]


class IsosurfaceHelper(nn.Module):
    """Holds the grid vertices [N, 3] in [0, 1] at which the field is wanted; called with the field, gives a
    ``Mesh``.
    """

    points_range: tuple[float, float] = (0, 1)

    @property
    def grid_vertices(self) -> Tensor:
        raise NotImplementedError


class MarchingCubeCPUHelper(IsosurfaceHelper):
    """Marching cubes by scikit-image on a regular grid of ``resolution`` points a side. No gradients.

    ``helper(level [resolution**3, 1]) -> Mesh`` with vertices in [0, 1], on the device of ``level``.
    """

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self._grid_vertices: Tensor | None = None
        self.register_buffer("_dummy", torch.zeros(0), persistent=False)

    @property
    def grid_vertices(self) -> Tensor:
        if self._grid_vertices is None or self._grid_vertices.device != self._dummy.device:
            axis = torch.linspace(*self.points_range, self.resolution, device=self._dummy.device)
            grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
            self._grid_vertices = grid.reshape(-1, 3)
        return self._grid_vertices

    def forward(self, level: Tensor, deformation: Tensor | None = None) -> Mesh:
        if deformation is not None:
            raise UserError("Marching cubes cannot use a deformed grid: set isosurface_deformable_grid to false.")
        from skimage.measure import marching_cubes

        n = self.resolution
        values = level.detach().float().view(n, n, n).cpu().numpy()
        if values.min() < 0.0 < values.max():
            vertices, faces, _, _ = marching_cubes(values, 0.0)
        else:
            vertices, faces = np.zeros((0, 3)), np.zeros((0, 3))
        faces = faces.astype(np.int64)
        low, high = self.points_range
        positions = torch.as_tensor(vertices.astype(np.float32), device=level.device) / (n - 1.0) * (high - low) + low
        return Mesh(v_pos=positions, t_pos_idx=torch.as_tensor(np.ascontiguousarray(faces), device=level.device))


class MarchingTetrahedraHelper(IsosurfaceHelper):
    """Differentiable marching tetrahedra on the grid of a ``<resolution>_tets.npz`` file.

    ``helper(level [N, 1], deformation=None) -> Mesh``; ``deformation`` [N, 3] moves grid vertices by up to half a cell
    after ``tanh``. Positions carry gradients to ``level`` and ``deformation``.
    """

    def __init__(self, resolution: int, tets_path: str) -> None:
        super().__init__()
        self.resolution = resolution
        if not os.path.isfile(tets_path):
            raise UserError(
                f"Marching tetrahedra needs the grid file '{tets_path}', which is not there. "
                "Set isosurface_method to mc-cpu (marching cubes), or get the file from a threestudio checkout."
            )
        tets = np.load(tets_path)
        self.register_buffer("_grid_vertices", torch.from_numpy(tets["vertices"]).float(), persistent=False)
        self.register_buffer("indices", torch.from_numpy(tets["indices"]).long(), persistent=False)

    @property
    def grid_vertices(self) -> Tensor:
        return self._grid_vertices

    def normalize_grid_deformation(self, deformation: Tensor) -> Tensor:
        low, high = self.points_range
        return (high - low) / self.resolution * torch.tanh(deformation)

    def forward(self, level: Tensor, deformation: Tensor | None = None) -> Mesh:
        vertices = self.grid_vertices
        if deformation is not None:
            vertices = vertices + self.normalize_grid_deformation(deformation)
        v_pos, t_pos_idx = marching_tetrahedra(vertices, level, self.indices)
        return Mesh(
            v_pos, t_pos_idx, grid_vertices=vertices, tet_edges=None, grid_level=level, grid_deformation=deformation
        )


def marching_tetrahedra(vertices: Tensor, level: Tensor, tets: Tensor) -> tuple[Tensor, Tensor]:
    """Zero level of a piecewise linear field.

    Args:
        vertices: [N, 3].
        level: [N, 1] or [N], negative inside.
        tets: [T, 4] indices into the vertices.

    Returns:
        positions [V, 3] (with gradients) and faces [F, 3], pointing from negative to positive.
    """
    level = level.reshape(-1)
    inside = level < 0
    count = inside[tets].sum(dim=1)
    faces = []
    for n_inside in (1, 2, 3):
        chosen = tets[count == n_inside]
        order = torch.argsort((~inside[chosen]).to(torch.int8), dim=1, stable=True)
        faces += _tet_faces(torch.gather(chosen, 1, order), n_inside)
    edges = torch.cat(faces)  # [F, 3 corners, 2 ends], the inner end first
    unique, inverse = torch.unique(edges.reshape(-1, 2), dim=0, return_inverse=True)
    a, b = level[unique[:, 0]], level[unique[:, 1]]
    weight = (a / (a - b))[:, None]
    positions = vertices[unique[:, 0]] * (1 - weight) + vertices[unique[:, 1]] * weight
    triangles = inverse.reshape(-1, 3)
    corners = positions[triangles].detach()
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=-1)
    outward = (vertices[edges[:, :, 1]] - vertices[edges[:, :, 0]]).detach().sum(dim=1)
    flipped = (normal * outward).sum(dim=1) < 0
    triangles = torch.where(flipped[:, None], triangles.flip(1), triangles)
    return positions, triangles


def _tet_faces(tets: Tensor, n_inside: int) -> list[Tensor]:
    """Cut edges of tetrahedra [T, 4] whose first ``n_inside`` corners are inside, as triangles [T, 3, 2] of edges."""

    def edges(*pairs: tuple[int, int]) -> Tensor:
        return torch.stack([tets[:, list(pair)] for pair in pairs], dim=1)

    if n_inside == 1:
        return [edges((0, 1), (0, 2), (0, 3))]
    if n_inside == 3:
        return [edges((0, 3), (1, 3), (2, 3))]
    return [edges((0, 2), (0, 3), (1, 3)), edges((0, 2), (1, 3), (1, 2))]
