"""Time and peak memory of the Zero123 guidance at the published size, with random weights (nothing is downloaded).

    python benchmarks/zero123_step.py --output zero123_step.json
    python benchmarks/zero123_step.py --device cpu --quick

Measured, for the images of one Consistent4D step (stage 1: 2 levels x 4 views; stage 2: 2 levels x 1 view), each as the
median of repeated runs after warm-up, timed by CUDA events on a GPU:

* ``encode``: the image encoder at 256 x 256, forward and backward to the images;
* ``unet``: the UNet with classifier-free guidance, two rows an image;
* ``step``: a whole distillation, from the renders to the gradient on them.

``random_zero123``, ``build_guidance`` and ``random_views`` are made to be imported by other scripts.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from common import Case, benchmark_guidance

from threestudio.utils.misc import set_device
from threestudio_4d.diffusion.zero123.checkpoint import build_zero123
from threestudio_4d.diffusion.zero123.model import Zero123Model
from threestudio_4d.guidance.zero123_guidance import Zero123GuidanceT

LEVELS = 2
RENDER_SIZES = {1: 256, 4: 64}  # views of a step -> side of a render, in stage 2 and stage 1

VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "checkpointing": {"vae_checkpointing": True},
    "half_encoder": {"half_dtype": "bf16", "vae_half_precision": True},
    "compiled": {"half_dtype": "bf16", "vae_half_precision": True, "compile_unet": True},
}

QUICK = {
    "unet": {
        "sample_size": 8,
        "block_out_channels": (32, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
    },
    "vae": {
        "block_out_channels": (32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "layers_per_block": 1,
    },
    "clip": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "projection_dim": 32,
    },
}


def random_zero123(device: str | torch.device, quick: bool = False) -> Zero123Model:
    """Networks of the published size (``quick``: of toy size) with random weights, built on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        return build_zero123(**(QUICK if quick else {}))


def build_guidance(device: str | torch.device, quick: bool = False, frames: int = 4, **cfg: Any) -> Zero123GuidanceT:
    """A prepared guidance with random weights, built on the device.

    Args:
        quick: a network of toy size instead of the published one.
        frames: number of random input frames that it is shown.
        cfg: entries of the guidance's config, such as ``half_dtype="bf16"``.
    """
    device = torch.device(device)
    set_device(device)
    model = random_zero123(device, quick)
    guidance = Zero123GuidanceT({"guidance_scale": 5.0, "min_step_percent": 0.2, **cfg}, model)
    guidance.prepare(torch.rand(frames, guidance.image_size, guidance.image_size, 3, device=device))
    return guidance


def random_views(images: int, size: int, device: str | torch.device, frames: int = 4) -> dict[str, torch.Tensor]:
    """What ``distill`` takes, for ``images`` random renders of ``size`` x ``size``; the renders require a gradient."""
    return {
        "rgb": torch.rand(images, size, size, 3, device=device).requires_grad_(),
        "elevation": torch.rand(images, device=device) * 70 - 10,
        "azimuth": torch.rand(images, device=device) * 360 - 180,
        "camera_distances": torch.full((images,), 2.0, device=device),
        "frame_indices": torch.randint(frames, (images,), device=device),
    }


def parts(guidance: Zero123GuidanceT, images: int, size: int) -> dict[str, Callable[[], None]]:
    """``encode``, ``unet`` and ``step`` for that many renders of ``size`` x ``size``."""
    device = guidance.device
    batch = random_views(images, size, device)
    camera = guidance.camera(batch["elevation"], batch["azimuth"], batch["camera_distances"])
    condition = guidance.condition[batch["frame_indices"]]
    noisy = torch.randn(images, *guidance.model.latent_shape, device=device)
    timesteps = torch.randint(200, 980, (images,), device=device)

    def encode() -> None:
        batch["rgb"].grad = None
        guidance.encode(batch["rgb"]).sum().backward()

    def unet() -> None:
        with torch.no_grad():
            guidance.predict(noisy, timesteps, condition, camera)

    def step() -> None:
        batch["rgb"].grad = None
        guidance.distill(**batch, levels=LEVELS).level_losses().sum().backward()

    return {function.__name__: function for function in (encode, unet, step)}


def cases(variant: str, device: torch.device, quick: bool) -> Iterator[Case]:
    for views, size in RENDER_SIZES.items():
        size = size // 8 if quick else size

        def build(views: int = views, size: int = size) -> dict[str, Callable[[], None]]:
            return parts(build_guidance(device, quick, **VARIANTS[variant]), LEVELS * views, size)

        yield Case({"levels": LEVELS, "views": views, "render": size}, build)


def main() -> None:
    default = ["published", "half_encoder"]
    benchmark_guidance(__doc__, "Zero123 at the published size", list(VARIANTS), default, cases)


if __name__ == "__main__":
    main()
