"""How good a text-to-image prior is at sentences and assets that it was not trained on, against trivial baselines.

Every number is stated with what knows nothing: the mean picture of the training set, no text, a wrong text, chance.
Pictures are [N, 3, S, S] in [0, 1]; contexts are embeddings [N, L, D].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...diffusion.sd.model import StableDiffusionModel
from ...evaluation.frechet import frechet_distance
from ...guidance import score_distillation as sd
from ..image_text.evaluation import picture_features, retrieval
from ..image_text.model import ImageTextModel

#: contexts [N, L, D] of sentences given by number, [N]
Embed = Callable[[Tensor], Tensor]


@dataclass
class CaptionedPictures:
    """N renders and what is true of them.

    Attributes:
        images: [N, 3, S, S] in [0, 1].
        caption: [N] long, an index into all sentences.
        view: [N] long, the view words that fit (``view_words.view_numbers``).
        faces: bool [N], whether the asset is one that has a front, so that view words mean something.
    """

    images: Tensor
    caption: Tensor
    view: Tensor
    faces: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def wrong_captions(self) -> Tensor:
        """For each picture the caption of another, [N]: the nearest one further down the list that differs."""
        wrong = self.caption.roll(-1)
        for shift in range(2, len(self)):
            same = wrong == self.caption
            if not bool(same.any()):
                break
            wrong = torch.where(same, self.caption.roll(-shift), wrong)
        return wrong


@torch.no_grad()
def denoising_losses(
    model: StableDiffusionModel,
    pictures: CaptionedPictures,
    contexts: dict[str, Tensor],
    batch_size: int = 512,
    seed: int = 0,
) -> dict[str, float]:
    """Mean squared error of the predicted velocity, over pictures at evenly spread timesteps, one noise each.

    Args:
        contexts: name -> contexts [N, L, D]; all see the same noise and timesteps.
    """
    generator = torch.Generator(pictures.images.device).manual_seed(seed)
    count, device = len(pictures), pictures.images.device
    last = model.num_train_timesteps - 1
    timesteps = torch.linspace(0, last, count, device=device).round().long()
    totals = dict.fromkeys(contexts, 0.0)
    for start in range(0, count, batch_size):
        part = slice(start, start + batch_size)
        x0, t = model.encode(pictures.images[part], sample=False), timesteps[part]
        noise = torch.randn(x0.shape, generator=generator, device=device)
        noisy = sd.add_noise(x0, noise, model.alphas_cumprod[t])
        v = sd.v_from_eps_x0(noise, x0, model.alphas_cumprod[t])
        for name, context in contexts.items():
            eps_hat, x0_hat = model.predict(noisy, t, context[part])
            v_hat = sd.v_from_eps_x0(eps_hat, x0_hat, model.alphas_cumprod[t])
            totals[name] += F.mse_loss(v_hat, v).item() * len(x0)
    return {name: total / count for name, total in totals.items()}


@torch.no_grad()
def one_step_psnr(
    model: StableDiffusionModel,
    pictures: CaptionedPictures,
    contexts: dict[str, Tensor],
    mean_picture: Tensor,
    batch_size: int = 512,
    seed: int = 0,
) -> dict[str, float]:
    """PSNR in dB of what the prior predicts from pure noise, the mean of all pictures that fit the text.

    Args:
        contexts: name -> contexts [N, L, D].
        mean_picture: of the training set, [3, S, S]; its PSNR stands under ``mean_picture``.
    """
    device, count = pictures.images.device, len(pictures)
    generator = torch.Generator(device).manual_seed(seed)
    drawn: dict[str, list[Tensor]] = {name: [] for name in contexts}
    for start in range(0, count, batch_size):
        part = slice(start, start + batch_size)
        size = len(pictures.images[part])
        noise = torch.randn((size, *model.latent_shape), generator=generator, device=device)
        t = torch.full((size,), model.num_train_timesteps - 1, device=device)
        for name, context in contexts.items():
            drawn[name].append(model.decode(model.predict(noise, t, context[part])[1]))
    views = {name: torch.cat(parts) for name, parts in drawn.items()}
    views["mean_picture"] = mean_picture.expand_as(pictures.images)
    return {name: _psnr(images, pictures.images) for name, images in views.items()}


def _psnr(images: Tensor, targets: Tensor) -> float:
    error = (images.float() - targets).square().flatten(1).mean(1).clamp_min(1e-10)
    return (-10 * torch.log10(error)).mean().item()


@torch.no_grad()
def sample_pictures(
    model: StableDiffusionModel,
    context: Tensor,
    negative: Tensor,
    steps: int = 25,
    guidance_scale: float = 3.0,
    batch_size: int = 512,
    seed: int = 0,
) -> Tensor:
    """Pictures [N, 3, S, S] drawn by DDIM for contexts [N, L, D]; ``negative`` is [1, L, D]."""
    generator = torch.Generator(context.device).manual_seed(seed)
    parts = [model.sample(part, negative, steps, guidance_scale, generator) for part in context.split(batch_size)]
    return torch.cat(parts).float()


def feature_distance(first: Tensor, second: Tensor) -> float:
    """Squared Frechet distance of two sets of features [N, P] and [M, P], each taken as a Gaussian."""
    a, b = (features.double().cpu().numpy() for features in (first, second))
    return frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def sample_scores(
    clip: ImageTextModel,
    sentences: list[str],
    samples: dict[str, Tensor],
    caption: Tensor,
    renders: Tensor,
    references: dict[str, Tensor],
    mean_picture: Tensor,
) -> dict[str, Any]:
    """Samples against renders, as a CLIP model sees them.

    Args:
        clip: the judge. It was trained on the same assets as the prior.
        sentences: all captions.
        samples: name -> pictures drawn for ``caption`` (``right``), or without text, or for wrong ones, [N, 3, S, S].
        caption: [N].
        renders: pictures of the captions, [N, 3, S, S].
        references: name -> other renders to compare with, [M, 3, S, S], such as those of training assets.
        mean_picture: of the training set, [3, S, S].

    Returns:
        ``retrieval``: for each kind of samples, and for ``renders`` (what the judge can do at best), the share whose
        caption is the nearest of the K distinct ones (``top1``), or among the nearest five (``top5``); ``chance_top1``
        and ``chance_top5``, which any single picture shown for all captions scores on average over captions.
        ``cosine``: mean cosine of picture and caption. ``frechet``: squared Frechet distance of image features to those
        of ``renders``, for samples, references and ``mean_picture``; ``renders_halves`` compares one half of the
        renders with the other: about what a perfect prior with half as many samples would get.
    """
    present, right = caption.unique(return_inverse=True)
    texts = clip.text_features([sentences[i] for i in present.tolist()])
    features = {name: picture_features(clip, images) for name, images in samples.items()}
    real = picture_features(clip, renders)
    found, cosine = {}, {}
    for name, seen in {**features, "renders": real}.items():
        result = retrieval(seen, texts, right)
        found[name] = {"top1": result["caption_top1"], "top5": result["caption_top5"]}
        cosine[name] = (seen * texts[right]).sum(1).mean().item()
    found |= {key: result[key] for key in ("chance_top1", "chance_top5")}
    mixed = torch.randperm(len(real), generator=torch.Generator().manual_seed(0)).to(real.device)
    half = len(real) // 2
    constant = picture_features(clip, mean_picture[None]).expand(len(real), -1)
    features |= {name: picture_features(clip, images) for name, images in references.items()}
    frechet = {name: feature_distance(seen, real) for name, seen in {**features, "mean_picture": constant}.items()}
    frechet["renders_halves"] = feature_distance(real[mixed[:half]], real[mixed[half:]])
    return {"captions": len(present), "retrieval": found, "cosine": cosine, "frechet": frechet}
