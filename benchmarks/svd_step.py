"""Time and peak memory of the SVD guidance at the published size, with random weights (nothing is downloaded).

    python benchmarks/svd_step.py --output svd_step.json
    python benchmarks/svd_step.py --device cpu --quick

Measured for one clip of 14 frames in several sizes, each as the median of repeated runs after warm-up, timed by CUDA
events on a GPU:

* ``encode``: the image encoder on all frames, forward and backward to the frames;
* ``unet``: the UNet with classifier-free guidance, two rows a clip;
* ``step``: a whole distillation, from the frames to the gradient on them.

``random_svd`` and ``build_guidance`` are made to be imported by other scripts.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from common import Case, benchmark_guidance
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from threestudio.utils.misc import set_device
from threestudio_4d.diffusion.svd.model import SVDModel
from threestudio_4d.guidance.svd_guidance import SVDGuidance

FRAMES = 14
SIZES = [(256, 256), (320, 576), (576, 1024)]  # height, width

VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "half_encoder": {"half_dtype": "bf16", "vae_half_precision": True},
    "low_memory": {
        "half_dtype": "bf16",
        "vae_half_precision": True,
        "vae_checkpointing": True,
        "encode_chunk_size": 1,
        "max_batch": 1,
    },
    "compiled": {"half_dtype": "bf16", "vae_half_precision": True, "compile_unet": True},
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 96,
        "block_out_channels": (320, 640, 1280, 1280),
        "num_attention_heads": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "layers_per_block": 2,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 768,
        "num_frames": FRAMES,
    },
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "layers_per_block": 2,
        "sample_size": 768,
    },
    "clip": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "projection_dim": 1024,
        "hidden_act": "gelu",
    },
}
QUICK: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 8,
        "block_out_channels": (32, 32),
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        "num_attention_heads": (2, 2),
        "cross_attention_dim": 32,
        "layers_per_block": 1,
        "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 48,
        "num_frames": FRAMES,
    },
    "vae": {
        "block_out_channels": (32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "layers_per_block": 1,
        "sample_size": 16,
    },
    "clip": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "projection_dim": 32,
    },
}


def random_svd(device: str | torch.device, quick: bool = False) -> SVDModel:
    """Networks of the published size (``quick``: of toy size) with random weights, built on the device."""
    torch.manual_seed(0)
    configs = QUICK if quick else PUBLISHED
    with torch.device(device):
        unet = UNetSpatioTemporalConditionModel(in_channels=8, out_channels=4, **configs["unet"])
        vae = AutoencoderKLTemporalDecoder(latent_channels=4, **configs["vae"])
        encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**configs["clip"]))
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
    )
    return SVDModel(unet, vae, encoder, scheduler)


def build_guidance(device: str | torch.device, height: int, width: int, quick: bool = False, **cfg: Any) -> SVDGuidance:
    """A prepared guidance with random weights for frames of that size, built on the device.

    Args:
        quick: a network of toy size instead of the published one.
        cfg: entries of the guidance's config, such as ``half_dtype="bf16"``.
    """
    device = torch.device(device)
    set_device(device)
    guidance = SVDGuidance({"height": height, "width": width, **cfg}, random_svd(device, quick))
    guidance.prepare(torch.rand(1, height, width, 3, device=device))
    return guidance


def parts(guidance: SVDGuidance) -> dict[str, Callable[[], None]]:
    """``encode``, ``unet`` and ``step`` for one clip."""
    device, (height, width) = guidance.device, guidance.size
    rgb = torch.rand(FRAMES, height, width, 3, device=device).requires_grad_()
    noisy = torch.randn(1, FRAMES, *guidance.model.latent_shape(height, width), device=device)
    timesteps = torch.full((1,), 600, device=device)
    time_ids = guidance.model.time_ids(7, 127, 0.02, 1)

    def encode() -> None:
        rgb.grad = None
        guidance.encode(rgb).sum().backward()

    def unet() -> None:
        with torch.no_grad():
            guidance.predict(noisy, timesteps, guidance.condition, time_ids)

    def step() -> None:
        rgb.grad = None
        guidance(rgb)["loss_sds"].backward()

    return {function.__name__: function for function in (encode, unet, step)}


def cases(variant: str, device: torch.device, quick: bool) -> Iterator[Case]:
    for height, width in [(16, 16), (16, 24)] if quick else SIZES:

        def build(height: int = height, width: int = width) -> dict[str, Callable[[], None]]:
            return parts(build_guidance(device, height, width, quick, **VARIANTS[variant]))

        yield Case({"height": height, "width": width}, build)


def main() -> None:
    default = ["published", "half_encoder", "low_memory"]
    networks, head = "SVD at the published size", {"frames": FRAMES}
    benchmark_guidance(__doc__, networks, list(VARIANTS), default, cases, repeats=10, warmup=3, head=head)


if __name__ == "__main__":
    main()
