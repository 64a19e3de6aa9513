"""Where the object is in its frames, and square windows around it that serve a whole clip.

Frames are uint8 ``[H, W, 4]``; what is at least half opaque counts as the object. Boxes are ``(top, bottom, left,
right)`` in pixels, ends excluded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .frame_source import name_some


class Window(NamedTuple):
    """A square of ``side`` pixels whose upper left corner is at column ``x``, row ``y``; it may reach outside."""

    x: int
    y: int
    side: int


def bounds(frame: np.ndarray) -> tuple[int, int, int, int]:
    """Box of the object in a frame that shows one."""
    solid = frame[..., 3] >= 128
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def common_box(frames: list[np.ndarray]) -> tuple[int, int, int, int]:
    """Box of the object over all frames."""
    boxes = np.array([bounds(frame) for frame in frames])
    return tuple(int(v) for v in (boxes[:, 0].min(), boxes[:, 1].max(), boxes[:, 2].min(), boxes[:, 3].max()))


def border_warning(frames: list[np.ndarray], names: list[str], path: str) -> str | None:
    """What to say when the border of the picture cuts the object, with the ``names`` of those frames; else None."""
    boxes = np.array([bounds(frame) for frame in frames])
    h, w = frames[0].shape[:2]
    cuts = {"top": boxes[:, 0] == 0, "bottom": boxes[:, 1] == h, "left": boxes[:, 2] == 0, "right": boxes[:, 3] == w}
    sides = [side for side, hit in cuts.items() if hit.any()]
    if not sides:
        return None
    hit = [name for name, cut in zip(names, np.any(list(cuts.values()), axis=0), strict=True) if cut]
    return (
        f"{path}: the object touches the {' and '.join(sides)} border in {len(hit)} of {len(frames)} frames "
        f"({name_some(hit)}): what is cut off cannot be rebuilt, and other views will look cut too. Use a clip "
        "that shows the whole object if there is one."
    )


def window_around(box: tuple[int, int, int, int], fill: float) -> Window:
    """The square in which ``box`` is centred and its longer side is ``fill`` of the square's."""
    top, bottom, left, right = box
    side = int(np.ceil(max(bottom - top, right - left) / fill))
    return Window(int(left + right - side) // 2, int(top + bottom - side) // 2, side)


def cut_window(frame: np.ndarray, window: Window) -> np.ndarray:
    """The pixels of ``window``, ``[side, side, C]``; zeros (transparent) where it reaches outside the frame."""
    x, y, side = window
    h, w = frame.shape[:2]
    out = np.zeros((side, side, *frame.shape[2:]), frame.dtype)
    y0, y1, x0, x1 = max(y, 0), min(y + side, h), max(x, 0), min(x + side, w)
    if y0 < y1 and x0 < x1:
        out[y0 - y : y1 - y, x0 - x : x1 - x] = frame[y0:y1, x0:x1]
    return out


def square_window(height: int, width: int) -> Window:
    """The smallest square that holds a whole frame, centred on it."""
    side = max(height, width)
    return Window(-((side - width) // 2), -((side - height) // 2), side)
