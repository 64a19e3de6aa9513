"""Train the built-in text-to-video prior ``t2v-tiny`` on renders of moving meshes and their captions.

    python -m threestudio_4d.prior.train_t2v --pack motion.npz --text clip-tiny --out run/t2v --minutes 12

A second call with the same ``--out`` goes on where the first one stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..guidance.score_distillation import add_noise, v_from_eps_x0
from ..guidance.t2v_model import TextToVideoModel
from .captions import TEMPLATES, Captions
from .clip_model import ImageTextModel
from .clip_sampler import ClipSampler
from .jitter import ShapeJitter
from .scenes import PosedMeshes
from .sentence_table import SentenceTable
from .t2v_evaluation import CaptionedClips, denoising_losses, one_step_clips, psnr, sample_clips, sample_scores
from .t2v_networks import FRAMES, build_t2v_tiny
from .text_training import TextTrainingConfig
from .training import draw_timesteps, parse_config, train
from .view_words import VIEW_WORDS, draw_views

MOST_SEQUENCES = 65535  # that one call of CUDA's attention takes


@dataclass(kw_only=True)
class T2vTrainingConfig(TextTrainingConfig):
    """Settings of the training of ``t2v-tiny``; see ``TextTrainingConfig`` for the others.

    Attributes:
        frames: of the clips; the pack holds whole ones (``threestudio_4d.prior.assets --clip-frames 24``).
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

    frames: int = FRAMES
    strides: str = "2"
    channels: str = "96,96"
    still_share: float = 0.05
    action_share: float = 0.85
    view_share: float = 0.5
    timestep_shift: float = 2.0
    recoloured_share: float = 0.1
    evaluation_clips: int = 256
    evaluation_steps: int = 30
    evaluation_scale: float = 4.0


def shifted(t: Tensor, last: int, shift: float) -> Tensor:
    """Timesteps [B] long in [0, last], moved towards more noise: ``u -> s u / (1 + (s - 1) u)`` of ``u = t / last``."""
    u = t / last
    return (last * shift * u / (1 + (shift - 1) * u)).round().long()


class T2vTask:
    """Clips with their captions; see ``training.PriorTask``."""

    def __init__(self, config: T2vTrainingConfig, device: torch.device, seed: int) -> None:
        self.config = config
        self.clip = ImageTextModel.load(config.text, device)
        model = build_t2v_tiny(self.clip.text, config.image_size, config.frames, config.widths)
        self.model = model.to(device).train()
        self.shape = _latent_shape(model, config)
        if device.type == "cuda" and config.batch_size * self.shape[-1] * self.shape[-2] > MOST_SEQUENCES:
            raise UserError(
                f"batch_size={config.batch_size} is too much for attention along time on a GPU: at most "
                f"{MOST_SEQUENCES // (self.shape[-1] * self.shape[-2])} clips of this size"
            )
        self.meshes = PosedMeshes.load(config.pack, device, config.limit or None)
        self.captions = Captions.from_meshes(self.meshes, TEMPLATES)
        half = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.table = SentenceTable(self.clip.text, self.captions.sentences, VIEW_WORDS, half)
        self.sampler = self._sampler(seed, False, config.still_share)
        self.held_out = self._clips(validation=True)
        self.training = self._clips(validation=False)
        self.mean_frame = self.training.video.mean((0, 1))
        self.jitter = None
        if config.jitter_steps:
            self.jitter = ShapeJitter(self.meshes, seed, recoloured_share=config.recoloured_share, by_asset=True)
        self.generator = torch.Generator(device).manual_seed(seed)

    def _sampler(self, seed: int, validation: bool, still_share: float) -> ClipSampler:
        config = self.config
        return ClipSampler(
            self.meshes, config.frames, config.image_size, seed, validation, still_share, self.captions,
            cfg=ClipSampler.Config(strides=tuple(int(stride) for stride in config.strides.split(","))),
        )  # fmt: skip

    @torch.no_grad()
    def _clips(self, validation: bool) -> CaptionedClips:
        """Clips of moving assets in their own shape, the same in every run, captioned with asset and action."""
        sampler = self._sampler(4321, validation, 0.0)
        return CaptionedClips.draw(sampler, self.captions, self.meshes.pose_asset, self.config.evaluation_clips)

    def draw(self, count: int) -> tuple[Tensor, ...]:
        """Clips [B, F, 3, S, S], contexts [B, L, D], timesteps [B] and noise [B, C, F, h, w]."""
        clips, config = self.sampler(count), self.config
        device = clips.video.device
        u = torch.rand(4, count, generator=self.generator, device=device)
        sentence = self.captions.draw(clips.pose[:, 0], self.meshes.pose_asset, u[:2], config.action_share)
        view = draw_views(clips.elevation, clips.azimuth, u[2], config.view_share)
        context = self.table(sentence, view, u[3] < config.text_dropout)
        last = self.model.num_train_timesteps - 1
        t = shifted(draw_timesteps(count, last, config.terminal_share, device), last, config.timestep_shift)
        return clips.video, context, t, torch.randn((count, *self.shape), device=device)

    def loss(self, model: TextToVideoModel, video: Tensor, context: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """v-prediction loss (Salimans and Ho, 2022)."""
        x0, alpha_bar = model.encode(video, sample=False), model.alphas_cumprod[t]
        output = model.denoise(add_noise(x0, noise, alpha_bar), t, context)
        return F.mse_loss(output, v_from_eps_x0(noise, x0, alpha_bar))

    def refresh(self, step: int) -> None:
        """New shapes and palettes every ``jitter_steps``."""
        if self.jitter is not None and step % self.config.jitter_steps == 0:
            self.jitter.refresh()

    def evaluate(self, average: TextToVideoModel, final: bool) -> dict[str, Any]:
        """Losses with the right, a wrong and no text on both splits; at the end also scores of samples."""
        scores: dict[str, Any] = {}
        for name, clips in (("held_out", self.held_out), ("train", self.training)):
            contexts = {
                "right_text": self.table(clips.caption),
                "wrong_text": self.table(clips.wrong_captions()),
                "no_text": self.table.empty.expand(len(clips), -1, -1),
            }
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

    def save(self, average: TextToVideoModel, folder: Path) -> None:
        average.save(folder)


def _latent_shape(model: TextToVideoModel, config: T2vTrainingConfig) -> tuple[int, int, int, int]:
    """(C, F, h, w)."""
    channels, height, width = model.latent_shape()
    return channels, config.frames, height, width


def main() -> None:
    config = parse_config(T2vTrainingConfig, __doc__, minutes=12.0, batch_size=128, evaluate_minutes=2.0)
    train(lambda device, seed: T2vTask(config, device, seed), config)


if __name__ == "__main__":
    main()
