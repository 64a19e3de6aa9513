"""Read frames as a protocol wants them, and turn them into what each network takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.picture_file import DECODE_ERRORS, open_picture, read_picture
from ..errors import UserError
from .novel_views import read_frame
from .protocols import Protocol


def read_views(paths: Sequence[Path], protocol: Protocol) -> np.ndarray:
    """Frames as [N, S, S, 4] float32 in [0, 1], S the protocol's size: colour on the background, and alpha.

    Raises:
        UserError: a file that is no picture, has no alpha where the protocol needs it, or is not square.
    """
    frames = []
    for path in paths:
        width, height = picture_size(path)
        if width != height:
            raise UserError(f"{path} is {width} x {height} pixels: frames must be square, resizing would squash them")
        read = read_frame if protocol.resize == "premultiplied-area" else partial(_read_8_bit, protocol=protocol)
        frames.append(read(path, size=protocol.size))
    return np.stack(frames)


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open_picture(path) as image:
            return image.size
    except UserError:
        raise
    except DECODE_ERRORS as error:
        raise UserError(f"{path} cannot be read as a picture ({error}): make it again") from error


def on_background(path: Path, protocol: Protocol) -> tuple[Image.Image, Image.Image | None]:
    """The 8-bit RGB picture on the protocol's background at its own size, and its alpha (None: it has none)."""
    pixels = read_picture(path)
    if pixels.shape[2] == 3:
        if protocol.needs_alpha:
            raise UserError(f"{path} is not an RGBA picture")
        return Image.fromarray(pixels), None
    rgb, alpha = pixels[..., :3], pixels[..., 3:]
    if protocol.background == "white-mask":
        rgb = np.where(alpha == 0, np.uint8(255), rgb)
    else:
        share = alpha / 255.0
        rgb = np.round(rgb * share + 255.0 * (1.0 - share)).astype(np.uint8)
    return Image.fromarray(rgb), Image.fromarray(alpha[..., 0])


def _read_8_bit(path: Path, size: int, protocol: Protocol) -> np.ndarray:
    """Composite, then resize as ``PIL.Image.resize`` does by default; alpha is 1 where there is none."""
    rgb, alpha = on_background(path, protocol)
    out = np.ones((size, size, 4), np.float32)
    out[..., :3] = np.asarray(rgb.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255.0
    if alpha is not None:
        out[..., 3] = np.asarray(alpha.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255.0
    return out
