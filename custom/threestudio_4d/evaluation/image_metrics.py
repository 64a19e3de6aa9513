"""SSIM by torchmetrics, and PSNR and SSIM with the data range that the Consistent4D evaluator leaves to the library.

Clips are [N, S, S, 4] float32 in [0, 1] as ``frames.read_views`` gives them; PSNR, IoU and flicker are in
``novel_views``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .novel_views import flicker, psnr, silhouette_iou

# Errors below this, of values in [0, 1], count as this: 100 dB instead of infinity, as in ``novel_views.psnr``.
SMALLEST_ERROR = 1e-10


def ssim(clip: np.ndarray, truth: np.ndarray) -> float:
    """Mean over frames of the structural similarity of colours, data range 1 (Wang et al. 2004, torchmetrics)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = [
        structural_similarity_index_measure(a[None], b[None], data_range=1.0)
        for a, b in zip(_pictures(clip), _pictures(truth), strict=True)
    ]
    return float(torch.stack(values).mean())


def ssim_published(clip: np.ndarray, truth: np.ndarray) -> float:
    """As :func:`ssim` without a data range: torchmetrics takes the larger of the two frames' max - min."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    # A frame pair of one single colour has no range, and SSIM of it would be 0 / 0.
    values = [
        structural_similarity_index_measure(a[None], b[None]) if max(_range(a), _range(b)) > 0 else torch.ones(())
        for a, b in zip(_pictures(clip), _pictures(truth), strict=True)
    ]
    return float(torch.stack(values).mean())


def psnr_published(clip: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB with the data range of each true frame (max - min), mean over frames.

    torchmetrics did this when it was given no ``data_range``; since release 1.9 at the latest it must be given.
    """
    values = []
    for a, b in zip(clip[..., :3].astype(np.float64), truth[..., :3].astype(np.float64), strict=True):
        error = max(float(np.square(a - b).mean()), SMALLEST_ERROR)
        values.append(10 * np.log10(max(float(b.max() - b.min()), 1e-5) ** 2 / error))
    return float(np.mean(values))


#: measures of a pair of clips that need no network
PAIR_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "psnr": psnr,
    "psnr_published": psnr_published,
    "ssim": ssim,
    "ssim_published": ssim_published,
    "iou": silhouette_iou,
    "flicker": flicker,
}


def _pictures(clip: np.ndarray) -> Tensor:
    """[N, 3, S, S] in single precision: SSIM is then good to about 1e-5, and thirteen times as fast as in double."""
    return torch.from_numpy(np.ascontiguousarray(clip[..., :3])).permute(0, 3, 1, 2)


def _range(picture: Tensor) -> float:
    return float(picture.max() - picture.min())
