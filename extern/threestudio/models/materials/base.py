"""Interface of materials."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from threestudio.utils.base import BaseModule

__all__ = ["BaseMaterial"]


class BaseMaterial(BaseModule):
    """Colour [*B, 3] in [0, 1] from features [*B, C] and whatever else the renderer knows; unknown arguments are
    ignored.

    The class attributes tell the renderer what to compute.
    """

    @dataclass
    class Config(BaseModule.Config):
        pass

    cfg: Config
    requires_normal: bool = False
    requires_tangent: bool = False

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError

    def export(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Any of ``albedo`` [*B, 3], ``metallic`` [*B, 1], ``roughness`` [*B, 1], ``bump`` [*B, 3], in [0, 1]."""
        return {}
