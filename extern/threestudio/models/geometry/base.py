"""Interfaces of geometry: a field that is queried at points, or explicit shapes."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor

import threestudio
from threestudio.models.isosurface import IsosurfaceHelper, MarchingCubeCPUHelper, MarchingTetrahedraHelper
from threestudio.models.mesh import Mesh
from threestudio.utils.base import BaseModule
from threestudio.utils.errors import UserError
from threestudio.utils.ops import chunk_batch, scale_tensor
from threestudio.utils.values import Number, Positive, Whole

__all__ = ["BaseExplicitGeometry", "BaseGeometry", "BaseImplicitGeometry", "contract_to_unisphere"]


def contract_to_unisphere(x: Tensor, bbox: Tensor, unbounded: bool = False) -> Tensor:
    """Points [..., 3] to [0, 1].

    Args:
        bbox: lower and upper corner [2, 3], which go to 0 and 1 if bounded.
        unbounded: the box goes to the middle half; outside, a point at distance d (box radius 1) comes to rest at
            ``2 - 1/d`` of a ball of radius 2 that fills the cube (Mip-NeRF 360, eq. 10).
    """
    if not unbounded:
        return scale_tensor(x, bbox, (0, 1))
    x = scale_tensor(x, bbox, (-1, 1))
    length = x.norm(dim=-1, keepdim=True)
    contracted = (2 - 1 / length.clamp(min=1.0)) * (x / length.clamp(min=1.0))
    return torch.where(length > 1, contracted, x) / 4 + 0.5


class BaseGeometry(BaseModule):
    @dataclass
    class Config(BaseModule.Config):
        pass

    cfg: Config

    @staticmethod
    def create_from(other: "BaseGeometry", cfg: Any = None, **kwargs: Any) -> "BaseGeometry":
        """A geometry of this class that takes over the shape of another one."""
        raise TypeError(
            f"A geometry cannot be made from {type(other).__name__}: this class defines no conversion from it."
        )

    def export(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}


class BaseImplicitGeometry(BaseGeometry):
    """A field: ``forward(points [*N, 3], output_normal=False)`` gives ``density`` or ``sdf`` [*N, 1] and ``features``
    [*N, C].

    Subclasses define ``forward_field`` and ``forward_level`` for ``isosurface``. Points are in world units.
    """

    @dataclass
    class Config(BaseGeometry.Config):
        radius: Positive = 1.0
        isosurface: bool = True
        isosurface_method: Annotated[str, Literal["mt", "mc-cpu"]] = "mt"
        isosurface_resolution: Annotated[int, Interval(ge=2, le=4096)] = 128
        isosurface_threshold: Annotated[float | str, Number | Literal["auto"]] = 0.0
        isosurface_chunk: Whole = 0
        isosurface_coarse_to_fine: bool = True
        isosurface_deformable_grid: bool = False
        isosurface_remove_outliers: bool = True
        isosurface_outlier_n_faces_threshold: Annotated[int | float, Ge(0)] = 0.01

    cfg: Config

    def configure(self) -> None:
        radius = self.cfg.radius
        self.bbox: Tensor
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3], dtype=torch.float32))
        self.isosurface_helper: IsosurfaceHelper | None = None
        self.unbounded: bool = False

    def forward(self, points: Tensor, output_normal: bool = False) -> dict[str, Tensor]:
        raise NotImplementedError

    def forward_field(self, points: Tensor) -> tuple[Tensor, Tensor | None]:
        """Field value [*N, 1] and, if the grid may deform, deformation [*N, 3] or None."""
        raise NotImplementedError

    def forward_level(self, field: Tensor, threshold: float) -> Tensor:
        """The field relative to the threshold, negative inside."""
        raise NotImplementedError

    def _initialize_helper(self) -> None:
        if self.isosurface_helper is not None:
            return
        resolution, method = self.cfg.isosurface_resolution, self.cfg.isosurface_method
        if method == "mc-cpu":
            self.isosurface_helper = MarchingCubeCPUHelper(resolution).to(self.bbox.device)
        elif method == "mt":
            path = f"load/tets/{resolution}_tets.npz"
            self.isosurface_helper = MarchingTetrahedraHelper(resolution, path).to(self.bbox.device)
        else:
            raise UserError(f"isosurface_method is 'mt' or 'mc-cpu', got '{method}'.")

    def _isosurface(self, bbox: Tensor, fine_stage: bool = False) -> Mesh:
        def field_at(x: Tensor) -> tuple[Tensor, Tensor | None]:
            world = scale_tensor(x.to(bbox.device), self.isosurface_helper.points_range, bbox)
            field, deformation = self.forward_field(world)
            return field, deformation if self.cfg.isosurface_deformable_grid else None

        field, deformation = chunk_batch(field_at, self.cfg.isosurface_chunk, self.isosurface_helper.grid_vertices)
        threshold = self.cfg.isosurface_threshold
        if isinstance(threshold, str):
            if threshold != "auto":
                raise UserError(f"isosurface_threshold is a number or 'auto', got '{threshold}'.")
            occupied = field[field > 1e-5]
            threshold = occupied.mean().item() if occupied.numel() else 0.0
            threestudio.info(f"Automatically determined isosurface threshold: {threshold}")
        mesh = self.isosurface_helper(self.forward_level(field, threshold), deformation=deformation)
        mesh.v_pos = scale_tensor(mesh.v_pos, self.isosurface_helper.points_range, bbox)
        mesh.add_extra("bbox", bbox)
        if self.cfg.isosurface_remove_outliers:
            mesh = mesh.remove_outlier(self.cfg.isosurface_outlier_n_faces_threshold)
        return mesh

    def isosurface(self) -> Mesh:
        """Mesh of the zero level; coarse to fine, a first pass finds the box that the second one samples.

        Raises:
            UserError: nothing is inside the level (the threshold is too high, or the field is empty).
        """
        if not self.cfg.isosurface:
            raise NotImplementedError("This geometry was configured with isosurface: false.")
        self._initialize_helper()
        if not self.cfg.isosurface_coarse_to_fine:
            return self._checked(self._isosurface(self.bbox))
        with torch.no_grad():
            coarse = self._checked(self._isosurface(self.bbox))
        low, high = coarse.v_pos.amin(dim=0), coarse.v_pos.amax(dim=0)
        margin = (high - low) * 0.1
        box = torch.stack([torch.maximum(low - margin, self.bbox[0]), torch.minimum(high + margin, self.bbox[1])])
        return self._checked(self._isosurface(box, fine_stage=True))

    def _checked(self, mesh: Mesh) -> Mesh:
        if len(mesh.t_pos_idx) == 0:
            raise UserError(
                f"The isosurface is empty at threshold {self.cfg.isosurface_threshold}: lower isosurface_threshold "
                "(or set it to auto), or train longer."
            )
        return mesh


class BaseExplicitGeometry(BaseGeometry):
    @dataclass
    class Config(BaseGeometry.Config):
        radius: Positive = 1.0

    cfg: Config

    def configure(self) -> None:
        radius = self.cfg.radius
        self.bbox: Tensor
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3], dtype=torch.float32))
