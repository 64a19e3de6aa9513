"""The architecture of the built-in prior from views to Gaussians, ``lgm-tiny``."""

from __future__ import annotations

import torch

from ...diffusion.lgm.model import LGMModel


def build_lgm_tiny(image_size: int = 64, channels: tuple[int, ...] = (64, 128, 160, 160)) -> LGMModel:
    """An untrained network: 7.6 M parameters at the default size, 4 x 32² Gaussians from four pictures of 64².

    One residual block a level on the way down and two on the way up; views see each other at the two coarsest levels.
    Every Gaussian starts faint and small, where its pixel's ray passes the middle of the scene.
    """
    model = LGMModel(
        image_size=image_size,
        down_channels=channels,
        down_attention=[level >= len(channels) - 2 for level in range(len(channels))],
        mid_attention=True,
        up_channels=channels[:0:-1],
        up_attention=[level < 2 for level in range(len(channels) - 1)],
        layers_per_block=1,
        attention_heads=channels[-1] // 32,
        y_up_distance=None,
        anchored=True,
    )
    with torch.no_grad():
        model.unet.conv_out.weight *= 0.2
        model.conv.weight.copy_(torch.eye(14)[..., None, None])
        model.conv.bias.copy_(torch.tensor([0.0, 0, 0, -2, -1.5, -1.5, -1.5, 1, 0, 0, 0, 0, 0, 0]))
    return model
