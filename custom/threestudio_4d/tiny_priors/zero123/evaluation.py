"""How good a Zero123 prior is at unseen views of unseen objects, against ground truth and trivial baselines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...diffusion.zero123.model import Zero123Model, camera_vector
from ...evaluation.novel_views import NOVEL_VIEWS, read_frame

SILHOUETTE_THRESHOLD = 0.05


@dataclass
class NovelViewPairs:
    """Pictures of objects from azimuth 0 and from other azimuths, all at elevation 0 and distance 2, on white.

    Attributes:
        pictures: [P, 3, S, S] in [0, 1].
        targets: [P, 3, S, S].
        azimuth: of the targets, degrees, [P].
    """

    pictures: Tensor
    targets: Tensor
    azimuth: Tensor

    @classmethod
    def load(cls, folder: str | Path, size: int, frames: int = 8) -> NovelViewPairs:
        """Read ``<object>/{ref,az-75,az15,az105,az195}/<frame>.png`` (RGBA, straight alpha), evenly spaced frames."""
        pictures, targets, azimuths = [], [], []
        for object_folder in sorted(path for path in Path(folder).iterdir() if path.is_dir()):
            names = sorted(
                (path.name for path in (object_folder / "ref").glob("*.png")), key=lambda name: int(name[:-4])
            )
            for name in names[:: max(len(names) // frames, 1)]:
                picture = _read_on_white(object_folder / "ref" / name, size)
                for view, azimuth in NOVEL_VIEWS.items():
                    pictures.append(picture)
                    targets.append(_read_on_white(object_folder / view / name, size))
                    azimuths.append(azimuth)
        return cls(torch.stack(pictures), torch.stack(targets), torch.tensor(azimuths))

    def to(self, device: torch.device | str) -> NovelViewPairs:
        return NovelViewPairs(self.pictures.to(device), self.targets.to(device), self.azimuth.to(device))


def _read_on_white(path: Path, size: int) -> Tensor:
    return torch.from_numpy(read_frame(path, size)[..., :3]).permute(2, 0, 1)


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Mean over images of the peak signal-to-noise ratio in dB; [B, 3, H, W] in [0, 1]."""
    return -10 * torch.log10((images - targets).square().flatten(1).mean(1).clamp_min(1e-10)).mean()


def silhouette(images: Tensor) -> Tensor:
    """Pixels that differ from white by more than 5 % in some channel: [B, 3, H, W] -> bool [B, H, W]."""
    return (1 - images).amax(1) > SILHOUETTE_THRESHOLD


def silhouette_iou(images: Tensor, targets: Tensor) -> Tensor:
    """Mean over images of the intersection over union of silhouettes."""
    a, b = silhouette(images), silhouette(targets)
    return ((a & b).flatten(1).sum(1) / (a | b).flatten(1).sum(1).clamp_min(1)).mean()


def _batches(pairs: NovelViewPairs, batch_size: int) -> Iterator[slice]:
    for start in range(0, len(pairs.pictures), batch_size):
        yield slice(start, start + batch_size)


def _cameras(pairs: NovelViewPairs) -> Tensor:
    zeros = torch.zeros_like(pairs.azimuth)
    return camera_vector(zeros, pairs.azimuth, zeros + 2, 0.0, 0.0, 2.0)


@torch.no_grad()
def one_step_views(model: Zero123Model, pairs: NovelViewPairs, batch_size: int = 256, seed: int = 0) -> Tensor:
    """Views predicted in one step from pure noise: the posterior mean. [P, 3, S, S]."""
    cameras, views = _cameras(pairs), []
    generator = torch.Generator(cameras.device).manual_seed(seed)
    for part in _batches(pairs, batch_size):
        condition = model.encode_condition(pairs.pictures[part])
        noise = torch.randn((len(condition), *model.latent_shape), generator=generator, device=cameras.device)
        t = torch.full((len(condition),), model.num_train_timesteps - 1, device=cameras.device)
        _, x0 = model.predict(noise, t, condition, cameras[part])
        views.append(model.decode(x0))
    return torch.cat(views)


def sampled_views(
    model: Zero123Model,
    pairs: NovelViewPairs,
    steps: int = 40,
    guidance_scale: float = 2.0,
    batch_size: int = 256,
    seed: int = 0,
) -> Tensor:
    """Views sampled by DDIM, [P, 3, S, S]."""
    cameras, views = _cameras(pairs), []
    generator = torch.Generator(cameras.device).manual_seed(seed)
    for part in _batches(pairs, batch_size):
        condition = model.encode_condition(pairs.pictures[part])
        views.append(model.sample(condition, cameras[part], steps, guidance_scale, generator))
    return torch.cat(views)


def baseline_views(pairs: NovelViewPairs) -> dict[str, Tensor]:
    """Two baselines that know nothing: copy the picture; the same, mirrored for views from behind."""
    behind = torch.cos(torch.deg2rad(pairs.azimuth)) < -0.5
    mirrored = torch.where(behind[:, None, None, None], pairs.pictures.flip(-1), pairs.pictures)
    return {"copy": pairs.pictures, "mirror": mirrored}


def scores(views: Tensor, pairs: NovelViewPairs) -> dict[str, float]:
    """PSNR in dB and silhouette IoU, means over all pairs."""
    return {"psnr": psnr(views, pairs.targets).item(), "iou": silhouette_iou(views, pairs.targets).item()}
