"""``implicit-sdf``: a signed distance and feature field from an encoding and an MLP."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from threestudio import info, register
from threestudio.models.geometry.base import BaseImplicitGeometry, contract_to_unisphere
from threestudio.models.geometry.gradients import finite_differences
from threestudio.models.networks import NetworkConfig, default_encoding, default_network, get_encoding, get_mlp
from threestudio.utils.errors import UserError
from threestudio.utils.misc import broadcast
from threestudio.utils.values import Count, Number, Positive, Text, Whole

__all__ = ["ImplicitSDF"]

#: fitting of the initial shape: steps, points a step
INITIAL_STEPS, INITIAL_POINTS = 1000, 10000


@register("implicit-sdf")
class ImplicitSDF(BaseImplicitGeometry):
    """Signed distance (negative inside) and features of contracted points.

    ``sdf_bias`` adds a number, or the distance to a "sphere" or "ellipsoid" of the size ``sdf_bias_params``;
    ``initialize_shape`` fits the network to the shape ``shape_init`` of the size ``shape_init_params`` instead.
    """

    @dataclass
    class Config(BaseImplicitGeometry.Config):
        n_input_dims: Count = 3
        n_feature_dims: Whole = 3
        pos_encoding_config: dict = field(default_factory=default_encoding)
        mlp_network_config: Annotated[dict, NetworkConfig] = field(default_factory=default_network)
        normal_type: Annotated[
            str | None, Literal["finite_difference", "finite_difference_laplacian", "pred", "analytic"] | None
        ] = "finite_difference"
        #: a number, or "progressive": the texel of the finest open level of a ProgressiveBandHashGrid (Neuralangelo)
        finite_difference_normal_eps: Annotated[float | str, Positive | Literal["progressive"]] = 0.01
        shape_init: Text | None = None
        shape_init_params: Annotated[Any, Positive | list[Positive] | None] = None
        shape_init_mesh_up: str = "+z"
        shape_init_mesh_front: str = "+x"
        force_shape_init: bool = False
        sdf_bias: Annotated[float | str, Number | Literal["sphere", "ellipsoid"]] = 0.0
        sdf_bias_params: Annotated[Any, Positive | list[Positive] | None] = None
        isosurface_remove_outliers: bool = False

    cfg: Config

    def configure(self) -> None:
        super().configure()
        cfg = self.cfg
        self.encoding = get_encoding(cfg.n_input_dims, cfg.pos_encoding_config)
        n_encoded = self.encoding.n_output_dims
        self.sdf_network = get_mlp(n_encoded, 1, cfg.mlp_network_config)
        if cfg.n_feature_dims > 0:
            self.feature_network = get_mlp(n_encoded, cfg.n_feature_dims, cfg.mlp_network_config)
        if cfg.normal_type == "pred":
            self.normal_network = get_mlp(n_encoded, 3, cfg.mlp_network_config)
        if cfg.isosurface_deformable_grid:
            if cfg.isosurface_method != "mt":
                raise UserError("geometry.isosurface_deformable_grid needs isosurface_method 'mt'.")
            self.deformation_network = get_mlp(n_encoded, 3, cfg.mlp_network_config)
        self._bias = _shape(cfg.sdf_bias, cfg.sdf_bias_params, "sdf_bias")
        self.finite_difference_normal_eps = 0.01
        self.update_step(0, 0)

    def initialize_shape(self) -> None:
        """Fit the distance to the configured shape, unless the weights were loaded."""
        cfg = self.cfg
        if cfg.shape_init is None or (cfg.weights is not None and not cfg.force_shape_init):
            return
        distance = _shape(cfg.shape_init, cfg.shape_init_params, "shape_init")
        info(f"Fitting the signed distance to the shape '{cfg.shape_init}'")
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        for _ in range(INITIAL_STEPS):
            points = torch.rand(INITIAL_POINTS, 3, device=self.bbox.device) * 2 - 1
            loss = F.mse_loss(self.forward_sdf(points), distance(points))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for parameter in self.parameters():
            broadcast(parameter, src=0)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        eps, grid = self.cfg.finite_difference_normal_eps, self.cfg.pos_encoding_config
        if not isinstance(eps, str):
            self.finite_difference_normal_eps = float(eps)
            return
        if grid["otype"] != "ProgressiveBandHashGrid":
            raise UserError(
                "geometry.finite_difference_normal_eps: progressive needs the encoding ProgressiveBandHashGrid, got "
                f"{grid['otype']}."
            )
        opened = grid["start_level"] + max(global_step - grid["start_step"], 0) // grid["update_steps"]
        level = min(opened, grid["n_levels"])
        resolution = grid["base_resolution"] * grid["per_level_scale"] ** (level - 1)
        self.finite_difference_normal_eps = 2 * self.cfg.radius / resolution

    def forward(self, points: Tensor, output_normal: bool = False) -> dict[str, Tensor]:
        """``sdf`` [*N, 1], ``features`` [*N, F]; with normals ``normal``, ``shading_normal``, ``sdf_grad`` [*N, 3]."""
        needs_graph = output_normal and self.cfg.normal_type == "analytic"
        grad_enabled = torch.is_grad_enabled()
        with torch.set_grad_enabled(grad_enabled or needs_graph):
            if needs_graph and points.is_leaf:
                points.requires_grad_(True)
            encoded = self._encode(points)
            sdf = self.sdf_network(encoded).view(*points.shape[:-1], 1) + self._bias(points)
            output = {"sdf": sdf}
            if self.cfg.n_feature_dims > 0:
                output["features"] = self.feature_network(encoded).view(*points.shape[:-1], self.cfg.n_feature_dims)
            if output_normal:
                gradient = self._gradient(points, sdf, encoded)
                normal = F.normalize(gradient, dim=-1)
                output |= {"normal": normal, "shading_normal": normal, "sdf_grad": gradient}
        if needs_graph and not grad_enabled:
            output = {name: value.detach() for name, value in output.items()}
        return output

    def _encode(self, points: Tensor) -> Tensor:
        unit = contract_to_unisphere(points, self.bbox, self.unbounded)
        return self.encoding(unit.reshape(-1, self.cfg.n_input_dims))

    def _gradient(self, points: Tensor, sdf: Tensor, encoded: Tensor) -> Tensor:
        kind = self.cfg.normal_type
        if kind == "analytic":
            return torch.autograd.grad(sdf.sum(), points, create_graph=True)[0]
        if kind == "pred":
            return F.normalize(self.normal_network(encoded).view(*points.shape[:-1], 3), dim=-1)
        if kind not in ("finite_difference", "finite_difference_laplacian"):
            raise UserError(
                "normal_type is 'finite_difference', 'finite_difference_laplacian', 'pred' or 'analytic' when normals "
                f"are asked for, got '{kind}'."
            )
        central = kind == "finite_difference_laplacian"
        eps = self.finite_difference_normal_eps
        return finite_differences(self.forward_sdf, points, sdf, eps, self.cfg.radius, central)

    def forward_sdf(self, points: Tensor) -> Tensor:
        return self.sdf_network(self._encode(points)).reshape(*points.shape[:-1], 1) + self._bias(points)

    def forward_field(self, points: Tensor) -> tuple[Tensor, Tensor | None]:
        deformation = None
        if self.cfg.isosurface_deformable_grid:
            deformation = self.deformation_network(self._encode(points)).reshape(*points.shape[:-1], 3)
        return self.forward_sdf(points), deformation

    def forward_level(self, field: Tensor, threshold: float) -> Tensor:
        return field - threshold

    def export(self, points: Tensor, **kwargs: Any) -> dict[str, Any]:
        if self.cfg.n_feature_dims == 0:
            return {}
        features = self.feature_network(self._encode(points)).view(*points.shape[:-1], self.cfg.n_feature_dims)
        return {"features": features}


def _shape(kind: float | str, size: Any, key: str) -> Callable[[Tensor], Any]:
    """Signed distance of points [..., 3] to a shape, [..., 1], or the number that ``kind`` is."""
    if isinstance(kind, (int, float)):
        return lambda points: kind
    if kind == "sphere" and isinstance(size, (int, float)):
        return lambda points: points.norm(dim=-1, keepdim=True) - size
    if kind == "ellipsoid" and isinstance(size, Sequence) and len(size) == 3:
        axes = [float(s) for s in size]
        return lambda points: (points / points.new_tensor(axes)).norm(dim=-1, keepdim=True) - 1
    raise UserError(
        f"geometry.{key} is 'sphere' with a radius in {key}_params, or 'ellipsoid' with three half axes, got '{kind}' "
        f"with {size!r}. (Meshes as shape_init need upstream threestudio.)"
    )
