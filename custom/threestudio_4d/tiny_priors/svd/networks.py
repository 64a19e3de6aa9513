"""The architecture of the built-in image-to-video prior ``svd-tiny``."""

from __future__ import annotations

from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ...diffusion.svd.model import SVDModel

CONTEXT_DIM = 128
NORM_GROUPS = 8
TIME_ID_CHANNELS = 32
SIGMA_MIN, SIGMA_MAX = 0.01, 80.0
MEDIAN_MOTION = 3.5


def motion_bucket(motion: Tensor) -> Tensor:
    """Motion bucket in [0, 255) of clips whose pixels change by ``motion`` from frame to frame, out of 255; any shape.

    ``255 m / (m + MEDIAN_MOTION)``: 0 stands still, 127 (the published default) is a typical clip of the training data.
    """
    return 255.0 * motion / (motion + MEDIAN_MOTION)


def build_svd_tiny(
    image_size: int = 64,
    frames: int = 14,
    channels: tuple[int, int] = (64, 96),
    latent_channels: int = 8,
    vae_channels: tuple[int, int, int] = (32, 64, 96),
    encoder_width: int = 128,
    encoder_layers: int = 3,
) -> SVDModel:
    """An untrained prior: 3.7 M parameters in the UNet, 1.8 M in the autoencoder, 0.6 M in the image encoder.

    The autoencoder shrinks frames by 4. The UNet attends at both of its resolutions, 16 x 16 and (in the middle) 8 x 8,
    over space and over time.
    """
    unet = UNetSpatioTemporalConditionModel(
        sample_size=image_size // 4,
        in_channels=2 * latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=channels,
        addition_time_embed_dim=TIME_ID_CHANNELS,
        projection_class_embeddings_input_dim=3 * TIME_ID_CHANNELS,
        layers_per_block=1,
        cross_attention_dim=CONTEXT_DIM,
        num_attention_heads=tuple(max(width // 32, 1) for width in channels),
        num_frames=frames,
    )
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(vae_channels),
        block_out_channels=vae_channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        sample_size=image_size,
        scaling_factor=1.0,
        force_upcast=False,
    )
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=encoder_width,
            intermediate_size=4 * encoder_width,
            num_hidden_layers=encoder_layers,
            num_attention_heads=max(encoder_width // 32, 1),
            image_size=image_size,
            patch_size=8,
            projection_dim=CONTEXT_DIM,
        )
    )
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        use_karras_sigmas=True,
        sigma_min=SIGMA_MIN,
        sigma_max=SIGMA_MAX,
    )
    return SVDModel(unet, vae, encoder, scheduler, norm_groups=NORM_GROUPS)
