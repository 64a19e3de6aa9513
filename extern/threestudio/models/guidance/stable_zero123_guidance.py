"""``stable-zero123-guidance``: a Zero123 that is told the elevation of its picture."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from threestudio import register
from threestudio.models.guidance.zero123_guidance import Zero123Guidance

__all__ = ["StableZero123Guidance"]


@register("stable-zero123-guidance")
class StableZero123Guidance(Zero123Guidance):
    """As ``zero123-guidance``, for Stable Zero123."""

    @dataclass
    class Config(Zero123Guidance.Config):
        pretrained_model_name_or_path: str = "load/zero123/stable-zero123.ckpt"

    cfg: Config

    def camera(self, elevation: Tensor, azimuth: Tensor, camera_distances: Tensor) -> Tensor:
        """Change of camera [B, 4]; the last entry is the polar angle of the picture's camera, not a distance."""
        camera = super().camera(elevation, azimuth, camera_distances)
        polar = torch.full_like(camera[:, :1], math.radians(90 - self.cfg.cond_elevation_deg))
        return torch.cat([camera[:, :3], polar], dim=1)
