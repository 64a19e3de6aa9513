"""Randomly initialised text-to-video priors, as small as they get: on latents, and on pixels as the built-in one."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
from tiny_text import tiny_text
from transformers import CLIPTextModel

from threestudio_4d.diffusion.codec import PixelUnshuffleCodec
from threestudio_4d.diffusion.t2v.model import TextToVideoModel
from threestudio_4d.diffusion.t2v.temporal_bypass import temporal_modules
from threestudio_4d.diffusion.text import TextConditioner

FRAMES = 4


def tiny_t2v(codec: str = "pixels", seed: int = 0) -> TextToVideoModel:
    """``pixels``: v-prediction, zero terminal SNR. ``latents``: epsilon, ``CLIPTextModel`` and a VAE, as published.

    Clips of 4 frames of 16 x 16; no temporal module is at its initial state, in which it does nothing.
    """
    torch.manual_seed(seed)
    text = tiny_text(width=16)
    schedule = {"num_train_timesteps": 1000, "clip_sample": False, "steps_offset": 1}
    if codec == "pixels":
        vae, channels = PixelUnshuffleCodec(2), 12
        schedule |= {
            "beta_schedule": "squaredcos_cap_v2",
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
        }
    else:
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=0.18215,
        )
        channels = 4
        schedule |= {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        schedule |= {"set_alpha_to_one": False}
        text = TextConditioner(CLIPTextModel(text.text_encoder.config), text.tokenizer)
    unet = UNet3DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=4,
    )
    for module in temporal_modules(unet):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    model = TextToVideoModel(unet, vae, DDIMScheduler(**schedule), text, FRAMES)
    return model.requires_grad_(False).eval()
