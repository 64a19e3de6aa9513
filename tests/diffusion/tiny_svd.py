"""Toy SVD networks with random weights, for tests."""

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from threestudio_4d.diffusion.svd.model import SVDModel

FRAMES = 5
SIZE = 16


def tiny_scheduler(sigma_max: float = 700.0) -> EulerDiscreteScheduler:
    """As published with stable-video-diffusion-img2vid."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        steps_offset=1,
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=sigma_max,
    )


def tiny_svd(encoder_size: int = SIZE, sigma_max: float = 700.0) -> SVDModel:
    """Clips of 5 frames, 16 x 16; latents of 4 channels at 8 x 8."""
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        sample_size=SIZE // 2,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 32),
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=48,
        layers_per_block=1,
        cross_attention_dim=24,
        num_attention_heads=(2, 2),
        num_frames=FRAMES,
    )
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 2,
        block_out_channels=(32, 32),
        layers_per_block=1,
        latent_channels=4,
        sample_size=SIZE,
        scaling_factor=0.7,
    )
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=encoder_size,
            patch_size=encoder_size // 4,
            projection_dim=24,
        )
    )
    for block in (unet, vae):  # time mixing starts at the middle, so that frames do see each other
        for name, parameter in block.named_parameters():
            if name.endswith("mix_factor"):
                torch.nn.init.zeros_(parameter)
    return SVDModel(unet, vae, encoder, tiny_scheduler(sigma_max), norm_groups=8).eval()
