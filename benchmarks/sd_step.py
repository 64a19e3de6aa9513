"""Time and peak memory of guidance by Stable Diffusion at the published size, with random weights.

    python benchmarks/sd_step.py --output sd_step.json
    python benchmarks/sd_step.py --variants published compiled
    python benchmarks/sd_step.py --device cpu --quick

The networks are those of Stable Diffusion 2.1-base (a UNet of 866 M parameters that attends to 77 x 1024 embeddings, an
autoencoder with 4 latent channels); nothing is downloaded. Measured for 1 and 4 renders of 512 x 512, each as the
median of repeated runs after warm-up, timed by CUDA events on a GPU:

* ``encode``: the image encoder, forward and backward to the images;
* ``unet``: the network's prediction with classifier-free guidance, two rows an image;
* ``step``: a whole step, from the renders to the gradient on them (and on what the guidance itself trains).

``random_stable_diffusion``, ``random_prompt`` and ``random_views`` are made to be imported by other scripts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from common import Case, benchmark_guidance
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

import threestudio
import threestudio_4d  # noqa: F401 - registers the guidances
from threestudio.utils.misc import set_device
from threestudio_4d.diffusion.sd.model import StableDiffusionModel

IMAGES = (1, 4)
RENDER_SIZE = 512
VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "checkpointing": {"vae_checkpointing": True},
    "half_encoder": {"half_dtype": "bf16", "vae_half_precision": True},
    "compiled": {"half_dtype": "bf16", "vae_half_precision": True, "compile_unet": True},
}

UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
QUICK_UNET = UNET | {
    "sample_size": 8,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
}
QUICK_VAE = VAE | {
    "block_out_channels": (32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
}


@dataclass
class RandomPrompt:
    """Random embeddings instead of a prompt's: ``positive`` and ``negative`` [1, L, D]."""

    positive: torch.Tensor
    negative: torch.Tensor

    def get_text_embeddings(self, elevation: torch.Tensor, *cameras: Any, **options: Any) -> torch.Tensor:
        """[2B, L, D] for cameras [B]: conditional, then unconditional."""
        count = len(elevation)
        return torch.cat([self.positive.expand(count, -1, -1), self.negative.expand(count, -1, -1)])


def random_stable_diffusion(device: str | torch.device, quick: bool = False) -> StableDiffusionModel:
    """Networks of Stable Diffusion 2.1-base (``quick``: of toy size) with random weights, built on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(**(QUICK_UNET if quick else UNET))
        vae = AutoencoderKL(**(QUICK_VAE if quick else VAE))
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    return StableDiffusionModel(unet, vae, scheduler).to(device).requires_grad_(False).eval()


def random_prompt(device: str | torch.device, width: int = 1024, length: int = 77) -> RandomPrompt:
    """Stands where guidances take what a prompt processor gives."""
    return RandomPrompt(*torch.randn(2, 1, length, width, device=device))


def random_views(images: int, size: int, device: str | torch.device) -> dict[str, torch.Tensor]:
    """What guidances take, for ``images`` random renders of ``size`` x ``size``; the renders require a gradient."""
    return {
        "rgb": torch.rand(images, size, size, 3, device=device).requires_grad_(),
        "elevation": torch.rand(images, device=device) * 70 - 10,
        "azimuth": torch.rand(images, device=device) * 360 - 180,
        "camera_distances": torch.full((images,), 2.0, device=device),
        "c2w": torch.eye(4, device=device).repeat(images, 1, 1),
    }


def build_guidance(name: str, device: str | torch.device, quick: bool = False, **cfg: Any) -> Any:
    """A registered guidance with random weights; ``cfg`` are entries of its config."""
    device = torch.device(device)
    set_device(device)
    model = random_stable_diffusion(device, quick)
    return threestudio.find(name)({"guidance_scale": 100.0, **cfg}, model)


def parts(guidance: Any, images: int, size: int) -> dict[str, Callable[[], None]]:
    """``encode``, ``unet`` and ``step`` for that many renders of ``size`` x ``size``."""
    device = guidance.device
    batch = random_views(images, size, device)
    prompt = random_prompt(device, guidance.model.unet.config.cross_attention_dim)
    text, negative = prompt.get_text_embeddings(batch["elevation"]).chunk(2)
    noisy = torch.randn(images, *guidance.model.latent_shape, device=device)
    timesteps = torch.randint(20, 980, (images,), device=device)

    def encode() -> None:
        batch["rgb"].grad = None
        guidance.encode(batch["rgb"]).sum().backward()

    def unet() -> None:
        with torch.no_grad():
            guidance.predict(noisy, timesteps, text, negative)

    def step() -> None:
        batch["rgb"].grad = None
        out = guidance(prompt_utils=prompt, **batch)
        sum(value for key, value in out.items() if key.startswith("loss_")).backward()

    return {function.__name__: function for function in (encode, unet, step)}


def cases(variant: str, device: torch.device, quick: bool) -> Iterator[Case]:
    size = 16 if quick else RENDER_SIZE
    for images in IMAGES:

        def build(images: int = images) -> dict[str, Callable[[], None]]:
            return parts(build_guidance("sd-guidance", device, quick, **VARIANTS[variant]), images, size)

        yield Case({"images": images, "render": size}, build)


def main() -> None:
    default = ["published", "half_encoder"]
    benchmark_guidance(__doc__, "Stable Diffusion 2.1-base", list(VARIANTS), default, cases)


if __name__ == "__main__":
    main()
