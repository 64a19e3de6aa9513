"""Alpha for clips that have none: find a plain background at the border and key it out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import UserError

_NAMED = {"white": (255, 255, 255), "black": (0, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class PlainBackground(NamedTuple):
    """``color`` (RGB, 0 to 255) and ``tolerance``: how far (largest channel difference) background pixels stray."""

    color: tuple[float, float, float]
    tolerance: float


def parse_color(text: str, key: str) -> tuple[int, int, int]:
    """``white``, ``black``, ``green``, ``blue`` or ``#rrggbb``."""
    if text.lower() in _NAMED:
        return _NAMED[text.lower()]
    digits = text.lstrip("#")
    if len(digits) == 6 and all(c in "0123456789abcdefABCDEF" for c in digits):
        return tuple(int(digits[i : i + 2], 16) for i in (0, 2, 4))
    raise UserError(f"{key} is '{text}'. Allowed: auto, none, {', '.join(_NAMED)}, or a colour written #rrggbb.")


def _border(frame: np.ndarray) -> np.ndarray:
    h, w = frame.shape[:2]
    b = max(1, round(0.015 * min(h, w)))
    parts = (frame[:b], frame[h - b :], frame[b : h - b, :b], frame[b : h - b, w - b :])
    return np.concatenate([p.reshape(-1, frame.shape[-1])[:, :3] for p in parts]).astype(np.float32)


def plain_background(
    frames: list[np.ndarray], color: tuple[int, int, int] | None = None, share: float = 0.8
) -> PlainBackground | None:
    """The one colour that fills the border of every frame (uint8 ``[H, W, 3+]``), or None when there is none.

    ``share`` of the border pixels of each frame must lie within 20 levels of the colour: an object may reach the
    border a little. A given ``color`` is taken as it is, and only the tolerance is measured.
    """
    borders = [_border(frame) for frame in frames]
    center = np.median(np.concatenate(borders), axis=0) if color is None else np.asarray(color, np.float32)
    spread = []
    for border in borders:
        distance = np.abs(border - center).max(-1)
        near = distance[distance <= 20]
        if color is None and near.size < share * distance.size:
            return None
        spread.append(np.percentile(near, 99) if near.size else 0.0)
    # Lossy codecs ring around the object by some 15 levels, and smear strong colours over two pixels (4:2:0 chroma).
    ringing = 16.0 + 0.25 * float(np.ptp(center))
    tolerance = max(2.0 * max(spread), ringing)
    return PlainBackground(tuple(float(c) for c in center), tolerance)


def key_out(frame: np.ndarray, background: PlainBackground) -> np.ndarray:
    """RGBA (straight alpha, uint8 ``[H, W, 4]``) of a frame (uint8 ``[H, W, 3+]``) on a plain background.

    What is near the background colour and joined to the border is background, so that an eye as black as a black
    background stays; holes count as background when they are flat. At the silhouette each pixel is taken as a mix of
    the background and of the nearest colour well inside the object, which gives a soft alpha and clean colours.
    """
    import cv2

    rgb = frame[..., :3].astype(np.float32)
    h, w = rgb.shape[:2]
    color = np.asarray(background.color, np.float32)
    distance = np.abs(rgb - color).max(-1)
    near = np.pad((distance <= background.tolerance).astype(np.uint8), 1, constant_values=1)
    count, labels = cv2.connectedComponents(near, connectivity=4)
    outside = labels[0, 0]
    labels, near = labels[1:-1, 1:-1], near[1:-1, 1:-1]
    flat = np.bincount(labels.ravel(), weights=(distance <= 0.4 * background.tolerance).ravel(), minlength=count)
    area = np.maximum(np.bincount(labels.ravel(), minlength=count), 1)
    smallest = max(4.0, 2e-4 * h * w)
    is_background = (area >= smallest) & (flat >= 0.5 * area)
    is_background[outside] = True
    solid = (~(is_background[labels] & (near == 1))).astype(np.uint8)

    count, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= smallest
    keep[0] = False
    solid = keep[labels].astype(np.uint8)

    reach = max(1, round(min(h, w) / 200)) + int(np.ptp(color) > 100)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    inner = cv2.erode(solid, disc, borderValue=1)
    thin = solid & ~cv2.dilate(inner, disc, iterations=2)
    inner |= thin
    if not inner.any():
        return np.dstack([frame[..., :3], solid * 255])
    _, nearest = cv2.distanceTransformWithLabels(1 - inner, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    lookup = np.zeros((nearest.max() + 1, 3), np.float32)
    lookup[nearest[inner == 1]] = rgb[inner == 1]
    pure = lookup[nearest]
    contrast = pure - color
    strength = (contrast**2).sum(-1)
    mix = ((rgb - color) * contrast).sum(-1) / np.maximum(strength, 1.0)
    mix = np.where(strength > (4.0 * background.tolerance) ** 2, np.clip(mix, 0.0, 1.0), solid)
    band = (cv2.dilate(solid, disc) == 1) & (inner == 0)
    alpha = np.where(band, mix, solid).astype(np.float32)
    unmixed = (rgb - (1.0 - alpha[..., None]) * color) / np.maximum(alpha[..., None], 0.5)
    clean = (alpha > 0.5) & (np.ptp(color) <= 100)  # smeared chroma cannot be unmixed
    rgb = np.where(band[..., None], np.where(clean[..., None], unmixed, pure), rgb)
    rgba = np.dstack([rgb, alpha * 255.0])
    return np.clip(np.round(rgba), 0, 255).astype(np.uint8)
