"""``sd-guidance``: score distillation from Stable Diffusion, which is told what the picture shows and from which side.

DreamFusion (Poole et al., ICLR 2023) as threestudio runs it on Stable Diffusion: a render is resized and encoded, noise
is added, and the picture is pulled towards what the network makes of it given the prompt of its view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F

import threestudio
from threestudio.models.prompt_processors.base import PromptProcessorOutput
from threestudio.utils.typing import Float, Int, Tensor

from ..batch import check_rest_of_batch
from ..diffusion.sd.model import StableDiffusionModel
from ..diffusion.weights.resolve import resolve_prior
from ..errors import UserError
from ..values import Schedule, Text
from .base import PictureGuidance, PromptedGuidance
from .score_distillation import ScoreDistillation

_PARTS = ("unet", "vae", "scheduler")


def load_stable_diffusion(
    name: str, device: torch.device | str = "cpu", text: bool = False, dtype: torch.dtype | None = None
) -> StableDiffusionModel:
    """A frozen Stable Diffusion from whatever ``name`` stands for: see ``resolve_prior``.

    Args:
        text: load its tokenizer and text tower too.
        dtype: precision; single if None.

    Raises:
        UserError: nothing of that name exists, it is incomplete, or it is an original checkpoint.
    """
    weights = resolve_prior(name, (*_PARTS, "text_encoder", "tokenizer") if text else _PARTS)
    if weights.kind == "checkpoint":
        raise UserError(
            f"{weights.path} is one file; Stable Diffusion is read from a folder in diffusers layout (unet/, vae/, "
            "text_encoder/, tokenizer/, scheduler/). diffusers converts it: "
            "StableDiffusionPipeline.from_single_file(path).save_pretrained(folder)"
        )
    model = StableDiffusionModel.load(weights.path, dtype, device, text)
    return model.requires_grad_(False).eval()


@threestudio.register("sd-guidance")
class StableDiffusionGuidance(PictureGuidance, PromptedGuidance):
    """SDS with Stable Diffusion 1.x, 2.x or the built-in ``sd-tiny``.

    ``guidance_scale`` is ``s`` in ``uncond + s (cond - uncond)``; threestudio's own guidance counts one less (its 100
    is 101 here). ``uncond`` is the negative prompt, or the empty one.
    """

    @dataclass
    class Config(PromptedGuidance.Config):
        pretrained_model_name_or_path: Text = "sd-tiny"
        guidance_scale: Annotated[Any, Schedule()] = 100.0

    cfg: Config

    def configure(self, model: StableDiffusionModel | None = None) -> None:
        """Load the prior; ``model`` is used instead of the one that the config names, if given."""
        if model is None:
            threestudio.info(f"Loading the Stable Diffusion prior {self.cfg.pretrained_model_name_or_path}")
            model = load_stable_diffusion(self.cfg.pretrained_model_name_or_path)
        self.model = self.take_model(model)
        self.set_noise_schedule(self.model.alphas_cumprod, self.model.prediction_type)

    def predict(
        self,
        noisy: Float[Tensor, "B C h w"],
        timesteps: Int[Tensor, " B"],
        text: Float[Tensor, "B L D"],
        negative: Float[Tensor, "B L D"],
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Noise and clean latents that the prior sees in ``noisy`` after guidance, ``max_batch`` rows at a time."""
        return self.in_parts(
            len(noisy),
            lambda i: self.model.predict(noisy[i], timesteps[i], text[i], negative[i], self.guidance_scale),
        )

    def distill(
        self,
        rgb: Float[Tensor, "B H W 3"],
        prompt_utils: PromptProcessorOutput,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        rgb_as_latents: bool = False,
        noise: Float[Tensor, "B C h w"] | None = None,
        timesteps: Int[Tensor, " B"] | None = None,
        guidance_eval: bool = False,
        **batch: Any,
    ) -> ScoreDistillation:
        """Distil the score of every picture.

        Args:
            rgb: renders in [0, 1], any size; with ``rgb_as_latents`` the latents themselves, [B, h, w, C].
            prompt_utils: what a prompt processor gives when called.
            elevation, azimuth, camera_distances: cameras of the pictures, degrees and world units.
            noise, timesteps: fixed values instead of random ones.
            guidance_eval: also decode what the network saw and what it made of it, into ``evaluation``.

        Raises:
            NonFiniteScoreError: the score is not finite.
        """
        check_rest_of_batch(batch, self)
        text, negative = self.embeddings(prompt_utils, elevation, azimuth, camera_distances)
        latents = self._given_latents(rgb) if rgb_as_latents else self.encode(rgb)
        return self.distil_latents(
            latents,
            lambda noisy, t: self.predict(noisy, t, text, negative),
            timesteps=timesteps,
            noise=noise,
            evaluate=self._evaluation if guidance_eval else None,
        )

    def _given_latents(self, latents: Float[Tensor, "B h w C"]) -> Float[Tensor, "B C h w"]:
        channels, *size = self.model.latent_shape
        latents = latents.to(self.device, torch.float32).movedim(-1, 1)
        if latents.shape[1] != channels:
            raise ValueError(f"rgb_as_latents: the prior has {channels} latent channels, got {latents.shape[1]}")
        if list(latents.shape[-2:]) == size:
            return latents
        return F.interpolate(latents, size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def sample(
        self,
        prompt_utils: PromptProcessorOutput,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        steps: int = 40,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B S S 3"]:
        """Pictures that the prior draws on its own: to see what the distillation will pull towards.

        ``guidance_scale`` is that of the distillation if None, which is often too strong for a sampler.
        """
        text, negative = self.embeddings(prompt_utils, elevation, azimuth, camera_distances)
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        with self.single_precision():
            return self.model.sample(text, negative, steps, scale, generator).movedim(1, -1)
