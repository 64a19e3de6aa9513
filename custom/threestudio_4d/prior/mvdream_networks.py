"""The architecture of the built-in text-to-multi-view prior ``mvdream-tiny``."""

from __future__ import annotations

from diffusers import UNet2DConditionModel

from ..guidance.codec import PixelUnshuffleCodec
from ..guidance.mvdream_model import CAMERA_DIM, VIEWS, MVDreamModel
from ..guidance.text import TextConditioner
from .sd_networks import pixel_schedule

PATCH_SIZE = 2


def build_mvdream_tiny(
    text: TextConditioner | None,
    image_size: int = 64,
    channels: tuple[int, ...] = (48, 96, 96),
    context_width: int | None = None,
    views: int = VIEWS,
) -> MVDreamModel:
    """An untrained prior on pixels, 4.0 M parameters in its UNet at the default size.

    Attention stands at all but the finest resolution: at 16 x 16 and 8 x 8 for pictures of 64 x 64, so that four views
    attend to each other over 1024 and 256 tokens.

    Args:
        text: the frozen tower that it attends to.
        image_size: side of the pictures.
        channels: of the UNet's resolutions, the finest first; multiples of 16, and of 32 but for the first.
        context_width: channels of the embeddings, where there is no tower.
        views: pictures of an object that are drawn together.
    """
    latent_channels = 3 * PATCH_SIZE**2
    coarser = len(channels) - 1
    unet = UNet2DConditionModel(
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
        class_embed_type="projection",
        projection_class_embeddings_input_dim=CAMERA_DIM,
        norm_num_groups=8,  # enough channels a group that the shift by time and camera survives the norm
        use_linear_projection=True,
    )
    return MVDreamModel(unet, PixelUnshuffleCodec(PATCH_SIZE), pixel_schedule(), text, views)
