"""Time and peak memory of text-to-video guidance at the size of ZeroScope, with random weights (nothing is downloaded).

    python benchmarks/t2v_step.py --output t2v_step.json
    python benchmarks/t2v_step.py --device cpu --quick

The networks are those of ModelScope and ZeroScope (a UNet of 1.41 G parameters that attends to 77 x 1024 embeddings,
Stable Diffusion's autoencoder). Measured for one clip of 16 frames in two sizes, each as the median of repeated runs
after warm-up, timed by CUDA events on a GPU:

* ``encode``: the image encoder on all frames, forward and backward to those with gradient;
* ``unet``: the UNet with classifier-free guidance, two rows a clip;
* ``step``: a whole distillation, from the frames to the gradient on them.

The variants ``budget_4`` and ``budget_1`` encode only so many random frames with gradient (``frame_grad_budget``).
``random_t2v`` and ``build_guidance`` are made to be imported by other scripts.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from common import Case, benchmark_guidance
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel

from threestudio.utils.misc import set_device
from threestudio_4d.diffusion.t2v.model import TextToVideoModel
from threestudio_4d.guidance.t2v_guidance import TextToVideoGuidance

FRAMES = 16
SIZES = [(256, 256), (320, 576)]  # height, width
TOKENS = 77

VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "budget_4": {"frame_grad_budget": 4, "vae_batch": 4},
    "budget_1": {"frame_grad_budget": 1, "vae_batch": 1},
    "half_encoder": {"half_dtype": "bf16", "vae_half_precision": True},
    "half_encoder_budget_4": {
        "half_dtype": "bf16",
        "vae_half_precision": True,
        "frame_grad_budget": 4,
        "vae_batch": 4,
    },
    "checkpointing": {"half_dtype": "bf16", "vae_half_precision": True, "vae_checkpointing": True},
    "compiled": {"half_dtype": "bf16", "vae_half_precision": True, "compile_unet": True},
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 32,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 1024,
        "attention_head_dim": 64,
    },
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "sample_size": 256,
    },
}
QUICK: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 8,
        "block_out_channels": (32, 32),
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
    },
    "vae": {
        "block_out_channels": (32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "layers_per_block": 1,
        "sample_size": 16,
    },
}


class RandomPrompt:
    """Stands for what a prompt processor gives: random embeddings of a prompt and a negative one."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.embeddings = torch.randn(2, TOKENS, width, device=device)

    def get_text_embeddings(self, elevation: torch.Tensor, *_: Any) -> torch.Tensor:
        return self.embeddings.repeat_interleave(len(elevation), 0)


def random_t2v(device: str | torch.device, quick: bool = False) -> TextToVideoModel:
    """Networks of the published size (``quick``: of toy size) with random weights and no text tower, on the device."""
    torch.manual_seed(0)
    configs = QUICK if quick else PUBLISHED
    with torch.device(device):
        unet = UNet3DConditionModel(in_channels=4, out_channels=4, **configs["unet"])
        vae = AutoencoderKL(latent_channels=4, scaling_factor=0.18215, **configs["vae"])
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    return TextToVideoModel(unet, vae, scheduler, frames=FRAMES)


def build_guidance(
    device: str | torch.device, height: int, width: int, quick: bool = False, **cfg: Any
) -> TextToVideoGuidance:
    """A guidance with random weights for frames of that size, built on the device.

    Args:
        quick: a network of toy size instead of the published one.
        cfg: entries of the guidance's config, such as ``half_dtype="bf16"``.
    """
    device = torch.device(device)
    set_device(device)
    return TextToVideoGuidance({"height": height, "width": width, **cfg}, random_t2v(device, quick))


def parts(guidance: TextToVideoGuidance) -> dict[str, Callable[[], None]]:
    """``encode``, ``unet`` and ``step`` for one clip."""
    device, (height, width) = guidance.device, guidance.frame_size
    prompt = RandomPrompt(guidance.model.unet.config.cross_attention_dim, device)
    rgb = torch.rand(FRAMES, height, width, 3, device=device).requires_grad_()
    channels, *size = guidance.latent_shape
    noisy = torch.randn(1, channels, FRAMES, *size, device=device)
    timesteps = torch.full((1,), 600, device=device)
    camera = [torch.zeros(1, device=device)] * 3

    def encode() -> None:
        rgb.grad = None
        guidance.encode(rgb[None]).sum().backward()

    def unet() -> None:
        with torch.no_grad():
            guidance.predict(noisy, timesteps, *guidance.embeddings(prompt, *camera))

    def step() -> None:
        rgb.grad = None
        guidance(rgb, prompt, *camera)["loss_sds"].backward()

    return {function.__name__: function for function in (encode, unet, step)}


def cases(variant: str, device: torch.device, quick: bool) -> Iterator[Case]:
    for height, width in [(16, 16), (16, 24)] if quick else SIZES:

        def build(height: int = height, width: int = width) -> dict[str, Callable[[], None]]:
            return parts(build_guidance(device, height, width, quick, **VARIANTS[variant]))

        yield Case({"height": height, "width": width}, build)


def main() -> None:
    default = ["published", "budget_4", "budget_1", "half_encoder", "half_encoder_budget_4", "checkpointing"]
    networks, head = "ModelScope at the published size", {"frames": FRAMES}
    benchmark_guidance(__doc__, networks, list(VARIANTS), default, cases, repeats=10, warmup=3, head=head)


if __name__ == "__main__":
    main()
