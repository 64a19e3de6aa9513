"""``diffuse-with-point-light-material``: Lambertian shading with one point light (DreamFusion, section 3.1)."""

import random
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from threestudio import register
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.ops import dot, get_activation
from threestudio.utils.values import NotNegative, Share, Whole

__all__ = ["DiffuseWithPointLightMaterial"]


@register("diffuse-with-point-light-material")
class DiffuseWithPointLightMaterial(BaseMaterial):
    """Albedo (the features) times ambient plus diffuse light. In training the shading is drawn at random for each call.

    Until ``ambient_only_steps`` only the albedo is shown. Afterwards a training call is lit with ``diffuse_prob``, and
    a lit one has white albedo with ``textureless_prob``.
    """

    @dataclass
    class Config(BaseMaterial.Config):
        ambient_light_color: tuple[NotNegative, NotNegative, NotNegative] = (0.1, 0.1, 0.1)
        diffuse_light_color: tuple[NotNegative, NotNegative, NotNegative] = (0.9, 0.9, 0.9)
        ambient_only_steps: Whole = 1000
        diffuse_prob: Share = 0.75
        textureless_prob: Share = 0.5
        albedo_activation: Annotated[str, get_activation] = "sigmoid"
        soft_shading: bool = False

    cfg: Config
    requires_normal = True

    def configure(self) -> None:
        self.ambient_light_color: Tensor
        self.register_buffer("ambient_light_color", torch.tensor(list(self.cfg.ambient_light_color)).float())
        self.diffuse_light_color: Tensor
        self.register_buffer("diffuse_light_color", torch.tensor(list(self.cfg.diffuse_light_color)).float())
        self.ambient_only = False

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        shading_normal: Tensor,
        light_positions: Tensor,
        ambient_ratio: float | None = None,
        shading: str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Colour [*B, 3].

        Args:
            features, positions, shading_normal, light_positions: [*B, 3] each; the normal is unit.
            ambient_ratio: share of ambient light instead of the configured colours.
            shading: ``"albedo"``, ``"textureless"`` or ``"diffuse"``; drawn (training) or albedo/diffuse if None.
        """
        albedo = get_activation(self.cfg.albedo_activation)(features[..., :3])
        ambient, diffuse = self._lights(ambient_ratio)
        light_direction = F.normalize(light_positions - positions, dim=-1)
        diffuse_light = dot(shading_normal, light_direction).clamp(min=0.0) * diffuse
        light = diffuse_light + ambient
        shading = shading or self._draw_shading()
        if shading == "albedo":
            return albedo + light * 0
        if shading == "textureless":
            return albedo * 0 + light
        if shading == "diffuse":
            return albedo * light
        raise ValueError(f"Unknown shading type {shading!r}: albedo, textureless or diffuse.")

    def _lights(self, ambient_ratio: float | None) -> tuple[Any, Any]:
        if ambient_ratio is not None:
            return ambient_ratio, 1 - ambient_ratio
        if self.training and self.cfg.soft_shading:
            diffuse = torch.full_like(self.diffuse_light_color, random.random())
            return 1 - diffuse, diffuse
        return self.ambient_light_color, self.diffuse_light_color

    def _draw_shading(self) -> str:
        if not self.training:
            return "albedo" if self.ambient_only else "diffuse"
        if self.ambient_only or random.random() > self.cfg.diffuse_prob:
            return "albedo"
        return "textureless" if random.random() < self.cfg.textureless_prob else "diffuse"

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.ambient_only = global_step < self.cfg.ambient_only_steps

    def export(self, features: Tensor, **kwargs: Any) -> dict[str, Any]:
        return {"albedo": get_activation(self.cfg.albedo_activation)(features[..., :3])}
