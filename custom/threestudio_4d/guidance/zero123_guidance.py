"""``zero123-guidance-t``: score distillation from a Zero123 that is shown, for every view, the input frame of its time.

Consistent4D (Jiang et al., ICLR 2024) asks Zero-1-to-3 (Liu et al., ICCV 2023), for each rendered view at time t, what
the object looks like from there given the input frame at t. The frames are encoded once; a step encodes the rendered
images, adds noise, lets the network predict it, and pulls the images towards the prediction.

Conventions of the published models that look unusual and are kept: the latent of the picture is the posterior mean and
is *not* scaled, that of a render is a posterior sample and is; without condition means zeros *after* the camera
projection and a zero picture latent; the image embedding is not normalised; w(t) = 1 - alpha_bar.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

import threestudio
from threestudio.utils.typing import Float, Int, Tensor

from ..batch import check_rest_of_batch
from ..diffusion.weights.resolve import ZERO123_PARTS, resolve_prior
from ..diffusion.zero123.checkpoint import load_zero123_checkpoint
from ..diffusion.zero123.model import Zero123Condition, Zero123Model, camera_vector
from ..values import Number, Positive, Schedule, Text
from .base import PictureGuidance
from .score_distillation import ScoreDistillation

_PREPARE_BATCH = 8


def load_zero123(name: str, device: torch.device | str = "cpu") -> Zero123Model:
    """A frozen Zero123 in single precision, from whatever ``name`` stands for: see :func:`resolve_prior`."""
    weights = resolve_prior(name, ZERO123_PARTS)
    if weights.kind == "folder":
        model = Zero123Model.load(weights.path, device=device)
    else:
        model = load_zero123_checkpoint(weights.path, device=device)
    return model.requires_grad_(False).eval()


@threestudio.register("zero123-guidance-t")
class Zero123GuidanceT(PictureGuidance):
    """Score distillation with one condition for every frame of a clip."""

    @dataclass
    class Config(PictureGuidance.Config):
        pretrained_model_name_or_path: Text = "zero123-tiny"
        cond_elevation_deg: Number = 0.0
        """Where the camera of the input frames stands."""
        cond_azimuth_deg: Number = 0.0
        cond_camera_distance: Positive = 2.0
        min_step_percent: Annotated[Any, Schedule(0, 1)] = 0.2
        use_same_noise: bool = False
        """Give all levels of a cascade the same noise and timesteps. Published runs draw them afresh for each level."""

    cfg: Config

    def configure(self, model: Zero123Model | None = None) -> None:
        """Load the prior; ``model`` is used instead of the one that the config names, if given."""
        if model is None:
            threestudio.info(f"Loading the Zero123 prior {self.cfg.pretrained_model_name_or_path}")
            model = load_zero123(self.cfg.pretrained_model_name_or_path, self.device)
        self.model = self.take_model(model)
        self.condition: Zero123Condition | None = None
        self.set_noise_schedule(self.model.alphas_cumprod, self.model.prediction_type)

    # Conditions -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, images: Float[Tensor, "N H W 3"]) -> None:
        """Encode the frames of the clip, on white and in [0, 1], once. ``frame_indices`` later refer to them.

        The image encoder is needed only here: on a GPU it waits in main memory from then on.
        """
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"prepare wants images [N, H, W, 3], got {tuple(images.shape)}")
        self.model.image_encoder.to(self.device)
        parts = []
        with self.single_precision():
            for chunk in images.split(_PREPARE_BATCH):
                chunk = chunk.to(self.device, torch.float32).movedim(-1, 1)
                parts.append(self.model.encode_condition(self.model.resize(chunk)))
        self.condition = Zero123Condition(
            torch.cat([part.embeddings.float() for part in parts]), torch.cat([part.latents.float() for part in parts])
        )
        if self.device.type == "cuda":
            self.model.image_encoder.to("cpu")

    def camera(
        self, elevation: Float[Tensor, " B"], azimuth: Float[Tensor, " B"], camera_distances: Float[Tensor, " B"]
    ) -> Float[Tensor, "B 4"]:
        """Change of camera from the input frame to each view; angles in degrees."""
        cfg = self.cfg
        views = (value.to(self.device, torch.float32) for value in (elevation, azimuth, camera_distances))
        return camera_vector(*views, cfg.cond_elevation_deg, cfg.cond_azimuth_deg, cfg.cond_camera_distance)

    def _frames(self, frame_indices: Int[Tensor, " B"]) -> Zero123Condition:
        if self.condition is None:
            raise RuntimeError("zero123-guidance-t has no input frames yet: call prepare(images) first")
        # Checked on the CPU only: on a GPU it would wait for the device, which itself reports an index out of range.
        count = len(self.condition)
        if frame_indices.device.type == "cpu" and int(frame_indices.max()) >= count:
            raise IndexError(f"frame {int(frame_indices.max())} asked for, but {count} frames are prepared")
        return self.condition[frame_indices.to(self.device)]

    # Networks ---------------------------------------------------------------------------------------------------------

    def predict(
        self,
        noisy: Float[Tensor, "B C h w"],
        timesteps: Int[Tensor, " B"],
        condition: Zero123Condition,
        camera: Float[Tensor, "B 4"],
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Noise and clean latents that the prior sees in ``noisy`` after guidance, ``max_batch`` rows at a time."""
        return self.in_parts(
            len(noisy),
            lambda i: self.model.predict(noisy[i], timesteps[i], condition[i], camera[i], self.guidance_scale),
        )

    @torch.no_grad()
    def sample(
        self,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        frame_indices: Int[Tensor, " B"],
        steps: int = 40,
        generator: torch.Generator | None = None,
        eta: float = 0.0,
    ) -> Float[Tensor, "B S S 3"]:
        """Views that the prior draws on its own, by DDIM: to see what the distillation will pull towards.

        ``eta`` is 1 in Zero123's own demo, 0 without new noise in the steps.
        """
        with self.single_precision():
            camera = self.camera(elevation, azimuth, camera_distances)
            images = self.model.sample(self._frames(frame_indices), camera, steps, self.guidance_scale, generator, eta)
        return images.movedim(1, -1)

    # Distillation -----------------------------------------------------------------------------------------------------

    def distill(
        self,
        rgb: Float[Tensor, "LB H W 3"],
        elevation: Float[Tensor, " LB"],
        azimuth: Float[Tensor, " LB"],
        camera_distances: Float[Tensor, " LB"],
        frame_indices: Int[Tensor, " LB"],
        levels: int | None = None,
        noise: Float[Tensor, "LB C h w"] | None = None,
        timesteps: Int[Tensor, " LB"] | None = None,
        guidance_eval: bool = False,
        **batch: Any,
    ) -> ScoreDistillation:
        """Distil the score of every image, all levels of a cascade in one batch.

        Args:
            rgb: renders in [0, 1], any size; level by level (all views of level 0, then of level 1, ...).
            elevation, azimuth, camera_distances: cameras of the images, degrees and world units.
            frame_indices: which prepared frame each image is shown, long.
            levels: L. Needed when ``use_same_noise`` is on; otherwise it only scales ``grad_norm``.
            noise, timesteps: fixed values instead of random ones.
            guidance_eval: also decode what the network saw and what it made of it, into ``evaluation``.

        Raises:
            NonFiniteScoreError: the score is not finite.
        """
        check_rest_of_batch(batch, self)
        if self.cfg.use_same_noise and levels is None:
            raise ValueError("use_same_noise needs to know how many levels the batch has: call distill(..., levels=L)")
        levels = levels or 1
        if len(rgb) % levels:
            raise ValueError(f"{len(rgb)} images do not divide into {levels} levels")
        views = len(rgb) // levels
        condition, camera = self._frames(frame_indices), self.camera(elevation, azimuth, camera_distances)
        latents = self.encode(rgb)
        if self.cfg.use_same_noise:
            timesteps = self.sample_timesteps(views).repeat(levels) if timesteps is None else timesteps
            noise = torch.randn_like(latents[:views]).repeat(levels, 1, 1, 1) if noise is None else noise

        def predict(noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return self.predict(noisy, t, condition, camera)

        evaluate = self._evaluation if guidance_eval else None
        return self.distil_latents(latents, predict, timesteps, noise, levels, evaluate)
