"""Train the built-in text-to-multi-view prior ``mvdream-tiny`` on renders of posed meshes and their captions.

    python -m threestudio_4d.tiny_priors.mvdream.train --pack motion.npz --text clip-tiny --initial run/sd/prior \
        --out run/mvdream --minutes 12

MVDream starts from Stable Diffusion, and ``mvdream-tiny`` from ``sd-tiny`` (``--initial``).

A second call with the same ``--out`` goes on where the first one stopped.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from ...arguments import Count
from ...command import command
from ...diffusion.mvdream.model import VIEWS, MVDreamModel, camera_condition
from ...guidance.score_distillation import add_noise, v_from_eps_x0
from ..assets.captions import TEMPLATES, Captions
from ..image_text.model import ImageTextModel
from ..rendering.scenes import PosedMeshes
from ..sampling.jitter import ShapeJitter
from ..sampling.sentence_table import SentenceTable
from ..sampling.view_sampler import ViewSampler
from ..sd.evaluation import sample_scores
from ..training.initial_weights import start_unet_from
from ..training.loop import NumberList, draw_timesteps, parse_config, train
from ..training.text import TextTrainingConfig
from .evaluation import (
    ViewGroups,
    consistency_scores,
    denoising_losses,
    level_views,
    one_step_psnr,
    sample_views,
    variants,
)
from .networks import build_mvdream_tiny


@dataclass(kw_only=True)
class MVDreamTrainingConfig(TextTrainingConfig):
    """Settings of the training of ``mvdream-tiny``; see ``TextTrainingConfig`` for the others. A sample is four views.

    Attributes:
        evaluation_groups: groups of views that the scores are measured on, of each split.
        evaluation_draws: samples for each sentence, at the end.
    """

    channels: NumberList = "48,96,96"
    evaluation_groups: Count = 512
    evaluation_draws: Count = 4


class MVDreamTask:
    """Groups of four views with their cameras and a caption; see ``training.PriorTask``."""

    def __init__(self, config: MVDreamTrainingConfig, device: torch.device, seed: int) -> None:
        self.config = config
        self.clip = ImageTextModel.load(config.text, device)
        self.model = build_mvdream_tiny(self.clip.text, config.image_size, config.widths).to(device)
        if config.initial:
            start_unet_from(self.model.unet, config.initial, UNet2DConditionModel, new="class_embedding.")
        self.meshes = PosedMeshes.load(config.pack, device, config.limit or None)
        self.captions = Captions.from_meshes(self.meshes, TEMPLATES)
        half = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.table = SentenceTable(self.clip.text, self.captions.sentences, ("",), half)
        self.sampler = ViewSampler(self.meshes, VIEWS, config.image_size, seed, captions=self.captions)
        self.held_out, self.training = self._groups(validation=True), self._groups(validation=False)
        self.mean_picture = self.training.images.mean((0, 1))
        self.level = {name: self._level(name == "held_out") for name in ("held_out", "train")}
        # Colours stay: captions name some of them.
        self.jitter = ShapeJitter(self.meshes, seed, recoloured_share=0.0) if config.jitter_steps else None
        self.generator = torch.Generator(device).manual_seed(seed)

    def _asset_captions(self, pose: Tensor) -> Tensor:
        """What the asset of each pose is, [B] long."""
        return self.captions.asset_caption_index[self.meshes.pose_asset[pose].long()]

    @torch.no_grad()
    def _groups(self, validation: bool) -> ViewGroups:
        """Groups of views, the same in every run, captioned with what the asset is."""
        config = self.config
        sampler = ViewSampler(self.meshes, VIEWS, config.image_size, 4321, validation, captions=self.captions)
        views = sampler(config.evaluation_groups)
        camera = camera_condition(views.c2w.flatten(0, 1)).unflatten(0, (-1, VIEWS))
        return ViewGroups(views.images, camera, self._asset_captions(views.pose))

    def _level(self, validation: bool) -> ViewGroups:
        """Views from level cameras, as many as samples are drawn for."""
        count = max(2, self.config.evaluation_groups // self.config.evaluation_draws)
        groups = level_views(self.meshes, count, self.config.image_size, validation)
        return ViewGroups(groups.images, groups.camera, self._asset_captions(groups.caption))

    def draw(self, count: int) -> tuple[Tensor, ...]:
        """Views [B V, 3, S, S], contexts [B, L, D], cameras [B V, 16], timesteps [B V], noise [B V, C, h, w]."""
        views, config = self.sampler(count), self.config
        device = views.images.device
        dropped = torch.rand(count, generator=self.generator, device=device) < config.text_dropout
        context = self.table(views.caption, None, dropped)
        t = draw_timesteps(count, self.model.num_train_timesteps - 1, config.terminal_share, device)
        noise = torch.randn((count * VIEWS, *self.model.latent_shape), device=device)
        camera = camera_condition(views.c2w.flatten(0, 1))
        return views.images.flatten(0, 1), context, camera, t.repeat_interleave(VIEWS), noise

    def loss(
        self, model: MVDreamModel, images: Tensor, context: Tensor, camera: Tensor, t: Tensor, noise: Tensor
    ) -> Tensor:
        """v-prediction loss (Salimans and Ho, 2022); the views of a group share their timestep, as in distillation."""
        x0, alpha_bar = model.encode(images, sample=False), model.alphas_cumprod[t]
        text = context.repeat_interleave(VIEWS, 0)
        output = model.denoise(add_noise(x0, noise, alpha_bar), t, text, camera)
        return F.mse_loss(output, v_from_eps_x0(noise, x0, alpha_bar))

    def refresh(self, step: int) -> None:
        """New shapes every ``jitter_steps``."""
        if self.jitter is not None and step % self.config.jitter_steps == 0:
            self.jitter.refresh()

    def evaluate(self, average: MVDreamModel, final: bool) -> dict[str, Any]:
        """Losses with one thing less at a time, on both splits; at the end also scores of samples."""
        scores: dict[str, Any] = {}
        for name, groups in (("held_out", self.held_out), ("train", self.training)):
            shown = variants(groups, self.table, self.table.empty)
            scores[name] = {
                "loss": denoising_losses(average, shown),
                "one_step_psnr": one_step_psnr(average, shown, self.mean_picture),
            }
            if final:
                other = self.level["train" if name == "held_out" else "held_out"]
                scores[name] |= self._sample_scores(average, self.level[name], other)
        return scores

    def _sample_scores(self, average: MVDreamModel, truth: ViewGroups, other: ViewGroups) -> dict[str, Any]:
        """Do samples show their sentence, and do their views belong together? ``other``: views of the other split."""
        config, table = self.config, self.table

        def drawn(captions: Tensor, draws: int) -> Tensor:
            """[G, draws, V, 3, S, S]"""
            context, camera = table(captions).repeat_interleave(draws, 0), truth.camera.repeat_interleave(draws, 0)
            views = sample_views(average, context, table.empty, camera, 25, config.evaluation_scale)
            return views.unflatten(0, (-1, draws))

        right = drawn(truth.caption, config.evaluation_draws)
        wrong = drawn(truth.wrong_captions(), 1)
        samples = {"right_text": right[:, 0].flatten(0, 1), "wrong_text": wrong[:, 0].flatten(0, 1)}
        seen = sample_scores(
            self.clip, self.captions.sentences, samples, truth.caption.repeat_interleave(VIEWS),
            truth.images.flatten(0, 1), {"other_split_renders": other.images.flatten(0, 1)}, self.mean_picture,
        )  # fmt: skip
        return {"consistency": consistency_scores(right, truth.images), "samples": seen}

    def save(self, average: MVDreamModel, folder: Path) -> None:
        average.save(folder)


@command()
def main(argv: list[str] | None = None) -> None:
    config = parse_config(MVDreamTrainingConfig, __doc__, argv, minutes=12.0, batch_size=256, evaluate_minutes=2.0)
    train(lambda device, seed: MVDreamTask(config, device, seed), config)


if __name__ == "__main__":
    sys.exit(main())
