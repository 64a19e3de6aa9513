"""Interfaces of renderers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.parts import HasParts, Parts
from threestudio.utils.base import BaseModule
from threestudio.utils.values import Positive

__all__ = ["Rasterizer", "Renderer", "VolumeRenderer"]


class Renderer(HasParts, BaseModule):
    """``forward(**batch) -> {"comp_rgb" [B, H, W, 3], "opacity" [B, H, W, 1], ...}``; takes keyword arguments it does
    not know.

    Geometry, material and background are kept outside of the module tree, so they appear once in the state dict.
    """

    @dataclass
    class Config(BaseModule.Config):
        radius: Positive = 1.0

    cfg: Config

    def configure(self, geometry: BaseImplicitGeometry, material: BaseMaterial, background: BaseBackground) -> None:
        self.sub_modules = Parts(geometry, material, background)
        radius = self.cfg.radius
        self.bbox: Tensor
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3], dtype=torch.float32))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        raise NotImplementedError

    def set_geometry(self, geometry: BaseImplicitGeometry) -> None:
        self.sub_modules = self.sub_modules._replace(geometry=geometry)

    def set_material(self, material: BaseMaterial) -> None:
        self.sub_modules = self.sub_modules._replace(material=material)

    def set_background(self, background: BaseBackground) -> None:
        self.sub_modules = self.sub_modules._replace(background=background)


class VolumeRenderer(Renderer):
    """Marker of renderers that march through a field."""


class Rasterizer(Renderer):
    """Marker of renderers that project primitives."""
