"""Telling the object from its background: frames become RGBA with straight alpha."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..data.clip import is_opaque
from ..data.framing import window_around
from ..data.keying import key_out, parse_color, plain_background
from ..errors import UserError
from .networks import Rembg, U2Net, how_to_get_u2net, u2net_weights

METHODS = ("auto", "alpha", "key", "u2net", "rembg:<model>", "none")
REAL_ALPHA = 0.001  # share of a frame that must be see-through for `auto` to trust its alpha

CLOSER_FILL = 0.6  # how much of the second look the object fills; the network was trained on objects with surroundings
WORTH_A_LOOK = 0.8  # share of the picture above which a second look shows nothing new
HAZE = 0.05  # alphas of networks this near to 0 and to 1 are taken for 0 and 1
RIM = 0.004  # half the width, as a share of the picture, up to which what differs between two looks is only the rim

Network = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[], None]


@dataclass
class Cutout:
    """Frames with their background removed.

    Attributes:
        colors: uint8 ``[H, W, 3]`` a frame.
        alphas: float32 ``[H, W]`` in [0, 1] a frame.
        method: what made the alphas: ``alpha``, ``key``, ``u2net``, ``rembg:<model>`` or ``none``.
        mixed: whether the colours of half-transparent pixels still hold background.
        details: for the record, such as the key colour.
    """

    colors: list[np.ndarray]
    alphas: list[np.ndarray]
    method: str
    mixed: bool
    details: dict[str, Any]


def check_method(method: str) -> None:
    """Raise a ``UserError`` for a method that does not exist."""
    if method not in METHODS[:4] + METHODS[5:] and not (method.startswith("rembg:") and method != "rembg:"):
        raise UserError(f"--background is '{method}'. Allowed: {', '.join(METHODS)}.")


def looks(method: str) -> int:
    """How often a method looks at each frame at most."""
    return 2 if method == "u2net" or method.startswith("rembg:") else 1


def choose_method(frames: list[np.ndarray], path: str, key_color: str = "auto") -> str:
    """What ``auto`` means for these frames: real alpha, else a plain background, else U2-Net if it is there."""
    if any(frame.shape[2] == 4 and (frame[..., 3] < 128).mean() > REAL_ALPHA for frame in frames):
        return "alpha"
    if plain_background(frames, _given_color(key_color)) is not None:
        return "key"
    if u2net_weights() is not None and importlib.util.find_spec("onnxruntime") is not None:
        return "u2net"
    raise UserError(
        f"{path}: there is no alpha channel and the background is not one plain colour, so a network has to find the "
        f"object. For U2-Net, {how_to_get_u2net()}. Or give RGBA frames, or install rembg and pass --background "
        "rembg:<model>."
    )


def remove_background(
    frames: list[np.ndarray], method: str, path: str, key_color: str = "auto", progress: Progress = lambda: None
) -> Cutout:
    """Remove the background of a clip's frames (uint8 ``[H, W, 3|4]``, all of one size) by ``method``, not ``auto``.

    ``progress`` is called once a frame.
    """
    if method == "alpha":
        return _from_alpha(frames, path, progress)
    if method == "key":
        return _by_key(frames, path, key_color, progress)
    if method == "none":
        return _kept(frames)
    network = U2Net() if method == "u2net" else Rembg(method.removeprefix("rembg:"))
    return cut_out(network, frames, method, progress)


def cut_out(network: Network, frames: list[np.ndarray], method: str, progress: Progress = lambda: None) -> Cutout:
    """Alphas of a network that looks twice: at the whole pictures, then closer, at the object's place over the clip.

    Networks see a small picture, so the closer look has finer edges; what it loses of the first look's object is put
    back. ``progress`` is called once a frame for each look.
    """
    colors = [np.ascontiguousarray(frame[..., :3]) for frame in frames]
    alphas = []
    for rgb in colors:
        alphas.append(network(rgb))
        progress()
    place = _closer(alphas)
    for k, rgb in enumerate(colors if place else []):
        seen = np.zeros_like(alphas[k])
        seen[place] = network(np.ascontiguousarray(rgb[place]))
        progress()
        alphas[k] = _with_lost_parts(seen, alphas[k])
    alphas = [np.clip((alpha - HAZE) / (1.0 - 2.0 * HAZE), 0.0, 1.0) for alpha in alphas]
    return Cutout(colors, alphas, method, True, {"looks": 2 if place else 1})


def _closer(alphas: list[np.ndarray]) -> tuple[slice, slice] | None:
    """The part of the picture that a second look takes; None where that would be nearly all of it, or nothing."""
    solid = np.any([alpha >= 0.5 for alpha in alphas], axis=0)
    if not solid.any():
        return None
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    x, y, side = window_around((int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1), CLOSER_FILL)
    height, width = solid.shape
    place = slice(max(y, 0), min(y + side, height)), slice(max(x, 0), min(x + side, width))
    share = (place[0].stop - place[0].start) * (place[1].stop - place[1].start) / solid.size
    return place if share < WORTH_A_LOOK else None


def _with_lost_parts(closer: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The closer look, with those parts of the first that it has lost. The first look's wider rim is not a part."""
    lost = ((first >= 0.5) & (closer < 0.5)).astype(np.uint8)
    reach = max(1, round(RIM * min(lost.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    parts = cv2.dilate(cv2.erode(lost, disc), disc, iterations=2)
    return np.where(parts == 1, np.maximum(first, closer), closer)


def _from_alpha(frames: list[np.ndarray], path: str, progress: Progress) -> Cutout:
    if all(is_opaque(frame) for frame in frames):
        raise UserError(
            f"{path}: --background alpha, but no frame has an alpha channel that hides anything. Try --background auto."
        )
    alphas = []
    for frame in frames:
        opaque = frame.shape[2] == 3
        alphas.append(np.ones(frame.shape[:2], np.float32) if opaque else frame[..., 3].astype(np.float32) / 255.0)
        progress()
    return Cutout([frame[..., :3] for frame in frames], alphas, "alpha", False, {})


def _by_key(frames: list[np.ndarray], path: str, key_color: str, progress: Progress) -> Cutout:
    background = plain_background(frames, _given_color(key_color))
    if background is None:
        raise UserError(
            f"{path}: --background key, but the border of the pictures is not one plain colour. Name the colour with "
            "--key-color if there is one, or try --background u2net."
        )
    keyed = []
    for frame in frames:
        keyed.append(key_out(frame, background))
        progress()
    tolerance = round(float(background.tolerance), 1)  # numpy's numbers do not fit into JSON
    details = {"key_color": [round(c) for c in background.color], "key_tolerance": tolerance}
    alphas = [frame[..., 3].astype(np.float32) / 255.0 for frame in keyed]
    return Cutout([frame[..., :3] for frame in keyed], alphas, "key", False, details)


def _kept(frames: list[np.ndarray]) -> Cutout:
    alphas = [
        frame[..., 3].astype(np.float32) / 255.0 if frame.shape[2] == 4 else np.ones(frame.shape[:2], np.float32)
        for frame in frames
    ]
    return Cutout([frame[..., :3] for frame in frames], alphas, "none", False, {})


def _given_color(key_color: str) -> tuple[int, int, int] | None:
    return None if key_color.lower() == "auto" else parse_color(key_color, "--key-color")
