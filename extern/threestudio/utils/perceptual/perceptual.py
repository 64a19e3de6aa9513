"""``perceptual-loss``: LPIPS on VGG16 features, by the extension's network and weights."""

from dataclasses import dataclass

from torch import Tensor, nn

from threestudio import register
from threestudio.utils.base import BaseObject

__all__ = ["PerceptualLoss", "PerceptualLossObject"]


class PerceptualLoss(nn.Module):
    """Distances [B, 1, 1, 1] of pictures [B, 3, H, W] in [-1, 1].

    Args:
        use_dropout: without effect: the network is frozen.

    Raises:
        UserError: the weights are missing; the message says how to get them.
    """

    def __init__(self, use_dropout: bool = True) -> None:
        from threestudio_4d.evaluation.lpips import load_lpips

        super().__init__()
        self.network = load_lpips("vgg")

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.network(input, target).view(-1, 1, 1, 1)


@register("perceptual-loss")
class PerceptualLossObject(BaseObject):
    @dataclass
    class Config(BaseObject.Config):
        use_dropout: bool = True

    cfg: Config

    def configure(self) -> None:
        self.perceptual_loss = PerceptualLoss(self.cfg.use_dropout).to(self.device)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances [B, 1, 1, 1] of pictures [B, 3, H, W] in [-1, 1]."""
        return self.perceptual_loss(x, y)
