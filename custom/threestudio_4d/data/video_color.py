"""Colours of film as sRGB: the tags of a frame (matrix, range, transfer, primaries; ITU-T H.273) are honoured.

Film of BT.709 and BT.601 is shown by players as if its values were sRGB, and is left so. HDR (PQ and HLG, ITU-R
BT.2100) is turned into light on a display of 1000 cd/m2; its reference white of 203 cd/m2 (ITU-R BT.2408) becomes
white, and what is brighter is scaled down to it, keeping its hue. Primaries are converted in linear light.
"""

from __future__ import annotations

import numpy as np

from ..srgb import linear_to_srgb, srgb_to_linear

REFERENCE_WHITE = 203.0  # cd/m2, ITU-R BT.2408
HLG_PEAK = 1000.0  # cd/m2 of the display for which the system gamma is 1.2
LINEAR, GAMMA22, GAMMA28, PQ, HLG = 8, 4, 5, 16, 18
LIKE_SRGB = (1, 2, 6, 7, 13, 14, 15)
UNSPECIFIED = 2
MATRICES = (0, 1, UNSPECIFIED, 4, 5, 6, 7, 9)  # what libswscale converts; others would be read as BT.601

_D65 = (0.3127, 0.3290)
# Chromaticities of red, green, blue and white of each tag (ITU-T H.273, table 2).
_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),
    5: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060), _D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
}


def is_wide(transfer: int, primaries: int) -> bool:
    """Whether frames of these tags need :func:`to_srgb`."""
    return transfer in (LINEAR, GAMMA28, PQ, HLG) or primaries in (9, 12)


def unknown_tags(transfer: int, primaries: int) -> list[str]:
    """What the tags say that is not understood."""
    known = (*LIKE_SRGB, LINEAR, GAMMA22, GAMMA28, PQ, HLG)
    told = [] if transfer in known else [f"transfer characteristics {transfer}"]
    return told + ([] if primaries == UNSPECIFIED or primaries in _PRIMARIES else [f"colour primaries {primaries}"])


def to_srgb(values: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Coded RGB, float ``[..., 3]`` in [0, 1], to sRGB, uint8 ``[..., 3]``."""
    light = to_light(values.astype(np.float32), transfer)
    if primaries in _PRIMARIES and primaries != 1:
        light = light @ (np.linalg.inv(rgb_to_xyz(1)) @ rgb_to_xyz(primaries)).T.astype(np.float32)
    light = np.maximum(light, 0.0)
    light = light / np.maximum(light.max(-1, keepdims=True), 1.0)
    return np.round(linear_to_srgb(light) * 255.0).astype(np.uint8)


def to_light(values: np.ndarray, transfer: int) -> np.ndarray:
    """Coded values in [0, 1] to linear light ``[..., 3]``, in which 1 is white."""
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 1305 / 8192, 2523 / 32, 107 / 128, 2413 / 128, 2392 / 128
        root = values ** (1 / m2)
        return (np.maximum(root - c1, 0.0) / (c2 - c3 * root)) ** (1 / m1) * (10000.0 / REFERENCE_WHITE)
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)
        luminance = scene @ np.array([0.2627, 0.6780, 0.0593], values.dtype)
        return scene * np.maximum(luminance, 0.0)[..., None] ** 0.2 * (HLG_PEAK / REFERENCE_WHITE)
    if transfer == LINEAR:
        return values
    if transfer == GAMMA28:
        return values**2.8
    return srgb_to_linear(values)


def rgb_to_xyz(primaries: int) -> np.ndarray:
    """The matrix ``[3, 3]`` from linear RGB of these primaries to CIE XYZ."""
    corners = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in _PRIMARIES[primaries]]).T
    return corners[:, :3] * np.linalg.solve(corners[:, :3], corners[:, 3])
