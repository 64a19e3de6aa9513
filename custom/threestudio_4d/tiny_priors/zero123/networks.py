"""The architecture of the built-in Zero123 prior ``zero123-tiny``."""

from __future__ import annotations

from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ...diffusion.codec import PixelUnshuffleCodec
from ...diffusion.zero123.model import Zero123Model

CONTEXT_DIM = 256
PATCH_SIZE = 2


def build_zero123_tiny(
    image_size: int = 64,
    channels: tuple[int, int, int] = (64, 128, 192),
    encoder_width: int = 192,
    encoder_layers: int = 4,
) -> Zero123Model:
    """An untrained prior on pixels: 18.5 M parameters at the default size.

    Attention stands at the two coarser resolutions only, where tokens are few; the UNet attends to every patch of the
    picture, so that detail can travel across large rotations. It predicts v under a cosine schedule whose last step is
    pure noise, so that one step from noise gives the posterior mean.
    """
    latent_channels = 3 * PATCH_SIZE**2
    unet = UNet2DConditionModel(
        sample_size=image_size // PATCH_SIZE,
        in_channels=2 * latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=CONTEXT_DIM,
        attention_head_dim=tuple(max(width // 32, 1) for width in channels),
        class_embed_type="projection",
        projection_class_embeddings_input_dim=4,
        norm_num_groups=16,
    )
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=encoder_width,
            intermediate_size=4 * encoder_width,
            num_hidden_layers=encoder_layers,
            num_attention_heads=max(encoder_width // 32, 1),
            image_size=image_size,
            patch_size=4,
            projection_dim=CONTEXT_DIM,
        )
    )
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )
    return Zero123Model(
        unet=unet,
        vae=PixelUnshuffleCodec(PATCH_SIZE),
        image_encoder=encoder,
        camera_projection=nn.Linear(CONTEXT_DIM + 4, CONTEXT_DIM),
        scheduler=scheduler,
        condition_tokens="all",
    )
