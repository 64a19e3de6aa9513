"""The architecture of the built-in text-to-image prior ``sd-tiny``."""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler, UNet2DConditionModel

from ...diffusion.codec import PixelUnshuffleCodec
from ...diffusion.sd.model import StableDiffusionModel
from ...diffusion.text import TextConditioner

PATCH_SIZE = 2
CHANNELS = (48, 96, 96)


def pixel_schedule() -> DDIMScheduler:
    """Cosine schedule that ends in pure noise, v-prediction; samples clip the predicted picture to its range."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        clip_sample=True,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )


def pixel_unet(
    text: TextConditioner | None,
    image_size: int,
    channels: tuple[int, ...],
    context_width: int | None,
    **options: Any,
) -> UNet2DConditionModel:
    """A UNet on unshuffled pixels with attention at all but the finest resolution; arguments as in ``build_sd_tiny``.

    One for pictures and for views, so that a prior of views can start from one of pictures. ``options`` are more
    settings of its class.
    """
    latent_channels = 3 * PATCH_SIZE**2
    coarser = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=image_size // PATCH_SIZE,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * coarser),
        up_block_types=(*("CrossAttnUpBlock2D",) * coarser, "UpBlock2D"),
        cross_attention_dim=context_width if text is None else text.width,
        # diffusers reads this as the number of heads
        attention_head_dim=tuple(max(width // 32, 1) for width in channels),
        norm_num_groups=8,  # enough channels a group that the shift by time and camera survives the norm
        use_linear_projection=True,
        **options,
    )


def build_sd_tiny(
    text: TextConditioner | None,
    image_size: int = 64,
    channels: tuple[int, ...] = CHANNELS,
    context_width: int | None = None,
) -> StableDiffusionModel:
    """An untrained prior on pixels, 3.9 M parameters in its UNet at the default size.

    Attention stands at all but the finest resolution.

    Args:
        text: the frozen tower that it attends to.
        image_size: side of the pictures.
        channels: of the UNet's resolutions, the finest first; multiples of 16, and of 32 but for the first.
        context_width: channels of the embeddings, where there is no tower.
    """
    unet = pixel_unet(text, image_size, channels, context_width)
    return StableDiffusionModel(unet, PixelUnshuffleCodec(PATCH_SIZE), pixel_schedule(), text)
