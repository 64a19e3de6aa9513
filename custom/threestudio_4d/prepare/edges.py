"""Colours of half-transparent pixels without what shines through from behind."""

from __future__ import annotations

import cv2
import numpy as np

RADII = (90, 6)  # of the published method, in pixels


def foreground_colors(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours of the object alone, where a picture is a mix of object and background.

    A pixel is ``I = a F + (1 - a) B``. With ``F' = blur(a F) / blur(a)`` and ``B' = blur((1 - a) B) / blur(1 - a)``,
    the blurred colours of both sides, the estimate is ``F = F' + a (I - a F' - (1 - a) B')``, made twice: with a wide
    blur that starts from F = B = I, then with a narrow one ("Approximate Fast Foreground Colour Estimation", Forte,
    ICIP 2021). Solid pixels keep their colour.

    Args:
        rgb: uint8 ``[H, W, 3]``.
        alpha: float ``[H, W]`` in [0, 1].

    Returns:
        uint8 ``[H, W, 3]``.
    """
    image = rgb.astype(np.float32) / 255.0
    a = alpha.astype(np.float32)[..., None]
    front = back = image
    for radius in RADII:
        front_blur = _blur(front * a, radius) / (_blur(a, radius) + 1e-5)
        back = _blur(back * (1 - a), radius) / (_blur(1 - a, radius) + 1e-5)
        front = np.clip(front_blur + a * (image - a * front_blur - (1 - a) * back), 0.0, 1.0)
    return np.where(a >= 1.0, rgb, np.round(front * 255.0).astype(np.uint8))


def _blur(values: np.ndarray, radius: int) -> np.ndarray:
    size = (2 * radius + 1, 2 * radius + 1)
    return cv2.blur(values, size, borderType=cv2.BORDER_REFLECT).reshape(values.shape)
