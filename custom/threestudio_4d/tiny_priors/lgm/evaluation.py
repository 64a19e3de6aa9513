"""How good Gaussians from one picture, or from four true views, are at unseen views of unseen objects."""

from __future__ import annotations

import math

import torch

from threestudio.utils.typing import Float, Tensor

from ...diffusion.lgm.model import LGMModel
from ...diffusion.lgm.picture import TURNS, sides_of_pictures
from ...diffusion.zero123.model import Zero123Model
from ...renderer.gaussian import splat
from ..rendering.rasterise import DISTANCE, FOVY_DEG, camera_to_world
from ..sampling.splat_sampler import SIDES, SplatViews
from ..zero123.evaluation import NovelViewPairs, psnr, silhouette, silhouette_iou

FOVY = math.radians(FOVY_DEG)


def level_cameras(azimuth: Float[Tensor, ...]) -> Float[Tensor, "... 4 4"]:
    """Poses at elevation 0 and distance 2."""
    flat = azimuth.flatten()
    poses = camera_to_world(torch.zeros_like(flat), flat, torch.full_like(flat, DISTANCE))
    return poses.view(*azimuth.shape, 4, 4)


@torch.no_grad()
def views_of_pictures(
    model: LGMModel,
    zero123: Zero123Model | None,
    pairs: NovelViewPairs,
    backend: str = "auto",
    batch_size: int = 64,
    steps: int | None = None,
) -> tuple[Float[Tensor, "P 3 S S"], Float[Tensor, "P S S"]]:
    """Pictures and opacities of the pairs' views, from Gaussians of one picture each.

    Args:
        zero123: draws the other three views (see ``sides_of_pictures``); None leaves them out.
        steps: of its sampler.
    """
    images, opacities, device = [], [], pairs.pictures.device
    generator = torch.Generator(device).manual_seed(0)
    for start in range(0, len(pairs.pictures), batch_size):
        part = slice(start, start + batch_size)
        pictures, azimuth = pairs.pictures[part], pairs.azimuth[part]
        zero = torch.zeros_like(azimuth)
        if zero123 is None:
            sides = pictures[:, None].repeat(1, len(TURNS), 1, 1, 1)
            present = pictures.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(len(pictures), -1)
        else:
            sides = sides_of_pictures(zero123, pictures, zero, zero + DISTANCE, generator, steps)
            present = torch.ones(sides.shape[:2], device=device)
        cameras = level_cameras(torch.tensor(TURNS, device=device).expand(len(pictures), -1))
        gaussians = model.gaussians(sides, cameras, torch.full_like(present, FOVY), present)
        size = pictures.shape[-1]
        drawn = splat(gaussians, level_cameras(azimuth[:, None]), FOVY, size, size, backend=backend)
        images.append(drawn.image[:, 0].permute(0, 3, 1, 2).clamp(0, 1))
        opacities.append(drawn.opacity[:, 0, ..., 0])
    return torch.cat(images), torch.cat(opacities)


def scores(images: Tensor, opacities: Tensor, pairs: NovelViewPairs) -> dict[str, float]:
    """PSNR in dB; IoU of silhouettes by colour, as of a prior of pictures; and by opacity above one half."""
    solid, truth = opacities > 0.5, silhouette(pairs.targets)
    union = (solid | truth).flatten(1).sum(1).clamp_min(1)
    return {
        "psnr": psnr(images, pairs.targets).item(),
        "iou": silhouette_iou(images, pairs.targets).item(),
        "iou_opacity": ((solid & truth).flatten(1).sum(1) / union).mean().item(),
    }


@torch.no_grad()
def four_view_scores(model: LGMModel, views: SplatViews, backend: str = "auto") -> dict[str, float]:
    """PSNR of Gaussians from four true views: of these views, and of the further ones."""
    fovy = torch.full(views.elevation.shape, FOVY, device=views.c2w.device)
    gaussians = model.gaussians(views.on_white(slice(SIDES)), views.c2w[:, :SIDES], fovy[:, :SIDES])
    size = views.colour.shape[2]
    drawn = splat(gaussians, views.c2w, FOVY, size, size, backend=backend).image.permute(0, 1, 4, 2, 3).clamp(0, 1)
    truth = views.on_white()
    return {
        "seen_psnr": psnr(drawn[:, :SIDES].flatten(0, 1), truth[:, :SIDES].flatten(0, 1)).item(),
        "unseen_psnr": psnr(drawn[:, SIDES:].flatten(0, 1), truth[:, SIDES:].flatten(0, 1)).item(),
    }
