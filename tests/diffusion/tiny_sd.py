"""Randomly initialised Stable Diffusion priors, as small as they get: on latents, and on pixels as the built-in one."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tiny_text import tiny_text
from transformers import CLIPTextModel

from threestudio_4d.diffusion.codec import PixelUnshuffleCodec
from threestudio_4d.diffusion.sd.model import StableDiffusionModel
from threestudio_4d.diffusion.text import TextConditioner


def tiny_sd(codec: str = "pixels", prediction: str = "epsilon", seed: int = 0) -> StableDiffusionModel:
    """``pixels``: v-prediction, zero terminal SNR. ``latents``: ``CLIPTextModel`` and a VAE, as published."""
    torch.manual_seed(seed)
    text = tiny_text(width=16)
    schedule = {"num_train_timesteps": 1000, "clip_sample": False, "steps_offset": 1}
    if codec == "pixels":
        vae = PixelUnshuffleCodec(2)
        schedule |= {
            "beta_schedule": "squaredcos_cap_v2",
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
        }
    else:
        vae = AutoencoderKL(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            scaling_factor=0.18215,
        )
        schedule |= {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        schedule |= {"set_alpha_to_one": False, "prediction_type": prediction}
        text = TextConditioner(CLIPTextModel(text.text_encoder.config), text.tokenizer)
    channels = 12 if codec == "pixels" else 4
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    model = StableDiffusionModel(unet, vae, DDIMScheduler(**schedule), text)
    return model.requires_grad_(False).eval()
