"""Image codecs of diffusion priors: a trained autoencoder, or a lossless one for priors that work on pixels."""

from __future__ import annotations

import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn


class PixelUnshuffleCodec(nn.Module, ConfigMixin):
    """Trades resolution for channels without loss: ``[B, 3, H, W]`` <-> ``[B, 3 p^2, H/p, W/p]``.

    Stands where a latent prior has its ``AutoencoderKL``. Values stay in [-1, 1]; there is nothing to train.

    Args:
        patch_size: p, the side of the square of pixels that becomes one latent position.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, patch_size: int = 2) -> None:
        super().__init__()

    def encode(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(images, self.config.patch_size)

    def decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents, self.config.patch_size)


def encode_images(codec: AutoencoderKL | PixelUnshuffleCodec, images: Tensor, sample: bool) -> Tensor:
    """Encode images in [0, 1] to latents without the scaling factor.

    Args:
        images: [B, 3, H, W].
        sample: draw from the posterior of an autoencoder instead of taking its mean.

    Returns:
        [B, C, h, w].
    """
    images = images * 2 - 1
    if isinstance(codec, PixelUnshuffleCodec):
        return codec.encode(images)
    posterior = codec.encode(images.to(codec.dtype)).latent_dist
    return posterior.sample() if sample else posterior.mode()


def decode_latents(codec: AutoencoderKL | PixelUnshuffleCodec, latents: Tensor) -> Tensor:
    """Decode unscaled latents ``[B, C, h, w]`` to images ``[B, 3, H, W]`` in [0, 1]."""
    if isinstance(codec, PixelUnshuffleCodec):
        images = codec.decode(latents)
    else:
        images = codec.decode(latents.to(codec.dtype)).sample
    return (images.float() * 0.5 + 0.5).clamp(0, 1)


def scaling_factor(codec: AutoencoderKL | PixelUnshuffleCodec) -> float:
    """Factor from encoder output to the latents that the network denoises."""
    return 1.0 if isinstance(codec, PixelUnshuffleCodec) else codec.config.scaling_factor


def downscale(codec: AutoencoderKL | PixelUnshuffleCodec) -> int:
    """Side of the square of pixels behind one latent position."""
    if isinstance(codec, PixelUnshuffleCodec):
        return codec.config.patch_size
    return 2 ** (len(codec.config.block_out_channels) - 1)
