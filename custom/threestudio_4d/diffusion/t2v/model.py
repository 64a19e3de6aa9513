"""The networks of a text-to-video prior of the ModelScope family, published or built in: one class, one code path.

ModelScope (Wang et al., 2023) and ZeroScope denoise a latent clip that attends to a sentence: Stable Diffusion's UNet
with convolutions and attention along time in between, on the latents of Stable Diffusion's autoencoder, frame by frame.
Latents are ``[B, C, F, h, w]`` as the network takes them; clips of pictures are ``[B, F, 3, H, W]``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
from torch import Tensor

from ...errors import UserError
from ..codec import PixelUnshuffleCodec, decode_latents, downscale, encode_images, scaling_factor
from ..model import TextModel
from ..text import TEXT_PARTS, TextConditioner
from ..weights.resolve import read_index, resolve_prior
from .temporal_convolution import flatten_temporal_convolutions

T2V_PARTS = ("unet", "vae", "scheduler", *TEXT_PARTS)
CfgForm = Literal["standard", "text_plus"]
CFG_FORMS: tuple[str, ...] = ("standard", "text_plus")

ANCESTRAL = 0.999  # with 1, rounding makes the scheduler take the root of a negative number at zero terminal SNR

#: Called after every step of the sampler with its number and the latents [B, C, F, h, w].
OnStep = Callable[[int, Tensor], None]


def guided(unconditional: Tensor, conditional: Tensor, scale: float, form: CfgForm = "standard") -> Tensor:
    """Classifier-free guidance: ``u + s (c - u)``, or as 4D-fy counts, ``text_plus``: ``c + s (c - u)``.

    The second is the first with a scale of ``s + 1``.
    """
    base = unconditional if form == "standard" else conditional
    return base + scale * (conditional - unconditional)


class TextToVideoModel(TextModel):
    """UNet, image codec and text tower of a text-to-video prior; see ``TextModel``. The codec sees single frames.

    ``image_size`` is the side of the square that the UNet's ``sample_size`` names: 256 for ModelScope, 64 built in.

    Args:
        frames: F of the clips that the prior was trained on.
    """

    unet_class = UNet3DConditionModel

    def __init__(
        self,
        unet: UNet3DConditionModel,
        vae: AutoencoderKL | PixelUnshuffleCodec,
        scheduler: DDIMScheduler,
        text: TextConditioner | None = None,
        frames: int = 16,
    ) -> None:
        super().__init__(unet, vae, scheduler, text)
        flatten_temporal_convolutions(unet)
        self.frames = frames

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of the latent of a frame; the square of ``image_size`` by default.

        Raises:
            UserError: the codec cannot fold frames of that size.
        """
        height, width = height or self.image_size, width or self.image_size
        unit = downscale(self.vae)
        if height % unit or width % unit:
            raise UserError(f"this prior needs frames whose sides divide by {unit}, got {height}x{width}")
        return self.unet.config.in_channels, height // unit, width // unit

    # Pictures ---------------------------------------------------------------------------------------------------------

    def encode(self, video: Tensor, sample: bool = True) -> Tensor:
        """Clips [B, F, 3, H, W] in [0, 1] -> scaled latents [B, C, F, h, w]."""
        latents = encode_images(self.vae, video.flatten(0, 1), sample) * scaling_factor(self.vae)
        return latents.unflatten(0, video.shape[:2]).transpose(1, 2)

    def decode(self, latents: Tensor, chunk_size: int | None = None) -> Tensor:
        """Scaled latents [B, C, F, h, w] -> clips [B, F, 3, H, W] in [0, 1], ``chunk_size`` frames at once."""
        frames = latents.transpose(1, 2).flatten(0, 1) / scaling_factor(self.vae)
        images = torch.cat([decode_latents(self.vae, part) for part in frames.split(chunk_size or len(frames))])
        return images.unflatten(0, (len(latents), latents.shape[2]))

    # Network ----------------------------------------------------------------------------------------------------------

    def denoise(self, noisy: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Raw network output [B, C, F, h, w] in single precision; timesteps [B], embeddings [B, L, D]."""
        dtype = self.unet.dtype
        return self.unet(noisy.to(dtype), t, text.to(dtype), return_dict=False)[0].float()

    def denoise_guided(
        self,
        noisy: Tensor,
        t: Tensor,
        text: Tensor,
        negative: Tensor | None = None,
        guidance_scale: float = 1.0,
        cfg_form: CfgForm = "standard",
    ) -> Tensor:
        """Network output with classifier-free guidance, see ``guided``.

        Args:
            negative: embeddings of the negative or empty prompt, [B, L, D]; not needed where guidance changes nothing.
        """
        if guidance_scale == (1 if cfg_form == "standard" else 0):
            return self.denoise(noisy, t, text)
        if negative is None:
            raise ValueError("classifier-free guidance needs the embeddings of the negative or empty prompt")
        unconditional, conditional = self.denoise(
            torch.cat([noisy, noisy]), torch.cat([t, t]), torch.cat([negative, text])
        ).chunk(2)
        return guided(unconditional, conditional, guidance_scale, cfg_form)

    def predict(
        self,
        noisy: Tensor,
        t: Tensor,
        text: Tensor,
        negative: Tensor | None = None,
        guidance_scale: float = 1.0,
        cfg_form: CfgForm = "standard",
    ) -> tuple[Tensor, Tensor]:
        """Predicted noise and clean latent, [B, C, F, h, w] each, in single precision; see ``denoise_guided``."""
        output = self.denoise_guided(noisy, t, text, negative, guidance_scale, cfg_form)
        return self.to_epsilon_and_x0(output, noisy, t)

    @torch.no_grad()
    def sample_latents(
        self,
        text: Tensor,
        negative: Tensor | None = None,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        steps: int = 40,
        guidance_scale: float = 7.5,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        on_step: OnStep | None = None,
        eta: float | None = None,
    ) -> Tensor:
        """Draw latent clips by DDIM (Song et al., 2021), as diffusers' retired ``TextToVideoSDPipeline`` does.

        Args:
            text: embeddings, [B, L, D].
            negative: embeddings of the negative or empty prompt, [B, L, D] or [1, L, D].
            frames: as trained by default.
            height, width: in pixels; the square of ``image_size`` by default.
            latents: the noise to start from, [B, C, F, h, w], instead of one drawn with ``generator``.
            eta: share of fresh noise in each step, from 0 to below 1. By default 0 (DDIM) for models with an
                autoencoder, nearly 1 (ancestral sampling) for those on pixels: fresh noise corrects what a small
                network gets wrong, which on pixels is seen as grain.

        Returns:
            Scaled latents, [B, C, F, h, w].
        """
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=text.device)
        count = len(text)
        if eta is None:
            eta = ANCESTRAL if isinstance(self.vae, PixelUnshuffleCodec) else 0.0
        if negative is not None:
            negative = negative.expand(count, -1, -1)
        if latents is None:
            channels, *size = self.latent_shape(height, width)
            shape = (count, channels, frames or self.frames, *size)
            device = generator.device if generator is not None else text.device
            latents = torch.randn(shape, generator=generator, device=device).to(text.device)
        for step, t in enumerate(scheduler.timesteps):
            output = self.denoise_guided(latents, t.expand(count), text, negative, guidance_scale)
            latents = scheduler.step(output, t, latents, eta=eta, generator=generator, return_dict=False)[0]
            if on_step is not None:
                on_step(step, latents)
        return latents

    @torch.no_grad()
    def sample(self, text: Tensor, negative: Tensor | None = None, chunk_size: int | None = 8, **options) -> Tensor:
        """Draw clips [B, F, 3, H, W] in [0, 1]; ``options`` are those of ``sample_latents``."""
        return self.decode(self.sample_latents(text, negative, **options), chunk_size)

    @classmethod
    def _settings(cls, folder: Path) -> dict[str, Any]:
        return {"frames": read_index(folder).get("frames", 16)}

    def _index(self, int8: bool) -> dict[str, Any]:
        """That of diffusers' pipeline, where it could read the parts."""
        if int8 or self.text is None or not isinstance(self.vae, AutoencoderKL):
            return super()._index(int8) | {"frames": self.frames}
        return {"_class_name": "TextToVideoSDPipeline", "frames": self.frames} | self._pipeline_parts()


def load_t2v(name: str, device: torch.device | str = "cpu", text: bool = True) -> TextToVideoModel:
    """A frozen text-to-video prior in single precision, from whatever ``name`` stands for: see :func:`resolve_prior`.

    Raises:
        UserError: nothing of that name exists, or it is no folder in diffusers layout.
    """
    weights = resolve_prior(name, T2V_PARTS if text else tuple(p for p in T2V_PARTS if p not in TEXT_PARTS))
    if weights.kind != "folder":
        raise UserError(
            f"{weights.path} is a single checkpoint; text-to-video priors are read from a folder in diffusers layout, "
            "such as the hub's damo-vilab/text-to-video-ms-1.7b or cerspense/zeroscope_v2_576w"
        )
    return TextToVideoModel.load(weights.path, device=device, text=text).requires_grad_(False).eval()
