"""Small folders of frames for the tests of the evaluator."""

from pathlib import Path

import numpy as np
from PIL import Image

VIEWS = ("az-75", "az15", "az105", "az195")


def picture(value, size=16, alpha=255, hole=True):
    """RGBA: one grey value, transparent in the left half if ``hole``."""
    image = np.full((size, size, 4), value, np.uint8)
    image[..., 3] = alpha
    if hole:
        image[:, : size // 2, 3] = 0
    return image


def write_view(folder: Path, frames):
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index}.png")


def write_object(folder: Path, values=(100, 120, 140), views=VIEWS, size=16):
    """``<view>/<frame>.png``: frame t of view v is ``values[t] + v``."""
    for number, view in enumerate(views):
        write_view(folder / view, [picture(value + number, size) for value in values])
    return folder
