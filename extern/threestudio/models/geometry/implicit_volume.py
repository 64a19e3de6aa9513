"""``implicit-volume``: a density and feature field from an encoding and an MLP."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from threestudio import register
from threestudio.models.geometry.base import BaseImplicitGeometry, contract_to_unisphere
from threestudio.models.geometry.gradients import finite_differences
from threestudio.models.networks import NetworkConfig, default_encoding, default_network, get_encoding, get_mlp
from threestudio.utils.errors import UserError
from threestudio.utils.ops import get_activation
from threestudio.utils.values import Count, Number, Positive, Whole

__all__ = ["ImplicitVolume"]


@dataclass
class BlobAnnealing:
    """From ``start_val`` at ``min_anneal_step`` to ``end_val`` at ``max_anneal_step``, constant before and after."""

    min_anneal_step: Whole
    max_anneal_step: Count
    start_val: Positive
    end_val: Positive


@register("implicit-volume")
class ImplicitVolume(BaseImplicitGeometry):
    """Density and features of contracted points; the density starts as a blob around the origin (DreamFusion,
    appendix A.2).
    """

    @dataclass
    class Config(BaseImplicitGeometry.Config):
        n_input_dims: Count = 3
        n_feature_dims: Annotated[int, Ge(0)] = 3
        density_activation: Annotated[str | None, get_activation] = "softplus"
        density_bias: Annotated[float | str, Number | Literal["blob_magic3d", "blob_dreamfusion"]] = "blob_magic3d"
        density_blob_scale: Number = 10.0
        density_blob_std: Positive = 0.5
        pos_encoding_config: dict = field(default_factory=default_encoding)
        mlp_network_config: Annotated[dict, NetworkConfig] = field(default_factory=default_network)
        normal_type: Annotated[
            str | None, Literal["finite_difference", "finite_difference_laplacian", "pred", "analytic"] | None
        ] = "finite_difference"
        finite_difference_normal_eps: Positive = 0.01
        #: the blob shrinks or grows from start_val to end_val between min_anneal_step and max_anneal_step (4D-fy)
        anneal_density_blob_std_config: Annotated[dict | None, BlobAnnealing] = None
        isosurface_threshold: Annotated[float | str, Number | Literal["auto"]] = 25.0

    cfg: Config

    def configure(self) -> None:
        super().configure()
        self.encoding = get_encoding(self.cfg.n_input_dims, self.cfg.pos_encoding_config)
        n_encoded = self.encoding.n_output_dims
        self.density_blob_std = self.cfg.density_blob_std
        self.density_network = get_mlp(n_encoded, 1, self.cfg.mlp_network_config)
        if self.cfg.n_feature_dims > 0:
            self.feature_network = get_mlp(n_encoded, self.cfg.n_feature_dims, self.cfg.mlp_network_config)
        if self.cfg.normal_type == "pred":
            self.normal_network = get_mlp(n_encoded, 3, self.cfg.mlp_network_config)

    def get_activated_density(self, points: Tensor, density: Tensor) -> tuple[Tensor, Tensor]:
        """Raw and activated density [*N, 1] of world points [*N, 3] and network outputs [*N, 1]."""
        bias: Any = self.cfg.density_bias
        if isinstance(bias, str):
            distance = points.square().sum(dim=-1, keepdim=True)
            scale, std = self.cfg.density_blob_scale, self.density_blob_std
            if bias == "blob_dreamfusion":
                bias = scale * torch.exp(-0.5 * distance / std**2)
            elif bias == "blob_magic3d":
                bias = scale * (1 - torch.sqrt(distance) / std)
            else:
                raise UserError(f"density_bias is a number, 'blob_dreamfusion' or 'blob_magic3d', got '{bias}'.")
        raw = density + bias
        return raw, get_activation(self.cfg.density_activation)(raw)

    def forward(self, points: Tensor, output_normal: bool = False) -> dict[str, Tensor]:
        needs_graph = output_normal and self.cfg.normal_type == "analytic"
        with torch.set_grad_enabled(torch.is_grad_enabled() or needs_graph):
            if needs_graph:
                points = points.requires_grad_(True) if points.is_leaf else points
            encoded = self._encode(points)
            density = self.density_network(encoded).view(*points.shape[:-1], 1)
            _, density = self.get_activated_density(points, density)
            output = {"density": density}
            if self.cfg.n_feature_dims > 0:
                output["features"] = self.feature_network(encoded).view(*points.shape[:-1], self.cfg.n_feature_dims)
            if output_normal:
                normal = self._normal(points, density, encoded)
                output |= {"normal": normal, "shading_normal": normal}
        return output

    def _encode(self, points: Tensor) -> Tensor:
        unit = contract_to_unisphere(points, self.bbox, self.unbounded)
        return self.encoding(unit.view(-1, self.cfg.n_input_dims))

    def _normal(self, points: Tensor, density: Tensor, encoded: Tensor) -> Tensor:
        kind, eps, radius = self.cfg.normal_type, self.cfg.finite_difference_normal_eps, self.cfg.radius
        if kind == "analytic":
            gradient = torch.autograd.grad(density.sum(), points, create_graph=torch.is_grad_enabled())[0]
            return -F.normalize(gradient, dim=-1)
        if kind == "pred":
            return F.normalize(self.normal_network(encoded).view(*points.shape[:-1], 3), dim=-1)
        if kind in ("finite_difference", "finite_difference_laplacian"):
            central = kind == "finite_difference_laplacian"
            return -F.normalize(finite_differences(self.forward_density, points, density, eps, radius, central), dim=-1)
        raise UserError(
            "normal_type is 'finite_difference', 'finite_difference_laplacian', 'pred' or 'analytic' when normals are "
            f"asked for, got '{kind}'."
        )

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        anneal = self.cfg.anneal_density_blob_std_config
        if anneal is not None and global_step >= anneal.min_anneal_step:
            length = anneal.max_anneal_step - anneal.min_anneal_step
            share = min((global_step - anneal.min_anneal_step) / length, 1.0)
            self.density_blob_std = anneal.start_val + share * (anneal.end_val - anneal.start_val)

    def forward_density(self, points: Tensor) -> Tensor:
        density = self.density_network(self._encode(points)).reshape(*points.shape[:-1], 1)
        return self.get_activated_density(points, density)[1]

    def forward_field(self, points: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.cfg.isosurface_deformable_grid:
            raise UserError("implicit-volume has no deformable grid: set isosurface_deformable_grid to false.")
        return self.forward_density(points), None

    def forward_level(self, field: Tensor, threshold: float) -> Tensor:
        return -(field - threshold)

    def export(self, points: Tensor, **kwargs: Any) -> dict[str, Any]:
        if self.cfg.n_feature_dims == 0:
            return {}
        features = self.feature_network(self._encode(points)).view(*points.shape[:-1], self.cfg.n_feature_dims)
        return {"features": features}
