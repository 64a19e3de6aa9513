"""Randomly initialised text-to-multi-view priors, as small as they get, and cameras around them."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from threestudio_4d.diffusion.codec import PixelUnshuffleCodec
from threestudio_4d.diffusion.mvdream.model import MVDreamModel

TEXT_WIDTH = 16


def tiny_mvdream(codec: str = "pixels", seed: int = 0) -> MVDreamModel:
    """``pixels``: v-prediction, zero terminal SNR. ``latents``: epsilon, as the published model."""
    torch.manual_seed(seed)
    pixels = codec == "pixels"
    channels = 12 if pixels else 4
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
        use_linear_projection=True,
        norm_num_groups=8,  # with one channel a group, the norm would take the camera's shift away again
    )
    vae = (
        PixelUnshuffleCodec(2)
        if pixels
        else AutoencoderKL(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            scaling_factor=0.18215,
        )
    )
    if pixels:
        schedule = {"beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": True}
        schedule |= {"prediction_type": "v_prediction"}
    else:
        schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDIMScheduler(num_train_timesteps=1000, clip_sample=False, **schedule)
    return MVDreamModel(unet, vae, scheduler).requires_grad_(False).eval()
