"""``t2v-guidance``: score distillation from a text-to-video model, which judges all frames of a clip together.

4D-fy (Bahmani et al., CVPR 2024, section 3.3) renders one camera at 16 times, encodes the frames, adds noise of one
level to the whole latent clip, and pulls it towards what ZeroScope makes of it given the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import torch
import torch.nn.functional as F

import threestudio
from threestudio.models.prompt_processors.base import PromptProcessorOutput
from threestudio.utils.typing import Float, Int, Tensor

from ..batch import check_rest_of_batch
from ..diffusion.t2v.model import CFG_FORMS, TextToVideoModel, load_t2v
from ..values import Count, Number, Pixels, Schedule, Text
from .base import PromptedGuidance
from .score_distillation import ScoreDistillation


def split_frames(clips: int, frames: int, budget: int, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """A random choice of ``budget`` frames of each clip.

    Returns:
        The chosen frames [B, k], the others [B, F - k], and the order [B, F] that puts (chosen, others) back in line.
    """
    order = torch.rand(clips, frames, device=device).argsort(1)
    return order[:, :budget], order[:, budget:], order.argsort(1)


def take_frames(video: Float[Tensor, "B F ..."], index: Int[Tensor, "B K"]) -> Float[Tensor, "B K ..."]:
    """Frames of clips by number, each clip its own; differentiable."""
    return video[torch.arange(len(video), device=video.device)[:, None], index]


def amplify_motion(residual: Float[Tensor, "B C F h w"], scale: float) -> Float[Tensor, "B C F h w"]:
    """``m + s (r - m)`` with m the mean of r over frames: more of what differs between frames (4D-fy's code)."""
    mean = residual.mean(dim=2, keepdim=True)
    return mean + scale * (residual - mean)


@threestudio.register("t2v-guidance")
class TextToVideoGuidance(PromptedGuidance):
    """Video SDS with ModelScope, ZeroScope or the built-in ``t2v-tiny``."""

    @dataclass
    class Config(PromptedGuidance.Config):
        pretrained_model_name_or_path: Text = "t2v-tiny"
        guidance_scale: Annotated[Any, Schedule()] = 100.0
        cfg_form: Annotated[str, Literal[CFG_FORMS]] = "standard"
        """``standard``: ``u + s (c - u)``; ``text_plus``: ``c + s (c - u)``, how 4D-fy counts (its 100 is 101)."""
        num_frames: Optional[Count] = None  # noqa: UP045 - OmegaConf 2.3 reads Optional on every Python version
        """F of a clip where a call does not say; null: as the prior was trained."""
        height: Optional[Pixels] = None  # noqa: UP045
        """Size that frames are resized to; null: that of the prior. 4D-fy: 320 x 576."""
        width: Optional[Pixels] = None  # noqa: UP045
        frame_grad_budget: Optional[Count] = None  # noqa: UP045
        """So many random frames of each clip are encoded with gradient, the others without; the network sees all. Less
        memory, and only those frames learn in this step. null: all."""
        motion_amp_scale: Number = 1.0
        """Weight of what the score says of single frames over what it says of their mean; 4D-fy: 30 with VideoCrafter,
        1 with ZeroScope."""
        vae_batch: Optional[Count] = None  # noqa: UP045
        """Most frames that the encoder sees at once; null: all."""

    cfg: Config

    def configure(self, model: TextToVideoModel | None = None) -> None:
        """Load the prior; ``model`` is used instead of the one that the config names, if given."""
        cfg = self.cfg
        if model is None:
            threestudio.info(f"Loading the text-to-video prior {cfg.pretrained_model_name_or_path}")
            model = load_t2v(cfg.pretrained_model_name_or_path, text=False)
        self.model = self.take_model(model)
        self.frame_size = (cfg.height or self.model.image_size, cfg.width or self.model.image_size)
        self.num_frames = cfg.num_frames or self.model.frames
        self.latent_shape = self.model.latent_shape(*self.frame_size)
        self.set_noise_schedule(self.model.alphas_cumprod, self.model.prediction_type)

    def _encode(self, video: Float[Tensor, "B F H W 3"]) -> Float[Tensor, "B C F h w"]:
        frames = video.flatten(0, 1)
        parts = []
        for part in frames.split(self.cfg.vae_batch or len(frames)):
            images = part.to(self.device, torch.float32).movedim(-1, 1)
            if images.shape[-2:] != self.frame_size:
                images = F.interpolate(images, self.frame_size, mode="bilinear", align_corners=False)
            parts.append(self.model.encode(images[:, None], sample=self.cfg.sample_posterior)[:, :, 0].float())
        return torch.cat(parts).unflatten(0, video.shape[:2]).transpose(1, 2)

    def encode(self, video: Float[Tensor, "B F H W 3"]) -> Float[Tensor, "B C F h w"]:
        """Scaled latents of clips in [0, 1]; differentiable in ``frame_grad_budget`` random frames of each clip."""
        clips, frames = video.shape[:2]
        budget = self.cfg.frame_grad_budget
        with self.single_precision():
            if budget is None or budget >= frames or not (torch.is_grad_enabled() and video.requires_grad):
                return self._encode(video)
            chosen, others, line = split_frames(clips, frames, budget, video.device)
            with torch.no_grad():
                still = self._encode(take_frames(video, others))
            latents = torch.cat([self._encode(take_frames(video, chosen)), still], dim=2)
        return take_frames(latents.transpose(1, 2), line.to(latents.device)).transpose(1, 2)

    def predict(
        self,
        noisy: Float[Tensor, "B C F h w"],
        timesteps: Int[Tensor, " B"],
        text: Float[Tensor, "B L D"],
        negative: Float[Tensor, "B L D"],
    ) -> tuple[Float[Tensor, "B C F h w"], Float[Tensor, "B C F h w"]]:
        """Noise and clean latents that the prior sees in ``noisy`` after guidance."""
        scale, form = self.guidance_scale, self.cfg.cfg_form
        return self.in_parts(
            len(noisy), lambda i: self.model.predict(noisy[i], timesteps[i], text[i], negative[i], scale, form)
        )

    def distill(
        self,
        rgb: Float[Tensor, "N H W 3"],
        prompt_utils: PromptProcessorOutput,
        elevation: Float[Tensor, " M"],
        azimuth: Float[Tensor, " M"],
        camera_distances: Float[Tensor, " M"],
        num_frames: int | None = None,
        rgb_as_latents: bool = False,
        noise: Float[Tensor, "B C F h w"] | None = None,
        timesteps: Int[Tensor, " B"] | None = None,
        guidance_eval: bool = False,
        **batch: Any,
    ) -> ScoreDistillation:
        """Distil the score of every clip.

        Args:
            rgb: frames in [0, 1], N = B F: the F frames of the first clip in order of time, then those of the next;
                with ``rgb_as_latents`` the scaled latents themselves, [N, h, w, C].
            prompt_utils: what a prompt processor gives when called.
            elevation, azimuth, camera_distances: cameras of the frames, [N], or of the clips, [B]; degrees and world
                units.
            num_frames: F.
            noise, timesteps: fixed values instead of random ones; one timestep a clip.
            guidance_eval: also decode what the network saw and what it made of it, into ``evaluation``.

        Raises:
            ValueError: the frames do not divide into clips.
            NonFiniteScoreError: the score is not finite.
        """
        check_rest_of_batch(batch, self)
        frames = num_frames or self.num_frames
        if len(rgb) % frames:
            raise ValueError(f"{len(rgb)} images do not divide into clips of {frames} frames")
        clips = len(rgb) // frames
        video = rgb.unflatten(0, (clips, frames))
        latents = video.permute(0, 4, 1, 2, 3).float() if rgb_as_latents else self.encode(video)
        cameras = (
            value if len(value) == clips else value[::frames] for value in (elevation, azimuth, camera_distances)
        )
        text, negative = self.embeddings(prompt_utils, *cameras)
        noise = torch.randn_like(latents) if noise is None else noise
        scale = self.cfg.motion_amp_scale

        def predict(noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            eps, x0 = self.predict(noisy, t, text, negative)
            if scale != 1:
                eps = noise + amplify_motion(eps - noise, scale)
                x0 = latents.detach() + amplify_motion(x0 - latents.detach(), scale)
            return eps, x0

        return self.distil_latents(
            latents, predict, timesteps, noise, evaluate=self._evaluation if guidance_eval else None
        )

    def _evaluation(self, noisy: Tensor, x0: Tensor, timesteps: Tensor) -> dict[str, Any]:
        def decode(latents: Tensor) -> Tensor:
            return self.model.decode(latents, self.cfg.vae_batch).flatten(0, 1).movedim(1, -1)

        levels = timesteps.float() / self.model.num_train_timesteps
        return self.look(decode, noisy, x0, levels.repeat_interleave(noisy.shape[2]))

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
    ) -> Float[Tensor, "B F h w 3"]:
        """Clips that the prior draws on its own, one a camera: to see what the distillation will pull towards.

        ``guidance_scale`` is that of the distillation if None, which is often too strong for a sampler.
        """
        text, negative = self.embeddings(prompt_utils, elevation, azimuth, camera_distances)
        height, width = self.frame_size
        with self.single_precision():
            video = self.model.sample(
                text,
                negative,
                self.cfg.vae_batch,
                frames=self.num_frames,
                height=height,
                width=width,
                steps=steps,
                guidance_scale=self.guidance_scale if guidance_scale is None else guidance_scale,
                generator=generator,
            )
        return video.movedim(2, -1)
