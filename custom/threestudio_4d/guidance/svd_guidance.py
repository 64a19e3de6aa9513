"""``svd-guidance``: score distillation of whole clips from Stable Video Diffusion, which is shown one picture.

A step encodes the frames of a clip, adds noise of one level to all of them, lets the network see them together, and
pulls the clip towards the clean one that it predicts. This is SDS (Poole et al., 2022) in the parametrisation of Karras
et al. (2022): with x = z + sigma eps and alpha_bar = 1 / (sigma^2 + 1) the gradient on the latents is

    w (eps_hat - eps) = w / sigma (z - z_hat),        ``sds``: w = 1 - alpha_bar, thus w / sigma = sigma / (sigma^2 + 1)

The window of noise levels, ``min_step_percent`` to ``max_step_percent``, is read on the logarithm of sigma: 0 is the
lowest level that the prior was trained at, 1 the highest, e.g. for the published range 0.002 to 700

    percent   0.2     0.4    0.5    0.6    0.7    0.8    0.9    0.98
    sigma     0.026   0.33   1.18   4.2    15     54     196    543
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Optional

import torch
from annotated_types import Interval
from torch.utils.checkpoint import checkpoint

import threestudio
from threestudio.utils.misc import C
from threestudio.utils.typing import Float, Int, Tensor

from ..batch import check_rest_of_batch
from ..diffusion.svd import edm
from ..diffusion.svd.model import SVDCondition, SVDModel, load_svd
from ..values import Count, Pixels, Positive, Schedule, Text
from .base import DistillationGuidance
from .score_distillation import ScoreDistillation

NOISE_LEVELS = 1000


@threestudio.register("svd-guidance")
class SVDGuidance(DistillationGuidance):
    """Score distillation of clips of frames that belong to one picture each."""

    @dataclass
    class Config(DistillationGuidance.Config):
        pretrained_model_name_or_path: Text = "svd-tiny"
        guidance_scale: Annotated[Any, Schedule()] = 3.0
        """Schedule. Weight of classifier-free guidance at the last frame; it rises linearly over the frames."""
        min_guidance_scale: Annotated[Any, Schedule()] = 1.0
        """Schedule. Its weight at the first frame, which is the picture itself. Both 1: no second pass."""
        min_step_percent: Annotated[Any, Schedule(0, 1)] = 0.3
        """Schedule. Noise levels are drawn between these fractions of the range of log sigma."""
        max_step_percent: Annotated[Any, Schedule(0, 1)] = 0.9
        height: Optional[Pixels] = None  # noqa: UP045 - OmegaConf 2.3 reads Optional on every Python version
        """Size at which the prior sees the frames; null: its own square. Published models know 576 x 1024 best."""
        width: Optional[Pixels] = None  # noqa: UP045
        fps: Positive = 7.0
        """Frame rate that the prior is told."""
        motion_bucket_id: Annotated[float, Interval(ge=0)] = 127.0
        """How much is to move, 0 to 255."""
        noise_aug_strength: Annotated[float, Interval(ge=0)] = 0.02
        """Noise on the picture; the prior follows it less closely the more there is."""
        sample_posterior: bool = False
        """Latents of frames are samples of the encoder's posterior; false takes its mean."""
        encode_chunk_size: Optional[Count] = None  # noqa: UP045
        """Frames that the encoder sees at once; null: all. Saves memory together with ``vae_checkpointing``."""
        decode_chunk_size: Optional[Count] = None  # noqa: UP045
        """Frames that the decoder sees at once, in samples and pictures to look at; null: all."""

    cfg: Config

    def configure(self, model: SVDModel | None = None) -> None:
        """Load the prior; ``model`` is used instead of the one that the config names, if given."""
        if model is None:
            threestudio.info(f"Loading the SVD prior {self.cfg.pretrained_model_name_or_path}")
            model = load_svd(self.cfg.pretrained_model_name_or_path)
        half_dtype = self.half_dtype()
        if half_dtype is not None:
            torch.nn.Module.to(model.image_encoder, half_dtype)
        self.model = self.take_model(model)
        side = self.model.image_size
        self.size = (self.cfg.height or side, self.cfg.width or side)
        self.model.latent_shape(*self.size)  # a wrong size is told of now, not at the first step
        self.condition: SVDCondition | None = None
        self.pictures: Tensor | None = None
        self.sigmas = edm.log_spaced_sigmas(*self.model.sigma_range, NOISE_LEVELS).float().to(self.device)
        self.set_noise_schedule(edm.alpha_bar(self.sigmas), "v_prediction")

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Read the schedules."""
        super().update_step(epoch, global_step, on_load_weights)
        self.min_guidance_scale = float(C(self.cfg.min_guidance_scale, epoch, global_step))

    @property
    def num_frames(self) -> int:
        """Frames of a clip that the prior was trained for; others work less well."""
        return self.model.num_frames

    # Conditions -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, images: Float[Tensor, "N H W 3"]) -> None:
        """Encode the pictures that clips start from, on white and in [0, 1], once. ``picture_indices`` refer to them.

        The image encoder is needed only here: on a GPU it waits in main memory from then on.
        """
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"prepare wants images [N, H, W, 3], got {tuple(images.shape)}")
        self.pictures = images.to(self.device, torch.float32).movedim(-1, 1)
        self.model.image_encoder.to(self.device)
        with self.single_precision():
            condition = self.model.encode_condition(self.pictures, self.size, self.cfg.noise_aug_strength)
        self.condition = SVDCondition(condition.embeddings.float(), condition.latents.float())
        if self.device.type == "cuda":
            self.model.image_encoder.to("cpu")

    def _chosen(self, picture_indices: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        if self.condition is None:
            raise RuntimeError("svd-guidance has no picture yet: call prepare(images) first")
        # Checked on the CPU only: on a GPU it would wait for the device, which itself reports an index out of range.
        count = len(self.condition)
        if picture_indices.device.type == "cpu" and int(picture_indices.max()) >= count:
            raise IndexError(f"picture {int(picture_indices.max())} asked for, but {count} pictures are prepared")
        return picture_indices.to(self.device)

    def _numbers(self, fps: float | Tensor | None, motion_bucket: float | Tensor | None) -> tuple[Any, Any, float]:
        cfg = self.cfg
        fps = cfg.fps if fps is None else fps
        return fps, cfg.motion_bucket_id if motion_bucket is None else motion_bucket, cfg.noise_aug_strength

    # Networks ---------------------------------------------------------------------------------------------------------

    def encode(self, rgb: Float[Tensor, "N H W 3"]) -> Float[Tensor, "N C h w"]:
        """Scaled latents of frames in [0, 1], differentiable."""

        def encode(images: Tensor) -> Tensor:
            return self.model.encode_frames(images, self.cfg.sample_posterior)

        with self.single_precision():
            images = self.model.resize(rgb.to(self.device, torch.float32).movedim(-1, 1), self.size)
            chunks = images.split(self.cfg.encode_chunk_size or len(images))
            if self.cfg.vae_checkpointing:
                parts = [checkpoint(encode, chunk, use_reentrant=False) for chunk in chunks]
            else:
                parts = [encode(chunk) for chunk in chunks]
            return torch.cat(parts).float() * self.model.vae.config.scaling_factor

    def predict(
        self,
        noisy: Float[Tensor, "B T C h w"],
        timesteps: Int[Tensor, " B"],
        condition: SVDCondition,
        time_ids: Float[Tensor, "B 3"],
    ) -> tuple[Float[Tensor, "B T C h w"], Float[Tensor, "B T C h w"]]:
        """Noise and clean latents that the prior sees after guidance.

        Args:
            noisy: sqrt(alpha_bar) z + sqrt(1 - alpha_bar) eps, as ``distil_latents`` makes it.
            timesteps: indices of ``sigmas``.
        """
        sigma = self.sigmas[timesteps]
        scales = None
        if self.guidance_scale != 1 or self.min_guidance_scale != 1:
            frames = noisy.shape[1]
            scales = edm.frame_guidance_scales(frames, self.min_guidance_scale, self.guidance_scale, self.device)
        with self.single_precision():
            exploded = noisy.float() * (sigma.square() + 1).sqrt().view(-1, 1, 1, 1, 1)
            clean = self.model.predict(exploded, sigma, condition, time_ids, scales, self.cfg.max_batch)
            return (exploded - clean) / sigma.view(-1, 1, 1, 1, 1), clean

    @torch.no_grad()
    def sample(
        self,
        picture_indices: Int[Tensor, " B"] | None = None,
        num_frames: int | None = None,
        steps: int = 25,
        fps: float | Tensor | None = None,
        motion_bucket: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B T h w 3"]:
        """Clips that the prior draws on its own: to see what the distillation will pull towards."""
        indices = self._chosen(torch.zeros(1, dtype=torch.long) if picture_indices is None else picture_indices)
        fps, motion_bucket, strength = self._numbers(fps, motion_bucket)
        self.model.image_encoder.to(self.device)
        with self.single_precision():
            clips = self.model.sample(
                self.pictures[indices],
                num_frames,
                self.size,
                fps,
                motion_bucket,
                strength,
                steps,
                self.min_guidance_scale,
                self.guidance_scale,
                self.cfg.decode_chunk_size,
                generator,
            )
        if self.device.type == "cuda":
            self.model.image_encoder.to("cpu")
        return clips.movedim(2, -1)

    # Distillation -----------------------------------------------------------------------------------------------------

    def distill(
        self,
        rgb: Float[Tensor, "BT H W 3"],
        num_frames: int | None = None,
        picture_indices: Int[Tensor, " B"] | None = None,
        fps: float | Tensor | None = None,
        motion_bucket: float | Tensor | None = None,
        noise: Float[Tensor, "B T C h w"] | None = None,
        timesteps: Int[Tensor, " B"] | None = None,
        guidance_eval: bool = False,
        **batch: Any,
    ) -> ScoreDistillation:
        """Distil the score of every clip.

        Args:
            rgb: frames in [0, 1], any size, clip by clip and in the order of time.
            num_frames: T; by default all frames are one clip.
            picture_indices: which prepared picture each clip starts from, long; by default the first.
            fps, motion_bucket: instead of those of the config, numbers or [B].
            noise, timesteps: fixed values instead of random ones; timesteps are indices of ``sigmas``.
            guidance_eval: also decode what the network saw and what it made of it, into ``evaluation``.

        Raises:
            NonFiniteScoreError: the score is not finite.
        """
        check_rest_of_batch(batch, self)
        num_frames = num_frames or len(rgb)
        if len(rgb) % num_frames:
            raise ValueError(f"{len(rgb)} frames do not divide into clips of {num_frames}")
        clips = len(rgb) // num_frames
        if picture_indices is None:
            picture_indices = torch.zeros(clips, dtype=torch.long)
        condition = self._chosen(picture_indices)
        condition = self.condition[condition]
        time_ids = self.model.time_ids(*self._numbers(fps, motion_bucket), clips)
        return self.distil_latents(
            self.encode(rgb).unflatten(0, (clips, num_frames)),
            lambda noisy, t: self.predict(noisy, t, condition, time_ids),
            timesteps,
            noise,
            evaluate=self._evaluation if guidance_eval else None,
        )

    def _evaluation(self, noisy: Tensor, x0: Tensor, timesteps: Tensor) -> dict[str, Any]:
        def decode(latents: Tensor) -> Tensor:
            return self.model.decode(latents, self.cfg.decode_chunk_size).flatten(0, 1).movedim(1, -1)

        levels = timesteps.float() / NOISE_LEVELS
        return self.look(decode, noisy, x0, levels.repeat_interleave(noisy.shape[1]))
