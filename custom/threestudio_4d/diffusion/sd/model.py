"""The networks of a Stable Diffusion prior, published or built in: one class, one code path.

Stable Diffusion (Rombach et al., CVPR 2022) denoises a latent picture that attends to a sentence. Versions 1.x predict
the noise, 2.x at 768 pixels the velocity; the built-in prior works on pixels, under a schedule that ends in pure noise.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from ...guidance import score_distillation as sd
from ..model import PictureLatents, TextModel
from ..text import TEXT_PARTS

SD_PARTS = ("unet", "vae", "scheduler", *TEXT_PARTS)


class StableDiffusionModel(PictureLatents, TextModel):
    """UNet, image codec and text tower of a text-to-image prior; see ``TextModel``."""

    unet_class = UNet2DConditionModel

    def denoise(self, noisy: Tensor, t: Tensor, text: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Raw network output [B, C, h, w], in single precision.

        Args:
            noisy: [B, C, h, w].
            t: timesteps, [B].
            text: embeddings, [B, L, D].
            class_labels: for a UNet with a class embedding, such as the camera of a LoRA in VSD.
        """
        dtype = self.unet.dtype
        labels = None if class_labels is None else class_labels.to(dtype)
        return self.unet(noisy.to(dtype), t, text.to(dtype), class_labels=labels, return_dict=False)[0].float()

    def denoise_guided(
        self, noisy: Tensor, t: Tensor, text: Tensor, negative: Tensor | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        """Network output with classifier-free guidance, ``u + s (c - u)`` (Ho and Salimans, 2022).

        Args:
            negative: embeddings of the negative prompt, or of the empty one, [B, L, D]; not needed for a scale of 1.
            guidance_scale: s; 1 takes one pass of the network.
        """
        if guidance_scale == 1:
            return self.denoise(noisy, t, text)
        if negative is None:
            raise ValueError("a guidance_scale other than 1 needs the embeddings of the negative or empty prompt")
        unconditional, conditional = self.denoise(
            torch.cat([noisy, noisy]), torch.cat([t, t]), torch.cat([negative, text])
        ).chunk(2)
        return sd.classifier_free_guidance(unconditional, conditional, guidance_scale)

    def predict(
        self, noisy: Tensor, t: Tensor, text: Tensor, negative: Tensor | None = None, guidance_scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Predicted noise and clean latent, [B, C, h, w] each, in single precision; see ``denoise_guided``."""
        return self.to_epsilon_and_x0(self.denoise_guided(noisy, t, text, negative, guidance_scale), noisy, t)

    @torch.no_grad()
    def sample(
        self,
        text: Tensor,
        negative: Tensor | None = None,
        steps: int = 40,
        guidance_scale: float = 5.0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Draw pictures by DDIM (Song et al., 2021): embeddings [B, L, D] -> images [B, 3, S, S] in [0, 1].

        Args:
            negative: embeddings of the negative or empty prompt, [B, L, D] or [1, L, D].
            latents: the noise to start from, [B, C, h, w], instead of one drawn with ``generator``.
        """
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=text.device)
        count = len(text)
        if negative is not None:
            negative = negative.expand(count, -1, -1)
        if latents is None:
            device = generator.device if generator is not None else text.device
            latents = torch.randn((count, *self.latent_shape), generator=generator, device=device).to(text.device)
        for t in scheduler.timesteps:
            output = self.denoise_guided(latents, t.expand(count), text, negative, guidance_scale)
            latents = scheduler.step(output, t, latents, return_dict=False)[0]
        return self.decode(latents)

    def _index(self, int8: bool) -> dict[str, Any]:
        """That of a pipeline of diffusers, where it could read the parts."""
        if int8 or self.text is None or not isinstance(self.vae, AutoencoderKL):
            return super()._index(int8)
        nothing = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"), [None, None])
        index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
        return index | nothing | self._pipeline_parts()
