"""Train the built-in text-to-video prior ``t2v-tiny`` on renders of moving meshes and their captions.

    python -m threestudio_4d.tiny_priors.t2v.train --pack motion.npz --text clip-tiny --out run/t2v

Two stages, as ModelScope's UNet came from Stable Diffusion's: all that looks at one frame learns from single pictures
(``run/t2v/pictures``), of which there are many more than clips, then everything learns from clips. The prior is
``run/t2v/clips/prior``. A second call with the same ``--out`` goes on where the first one stopped.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet3DConditionModel
from torch import Tensor

from ...arguments import Count, Frames, Scale, Share, Steps
from ...command import command
from ...diffusion.t2v.model import TextToVideoModel
from ...diffusion.t2v.temporal_bypass import temporal_bypass, temporal_modules
from ...errors import UserError
from ...guidance.score_distillation import add_noise, v_from_eps_x0
from ..assets.captions import TEMPLATES, Captions
from ..image_text.model import ImageTextModel
from ..rendering.scenes import PosedMeshes
from ..sampling.clip_sampler import ClipSampler
from ..sampling.jitter import ShapeJitter
from ..sampling.sentence_table import SentenceTable
from ..sampling.view_sampler import ViewSampler
from ..sampling.view_words import VIEW_WORDS, draw_views
from ..training.initial_weights import start_unet_from
from ..training.loop import (
    BatchSize,
    LearningRate,
    Minutes,
    NumberList,
    Weight,
    draw_timesteps,
    parse_config,
    stage_config,
    train_stages,
)
from ..training.text import TextTrainingConfig
from .evaluation import CaptionedClips, denoising_losses, one_step_clips, psnr, sample_clips, sample_scores
from .networks import FRAMES, build_t2v_tiny

MOST_SEQUENCES = 65535  # that one call of CUDA's fused attention takes


@dataclass(kw_only=True)
class T2vTrainingConfig(TextTrainingConfig):
    """Settings of the training of ``t2v-tiny``; see ``TextTrainingConfig`` for the others.

    Attributes:
        picture_minutes, picture_max_steps, picture_batch_size, picture_learning_rate: of the stage on pictures; with
            ``initial`` there is none.
        frames: of the clips; the pack holds whole ones (``threestudio_4d.tiny_priors.assets.pack --clip-frames 24``).
        strides: steps through the 24 poses of a clip, separated by commas. The network is not told which: with one
            value all clips run at one speed. 2 shows four thirds of a cycle in 16 frames.
        still_share: share of clips that are one picture of a thing that does not move.
        action_share: share of captions that say what the asset does ("a fox walking"), the rest only name it.
        view_share: share of captions that end in view words (", front view").
        timestep_shift: s of the warp ``u -> s u / (1 + (s - 1) u)`` of uniform timesteps. Frames of a clip repeat each
            other, so what a clip shows is decided at higher noise than in a picture: 1 leaves timesteps uniform.
        recoloured_share: share of assets that get random colours with new shapes; captions know nothing of it.
        evaluation_clips: that the scores are measured on, of each split.
        evaluation_steps: steps of DDIM of the samples that are scored.
    """

    picture_minutes: Minutes = 6.0
    picture_max_steps: Count = 10**9
    picture_batch_size: BatchSize = 1024
    picture_learning_rate: LearningRate = 1e-3
    frames: Frames = FRAMES
    strides: NumberList = "2"
    channels: NumberList = "96,96"
    still_share: Share = 0.05
    action_share: Share = 0.85
    view_share: Share = 0.5
    timestep_shift: Weight = 2.0
    recoloured_share: Share = 0.1
    evaluation_clips: Count = 256
    evaluation_steps: Steps = 30
    evaluation_scale: Scale = 4.0


def shifted(t: Tensor, last: int, shift: float) -> Tensor:
    """Timesteps [B] long in [0, last], moved towards more noise: ``u -> s u / (1 + (s - 1) u)`` of ``u = t / last``."""
    u = t / last
    return (last * shift * u / (1 + (shift - 1) * u)).round().long()


class _CaptionedTask:
    """What the two stages share: the network, captioned assets, timesteps, the loss."""

    def __init__(self, config: T2vTrainingConfig, device: torch.device, seed: int) -> None:
        self.config, self.device = config, device
        self.clip = ImageTextModel.load(config.text, device)
        model = build_t2v_tiny(self.clip.text, config.image_size, config.frames, config.widths)
        self.model = model.to(device).train()
        _, height, width = model.latent_shape()
        if device.type == "cuda" and config.batch_size * height * width > MOST_SEQUENCES:
            raise UserError(
                f"batch_size={config.batch_size} is too much for attention along time on a GPU: at most "
                f"{MOST_SEQUENCES // (height * width)} clips of this size"
            )
        self.meshes = PosedMeshes.load(config.pack, device, config.limit or None)
        self.captions = Captions.from_meshes(self.meshes, TEMPLATES)
        half = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.table = SentenceTable(self.clip.text, self.captions.sentences, VIEW_WORDS, half)
        self.jitter: ShapeJitter | None = None  # made after the clips that are scored on, which show assets as they are
        self.generator = torch.Generator(device).manual_seed(seed)

    def _clip_sampler(self, seed: int, validation: bool, still_share: float, frames: int) -> ClipSampler:
        config = self.config
        return ClipSampler(
            self.meshes, frames, config.image_size, seed, validation, still_share, self.captions,
            cfg=ClipSampler.Config(strides=tuple(int(stride) for stride in config.strides.split(","))),
        )  # fmt: skip

    @torch.no_grad()
    def _true_clips(self, validation: bool, frames: int, count: int) -> CaptionedClips:
        """Clips of moving assets in their own shape, the same in every run, captioned with asset and action."""
        sampler = self._clip_sampler(4321, validation, 0.0, frames)
        return CaptionedClips.draw(sampler, self.captions, self.meshes.pose_asset, count)

    def _new_shapes(self, seed: int) -> ShapeJitter | None:
        if not self.config.jitter_steps:
            return None
        return ShapeJitter(self.meshes, seed, recoloured_share=self.config.recoloured_share, by_asset=True)

    def _noised(
        self, video: Tensor, pose: Tensor, elevation: Tensor, azimuth: Tensor, timestep_shift: float
    ) -> tuple[Tensor, ...]:
        """Clips [B, F, 3, S, S] with contexts [B, L, D], timesteps [B] and noise [B, C, F, h, w]."""
        config, count = self.config, len(video)
        u = torch.rand(4, count, generator=self.generator, device=self.device)
        sentence = self.captions.draw(pose, self.meshes.pose_asset, u[:2], config.action_share)
        view = draw_views(elevation, azimuth, u[2], config.view_share)
        context = self.table(sentence, view, u[3] < config.text_dropout)
        last = self.model.num_train_timesteps - 1
        t = shifted(draw_timesteps(count, last, config.terminal_share, self.device), last, timestep_shift)
        channels, height, width = self.model.latent_shape()
        return video, context, t, torch.randn((count, channels, video.shape[1], height, width), device=self.device)

    def loss(self, model: TextToVideoModel, video: Tensor, context: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """v-prediction loss (Salimans and Ho, 2022)."""
        x0, alpha_bar = model.encode(video, sample=False), model.alphas_cumprod[t]
        output = model.denoise(add_noise(x0, noise, alpha_bar), t, context)
        return F.mse_loss(output, v_from_eps_x0(noise, x0, alpha_bar))

    def refresh(self, step: int) -> None:
        """New shapes and palettes every ``jitter_steps``."""
        if self.jitter is not None and step % self.config.jitter_steps == 0:
            self.jitter.refresh()

    def save(self, average: TextToVideoModel, folder: Path) -> None:
        average.save(folder)


class PictureTask(_CaptionedTask):
    """Single pictures of all assets, half of them animated ones, through the network without what looks along time."""

    def __init__(self, config: T2vTrainingConfig, device: torch.device, seed: int) -> None:
        super().__init__(config, device, seed)
        self.bypass = ExitStack()  # never left: this network and its moving average see nothing but pictures
        self.bypass.enter_context(temporal_bypass(self.model.unet))
        for module in temporal_modules(self.model.unet):
            module.requires_grad_(False)
        self.sampler = ViewSampler(self.meshes, 1, config.image_size, seed, captions=self.captions)
        self.pictures = {
            name: self._true_clips(name == "held_out", 1, 4 * config.evaluation_clips) for name in ("held_out", "train")
        }
        self.jitter = self._new_shapes(seed)

    def draw(self, count: int) -> tuple[Tensor, ...]:
        """Pictures as clips [B, 1, 3, S, S], contexts [B, L, D], timesteps [B] and noise [B, C, 1, h, w]."""
        views = self.sampler(count)
        return self._noised(views.images, views.pose, views.elevation[:, 0], views.azimuth[:, 0], 1.0)

    def evaluate(self, average: TextToVideoModel, final: bool) -> dict[str, Any]:
        """Losses with the right, a wrong and no text on both splits."""
        return {
            name: {"loss": denoising_losses(average, shown, self.table.compared(shown.caption, shown.wrong_captions()))}
            for name, shown in self.pictures.items()
        }


class ClipTask(_CaptionedTask):
    """Clips with their captions; see ``training.PriorTask``."""

    def __init__(self, config: T2vTrainingConfig, initial: str | Path | None, device: torch.device, seed: int) -> None:
        super().__init__(config, device, seed)
        if initial is not None:
            start_unet_from(self.model.unet, initial, UNet3DConditionModel)
        self.sampler = self._clip_sampler(seed, False, config.still_share, config.frames)
        self.held_out = self._true_clips(True, config.frames, config.evaluation_clips)
        self.training = self._true_clips(False, config.frames, config.evaluation_clips)
        self.mean_frame = self.training.video.mean((0, 1))
        self.jitter = self._new_shapes(seed)

    def draw(self, count: int) -> tuple[Tensor, ...]:
        """Clips [B, F, 3, S, S], contexts [B, L, D], timesteps [B] and noise [B, C, F, h, w]."""
        clips = self.sampler(count)
        shift = self.config.timestep_shift
        return self._noised(clips.video, clips.pose[:, 0], clips.elevation, clips.azimuth, shift)

    def evaluate(self, average: TextToVideoModel, final: bool) -> dict[str, Any]:
        """Losses with the right, a wrong and no text on both splits; at the end also scores of samples."""
        scores: dict[str, Any] = {}
        for name, clips in (("held_out", self.held_out), ("train", self.training)):
            contexts = self.table.compared(clips.caption, clips.wrong_captions())
            means = {kind: psnr(one_step_clips(average, context), clips.video) for kind, context in contexts.items()}
            means["static_mean"] = psnr(self.mean_frame.expand_as(clips.video), clips.video)
            scores[name] = {
                "loss": denoising_losses(average, clips, contexts),
                "one_step_psnr": means,
            }
            if final:
                steps, scale = self.config.evaluation_steps, self.config.evaluation_scale
                samples = {
                    kind: sample_clips(average, context, self.table.empty, steps, scale)
                    for kind, context in contexts.items()
                }
                others = self.training.video if clips is self.held_out else None
                scores[name]["samples"] = sample_scores(
                    self.clip, self.captions.sentences, samples, clips, self.mean_frame, others
                )
        return scores


def train_t2v(config: T2vTrainingConfig) -> None:
    """Both stages, the second from the first; only the second where ``initial`` names what to start from."""
    pictures = stage_config(
        config,
        "pictures",
        minutes=config.picture_minutes,
        max_steps=config.picture_max_steps,
        batch_size=config.picture_batch_size,
        learning_rate=config.picture_learning_rate,
    )
    initial = config.initial or Path(pictures.out) / "prior"
    stages = [(stage_config(config, "clips"), lambda device, seed: ClipTask(config, initial, device, seed))]
    if config.initial is None:
        stages.insert(0, (pictures, lambda device, seed: PictureTask(config, device, seed)))
    train_stages(stages)


@command()
def main(argv: list[str] | None = None) -> None:
    train_t2v(parse_config(T2vTrainingConfig, __doc__, argv, minutes=12.0, batch_size=128, evaluate_minutes=2.0))


if __name__ == "__main__":
    sys.exit(main())
