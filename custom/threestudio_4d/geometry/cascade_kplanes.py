"""Consistent4D's field: a coarse-to-fine cascade of K-planes with a small density and colour network per level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import nn

import threestudio
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.utils.ops import get_activation
from threestudio.utils.typing import Float, Tensor

from ..errors import UserError
from ..ops.planes import BACKENDS, PAIRS, PreparedPlanes, interpolate_planes, plane_slopes, prepare_planes
from ..values import Count, Number, Positive
from .heads import Head, HeadConfig

#: Offset of the central differences that give the normal, in world units.
NORMAL_STEP = 1e-3

NORMAL_TYPES = ("finite_difference_laplacian", "analytic")


@threestudio.register("cascade-kplanes")
class CascadeKPlanes(BaseImplicitGeometry):
    """Levels of six space-time planes; raw density and raw colour are summed over levels (Consistent4D, §3.1).

    Level ℓ looks a point (x, y, z, t) up in its planes (see ``ops.planes``) and maps the features with two networks;
    the image of level ℓ uses the sums over levels 0 … ℓ, so a loss on a fine level also trains the coarse ones::

        density_ℓ = softplus(Σ_{i≤ℓ} g_i(f_i) + b(x)),   b(x) = 10 (1 - |x| / 0.5)

    Points are in world units inside ``[-radius, radius]^3``, times in [0, 1]. All outputs lead with the level axis.
    """

    @dataclass
    class Config(BaseImplicitGeometry.Config):
        #: [x, y, z, t] texels of every level
        grid_size: Annotated[Any, list[tuple[Count, Count, Count, Count]], MinLen(1)] = field(
            default_factory=lambda: [[50, 50, 50, 8], [100, 100, 100, 16]]
        )
        #: channels of a plane: one number, or one for each level
        n_grid_dims: Annotated[Any, Count | list[Count]] = 16
        #: half the channels at every level but the first
        low_vram: bool = False
        #: (xy + xz + yz) xt yt zt instead of the product of all six planes
        hybrid: bool = False
        mlp_network_config: Annotated[dict, HeadConfig] = field(default_factory=dict)
        n_feature_dims: Count = 3
        #: True: networks of every level, outputs summed. False: features summed, one pair of networks for all levels
        rgb_residual: bool = True
        #: finite_difference_laplacian (central differences of the density) | analytic (its exact gradient)
        normal_type: Annotated[str, Literal[NORMAL_TYPES]] = "finite_difference_laplacian"
        density_activation: Annotated[str, get_activation] = "softplus"
        #: what the density starts from: a blob of that shape, or one number everywhere
        density_bias: Annotated[Any, Number | Literal["blob_magic3d", "blob_dreamfusion"]] = "blob_magic3d"
        density_blob_scale: Number = 10.0
        density_blob_std: Positive = 0.5
        #: density of a mesh's surface, or "auto"
        isosurface_threshold: Annotated[Any, Number | Literal["auto"]] = 25.0
        plane_backend: Annotated[str, Literal[BACKENDS]] = "auto"

    cfg: Config

    def configure(self) -> None:
        super().configure()
        sizes = _grid_sizes(self.cfg.grid_size)
        channels = _channels(self.cfg.n_grid_dims, len(sizes), self.cfg.low_vram)
        self._check_config(channels)
        self.n_levels = len(sizes)
        #: time in [0, 1] that surface extraction sees when it names none
        self.isosurface_time = 0.0
        self.grids = nn.ModuleList(_new_planes(size, width) for size, width in zip(sizes, channels, strict=True))
        widths = channels if self.cfg.rgb_residual else channels[:1]
        self.density_network = nn.ModuleList(Head(width, 1, self.cfg.mlp_network_config) for width in widths)
        self.feature_network = nn.ModuleList(
            Head(width, self.cfg.n_feature_dims, self.cfg.mlp_network_config) for width in widths
        )
        self._activation = get_activation(self.cfg.density_activation)

    def _check_config(self, channels: list[int]) -> None:
        cfg = self.cfg
        if not cfg.rgb_residual and len(set(channels)) > 1:
            raise UserError(
                f"geometry.rgb_residual: false sums the features of all levels, which then need equal channels; "
                f"got {channels}. Set n_grid_dims to one number and low_vram: false, or rgb_residual: true"
            )

    # --- queries -------------------------------------------------------------------------------------------------

    def forward(
        self,
        points: Float[Tensor, "*N 3"],
        timestamps: Float[Tensor, "*N 1"] | None = None,
        output_normal: bool = False,
    ) -> dict[str, Tensor]:
        """Evaluate the field.

        Args:
            points: ``[..., 3]`` world positions; outside the box they take the border's features.
            timestamps: ``[..., 1]`` times in [0, 1]; None means ``isosurface_time``.
            output_normal: also return unit normals, which point out of the object.

        Returns:
            ``density [L, ..., 1]``, ``features [L, ..., n_feature_dims]`` (raw: the material applies the sigmoid),
            and ``normal``, ``shading_normal [L, ..., 3]`` when asked.
        """
        shape = points.shape[:-1]
        points, timestamps = self._flatten(points, timestamps)
        with _full_precision(points):
            raw, features = self._evaluate(self._prepared(), self._coordinates(points, timestamps), colour=True)
            density = self._density(raw, points)
            output = {
                "density": density.unsqueeze(-1).unflatten(1, shape),
                "features": features.unflatten(1, shape),
            }
        if output_normal:
            normal = self.normals(points, timestamps).unflatten(1, shape)
            output.update(normal=normal, shading_normal=normal)
        return output

    def forward_density(
        self, points: Float[Tensor, "*N 3"], timestamps: Float[Tensor, "*N 1"] | None = None
    ) -> Float[Tensor, "L *N 1"]:
        """Densities ``[L, ..., 1]`` of all levels, without the colour networks."""
        shape = points.shape[:-1]
        points, timestamps = self._flatten(points, timestamps)
        with _full_precision(points):
            raw, _ = self._evaluate(self._prepared(), self._coordinates(points, timestamps), colour=False)
            return self._density(raw, points).unsqueeze(-1).unflatten(1, shape)

    def normals(self, points: Float[Tensor, "N 3"], timestamps: Float[Tensor, "N 1"]) -> Float[Tensor, "L N 3"]:
        """Unit normals ``[L, N, 3]`` of every level's density, differentiable with respect to the field.

        ``finite_difference_laplacian`` is ``normalize(-(σ(x + ε e_k) - σ(x - ε e_k)) / 2ε)`` with ε = 1e-3 and the
        offset points clamped to the box. The six queries go out as one batch and touch no colour network.
        ``analytic`` is the limit ε → 0 of the same, for two lookups instead of six; it does not train through points.
        """
        with _full_precision(points):
            if self.cfg.normal_type == "analytic":
                return self._analytic_normals(points, timestamps)
            axes = torch.eye(3, device=points.device) * NORMAL_STEP
            step = torch.cat([axes, -axes])[:, None]
            offset = (points + step).clamp(-self.cfg.radius, self.cfg.radius)  # [6, N, 3]
            times = timestamps.expand(6, -1, -1)
            density = self.forward_density(offset.reshape(-1, 3), times.reshape(-1, 1))
            density = density.view(self.n_levels, 2, 3, points.shape[0])
            slope = (density[:, 0] - density[:, 1]) / (2 * NORMAL_STEP)  # [L, 3, N]
            return F.normalize(-slope.transpose(1, 2), dim=-1)

    def forward_field(
        self, points: Float[Tensor, "*N 3"], timestamps: Float[Tensor, "*N 1"] | None = None
    ) -> tuple[Float[Tensor, "*N 1"], None]:
        """Density of the finest level, for surface extraction; there is no deformation."""
        return self.forward_density(points, timestamps)[-1], None

    def forward_level(self, field: Float[Tensor, "*N 1"], threshold: float) -> Float[Tensor, "*N 1"]:
        """Signed level of a density: negative inside the surface."""
        return -(field - threshold)

    def export(
        self, points: Float[Tensor, "*N 3"], timestamps: Float[Tensor, "*N 1"] | None = None
    ) -> dict[str, Tensor]:
        """Raw colour features ``[..., n_feature_dims]`` of the finest level, for texturing a mesh."""
        return {"features": self.forward(points, timestamps)["features"][-1]}

    # --- pieces --------------------------------------------------------------------------------------------------

    def _flatten(self, points: Tensor, timestamps: Tensor | None) -> tuple[Tensor, Tensor]:
        if timestamps is None:
            timestamps = points.new_full((1, 1), self.isosurface_time)
            timestamps = timestamps.expand(*points.shape[:-1], 1)
        if points.shape[-1] != 3 or timestamps.shape != (*points.shape[:-1], 1):
            raise ValueError(
                f"points must be [..., 3] and timestamps [..., 1] alike, got {list(points.shape)} and "
                f"{list(timestamps.shape)}"
            )
        return points.reshape(-1, 3).float(), timestamps.reshape(-1, 1).float()

    def _coordinates(self, points: Tensor, timestamps: Tensor) -> Tensor:
        """World points and times to ``[N, 4]`` in [-1, 1]."""
        return torch.cat([points / self.cfg.radius, timestamps * 2 - 1], dim=-1)

    def _prepared(self) -> list[PreparedPlanes]:
        """The planes of every level as the lookups want them, laid out once for all lookups of a query."""
        return [prepare_planes(list(planes), self.cfg.plane_backend) for planes in self.grids]

    def _evaluate(self, levels: list[PreparedPlanes], coords: Tensor, colour: bool) -> tuple[Tensor, Tensor | None]:
        """Raw densities ``[L, N]`` and raw colours ``[L, N, F]``, summed over levels up to each.

        For backward a point keeps its coordinates and the features of each level; plane values and hidden activations
        are recomputed. The twelve offset queries of a sample then cost 1.6 KiB with two levels of 16 channels.
        """
        densities, colours = [], []
        features = None
        for level, planes in enumerate(levels):
            looked_up = interpolate_planes(planes, coords, self.cfg.hybrid)
            if self.cfg.rgb_residual:
                features, head = looked_up, level
            else:
                features, head = looked_up if features is None else features + looked_up, 0
            densities.append(self.density_network[head](features).squeeze(-1))
            if colour:
                colours.append(self.feature_network[head](features))
        if self.cfg.rgb_residual:
            for level in range(1, self.n_levels):
                densities[level] = densities[level] + densities[level - 1]
                if colour:
                    colours[level] = colours[level] + colours[level - 1]
        return torch.stack(densities), torch.stack(colours) if colour else None

    def _analytic_normals(self, points: Tensor, timestamps: Tensor) -> Tensor:
        """``-normalize(∇(raw + b))``: the activation is increasing, so it changes the length of ∇σ alone."""
        coords = self._coordinates(points, timestamps).detach()
        hybrid = self.cfg.hybrid
        planes = self._prepared()
        slopes: list[Tensor] = []
        features = None
        for level in range(self.n_levels):
            looked_up = interpolate_planes(planes[level], coords, hybrid)
            if self.cfg.rgb_residual:
                gradient = self.density_network[level].input_gradient(looked_up)
                slope = plane_slopes(planes[level], coords, gradient, hybrid)
                slopes.append(slope + slopes[-1] if slopes else slope)
            else:
                features = looked_up if features is None else features + looked_up
                gradient = self.density_network[0].input_gradient(features)
                slopes.append(sum(plane_slopes(planes[i], coords, gradient, hybrid) for i in range(level + 1)))
        slope = torch.stack(slopes)[..., :3] / self.cfg.radius + self._bias_slope(points.detach())
        return F.normalize(-slope, dim=-1)

    def _bias_slope(self, points: Tensor) -> Tensor | float:
        """∇b ``[N, 3]``."""
        cfg = self.cfg
        if cfg.density_bias == "blob_magic3d":
            return F.normalize(points, dim=-1) * (-cfg.density_blob_scale / cfg.density_blob_std)
        if cfg.density_bias == "blob_dreamfusion":
            return self._bias(points)[:, None] * points * (-1 / cfg.density_blob_std**2)
        return 0.0

    def _density(self, raw: Tensor, points: Tensor) -> Tensor:
        """Density ``[L, N]`` from raw values ``[L, N]`` at points ``[N, 3]``."""
        return self._activation(raw + self._bias(points))

    def _bias(self, points: Tensor) -> Tensor | float:
        """The blob b(x) ``[N]`` that the density starts from."""
        cfg = self.cfg
        if cfg.density_bias == "blob_magic3d":
            return cfg.density_blob_scale * (1 - points.norm(dim=-1) / cfg.density_blob_std)
        if cfg.density_bias == "blob_dreamfusion":
            return cfg.density_blob_scale * torch.exp(-0.5 * points.square().sum(-1) / cfg.density_blob_std**2)
        return float(cfg.density_bias)


def _new_planes(size: Sequence[int], channels: int) -> nn.ParameterList:
    """Six planes ``[1, C, R_b, R_a]``: spatial ones uniform in (0.1, 0.5), those with a time axis 1."""
    planes = nn.ParameterList()
    for a, b in PAIRS:
        plane = torch.ones(1, channels, size[b], size[a])
        if b != 3:
            plane.uniform_(0.1, 0.5)
        planes.append(nn.Parameter(plane))
    return planes


def _grid_sizes(grid_size: Any) -> list[list[int]]:
    return [[int(n) for n in size] for size in grid_size]


def _channels(n_grid_dims: Any, n_levels: int, low_vram: bool) -> list[int]:
    if isinstance(n_grid_dims, int):
        channels = [n_grid_dims] + [n_grid_dims // 2 if low_vram else n_grid_dims] * (n_levels - 1)
    else:
        channels = [int(n) for n in n_grid_dims]
    if len(channels) != n_levels or min(channels) < 1:
        raise UserError(f"geometry.n_grid_dims is {n_grid_dims}; give one number, or one for each of {n_levels} levels")
    return channels


def _full_precision(tensor: Tensor) -> torch.autocast:
    """The field works in float32 whatever the trainer's precision: density differences of 1e-3 need it."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)
