"""``sd-guidance``: score distillation from Stable Diffusion, which is told what the picture shows and from which side.

DreamFusion (Poole et al., ICLR 2023) as threestudio runs it on Stable Diffusion: a render is resized and encoded, noise
is added, and the picture is pulled towards what the network makes of it given the prompt of its view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import threestudio
from threestudio.models.prompt_processors.base import PromptProcessorOutput
from threestudio.utils.typing import Float, Int, Tensor

from ..errors import UserError
from .distillation_guidance import DistillationGuidance
from .prior_weights import resolve_prior
from .score_distillation import ScoreDistillation
from .sd_model import StableDiffusionModel

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
class StableDiffusionGuidance(DistillationGuidance):
    """SDS with Stable Diffusion 1.x, 2.x or the built-in ``sd-tiny``.

    ``guidance_scale`` is ``s`` in ``uncond + s (cond - uncond)``; threestudio's own guidance counts one less (its 100
    is 101 here). ``uncond`` is the negative prompt, or the empty one.
    """

    @dataclass
    class Config(DistillationGuidance.Config):
        pretrained_model_name_or_path: str = "sd-tiny"
        guidance_scale: Any = 100.0
        view_dependent_prompting: bool = True
        """Name the view in the prompt, by the camera."""
        vae_half_precision: bool = False
        """Encode renders in half precision too."""
        vae_checkpointing: bool = False
        """Recompute the encoder's activations in the backward pass: about a third more time for much less memory."""
        sample_posterior: bool = True
        """Latents of renders are samples of the encoder's posterior (as published); false takes its mean."""
        max_batch: Optional[int] = None  # noqa: UP045 - OmegaConf 2.3 reads Optional on every Python version
        """Most images that the UNet sees at once, conditional and unconditional ones counted; null: all."""
        compile_unet: bool = False
        """``torch.compile`` the UNet, channels last. Pays on a GPU after some minutes."""

    cfg: Config

    def configure(self, model: StableDiffusionModel | None = None) -> None:
        """Load the prior; ``model`` is used instead of the one that the config names, if given."""
        half_dtype = self.half_dtype()
        if self.cfg.max_batch is not None and self.cfg.max_batch < 1:
            raise UserError(f"max_batch must be 1 or more, or null, got {self.cfg.max_batch}")
        if model is None:
            threestudio.info(f"Loading the Stable Diffusion prior {self.cfg.pretrained_model_name_or_path}")
            model = load_stable_diffusion(self.cfg.pretrained_model_name_or_path)
        if half_dtype is not None:
            # nn.Module's own cast: that of diffusers warns of modules to keep in float32, of which there are none.
            torch.nn.Module.to(model.unet, half_dtype)
            if self.cfg.vae_half_precision:
                torch.nn.Module.to(model.vae, half_dtype)
        self.model = model.to(self.device).requires_grad_(False).eval()
        if self.cfg.vae_checkpointing and isinstance(self.model.vae, AutoencoderKL):
            self.model.vae.enable_gradient_checkpointing()
        if self.cfg.compile_unet:
            self.model.unet.to(memory_format=torch.channels_last)
            self.model.unet.compile()
        self.set_noise_schedule(self.model.alphas_cumprod, self.model.prediction_type)

    @property
    def image_size(self) -> int:
        """Side in pixels that the prior works at; other sizes are resized to it."""
        return self.model.image_size

    def encode(self, rgb: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        """Scaled latents of renders in [0, 1], differentiable."""
        with self.single_precision():
            images = self.model.resize(rgb.to(self.device, torch.float32).movedim(-1, 1))
            return self.model.encode(images, sample=self.cfg.sample_posterior).float()

    def predict(
        self,
        noisy: Float[Tensor, "B C h w"],
        timesteps: Int[Tensor, " B"],
        text: Float[Tensor, "B L D"],
        negative: Float[Tensor, "B L D"],
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Noise and clean latents that the prior sees in ``noisy`` after guidance, ``max_batch`` rows at a time."""
        rows = len(noisy)
        if self.cfg.max_batch is not None:
            passes = 1 if self.guidance_scale == 1 else 2
            rows = max(1, self.cfg.max_batch // passes)
        with self.single_precision():
            parts = [
                self.model.predict(noisy[i], timesteps[i], text[i], negative[i], self.guidance_scale)
                for i in (slice(start, start + rows) for start in range(0, len(noisy), rows))
            ]
        eps, x0 = (torch.cat(part) for part in zip(*parts, strict=True))
        return eps, x0

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
        **kwargs: Any,
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
        embeddings = prompt_utils.get_text_embeddings(
            elevation, azimuth, camera_distances, self.cfg.view_dependent_prompting
        ).to(self.device)
        text, negative = embeddings.chunk(2)
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

    def _evaluation(self, noisy: Tensor, x0: Tensor, timesteps: Tensor) -> dict[str, Any]:
        with self.single_precision():
            pictures = [self.model.decode(latents).movedim(1, -1) for latents in (noisy, x0)]
        return {
            "bs": len(noisy),
            "noise_levels": (timesteps.float() / self.model.num_train_timesteps).tolist(),
            "imgs_noisy": pictures[0],
            "imgs_1step": pictures[1],
        }

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
        embeddings = prompt_utils.get_text_embeddings(
            elevation, azimuth, camera_distances, self.cfg.view_dependent_prompting
        ).to(self.device)
        text, negative = embeddings.chunk(2)
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        with self.single_precision():
            return self.model.sample(text, negative, steps, scale, generator).movedim(1, -1)

    def __call__(
        self,
        rgb: Float[Tensor, "B H W 3"],
        prompt_utils: PromptProcessorOutput,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        **kwargs: Any,
    ) -> dict[str, Any]:
        """threestudio's way to ask: ``loss_sds`` (sum over images / B), ``grad_norm``, ``min_step``, ``max_step``.

        With ``guidance_eval=True`` also ``eval``: ``bs``, ``noise_levels`` and the pictures ``imgs_noisy`` (what the
        network saw) and ``imgs_1step`` (the clean image that it predicts), ``[B, S, S, 3]`` each.
        """
        return self.result(self.distill(rgb, prompt_utils, elevation, azimuth, camera_distances, **kwargs))
