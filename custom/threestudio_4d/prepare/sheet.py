"""Pictures to judge a prepared clip by: a contact sheet, and a preview video."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..data.clip import limit_size, resize_premultiplied
from ..data.framing import Window, cut_window, square_window
from ..video_files import write_video

COLUMNS = 8
TILE = 160
PREVIEW = 320  # side of each of the preview's two pictures
_MARGIN = 18  # for labels


def sheet_columns(count: int) -> list[int]:
    """Which of ``count`` frames the sheet shows."""
    shown = min(COLUMNS, count)
    return [round(k * (count - 1) / max(shown - 1, 1)) for k in range(shown)]


def source_tile(rgb: np.ndarray, window: Window | None) -> np.ndarray:
    """A source frame (uint8 ``[H, W, 3]``), whole, with the crop drawn in: uint8 ``[TILE, TILE, 3]``."""
    height, width = rgb.shape[:2]
    scale = TILE / max(height, width)
    tile = cut_window(limit_size(rgb, TILE), square_window(*limit_size(rgb, TILE).shape[:2]))
    tile = np.ascontiguousarray(resize_premultiplied(tile, TILE, TILE))
    if window is not None:
        left, top = (TILE - width * scale) / 2, (TILE - height * scale) / 2
        corners = [(left + window.x * scale, top + window.y * scale)]
        corners.append((corners[0][0] + window.side * scale - 1, corners[0][1] + window.side * scale - 1))
        first, last = [tuple(int(np.clip(v, 0, TILE - 1)) for v in corner) for corner in corners]
        cv2.rectangle(tile, first, last, (255, 60, 60), 1)
    return tile


def contact_sheet(sources: list[np.ndarray], frames: list[np.ndarray], names: list[str]) -> np.ndarray:
    """Rows: source with crop, result over a checkerboard, over white and over black, alpha; a column for each frame.

    Args:
        sources: of :func:`source_tile`.
        frames: uint8 ``[S, S, 4]``, straight alpha.
        names: what to write above the columns.

    Returns:
        uint8 ``[height, width, 3]``.
    """
    tiles = [limit_size(frame, TILE) if len(frame) > TILE else _enlarged(frame) for frame in frames]
    rows = {
        "source": sources,
        "result": [over(tile, checkerboard(TILE)) for tile in tiles],
        "on white": [over(tile, 255) for tile in tiles],
        "on black": [over(tile, 0) for tile in tiles],
        "alpha": [np.repeat(tile[..., 3:], 3, axis=2) for tile in tiles],
    }
    sheet = np.full((_MARGIN + TILE * len(rows), TILE * len(frames), 3), 255, np.uint8)
    for r, (label, row) in enumerate(rows.items()):
        for c, tile in enumerate(row):
            sheet[_MARGIN + r * TILE : _MARGIN + (r + 1) * TILE, c * TILE : (c + 1) * TILE] = tile
        _write(sheet, label, 4, _MARGIN + r * TILE + 13)
    for c, name in enumerate(names):
        _write(sheet, name if len(name) <= 22 else name[:21] + "~", c * TILE + 4, 13)
    return sheet


def over(frame: np.ndarray, background: np.ndarray | int) -> np.ndarray:
    """uint8 ``[H, W, 3]``: an RGBA frame (straight alpha) over a picture or a grey level."""
    alpha = frame[..., 3:].astype(np.float32) / 255.0
    return np.round(frame[..., :3] * alpha + np.asarray(background, np.float32) * (1.0 - alpha)).astype(np.uint8)


def checkerboard(size: int, cell: int = 10) -> np.ndarray:
    """uint8 ``[size, size, 3]`` in two greys."""
    y, x = np.mgrid[:size, :size] // cell
    return np.repeat(np.where((x + y) % 2, 150, 190).astype(np.uint8)[..., None], 3, axis=2)


def write_preview(path: Path, frames: list[np.ndarray], fps: float) -> None:
    """The clip as an mp4 video: on white, as training sees it, and over a checkerboard. Short clips play repeatedly."""
    side = min(PREVIEW, len(frames[0])) // 2 * 2
    board = checkerboard(side, 16)
    small = [limit_size(frame, side) for frame in frames]
    pictures = [np.concatenate([over(frame, 255), over(frame, board)], axis=1) for frame in small]
    rate = max(1, min(60, round(fps)))
    pictures = pictures * max(1, round(2 * rate / len(pictures)))
    write_video(path, pictures, rate)


def _enlarged(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(frame, (TILE, TILE), interpolation=cv2.INTER_NEAREST)


def _write(sheet: np.ndarray, text: str, x: int, y: int) -> None:
    text = text.encode("ascii", "replace").decode()  # OpenCV's fonts have no more, and names that are no UTF-8 end it
    for color, thickness in (((255, 255, 255), 3), ((40, 40, 40), 1)):
        cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, thickness, cv2.LINE_AA)
