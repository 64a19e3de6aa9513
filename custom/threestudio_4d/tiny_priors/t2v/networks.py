"""The architecture of the built-in text-to-video prior ``t2v-tiny``."""

from __future__ import annotations

from diffusers import UNet3DConditionModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import nn

from ...diffusion.codec import PixelUnshuffleCodec
from ...diffusion.t2v.model import TextToVideoModel
from ...diffusion.text import TextConditioner
from ..sd.networks import pixel_schedule

PATCH_SIZE = 4
FRAMES = 16
HEAD_WIDTH = 16


def build_t2v_tiny(
    text: TextConditioner | None,
    image_size: int = 64,
    frames: int = FRAMES,
    channels: tuple[int, ...] = (96, 96),
    context_width: int | None = None,
) -> TextToVideoModel:
    """An untrained prior on pixels: 5.4 M parameters in its UNet at the default size, 16 frames of 64 x 64.

    Pixels are folded 4 x 4 into 48 channels, so that the finest resolution is 16 x 16. There, sentences, positions and
    frames are attended to in every layer; the coarser resolutions have convolutions in space and time only, and one
    layer of attention at the bottom. The UNet's class fixes eight heads for its first temporal transformer, whose cost
    is the square of the heads' width: hence narrow heads.

    Args:
        text: the frozen tower that it attends to.
        image_size: side of the pictures.
        channels: of the UNet's resolutions, the finest first; multiples of 16.
        context_width: channels of the embeddings, where there is no tower.
    """
    latent_channels = 3 * PATCH_SIZE**2
    coarser = len(channels) - 1
    unet = UNet3DConditionModel(
        sample_size=image_size // PATCH_SIZE,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", *("DownBlock3D",) * coarser),
        up_block_types=(*("UpBlock3D",) * coarser, "CrossAttnUpBlock3D"),
        cross_attention_dim=context_width if text is None else text.width,
        attention_head_dim=HEAD_WIDTH,
        norm_num_groups=8,
    )
    # Transformers along time begin as nothing, as its convolutions along time do: trained on pictures, the network
    # draws each frame for itself until it learns to look at the others.
    for module in unet.modules():
        if isinstance(module, TransformerTemporalModel):
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
    return TextToVideoModel(unet, PixelUnshuffleCodec(PATCH_SIZE), pixel_schedule(), text, frames)
