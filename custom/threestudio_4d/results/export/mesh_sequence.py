"""A mesh for every frame of a moving field: OBJ and GLB with vertex colours."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Interval, MinLen

import threestudio
from threestudio.models.exporters.base import Exporter, ExporterOutput
from threestudio.utils.typing import Float

from ...errors import UserError
from ...values import Count, Positive, Share, Whole
from .isosurface import DensityGrid, fill_voids, marching_cubes, remove_small_parts, silhouette_threshold
from .mesh_files import UP_AXES, ColoredMesh, vertex_normals, write_glb, write_obj

FORMATS = ("obj", "glb")
COLOR_STEPS = 12


@threestudio.register("mesh-sequence-exporter")
class MeshSequenceExporter(Exporter):
    """Marching cubes on the finest level of a time-dependent field.

    The geometry must offer ``forward_density(points, timestamps) -> [L, N, 1]`` and ``forward(points, timestamps)``
    with ``features [L, N, 3]``; the material turns features into colour.

    Files: ``mesh_<k>.obj`` and ``mesh_<k>.glb``, ``k`` being the frame, or the place in ``times``. Both have y up and
    show +z what the world shows its +x, where the camera of azimuth 0 is; ``up`` changes that for OBJ.

    Raises:
        UserError: a setting is out of range, or no frame has a surface.
    """

    @dataclass
    class Config(Exporter.Config):
        times: Annotated[Any, list[Share] | None, MinLen(1)] = None
        """Times in [0, 1] to export, as a list; None for input frames."""
        frames: Annotated[Any, list[Whole] | None, MinLen(1)] = None
        """Input frames to export, as a list of indices; None for all. Not together with ``times``."""
        formats: Annotated[Any, list[Literal[FORMATS]], MinLen(1)] = FORMATS
        up: Annotated[str, Literal[UP_AXES]] = "y"
        """Axis of an OBJ that points up: "y" as most programs expect, or "z" for the world frame. A GLB has y up."""
        resolution: Annotated[int, Interval(ge=2, le=4096)] = 128
        """Lattice points along the longest side of the object's bounding box."""
        threshold: Annotated[Any, Positive | Literal["auto"]] = "auto"
        """Density of the surface, or "auto": the one whose silhouettes match the field's (one value for all times)."""
        min_part: Share = 0.02
        """Parts with fewer triangles than this fraction of the largest part are dropped; 0 keeps everything."""
        chunk: Count = 262144
        """Points evaluated at once."""

    cfg: Config

    def configure(self, geometry: Any, material: Any, background: Any) -> None:
        super().configure(geometry, material, background)
        self.frame_times: Sequence[float] | None = None
        if self.cfg.times is not None and self.cfg.frames is not None:
            raise UserError("give system.exporter.times or system.exporter.frames, not both.")

    def __call__(self) -> list[ExporterOutput]:
        """Extract all meshes; the host then copies the files into ``it<step>-export``."""
        times = self._times()
        with torch.no_grad():
            boxes = {name: self._coarse(time) for name, time in times.items()}
            threshold = self._threshold(list(boxes.values()))
            meshes = {name: self._mesh(time, boxes[name], threshold) for name, time in times.items()}
        empty = [name for name, mesh in meshes.items() if mesh is None]
        if len(empty) == len(meshes):
            raise UserError(
                f"no surface at density {threshold:.3g} at any of {len(meshes)} times. Train longer, or set a lower "
                f"system.exporter.threshold (the largest density seen is {self._peak(boxes.values()):.3g})."
            )
        if empty:
            threestudio.warn(
                f"no surface at density {threshold:.3g} for {', '.join(empty)}: these meshes are left out. "
                "A lower system.exporter.threshold may bring them back."
            )
        # The files live until the host has copied them; the directory goes with this object.
        self._workspace = tempfile.TemporaryDirectory(prefix="meshes-")
        return [
            self._write(f"{name}.{suffix}", mesh)
            for name, mesh in meshes.items()
            if mesh is not None
            for suffix in self.cfg.formats
        ]

    def _times(self) -> dict[str, float]:
        """The times to export, by file name."""
        if self.cfg.times is not None:
            times = [float(time) for time in self.cfg.times]
            wrong = [time for time in times if not 0 <= time <= 1]
            if wrong or not times:
                raise UserError(
                    f"system.exporter.times must be a list of numbers in [0, 1]; got {list(self.cfg.times)}."
                )
            return {f"mesh_{k:03d}": time for k, time in enumerate(times)}
        if self.frame_times is None:
            raise UserError(
                "the exporter does not know the clip's frames: give system.exporter.times, such as [0, 0.5, 1]."
            )
        n_frames = len(self.frame_times)
        frames = list(range(n_frames)) if self.cfg.frames is None else [int(frame) for frame in self.cfg.frames]
        wrong_frames = [frame for frame in frames if not 0 <= frame < n_frames]
        if wrong_frames or not frames:
            raise UserError(f"system.exporter.frames must name frames from 0 to {n_frames - 1}; got {frames}.")
        return {f"mesh_{frame:03d}": float(self.frame_times[frame]) for frame in frames}

    def _coarse(self, time: float) -> DensityGrid:
        """The whole scene box at half the resolution: enough for the threshold and for the object's bounding box."""
        lower, upper = self.geometry.bbox.detach().cpu().numpy()
        return DensityGrid.sample(self._density_at(time), lower, upper, max(self.cfg.resolution // 2, 16))

    def _threshold(self, grids: Sequence[DensityGrid]) -> float:
        if self.cfg.threshold != "auto":
            return float(self.cfg.threshold)
        found = [threshold for grid in grids if (threshold := silhouette_threshold(grid)) is not None]
        if not found:
            raise UserError(
                "the field is transparent at all times, so there is no surface to export (the largest density seen is "
                f"{self._peak(grids):.3g}). Train longer, or set system.exporter.threshold."
            )
        return float(np.median(found))

    @staticmethod
    def _peak(grids: Any) -> float:
        return max(float(grid.values.max()) for grid in grids)

    def _mesh(self, time: float, coarse: DensityGrid, threshold: float) -> ColoredMesh | None:
        """The surface at a time, or None where there is none."""
        box = coarse.bounds_above(threshold)
        if box is None:
            return None
        grid = DensityGrid.sample(self._density_at(time), *box, self.cfg.resolution)
        vertices, faces = remove_small_parts(*marching_cubes(fill_voids(grid, threshold), threshold), self.cfg.min_part)
        if len(faces) == 0:
            return None
        return ColoredMesh(vertices, faces, self._colors(vertices, faces, time, grid.spacing))

    def _density_at(self, time: float) -> Any:
        def density(points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "*N"]:
            return np.concatenate(
                [
                    self.geometry.forward_density(x, t)[-1, :, 0].float().cpu().numpy()
                    for x, t in self._chunks(points, time)
                ]
            )

        return density

    def _colors(self, vertices: np.ndarray, faces: np.ndarray, time: float, spacing: float) -> np.ndarray:
        """sRGB [V, 3] of each vertex as a camera in front of it would see it: composited along a short ray into the
        surface.

        The ray starts one voxel outside, because a trained field keeps its colours in a soft shell rather than on one
        level.
        """
        normals = vertex_normals(vertices, faces)
        depths = spacing * np.linspace(-1.0, 4.0, COLOR_STEPS)
        step = float(depths[1] - depths[0])
        points = (vertices[:, None] - depths[None, :, None] * normals[:, None]).reshape(-1, 3).astype(np.float32)
        lower, upper = self.geometry.bbox.detach().cpu().numpy()
        colors, weights = [], []
        for x, t in self._chunks(np.clip(points, lower, upper), time):
            field = self.geometry(x, t)
            colors.append(self.material.export(features=field["features"][-1])["albedo"].float().cpu())
            weights.append(field["density"][-1, :, 0].float().cpu())
        color = torch.cat(colors).view(len(vertices), COLOR_STEPS, 3)
        optical = torch.cat(weights).view(len(vertices), COLOR_STEPS) * step
        before = torch.cumsum(optical, dim=1) - optical
        weight = torch.exp(-before) * (1 - torch.exp(-optical))
        mean = (weight[..., None] * color).sum(1) / weight.sum(1, keepdim=True).clamp(min=1e-6)
        return mean.clamp(0, 1).numpy()

    def _chunks(self, points: Float[np.ndarray, "N 3"], time: float) -> Any:
        """Pieces of the points with their times, on the geometry's device."""
        device = self.geometry.bbox.device
        for start in range(0, len(points), self.cfg.chunk):
            piece = torch.from_numpy(points[start : start + self.cfg.chunk]).to(device)
            yield piece, piece.new_full((len(piece), 1), time)

    def _write(self, filename: str, mesh: ColoredMesh) -> ExporterOutput:
        path = os.path.join(self._workspace.name, filename)
        if filename.endswith(".glb"):
            write_glb(path, mesh)
        else:
            write_obj(path, mesh, self.cfg.up)
        return ExporterOutput(save_name=filename, save_type="file", params={"src_path": path})
