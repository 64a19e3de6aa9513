"""Train the built-in prior from views to Gaussians, ``lgm-tiny``, on renders of posed meshes.

    torchrun --nproc_per_node 2 -m threestudio_4d.tiny_priors.lgm.train --pack pack.npz --out run --benchmark bench4d

LGM takes four views a quarter turn apart. In use there are four of them only behind a multi-view prior; from a clip
there is one picture a frame. So a batch has three kinds of scenes:

* one true view, and three that ``zero123-tiny`` draws in one step: means over what they may be. The network learns to
  make one solid thing of a sharp picture and three blurred ones, and starts from all that the image prior knows;
* one true view alone, the others left out: what it then makes does not lean on another prior's mistakes, which are
  fewer on the assets that both were trained on than elsewhere;
* four true views, the last three a little warped, recoloured and seen from wrong cameras, as drawn ones would be.

Samples of the image prior as input would cost as many passes as steps; means cost one, without gradient.

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

from ...arguments import Amount, Count, Rows, Share, Side
from ...command import command
from ...diffusion.lgm.checkpoint import load_lgm, save_lgm
from ...diffusion.lgm.model import LGMModel
from ...diffusion.lgm.picture import sides_of_pictures
from ...guidance.zero123_guidance import load_zero123
from ...renderer.gaussian import splat
from ..rendering.rasterise import camera_to_world
from ..rendering.scenes import PosedMeshes
from ..sampling.jitter import ShapeJitter
from ..sampling.splat_sampler import SIDES, SplatSampler, SplatViews
from ..training.loop import NumberList, TrainingConfig, Weight, parse_config, train
from ..zero123.evaluation import NovelViewPairs
from .evaluation import FOVY, four_view_scores, scores, views_of_pictures
from .networks import build_lgm_tiny


@dataclass(kw_only=True)
class LGMTrainingConfig(TrainingConfig):
    """More settings. A sample is a scene: four sides, and ``further`` views.

    Attributes:
        pack: assets to render; several with commas between.
        limit: at most that many animated assets and as many stills; 0 takes all.
        zero123: prior that draws the three sides which a picture does not show.
        benchmark: folder of clips with ground truth to score on (the layout of ``make_benchmark``), or none.
        initial: folder of a prior whose weights to start from.
        channels: of the network's levels, the finest first, separated by commas.
        further: views that are compared beside the four sides.
        drawn_share: share of scenes whose last three sides the image prior draws.
        single_share: share of scenes with one side only.
        jitter_steps: new shapes and palettes every so many steps (see ``ShapeJitter``); 0 keeps the assets.
        opacity_weight: of the squared error of opacity, beside that of colour.
        backend: of splatting.
    """

    pack: str
    limit: Amount = 0
    zero123: str = "zero123-tiny"
    benchmark: str | None = None
    initial: str | None = None
    image_size: Side = 64
    channels: NumberList = "64,128,160,160"
    further: Rows = 4
    drawn_share: Share = 0.5
    single_share: Share = 0.25
    jitter_steps: Amount = 20
    opacity_weight: Weight = 0.5
    evaluation_scenes: Count = 128
    backend: str = "auto"


class LGMTask:
    """Scenes of one pose; scored on novel views of objects that are not in the pack. See ``training.PriorTask``."""

    def __init__(self, config: LGMTrainingConfig, device: torch.device, seed: int) -> None:
        self.config, self.device = config, device
        channels = tuple(int(width) for width in config.channels.split(","))
        model = load_lgm(config.initial) if config.initial else build_lgm_tiny(config.image_size, channels)
        self.model = model.to(device).requires_grad_(True).train()
        self.zero123 = load_zero123(config.zero123, device)
        self.meshes = PosedMeshes.load(config.pack, device, config.limit or None)
        self.sampler = SplatSampler(self.meshes, config.further, config.image_size, seed)
        self.held_out = SplatSampler(self.meshes, config.further, config.image_size, 4321, validation=True)(
            config.evaluation_scenes
        )
        self.jitter = ShapeJitter(self.meshes, seed=seed + 1) if config.jitter_steps else None
        self.generator = torch.Generator(device).manual_seed(seed)
        self.benchmark = None
        if config.benchmark:
            self.benchmark = NovelViewPairs.load(config.benchmark, config.image_size).to(device)
        if config.compile:
            self.zero123.denoise = torch.compile(self.zero123.denoise, dynamic=False)

    def refresh(self, step: int) -> None:
        if self.jitter is not None and step % self.config.jitter_steps == 0:
            self.jitter.refresh()

    @torch.no_grad()
    def draw(self, count: int) -> tuple[Tensor, ...]:
        """Inputs [B, 4, 9, S, S], true views [B, V, S, S, 4] (premultiplied), poses [B, V, 4, 4], backgrounds."""
        views = self.sampler(count)
        sides, cameras = views.on_white(slice(SIDES)), views.c2w[:, :SIDES]
        drawn, single = round(self.config.drawn_share * count), round(self.config.single_share * count)
        first, alone, true = slice(0, drawn), slice(drawn, drawn + single), slice(drawn + single, count)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            completed = sides_of_pictures(
                self.zero123, sides[first, 0].contiguous(), views.elevation[first, 0], views.distance[first, 0]
            )
        disturbed, moved = self._disturbed(sides[true]), self._moved(views, true)
        present = torch.ones(count, SIDES, device=self.device)
        present[alone, 1:] = 0
        sides = torch.cat([completed.to(sides), sides[alone], disturbed])
        cameras = torch.cat([cameras[first], cameras[alone], moved])
        inputs = self.model.inputs(sides, cameras, torch.full_like(present, FOVY), present)
        truth = torch.cat([views.colour * views.alpha, views.alpha], -1)
        background = self._uniform(count, 1, 3)
        background = torch.where(self._uniform(count, 1, 1) < 0.5, torch.ones_like(background), background)
        return inputs, truth, views.c2w, background.expand(-1, views.c2w.shape[1], -1).contiguous()

    def loss(self, model: LGMModel, inputs: Tensor, truth: Tensor, c2w: Tensor, background: Tensor) -> Tensor:
        """Squared error of all views' colours, on white or on any colour, and of their opacities."""
        size = truth.shape[2]
        drawn = splat(model(inputs), c2w, FOVY, size, size, background, self.config.backend)
        target = truth[..., :3] + (1 - truth[..., 3:]) * background[:, :, None, None]
        colour = F.mse_loss(drawn.image, target)
        return colour + self.config.opacity_weight * F.mse_loss(drawn.opacity, truth[..., 3:])

    def evaluate(self, average: LGMModel, final: bool) -> dict[str, Any]:
        """Views of the benchmark from one picture, with and without the image prior; and from four true views."""
        out: dict[str, Any] = {"held_out": four_view_scores(average, self.held_out, self.config.backend)}
        if self.benchmark is not None:
            for name, zero123 in (("drawn", self.zero123), ("single", None)):
                views = views_of_pictures(average, zero123, self.benchmark, self.config.backend)
                out[name] = scores(*views, self.benchmark)
        return out

    def save(self, average: LGMModel, folder: Path) -> None:
        save_lgm(average, folder)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)

    def _disturbed(self, sides: Tensor) -> Tensor:
        """Sides [B, 4, 3, S, S] whose last three are warped and recoloured a little, in half of the scenes."""
        count, size = len(sides), sides.shape[-1]
        strength = (self._uniform(count, 1, 1) < 0.5) * self._uniform(count, SIDES - 1, 1)
        bends = torch.randn(count * (SIDES - 1), 2, 5, 5, generator=self.generator, device=self.device)
        bends = F.interpolate(bends, (size, size), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
        axis = torch.linspace(-1 + 1 / size, 1 - 1 / size, size, device=self.device)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
        grid = grid + 0.05 * strength.view(-1, 1, 1, 1) * bends
        warped = F.grid_sample(sides[:, 1:].flatten(0, 1), grid, padding_mode="border", align_corners=False)
        gain = 1 + 0.2 * strength * (2 * self._uniform(count, SIDES - 1, 3) - 1)
        recoloured = 1 - (1 - warped.unflatten(0, (-1, SIDES - 1))) * gain[..., None, None]  # white stays white
        return torch.cat([sides[:, :1], recoloured.clamp(0, 1)], 1)

    def _moved(self, views: SplatViews, scenes: slice) -> Tensor:
        """Poses [B, 4, 4, 4] of the sides; the last three are a few degrees off in half of the scenes."""
        elevation, azimuth, distance = (
            value[scenes, :SIDES] for value in (views.elevation, views.azimuth, views.distance)
        )
        count = len(elevation)
        wrong = 8.0 * (self._uniform(count, 1) < 0.5) * (2 * self._uniform(2, count, SIDES) - 1)
        wrong[..., 0] = 0
        poses = camera_to_world((elevation + wrong[0]).flatten(), (azimuth + wrong[1]).flatten(), distance.flatten())
        return poses.view(count, SIDES, 4, 4)


@command()
def main(argv: list[str] | None = None) -> None:
    config = parse_config(LGMTrainingConfig, __doc__, argv, batch_size=128, learning_rate=1e-3, ema_decay=0.999)
    train(lambda device, seed: LGMTask(config, device, seed), config)


if __name__ == "__main__":
    sys.exit(main())
