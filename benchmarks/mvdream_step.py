"""Time and peak memory of the MVDream and VSD guidances at the published sizes, with random weights.

    python benchmarks/mvdream_step.py --output mvdream_step.json
    python benchmarks/mvdream_step.py --device cpu --quick

Nothing is downloaded. Measured, each as the median of repeated runs after warm-up, timed by CUDA events on a GPU:

* ``mvdream``: four views at 256 x 256, the UNet of Stable Diffusion 2.1 with attention across views;
* ``vsd``: one view at 512 x 512, the UNet of Stable Diffusion 2.1 with a LoRA of rank 4; ``two UNets`` keeps a second
  UNet for the LoRA, otherwise one is switched between both;

and of each ``encode`` (the image encoder, forward and backward to the images), ``unet`` (one guided prediction, two
rows an image) and ``step`` (a whole distillation with the gradient on the renders; for VSD also the LoRA's loss and
gradients). Encoders run in single precision, UNets in half precision on a GPU.

``build_mvdream_guidance``, ``build_vsd_guidance`` and ``random_views`` are made to be imported by other scripts.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from common import Case, benchmark_guidance
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from threestudio.utils.misc import set_device
from threestudio_4d.diffusion.mvdream import checkpoint as mvdream_ckpt
from threestudio_4d.diffusion.sd.model import StableDiffusionModel
from threestudio_4d.diffusion.weights import ldm_layout
from threestudio_4d.guidance.mvdream_guidance import MVDreamGuidance
from threestudio_4d.guidance.vsd_guidance import VSDGuidance
from threestudio_4d.tiny_priors.rendering.rasterise import camera_to_world

QUICK_UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
}
QUICK_VAE = {
    "block_out_channels": (32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
}
VARIANTS = ("mvdream", "mvdream checkpointed encoder", "mvdream compiled", "vsd", "vsd checkpointed", "vsd two UNets")


class RandomPrompts:
    """Stands for a prompt processor's output: random embeddings of 77 tokens."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.embedding = torch.randn(1, 77, width, device=device)

    def get_text_embeddings(self, elevation: torch.Tensor, *_: Any) -> torch.Tensor:
        return self.embedding.expand(2 * len(elevation), -1, -1)


def random_views(count: int, size: int, device: torch.device, width: int) -> dict[str, Any]:
    """What a guidance takes for ``count`` random renders of a ring of cameras; the renders require a gradient."""
    azimuth = torch.arange(count, device=device) * (360.0 / count)
    cameras = {"elevation": azimuth * 0 + 15, "azimuth": azimuth, "camera_distances": azimuth * 0 + 2.5}
    return {
        "rgb": torch.rand(count, size, size, 3, device=device).requires_grad_(),
        "prompt_utils": RandomPrompts(width, device),
        **cameras,
        "c2w": camera_to_world(*cameras.values()),
    }


def build_mvdream_guidance(device: torch.device, quick: bool = False, **cfg: Any) -> MVDreamGuidance:
    """A guidance with random weights of the published size (``quick``: of toy size), built on the device."""
    set_device(device)
    torch.manual_seed(0)
    with torch.device(device):
        model = mvdream_ckpt.build_mvdream(*((QUICK_UNET, QUICK_VAE) if quick else ()))
    return MVDreamGuidance({"half_dtype": "bf16", **cfg}, model)


def random_stable_diffusion(device: torch.device, quick: bool = False) -> StableDiffusionModel:
    """Stable Diffusion 2.1 base at 512 x 512 with random weights, without text tower."""
    unet = mvdream_ckpt.UNET_CONFIG | {"sample_size": 64, "class_embed_type": None}
    unet |= {"projection_class_embeddings_input_dim": None, **(QUICK_UNET if quick else {})}
    with torch.device(device):
        return StableDiffusionModel(
            UNet2DConditionModel(**unet),
            AutoencoderKL(**{**ldm_layout.VAE_CONFIG, **(QUICK_VAE if quick else {})}),
            DDIMScheduler(**ldm_layout.SCHEDULER_CONFIG),
        ).eval()


def build_vsd_guidance(device: torch.device, quick: bool = False, two: bool = False, **cfg: Any) -> VSDGuidance:
    """The same for VSD; ``two``: a second UNet for the LoRA."""
    set_device(device)
    torch.manual_seed(0)
    model = random_stable_diffusion(device, quick)
    return VSDGuidance(cfg, model, random_stable_diffusion(device, quick) if two else None)


def build(variant: str, device: torch.device, quick: bool) -> MVDreamGuidance | VSDGuidance:
    if variant.startswith("mvdream"):
        cfg = {"vae_checkpointing": "checkpointed" in variant, "compile_unet": "compiled" in variant}
        return build_mvdream_guidance(device, quick, **cfg)
    return build_vsd_guidance(device, quick, "two" in variant, lora_checkpointing="checkpointed" in variant)


def parts(guidance: MVDreamGuidance | VSDGuidance, batch: dict[str, Any]) -> dict[str, Callable[[], None]]:
    """The functions to measure."""
    model, count = guidance.model, len(batch["rgb"])
    noisy = torch.randn(count, *model.latent_shape, device=guidance.device)
    timesteps = torch.full((count,), 500, device=guidance.device)
    text = batch["prompt_utils"].embedding.expand(count, -1, -1)
    camera = (batch["c2w"].flatten(1),) if isinstance(guidance, MVDreamGuidance) else ()

    def encode() -> None:
        batch["rgb"].grad = None
        guidance.encode(batch["rgb"]).sum().backward()

    def unet() -> None:
        with torch.no_grad():
            guidance.predict(noisy, timesteps, text, text, *camera)

    def step() -> None:
        batch["rgb"].grad = None
        if isinstance(guidance, VSDGuidance):
            guidance.zero_grad()
        out = guidance(**batch)
        sum(value for key, value in out.items() if key.startswith("loss_")).backward()

    return {function.__name__: function for function in (encode, unet, step)}


def cases(variant: str, device: torch.device, quick: bool) -> Iterator[Case]:
    count = 4 if variant.startswith("mvdream") else 1

    def build_parts() -> dict[str, Callable[[], None]]:
        guidance = build(variant, device, quick)
        width = guidance.model.unet.config.cross_attention_dim
        return parts(guidance, random_views(count, guidance.image_size, device, width))

    yield Case({"views": count}, build_parts)


def main() -> None:
    default = ["mvdream", "vsd", "vsd two UNets"]
    benchmark_guidance(__doc__, "Stable Diffusion 2.1 at the published size", VARIANTS, default, cases)


if __name__ == "__main__":
    main()
