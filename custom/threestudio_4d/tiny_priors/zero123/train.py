"""Train the built-in Zero123 prior on renders of posed meshes.

One process a GPU:
``torchrun --nproc_per_node 4 -m threestudio_4d.tiny_priors.zero123.train --pack pack.npz --out run``.
A second call with the same ``--out`` goes on where the first one stopped.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...arguments import Amount, Share, Side
from ...command import command
from ...diffusion.zero123.model import Zero123Model, camera_vector
from ..rendering.scenes import PosedMeshes
from ..sampling.jitter import ShapeJitter
from ..sampling.pairs import PairSampler
from ..training.loop import TrainingConfig, draw_timesteps, parse_config, train
from .evaluation import NovelViewPairs, baseline_views, one_step_views, sampled_views, scores
from .networks import build_zero123_tiny


@dataclass(kw_only=True)
class Zero123TrainingConfig(TrainingConfig):
    """More settings.

    Attributes:
        pack: assets to render.
        benchmark: folder of clips with ground truth to score on (the layout of ``make_benchmark``), or none.
        initial: folder of a prior whose weights to start from.
        jitter_steps: new shapes and palettes every so many steps (see ``ShapeJitter``); 0 keeps the assets as they are.
        condition_dropout: share of pairs without a picture, for classifier-free guidance.
        terminal_share: share of pairs at the last timestep (pure noise), where the posterior mean is learnt.
    """

    pack: str
    benchmark: str | None = None
    initial: str | None = None
    jitter_steps: Amount = 20
    image_size: Side = 64
    condition_dropout: Share = 0.1
    terminal_share: Share = 0.1


def diffusion_loss(
    model: Zero123Model,
    pictures: Tensor,
    targets: Tensor,
    camera: Tensor,
    t: Tensor,
    noise: Tensor,
    dropped: Tensor,
) -> Tensor:
    """v-prediction loss (Salimans and Ho, 2022) of one batch.

    Args:
        pictures: what the prior is given, [B, 3, S, S] in [0, 1].
        targets: what it shall draw, [B, 3, S, S].
        camera: [B, 4].
        t: timesteps, [B].
        noise: [B, C, h, w].
        dropped: 1 where the pair loses its picture, [B].
    """
    x0 = model.encode(targets, sample=False)
    alpha = model.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - model.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
    noisy = alpha * x0 + sigma * noise
    condition = model.encode_condition(pictures)
    kept = (1 - dropped).view(-1, 1, 1)
    context = model.context(condition, camera) * kept
    output = model.denoise(noisy, t, context, condition.latents * kept[..., None], camera * kept[..., 0])
    return F.mse_loss(output, alpha * noise - sigma * x0)


class Zero123Task:
    """Pairs of views of one pose; scored on novel views of objects that are not in the pack."""

    def __init__(self, config: Zero123TrainingConfig, device: torch.device, seed: int) -> None:
        self.config, self.device = config, device
        model = Zero123Model.load(config.initial) if config.initial else build_zero123_tiny(config.image_size)
        self.model = model.to(device).train()
        meshes = PosedMeshes.load(config.pack, device)
        self.sampler = PairSampler(meshes, seed=seed, resolution=config.image_size)
        self.jitter = ShapeJitter(meshes, seed=seed + 1) if config.jitter_steps else None
        self.benchmark = None
        if config.benchmark:
            self.benchmark = NovelViewPairs.load(config.benchmark, config.image_size).to(device)
            for name, views in baseline_views(self.benchmark).items():
                print(name, scores(views, self.benchmark), flush=True)

    def refresh(self, step: int) -> None:
        if self.jitter is not None and step % self.config.jitter_steps == 0:
            self.jitter.refresh()

    def draw(self, count: int) -> tuple[Tensor, ...]:
        batch = self.sampler(count)
        view = (batch.elevation, batch.azimuth, batch.distance)
        camera = camera_vector(*view, batch.cond_elevation, batch.cond_azimuth, batch.cond_distance)
        t = draw_timesteps(count, self.model.num_train_timesteps - 1, self.config.terminal_share, self.device)
        noise = torch.randn((count, *self.model.latent_shape), device=self.device)
        dropped = (torch.rand(count, device=self.device) < self.config.condition_dropout).float()
        return batch.cond, batch.target, camera, t, noise, dropped

    def loss(self, model: Zero123Model, *batch: Tensor) -> Tensor:
        return diffusion_loss(model, *batch)

    def evaluate(self, average: Zero123Model, final: bool) -> dict[str, Any]:
        if self.benchmark is None:
            return {}
        views = {"one_step": one_step_views(average, self.benchmark)}
        if final:
            views["sampled"] = sampled_views(average, self.benchmark)
        return {name: scores(value.float(), self.benchmark) for name, value in views.items()}

    def save(self, average: Zero123Model, folder: Path) -> None:
        average.save(folder)


@command()
def main(argv: list[str] | None = None) -> None:
    config = parse_config(Zero123TrainingConfig, __doc__, argv, batch_size=512)
    train(lambda device, seed: Zero123Task(config, device, seed), config)


if __name__ == "__main__":
    sys.exit(main())
