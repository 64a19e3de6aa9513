"""Cleaning masks: one object over the whole clip, without specks and pinholes."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..data.frame_source import name_some
from ..errors import UserError

COVERS_ALL = 0.98  # share of the picture above which a mask has found no object, but everything
PINHOLE = 0.002  # share of the object below which a hole in it is a fault of the mask


def keep_largest(alphas: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Keep the object that is largest over the whole clip, and what it is made of.

    Parts of a frame belong to one object when they touch, and parts of neighbouring frames when they overlap; so a part
    that comes off (a falling petal) stays, while what is never joined to the object (a passer-by, a speck) goes. A
    frame in which nothing belongs to the largest object, because it jumped, keeps its own largest part.

    Args:
        alphas: float ``[H, W]`` in [0, 1], one a frame; at least 0.5 is solid.

    Returns:
        the alphas, and how many parts were removed.
    """
    labels, areas, offsets = [], [], [0]
    for alpha in alphas:
        count, found, stats, _ = cv2.connectedComponentsWithStats((alpha >= 0.5).astype(np.uint8), connectivity=8)
        labels.append(found)
        areas.append(stats[1:, cv2.CC_STAT_AREA])
        offsets.append(offsets[-1] + count - 1)
    total = offsets[-1]
    if total == 0:
        return alphas, 0
    pairs = [
        np.unique(np.stack([a[both] - 1 + left, b[both] - 1 + right], 1), axis=0)
        for a, b, left, right in zip(labels, labels[1:], offsets, offsets[1:], strict=False)
        if (both := (a > 0) & (b > 0)).any()
    ]
    links = np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)
    graph = coo_matrix((np.ones(len(links)), (links[:, 0], links[:, 1])), (total, total))
    _, group = connected_components(graph, directed=False)
    area = np.concatenate(areas)
    kept = group == np.bincount(group, weights=area).argmax()
    for first, last in zip(offsets, offsets[1:], strict=False):
        if last > first and not kept[first:last].any():
            kept[first + int(area[first:last].argmax())] = True
    out = []
    for alpha, found, first, last in zip(alphas, labels, offsets, offsets[1:], strict=False):
        chosen = np.concatenate([[False], kept[first:last]])
        out.append(_soft_part(alpha, chosen[found]) if last > first else alpha)
    return out, int((~kept).sum())


def _soft_part(alpha: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """``alpha`` of the solid part and of its soft rim; 0 elsewhere."""
    reach = max(2, round(0.01 * min(alpha.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.where(cv2.dilate(solid.astype(np.uint8), disc) == 1, alpha, np.float32(0.0))


def fill_pinholes(alpha: np.ndarray, largest: float = PINHOLE) -> tuple[np.ndarray, int]:
    """Fill holes of at most ``largest`` of the object's area; larger ones are taken for real (a cup's handle).

    Returns:
        alpha float ``[H, W]``, and how many holes were filled.
    """
    empty = (alpha < 0.5).astype(np.uint8)
    count, found, stats, _ = cv2.connectedComponentsWithStats(empty, connectivity=4)
    rim = np.concatenate([found[0], found[-1], found[:, 0], found[:, -1]])
    is_hole = stats[:, cv2.CC_STAT_AREA] <= max(1.0, largest * float((empty == 0).sum()))
    is_hole[0] = False
    is_hole[np.unique(rim)] = False
    if not is_hole.any():
        return alpha, 0
    holes = cv2.dilate(is_hole[found].astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2)  # with their soft rims
    return np.where(holes == 1, np.float32(1.0), alpha), int(is_hole.sum())


def check_masks(alphas: list[np.ndarray], names: list[str], path: str, method: str) -> None:
    """Every frame must show something, and hide something.

    Raises:
        UserError: naming the frames in which nothing, or everything, was found.
    """
    empty = [name for name, alpha in zip(names, alphas, strict=True) if alpha.max() < 0.5]
    if empty:
        raise UserError(
            f"{path}: the background removal ({method}) found nothing in {len(empty)} of {len(names)} frames: "
            f"{name_some(empty)}. Leave them out (--start and --end), or try another --background."
        )
    full = [name for name, alpha in zip(names, alphas, strict=True) if (alpha >= 0.5).mean() > COVERS_ALL]
    if full:
        raise UserError(
            f"{path}: the background removal ({method}) took the whole picture for the object in {len(full)} of "
            f"{len(names)} frames: {name_some(full)}. The object must have background around it: use another clip or "
            "try another --background."
        )
