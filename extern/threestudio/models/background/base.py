"""Interface of backgrounds."""

from dataclasses import dataclass

from torch import Tensor

from threestudio.utils.base import BaseModule

__all__ = ["BaseBackground"]


class BaseBackground(BaseModule):
    @dataclass
    class Config(BaseModule.Config):
        pass

    cfg: Config

    def forward(self, dirs: Tensor) -> Tensor:
        """Colours [B, H, W, C] of unit view directions [B, H, W, 3]."""
        raise NotImplementedError
