"""``no-material``: the features are the colour."""

from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from threestudio import register
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.networks import NetworkConfig, get_mlp
from threestudio.utils.ops import get_activation
from threestudio.utils.values import Count, Whole

__all__ = ["NoMaterial"]


@register("no-material")
class NoMaterial(BaseMaterial):
    """Features through an activation, or through a small network first, as colour."""

    @dataclass
    class Config(BaseMaterial.Config):
        n_output_dims: Whole = 3
        color_activation: Annotated[str, get_activation] = "sigmoid"
        input_feature_dims: Count | None = None
        mlp_network_config: Annotated[dict, NetworkConfig] | None = None
        requires_normal: bool = False

    cfg: Config

    def configure(self) -> None:
        self.use_network = False
        if self.cfg.input_feature_dims is not None and self.cfg.mlp_network_config is not None:
            self.network = get_mlp(self.cfg.input_feature_dims, self.cfg.n_output_dims, self.cfg.mlp_network_config)
            self.use_network = True
        self.requires_normal = self.cfg.requires_normal

    def forward(self, features: Tensor, **kwargs: Any) -> Tensor:
        """[*B, C] to [*B, n_output_dims]."""
        activation = get_activation(self.cfg.color_activation)
        if self.use_network:
            color = self.network(features.reshape(-1, features.shape[-1])).view(*features.shape[:-1], -1)
        else:
            if features.shape[-1] != self.cfg.n_output_dims:
                raise ValueError(
                    f"Expected {self.cfg.n_output_dims} output dims, only got {features.shape[-1]} dims input."
                )
            color = features
        return activation(color)

    def export(self, features: Tensor, **kwargs: Any) -> dict[str, Any]:
        color = self(features, **kwargs).clamp(0, 1)
        if color.shape[-1] < 3:
            raise ValueError(f"A colour needs 3 channels to be exported, got {color.shape[-1]}.")
        return {"albedo": color[..., :3]}
