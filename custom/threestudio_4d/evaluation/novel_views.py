"""PSNR, silhouette IoU and flicker of novel views against ground-truth clips.

A folder of views holds ``<view>/<frame>.png``, RGBA with straight alpha, as ``--test`` writes it to ``save/eval``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..data.clip import premultiply, resize_premultiplied
from ..data.frame_source import natural_key
from ..data.picture_file import read_picture
from ..errors import UserError

#: names of the views with ground truth, and their azimuths in degrees; the input is seen from azimuth 0
NOVEL_VIEWS = {"az-75": -75.0, "az15": 15.0, "az105": 105.0, "az195": 195.0}


def azimuth(view: str) -> float | None:
    """Degrees from the input camera, from the name of the view (``az-75``); None if it does not say."""
    found = re.search(r"(?:^|[^a-z])az(?:imuth)?_?([+-]?\d+(?:\.\d+)?)", view)
    return float(found.group(1)) if found else None


def by_azimuth(views: Sequence[str]) -> list[int]:
    """Order of views by the azimuth in their names, ``az-75`` < ``az15``; as given if one has none."""
    azimuths = [azimuth(view) for view in views]
    return sorted(range(len(views)), key=azimuths.__getitem__ if None not in azimuths else None)


def in_order(views: Iterable[str]) -> list[str]:
    """By azimuth, ``az-75`` < ``az15``; if one has none in its name, by numbers, ``eval_2`` < ``eval_10``."""
    views = sorted(views, key=natural_key)
    return [views[index] for index in by_azimuth(views)]


def read_frame(path: Path, size: int) -> np.ndarray:
    """An RGBA picture with straight alpha as [size, size, 4] float32 in [0, 1]: colour on white, and alpha.

    Raises:
        UserError: it cannot be read, or has no alpha.
    """
    image = read_picture(path)
    if image.shape[2] != 4:
        raise UserError(f"{path} is not an RGBA picture")
    rgba = resize_premultiplied(premultiply(image), size, size)
    rgba[..., :3] += 1 - rgba[..., 3:]
    return rgba


def read_clip(folder: Path, size: int) -> np.ndarray:
    """Frames ``0.png``, ``1.png`` ... of a folder as ``read_frame`` reads them, [N, size, size, 4].

    Raises:
        UserError: the folder is missing or empty, frames are not numbered from 0 without a gap, or a frame has no
            alpha.
    """
    paths = {int(path.stem): path for path in folder.glob("*.png") if path.stem.isdecimal()}
    if sorted(paths) != list(range(len(paths))) or not paths:
        raise UserError(
            f"{folder} must hold frames 0.png, 1.png, ... without a gap; it has {len(paths)} numbered frames"
        )
    return np.stack([read_frame(paths[index], size) for index in range(len(paths))])


def psnr(clip: np.ndarray, truth: np.ndarray) -> float:
    """Mean over frames of the PSNR in dB of colours on white; clips [N, S, S, 4]."""
    error = np.square(clip[..., :3] - truth[..., :3]).mean((1, 2, 3))
    return float(-10 * np.log10(np.maximum(error, 1e-10)).mean())


def silhouette_iou(clip: np.ndarray, truth: np.ndarray) -> float:
    """Mean over frames of the intersection over union of ``alpha > 0.5``."""
    a, b = clip[..., 3] > 0.5, truth[..., 3] > 0.5
    return float(((a & b).sum((1, 2)) / np.maximum((a | b).sum((1, 2)), 1)).mean())


def flicker(clip: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute error of the change from frame to frame, in 8-bit levels: 0 moves exactly as the truth does."""
    change = np.diff(clip[..., :3], axis=0) - np.diff(truth[..., :3], axis=0)
    return float(255 * np.abs(change).mean())


def score_views(predicted: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over views of all three measures.

    Raises:
        UserError: views or numbers of frames differ.
    """
    if set(predicted) != set(truth):
        raise UserError(f"views differ: predicted {sorted(predicted)}, ground truth {sorted(truth)}")
    for view, clip in predicted.items():
        if clip.shape != truth[view].shape:
            raise UserError(f"view {view} has shape {clip.shape}, its ground truth {truth[view].shape}")
    measures = {"psnr": psnr, "iou": silhouette_iou, "flicker": flicker}
    return {
        name: float(np.mean([measure(clip, truth[view]) for view, clip in predicted.items()]))
        for name, measure in measures.items()
    }


def score_folders(
    predicted: Path, truth: Path, size: int = 128, views: tuple[str, ...] = tuple(NOVEL_VIEWS)
) -> dict[str, float]:
    """``score_views`` of two folders of views at ``size`` pixels."""
    return score_views(
        {view: read_clip(Path(predicted) / view, size) for view in views},
        {view: read_clip(Path(truth) / view, size) for view in views},
    )
