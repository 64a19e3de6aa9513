"""Surfaces of a density field at one time: sampling, threshold, marching cubes, clean-up.

Grids are float32 ``[R_x, R_y, R_z]`` with points at the corners of voxels; positions are world units, z up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from threestudio.utils.typing import Float, Int

from ...errors import UserError

THRESHOLD_CANDIDATES = 48


@dataclass(frozen=True)
class DensityGrid:
    """Densities at the lattice ``lower + index * spacing``."""

    values: Float[np.ndarray, "X Y Z"]
    lower: np.ndarray
    spacing: float

    @classmethod
    def sample(
        cls,
        density: Callable[[Float[np.ndarray, "N 3"]], Float[np.ndarray, "*N"]],
        lower: np.ndarray,
        upper: np.ndarray,
        resolution: int,
    ) -> DensityGrid:
        """Evaluate ``density`` on a lattice with ``resolution`` points along the longest side of the box.

        Raises:
            UserError: densities are NaN or infinite.
        """
        lower, upper = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
        spacing = float((upper - lower).max()) / (resolution - 1)
        counts = np.floor((upper - lower) / spacing + 1e-6).astype(int) + 1
        axes = [lower[k] + spacing * np.arange(counts[k]) for k in range(3)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)
        values = np.asarray(density(points), np.float32).reshape(*counts)
        bad = np.count_nonzero(~np.isfinite(values))
        if bad:
            raise UserError(
                f"{bad} of {values.size} densities of the field are NaN or infinite, so it has no surface to export. "
                "Use an earlier checkpoint."
            )
        return cls(values, lower, spacing)

    def bounds_above(self, threshold: float, margin: int = 2) -> tuple[np.ndarray, np.ndarray] | None:
        """Corners of the box around the points above ``threshold``, grown by ``margin`` lattice steps; None if there
        are none.
        """
        inside = np.argwhere(self.values > threshold)
        if len(inside) == 0:
            return None
        last = np.array(self.values.shape) - 1
        low = np.maximum(inside.min(axis=0) - margin, 0)
        high = np.minimum(inside.max(axis=0) + margin, last)
        return self.lower + low * self.spacing, self.lower + high * self.spacing


def silhouette_threshold(grid: DensityGrid) -> float | None:
    """The density whose solid looks most like the field.

    The field's own silhouette along each axis is where the opacity ``1 - exp(-sum density * spacing)`` exceeds one
    half. Among candidates between the 1 % and the 99.5 % quantile of the densities seen in those columns, the one is
    taken whose solid ``density > threshold`` overlaps best (intersection over union) with these silhouettes. None where
    no column is opaque.
    """
    best_of_columns, silhouettes = [], []
    for axis in range(3):
        best_of_columns.append(grid.values.max(axis=axis).ravel())
        silhouettes.append((grid.values.sum(axis=axis) * grid.spacing > np.log(2.0)).ravel())
    peaks, opaque = np.concatenate(best_of_columns), np.concatenate(silhouettes)
    if not opaque.any():
        return None
    low, high = np.quantile(peaks[opaque], (0.01, 0.995))
    candidates = np.geomspace(max(low, 1e-3) / 4, max(high, 2e-3), THRESHOLD_CANDIDATES)
    overlap = [((peaks > c) & opaque).sum() / ((peaks > c) | opaque).sum() for c in candidates]
    # Many thresholds can tie; the geometric middle of the good ones keeps away from both floaters and holes.
    good = candidates[np.asarray(overlap) >= max(overlap) - 0.01]
    return float(np.sqrt(good[0] * good[-1]))


def fill_voids(grid: DensityGrid, threshold: float) -> DensityGrid:
    """Make enclosed hollows solid: supervision by pictures leaves the inside of objects empty, and no one sees it."""
    from scipy.ndimage import binary_fill_holes

    solid = grid.values > threshold
    hollow = binary_fill_holes(solid) & ~solid
    return DensityGrid(np.where(hollow, np.float32(2 * threshold), grid.values), grid.lower, grid.spacing)


def marching_cubes(grid: DensityGrid, threshold: float) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]:
    """Vertices in world units and triangles that face outwards (towards lower density); empty arrays without a
    surface.
    """
    from skimage.measure import marching_cubes as level_set

    # A border of empty space closes surfaces that the box cuts.
    padded = np.pad(grid.values, 1, constant_values=0.0)
    if not padded.min() < threshold < padded.max():
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64)
    vertices, faces, _, _ = level_set(padded, threshold, allow_degenerate=False)
    vertices = (grid.lower + (vertices - 1.0) * grid.spacing).astype(np.float32)
    faces = faces.astype(np.int64)
    if len(faces) and signed_volume(vertices, faces) < 0:
        faces = np.ascontiguousarray(faces[:, ::-1])
    return vertices, faces


def signed_volume(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> float:
    """Volume inside a closed surface; negative where the triangles face inwards."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)


def remove_small_parts(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Drop connected parts with fewer triangles than ``fraction`` of the largest part, and vertices that no face
    uses.
    """
    if len(faces) == 0:
        return vertices, faces
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    n = len(vertices)
    graph = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(n, n))
    _, part = connected_components(graph, directed=False)
    size = np.bincount(part[faces[:, 0]])
    kept = faces[size[part[faces[:, 0]]] >= fraction * size.max()]
    used, renumbered = np.unique(kept, return_inverse=True)
    return vertices[used], renumbered.reshape(-1, 3)
