"""The architecture of the built-in text-to-multi-view prior ``mvdream-tiny``."""

from __future__ import annotations

from diffusers import DDIMScheduler, UNet2DConditionModel

from ..guidance.codec import PixelUnshuffleCodec
from ..guidance.mvdream_model import CAMERA_DIM, VIEWS, MVDreamModel
from ..guidance.text import TextConditioner

PATCH_SIZE = 2


def build_mvdream_tiny(
    text: TextConditioner | None = None,
    text_width: int = 192,
    image_size: int = 64,
    channels: tuple[int, int, int] = (48, 96, 96),
    views: int = VIEWS,
) -> MVDreamModel:
    """An untrained prior on pixels: 4.0 M parameters at the default size, without its frozen text tower.

    Attention stands at the two coarser resolutions (16 x 16 and 8 x 8 for pictures of 64 x 64), so that four views
    attend to each other over 1024 and 256 tokens. It predicts v under a cosine schedule whose last step is pure noise.

    Args:
        text: encodes prompts, shared with the prior ``clip-tiny``; None if embeddings come from elsewhere.
        text_width: of an embedding.
    """
    latent_channels = 3 * PATCH_SIZE**2
    unet = UNet2DConditionModel(
        sample_size=image_size // PATCH_SIZE,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=tuple(max(width // 32, 1) for width in channels),  # diffusers calls the number of heads so
        class_embed_type="projection",
        projection_class_embeddings_input_dim=CAMERA_DIM,
        norm_num_groups=8,  # enough channels a group that the shift by time and camera survives the norm
        use_linear_projection=True,
    )
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )
    return MVDreamModel(unet, PixelUnshuffleCodec(PATCH_SIZE), scheduler, text, views)
