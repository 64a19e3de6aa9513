"""The architecture of the built-in text-to-multi-view prior ``mvdream-tiny``."""

from __future__ import annotations

from torch import nn

from ...diffusion.codec import PixelUnshuffleCodec
from ...diffusion.mvdream.model import CAMERA_DIM, VIEWS, MVDreamModel
from ...diffusion.text import TextConditioner
from ..sd.networks import CHANNELS, PATCH_SIZE, pixel_schedule, pixel_unet


def build_mvdream_tiny(
    text: TextConditioner | None,
    image_size: int = 64,
    channels: tuple[int, ...] = CHANNELS,
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
    unet = pixel_unet(
        text,
        image_size,
        channels,
        context_width,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=CAMERA_DIM,
    )
    # Cameras mean nothing at first: started from a prior of pictures, it draws what that draws.
    nn.init.zeros_(unet.class_embedding.linear_2.weight)
    nn.init.zeros_(unet.class_embedding.linear_2.bias)
    return MVDreamModel(unet, PixelUnshuffleCodec(PATCH_SIZE), pixel_schedule(), text, views)
