"""How well an image-text model tells held-out assets apart, against chance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..sampling.view_words import ANY_VIEW, VIEW_WORDS
from .model import ImageTextModel


def picture_features(model: ImageTextModel, images: Tensor, batch_size: int = 512) -> Tensor:
    """Unit vectors [N, P] of many pictures [N, 3, S, S] in [0, 1]."""
    return torch.cat([model.image_features(part) for part in images.split(batch_size)])


def retrieval(images: Tensor, captions: Tensor, right: Tensor, top: int = 5) -> dict[str, float]:
    """Retrieval by cosine in both directions.

    Args:
        images: unit vectors of pictures, [N, P].
        captions: unit vectors of distinct captions, [K, P].
        right: the caption of each picture, [N] long in [0, K).
        top: of top-k accuracy.

    Returns:
        ``caption_top1``, ``caption_top5``: share of pictures whose caption is the nearest, or among the five nearest;
        ``picture_top1``: share of captions (of those with a picture) whose nearest picture is one of its own;
        ``chance_top1``, ``chance_top5``: of a uniform guess of the caption; ``chance_picture``: of a uniform guess of
        the picture; ``most_frequent``: of always naming the caption of most pictures.
    """
    with torch.autocast(images.device.type, enabled=False):
        similarity = images @ captions.T
    order = similarity.topk(min(top, len(captions)), dim=1).indices
    hits = order == right[:, None]
    present = torch.bincount(right, minlength=len(captions)).float()
    shown = present > 0
    own = right[similarity.argmax(0)] == torch.arange(len(captions), device=right.device)
    return {
        "caption_top1": hits[:, 0].float().mean().item(),
        f"caption_top{top}": hits.any(1).float().mean().item(),
        "picture_top1": own[shown].float().mean().item(),
        "chance_top1": 1 / len(captions),
        f"chance_top{top}": min(top, len(captions)) / len(captions),
        "chance_picture": (present[shown] / len(right)).mean().item(),
        "most_frequent": (present.max() / len(right)).item(),
    }


def view_accuracy(model: ImageTextModel, features: Tensor, captions: list[str], view: Tensor) -> dict[str, float]:
    """Whether the right view words, after the right caption, are the nearest of the four.

    Args:
        features: unit vectors of pictures, [N, P].
        captions: of each picture, N sentences without view words.
        view: numbers of the right words (``view_words.view_numbers``), [N] long.

    Returns:
        ``top1``; ``balanced``, the mean over the views of the share found (a guess has 0.25); ``most_frequent``, the
        share of the commonest view.
    """
    distinct = list(dict.fromkeys(captions))
    row = torch.tensor([distinct.index(caption) for caption in captions], device=features.device)
    words = VIEW_WORDS[:ANY_VIEW]
    texts = [model.text_features([caption + word for caption in distinct]) for word in words]
    similarity = torch.stack([(features * text[row]).sum(1) for text in texts], 1)
    hit = (similarity.argmax(1) == view).float()
    counts = torch.bincount(view, minlength=len(words)).float()
    per_view = torch.bincount(view, hit, minlength=len(words)) / counts.clamp_min(1)
    return {
        "top1": hit.mean().item(),
        "balanced": per_view[counts > 0].mean().item(),
        "most_frequent": (counts.max() / len(view)).item(),
    }


def caption_retrieval(model: ImageTextModel, features: Tensor, sentences: list[str], caption: Tensor) -> dict[str, Any]:
    """``retrieval`` of pictures among the distinct captions that they have.

    Args:
        features: unit vectors of pictures, [N, P].
        sentences: all captions.
        caption: the caption of each picture, [N] long, an index into ``sentences``.

    Returns:
        The numbers of ``retrieval``, with ``pictures`` and ``captions``, how many there are of each.
    """
    present, right = caption.unique(return_inverse=True)
    texts = model.text_features([sentences[i] for i in present.tolist()])
    return {"pictures": len(features), "captions": len(present)} | retrieval(features, texts, right)
