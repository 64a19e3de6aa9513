"""Randomly initialised Zero123 priors, as small as they get: on latents, and on pixels as the built-in one."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from threestudio_4d.diffusion.codec import PixelUnshuffleCodec
from threestudio_4d.diffusion.zero123.model import Zero123Model


def tiny_zero123(codec: str = "pixels", seed: int = 0) -> Zero123Model:
    """``pixels``: v-prediction, zero terminal SNR, all image tokens. ``latents``: epsilon, as the published model."""
    torch.manual_seed(seed)
    pixels = codec == "pixels"
    channels = 12 if pixels else 4
    if pixels:
        vae = PixelUnshuffleCodec(2)
    else:
        vae = AutoencoderKL(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            scaling_factor=0.18215,
        )
    schedule = {"num_train_timesteps": 1000, "clip_sample": False}
    if pixels:
        schedule |= {
            "beta_schedule": "squaredcos_cap_v2",
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
        }
    else:
        schedule |= {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return (
        Zero123Model(
            unet=UNet2DConditionModel(
                sample_size=8,
                in_channels=2 * channels,
                out_channels=channels,
                block_out_channels=(32, 32),
                layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=16,
                attention_head_dim=2,
                class_embed_type="projection" if pixels else None,
                projection_class_embeddings_input_dim=4 if pixels else None,
            ),
            vae=vae,
            image_encoder=CLIPVisionModelWithProjection(
                CLIPVisionConfig(
                    hidden_size=32,
                    intermediate_size=64,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    image_size=16,
                    patch_size=8,
                    projection_dim=16,
                )
            ),
            camera_projection=nn.Linear(16 + 4, 16),
            scheduler=DDIMScheduler(**schedule),
            condition_tokens="all" if pixels else "pooled",
        )
        .requires_grad_(False)
        .eval()
    )
