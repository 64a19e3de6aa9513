"""``mvdream-guidance``: score distillation from a prior that judges four views of an object together.

MVDream (Shi et al., ICLR 2024), as 4D-fy and threestudio-mvdream use it: groups of four renders share their noise level
and are denoised together, each with its camera; the guidance scale is large (50). The published form of the loss pulls
the latents towards the clean latents that the network sees,

    L = 1/2 sum |z - sg(x~)|^2 / B,      dL/dz = (z - x~) / B,

where x~ is the guided prediction with its standard deviation over the four views moved half-way back to that of the
conditional one, against oversaturation. Without that, it is SDS with w(t) = sqrt((1 - a) / a), a = alpha bar.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch

import threestudio
from threestudio.models.prompt_processors.base import PromptProcessorOutput
from threestudio.utils.typing import Float, Int, Tensor

from ..batch import check_rest_of_batch
from ..diffusion.mvdream.checkpoint import has_original_unet, load_folder_with_original_unet, load_mvdream_checkpoint
from ..diffusion.mvdream.model import MVDREAM_PARTS, MVDreamModel, camera_condition
from ..diffusion.weights.resolve import resolve_prior
from ..errors import UserError
from ..values import Count, Schedule, Share, Text
from . import score_distillation as sd
from .score_distillation import ScoreDistillation
from .sd_guidance import StableDiffusionGuidance


def load_mvdream(name: str, device: torch.device | str = "cpu", text: bool = False) -> MVDreamModel:
    """A frozen MVDream in single precision, from whatever ``name`` stands for: see ``resolve_prior``.

    Args:
        text: load the text tower too. An original checkpoint holds no tokenizer: convert it to a folder first.
    """
    weights = resolve_prior(name, MVDREAM_PARTS)
    if weights.kind == "folder" and has_original_unet(weights.path):
        model = load_folder_with_original_unet(weights.path, device=device, text=text)
    elif weights.kind == "folder":
        model = MVDreamModel.load(weights.path, device=device, text=text)
    elif text:
        raise UserError(
            f"{name} holds no tokenizer, so it cannot read sentences by itself: convert it to a folder with "
            "python -m threestudio_4d.diffusion.mvdream.convert, or embed prompts with a text-prompt-processor"
        )
    else:
        model = load_mvdream_checkpoint(weights.path, device=device)
    return model.requires_grad_(False).eval()


@threestudio.register("mvdream-guidance")
class MVDreamGuidance(StableDiffusionGuidance):
    """Score distillation of groups of views.

    ``max_batch`` counts images; one group with both passes, 2 ``n_view`` images, always goes through together.
    """

    @dataclass
    class Config(StableDiffusionGuidance.Config):
        pretrained_model_name_or_path: Text = "mvdream-tiny"
        guidance_scale: Annotated[Any, Schedule()] = 50.0
        n_view: Count = 4
        """Views of a group; must be what the prior was trained for."""
        camera_condition_type: Annotated[str, Literal["rotation"]] = "rotation"
        """``rotation``: camera-to-world matrices with positions scaled to distance 1, as the published model."""
        view_dependent_prompting: bool = False
        """Append "front view" and so on to the prompt of each view; the cameras already say it, so published runs do
        not."""
        recon_loss: bool = True
        """Pull towards the predicted clean latents (``weighting_strategy`` then has no say); false: SDS."""
        recon_std_rescale: Share = 0.5
        """How far the guided prediction's standard deviation is moved back to the conditional one's, in [0, 1]."""

    cfg: Config

    def configure(self, model: MVDreamModel | None = None) -> None:
        """Load the prior; ``model`` is used instead of the one that the config names, if given."""
        cfg = self.cfg
        if model is None:
            threestudio.info(f"Loading the MVDream prior {cfg.pretrained_model_name_or_path}")
            model = load_mvdream(cfg.pretrained_model_name_or_path)
        if cfg.n_view != model.views:
            raise UserError(f"n_view={cfg.n_view}, but the prior draws {model.views} views of an object together")
        super().configure(model)
        if cfg.recon_loss:
            self._coefficients = sd.gradient_coefficients(self.model.alphas_cumprod, "x0", self._form).to(self.device)

    def predict(
        self,
        noisy: Float[Tensor, "B C h w"],
        timesteps: Int[Tensor, " B"],
        text: Float[Tensor, "B L D"],
        negative: Float[Tensor, "B L D"],
        camera: Float[Tensor, "B 16"],
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Noise and clean latents that the prior sees after guidance, whole groups and ``max_batch`` rows at a time."""
        std_rescale = self.cfg.recon_std_rescale if self.cfg.recon_loss else 0.0

        def ask(i: slice) -> tuple[Tensor, Tensor]:
            known = (text[i], negative[i], camera[i])
            return self.model.predict(noisy[i], timesteps[i], *known, self.guidance_scale, std_rescale)

        return self.in_parts(len(noisy), ask, group=self.cfg.n_view)

    def conditions(
        self,
        prompt_utils: PromptProcessorOutput,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        c2w: Float[Tensor, "B 4 4"],
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B L D"], Float[Tensor, "B 16"]]:
        """Embeddings of the prompt and of the negative prompt for each view, and the cameras; see ``distill``."""
        text, negative = self.embeddings(prompt_utils, elevation, azimuth, camera_distances)
        return text, negative, camera_condition(c2w.to(self.device, torch.float32))

    def distill(
        self,
        rgb: Float[Tensor, "B H W 3"],
        prompt_utils: PromptProcessorOutput,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        c2w: Float[Tensor, "B 4 4"],
        levels: int = 1,
        noise: Float[Tensor, "B C h w"] | None = None,
        timesteps: Int[Tensor, " B"] | None = None,
        guidance_eval: bool = False,
        **batch: Any,
    ) -> ScoreDistillation:
        """Distil the score of every group of views.

        Args:
            rgb: renders in [0, 1], any size; the ``n_view`` views of a group one after the other.
            prompt_utils: embeddings of the prompts, from ``text-prompt-processor``.
            elevation, azimuth, camera_distances: cameras, degrees and world units; only view-dependent prompts need
                them.
            c2w: camera-to-world matrices: z up, OpenGL axes.
            levels: L of a cascade whose images lie level by level in the batch; it only scales ``grad_norm``.
            noise, timesteps: fixed values instead of random ones. By default one timestep for the whole batch.
            guidance_eval: also decode what the network saw and what it made of it, into ``evaluation``.

        Raises:
            NonFiniteScoreError: the score is not finite.
        """
        check_rest_of_batch(batch, self)
        if len(rgb) % self.cfg.n_view:
            raise ValueError(f"{len(rgb)} images do not divide into groups of n_view={self.cfg.n_view}")
        text, negative, camera = self.conditions(prompt_utils, elevation, azimuth, camera_distances, c2w)
        latents = self.encode(rgb)
        if timesteps is None:
            timesteps = self.sample_timesteps(1).expand(len(latents))
        return self.distil_latents(
            latents,
            lambda noisy, t: self.predict(noisy, t, text, negative, camera),
            timesteps,
            noise,
            levels,
            self._evaluation if guidance_eval else None,
        )

    @torch.no_grad()
    def sample(
        self,
        prompt_utils: PromptProcessorOutput,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        c2w: Float[Tensor, "B 4 4"],
        steps: int = 50,
        guidance_scale: float = 5.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B S S 3"]:
        """Views that the prior draws on its own, by DDIM: to see what the distillation will pull towards.

        ``guidance_scale`` is one for drawing; that of distillation would oversaturate a sample.
        """
        text, negative, camera = self.conditions(prompt_utils, elevation, azimuth, camera_distances, c2w)
        with self.single_precision():
            images = self.model.sample(text, negative, camera, steps, guidance_scale, 0.0, generator)
        return images.movedim(1, -1)
