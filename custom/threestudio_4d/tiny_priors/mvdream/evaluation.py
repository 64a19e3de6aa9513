"""How good a text-to-multi-view prior is at assets that it was not trained on, and whether its views belong together.

Every number stands beside what knows nothing, or what lacks just one thing: no text, a wrong text, wrong cameras, the
other views of other objects, the mean picture. G groups of V views are G V = N rows, the views of a group one after the
other. Pictures are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...diffusion.mvdream.model import MVDreamModel, camera_condition
from ...guidance import score_distillation as sd
from ..rendering.looks import SUN_AZIMUTH
from ..rendering.rasterise import DISTANCE, Lights, Shot, camera_to_world, on_white, render
from ..rendering.scenes import PosedMeshes
from ..zero123.evaluation import psnr, silhouette

COLOUR_BINS = 4  # of each channel

#: contexts [N, L, D] of sentences given by number, [N]
Embed = Callable[[Tensor], Tensor]


@dataclass
class ViewGroups:
    """Views of G objects.

    Attributes:
        images: [G, V, 3, S, S] in [0, 1] on white.
        camera: [G, V, 16], see ``camera_condition``.
        caption: [G] long, an index into all sentences.
    """

    images: Tensor
    camera: Tensor
    caption: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @property
    def views(self) -> int:
        return self.images.shape[1]

    def wrong_captions(self) -> Tensor:
        """For each group the caption of another, [G]: the nearest one further down the list that differs."""
        wrong = self.caption.roll(-1)
        for shift in range(2, len(self)):
            wrong = torch.where(wrong == self.caption, self.caption.roll(-shift), wrong)
        return wrong


@dataclass
class Rows:
    """What the network is shown: pictures [N, 3, S, S], contexts [N, L, D], cameras [N, 16]."""

    images: Tensor
    text: Tensor
    camera: Tensor


def unrelated(values: Tensor) -> Tensor:
    """[G, V, ...] -> [G, V, ...]: view v of group g is that of group g + v. The same views, in groups of strangers."""
    return torch.stack([values[:, v].roll(-v, 0) for v in range(values.shape[1])], dim=1)


def variants(groups: ViewGroups, embed: Embed, empty: Tensor) -> dict[str, Rows]:
    """What one thing less does to the network.

    Args:
        embed: contexts [N, L, D] of caption numbers [N].
        empty: context of the empty sentence, [1, L, D].

    Returns:
        ``right``; ``wrong_text``: the caption of another object; ``no_text``: the empty sentence; ``wrong_cameras``:
        every camera turned by one view, 90 degrees for four; ``unrelated_views``: every picture with its own text and
        camera, among views of other objects. The rows of the last one are ordered otherwise.
    """
    views = groups.views

    def text(captions: Tensor) -> Tensor:
        return embed(captions).repeat_interleave(views, 0)

    images, camera = groups.images.flatten(0, 1), groups.camera.flatten(0, 1)
    right = text(groups.caption)
    per_view = unrelated(groups.caption[:, None].expand(-1, views)).flatten()
    return {
        "right": Rows(images, right, camera),
        "wrong_text": Rows(images, text(groups.wrong_captions()), camera),
        "no_text": Rows(images, empty.expand_as(right), camera),
        "wrong_cameras": Rows(images, right, groups.camera.roll(1, 1).flatten(0, 1)),
        "unrelated_views": Rows(
            unrelated(groups.images).flatten(0, 1), embed(per_view), unrelated(groups.camera).flatten(0, 1)
        ),
    }


def _chunks(rows: int, views: int, groups: int) -> list[slice]:
    return [slice(start, start + views * groups) for start in range(0, rows, views * groups)]


@torch.no_grad()
def denoising_losses(
    model: MVDreamModel, shown: dict[str, Rows], levels: int = 10, batch_groups: int = 128, seed: int = 0
) -> dict[str, float]:
    """Mean squared error of the predicted velocity, every group at one of ``levels`` evenly spread timesteps.

    All variants see the same timesteps and, row by row, the same noise.
    """
    losses = {}
    last = model.num_train_timesteps - 1
    for name, rows in shown.items():
        generator = torch.Generator(rows.images.device).manual_seed(seed)
        total = 0.0
        groups = len(rows.images) // model.views
        numbers = torch.arange(groups, device=rows.images.device) * levels // groups
        timesteps = ((numbers + 0.5) * last / levels).round().long().repeat_interleave(model.views)
        for part in _chunks(len(rows.images), model.views, batch_groups):
            x0, t = model.encode(rows.images[part], sample=False), timesteps[part]
            noise = torch.randn(x0.shape, generator=generator, device=x0.device)
            noisy = sd.add_noise(x0, noise, model.alphas_cumprod[t])
            output = model.denoise(noisy, t, rows.text[part], rows.camera[part])
            total += F.mse_loss(output, sd.v_from_eps_x0(noise, x0, model.alphas_cumprod[t])).item() * len(x0)
        losses[name] = total / len(rows.images)
    return losses


@torch.no_grad()
def one_step_psnr(
    model: MVDreamModel, shown: dict[str, Rows], mean_picture: Tensor, batch_groups: int = 128, seed: int = 0
) -> dict[str, float]:
    """PSNR in dB of what is predicted from pure noise: the mean of all views that fit the text and the camera.

    Without signal, other views tell nothing: there is no ``unrelated_views``.

    Args:
        mean_picture: of the training set, [3, S, S]; its PSNR stands under ``mean_picture``.
    """
    scores = {}
    for name, rows in shown.items():
        if name == "unrelated_views":
            continue
        generator = torch.Generator(rows.images.device).manual_seed(seed)
        drawn = []
        for part in _chunks(len(rows.images), model.views, batch_groups):
            camera = rows.camera[part]
            noise = torch.randn((len(camera), *model.latent_shape), generator=generator, device=camera.device)
            t = torch.full((len(camera),), model.num_train_timesteps - 1, device=camera.device)
            drawn.append(model.decode(model.predict(noise, t, rows.text[part], None, camera)[1]))
        scores[name] = psnr(torch.cat(drawn), rows.images).item()
    truth = shown["right"].images
    scores["mean_picture"] = psnr(mean_picture.expand_as(truth), truth).item()
    return scores


@torch.no_grad()
def sample_views(
    model: MVDreamModel,
    text: Tensor,
    empty: Tensor,
    camera: Tensor,
    steps: int = 25,
    guidance_scale: float = 3.0,
    batch_groups: int = 128,
    seed: int = 0,
) -> Tensor:
    """Views [G, V, 3, S, S] drawn by DDIM.

    Args:
        text: contexts [G, L, D]; ``empty`` is [1, L, D].
        camera: [G, V, 16].
    """
    generator = torch.Generator(camera.device).manual_seed(seed)
    rows = text.repeat_interleave(model.views, 0)
    parts = [
        model.sample(
            rows[part], empty.expand_as(rows[part]), camera.flatten(0, 1)[part], steps, guidance_scale, 0.0, generator
        )
        for part in _chunks(len(rows), model.views, batch_groups)
    ]
    return torch.cat(parts).float().unflatten(0, (-1, model.views))


# Do views belong together? ------------------------------------------------------------------------------------------


@torch.no_grad()
def level_views(meshes: PosedMeshes, count: int, size: int, validation: bool = True, seed: int = 77) -> ViewGroups:
    """Four views 90 degrees apart of random poses from level cameras at distance 2, under the benchmark's light.

    Level cameras make opposite silhouettes comparable, see ``consistency``.

    Returns:
        Groups whose ``caption`` is the number of the *pose*: the caller knows the captions of poses.
    """
    device, views = meshes.device, 4
    u = torch.rand(4, count, generator=torch.Generator().manual_seed(seed)).to(device)
    pose = meshes.sampler(validation)(u[:3])
    azimuth = (u[3] * 360)[:, None] + 90.0 * torch.arange(views, device=device)
    zero = torch.zeros(count * views, device=device)
    lights = Lights.standard(count * views, device, azimuth=(azimuth[:, :1] + SUN_AZIMUTH).expand(-1, views).flatten())
    shot = Shot(pose.repeat_interleave(views), zero, azimuth.flatten(), zero + DISTANCE, lights)
    images = on_white(render(meshes, shot, size)).unflatten(0, (count, views))
    camera = camera_condition(camera_to_world(zero, azimuth.flatten(), zero + DISTANCE)).unflatten(0, (count, views))
    return ViewGroups(images, camera, pose)


def colour_histograms(images: Tensor) -> Tensor:
    """Share of an object's pixels in each of 4 x 4 x 4 bins of RGB: [N, 3, S, S] -> [N, 64]; zeros for an empty
    picture."""
    bins = (images.clamp(0, 1) * COLOUR_BINS).long().clamp_max(COLOUR_BINS - 1)
    number = ((bins[:, 0] * COLOUR_BINS + bins[:, 1]) * COLOUR_BINS + bins[:, 2]).flatten(1)
    object_pixels = silhouette(images).flatten(1).float()
    counts = torch.zeros(len(images), COLOUR_BINS**3, device=images.device).scatter_add_(1, number, object_pixels)
    return counts / object_pixels.sum(1, keepdim=True).clamp_min(1)


def consistency(images: Tensor) -> dict[str, float]:
    """Two things that views of one object share and views of strangers do not, means over groups [G, 4, 3, S, S].

    Returns:
        ``colour``: overlap of the colour histograms of two views (sum of minima, in [0, 1]), mean over all pairs.
        ``outline``: IoU of a silhouette and the mirrored silhouette from the opposite side. For level cameras they
        would be the same in parallel projection; perspective leaves a little difference, so true views say what can
        be reached.
    """
    views = images.shape[1]
    histograms = colour_histograms(images.flatten(0, 1)).unflatten(0, (-1, views))
    overlaps = [
        torch.minimum(histograms[:, i], histograms[:, j]).sum(1) for i in range(views) for j in range(i + 1, views)
    ]
    outlines = silhouette(images.flatten(0, 1)).unflatten(0, (-1, views))
    ious = []
    for i in range(views // 2):
        a, b = outlines[:, i], outlines[:, i + views // 2].flip(-1)
        ious.append((a & b).flatten(1).sum(1) / (a | b).flatten(1).sum(1).clamp_min(1))
    return {"colour": torch.stack(overlaps).mean().item(), "outline": torch.stack(ious).mean().item()}


def consistency_scores(draws: Tensor, truth: Tensor) -> dict[str, dict[str, float]]:
    """``consistency`` of samples against the same pictures in the wrong company.

    Args:
        draws: [G, K, V, 3, S, S], K samples for the same sentence and the same cameras.
        truth: renders, [G', V, 3, S, S].

    Returns:
        ``samples``; ``samples_exchanged``: every view taken from another sample for the same sentence and camera, what
        a text-to-image model with cameras would get; ``renders``: true views, the most that can be had;
        ``renders_exchanged``: true views of different objects.
    """
    exchanged = torch.stack([draws[:, :, v].roll(-v, 1) for v in range(draws.shape[2])], dim=2)
    return {
        "samples": consistency(draws.flatten(0, 1)),
        "samples_exchanged": consistency(exchanged.flatten(0, 1)),
        "renders": consistency(truth),
        "renders_exchanged": consistency(unrelated(truth)),
    }
