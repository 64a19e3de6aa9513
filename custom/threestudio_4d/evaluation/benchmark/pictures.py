"""Side by side, moment by moment: the input, every method and the truth, as a video and as a sheet of stills.

Rows are views, columns are clips. A clip with fewer frames is shown at the same times of its course.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...atomic import write_bytes
from ...data.clip import premultiply, resize_premultiplied
from ...data.picture_file import read_picture

TILE = 128
HEADER = 20  # pixels for names above the columns
MARGIN = 6  # white between tiles
FPS = 16
STILLS = 3
INK = (34, 34, 34)


def frame_paths(folder: Path) -> list[Path]:
    """Numbered PNGs of a folder in order; empty if there is none."""
    return [p for _, p in sorted((int(p.stem), p) for p in folder.glob("*.png") if p.stem.isdecimal())]


def read_tile(path: Path, size: int = TILE) -> np.ndarray:
    """A picture on white, uint8 [size, size, 3]; what is not square stands in the middle of white.

    Raises:
        UserError: it is no picture.
    """
    image = read_picture(path)
    if image.shape[2] == 3:
        image = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    image = np.pad(image, ((top, side - height - top), (left, side - width - left), (0, 0)))
    rgba = resize_premultiplied(premultiply(image), size, size)
    return np.rint(255 * np.clip(rgba[..., :3] + 1 - rgba[..., 3:], 0, 1)).astype(np.uint8)


class Comparison:
    """The clips of one object.

    Args:
        columns: name -> view -> folder of frames, in order; a missing view leaves white.
        views: rows, from above.
        size: pixels of a tile.
    """

    def __init__(self, columns: Mapping[str, Mapping[str, Path]], views: Sequence[str], size: int = TILE) -> None:
        self.views, self.size = list(views), size
        self.columns = {
            name: {view: frame_paths(folder) for view, folder in folders.items()} for name, folders in columns.items()
        }
        self._tiles: dict[Path, np.ndarray] = {}

    def __len__(self) -> int:
        """Frames: as many as the longest clip has."""
        return max((len(paths) for views in self.columns.values() for paths in views.values()), default=0)

    def frames(self) -> Iterator[np.ndarray]:
        """All moments, uint8 [H, W, 3]."""
        return (self.frame(index) for index in range(len(self)))

    def frame(self, index: int) -> np.ndarray:
        """One moment."""
        rows = [self._header()]
        for view in self.views:
            tiles = [self._tile(paths.get(view, []), index) for paths in self.columns.values()]
            rows.append(self._row(tiles, view))
        return np.concatenate(rows, axis=0)

    def sheet(self) -> np.ndarray:
        """A few moments under each other."""
        count = min(STILLS, len(self))
        return np.concatenate([self.frame(index * len(self) // count) for index in range(count)], axis=0)

    def _tile(self, paths: list[Path], index: int) -> np.ndarray:
        if not paths:
            return np.full((self.size, self.size, 3), 255, np.uint8)
        path = paths[index * len(paths) // len(self)]
        if path not in self._tiles:
            self._tiles[path] = read_tile(path, self.size)
        return self._tiles[path]

    def _row(self, tiles: list[np.ndarray], view: str) -> np.ndarray:
        row = np.full((self.size + MARGIN, len(tiles) * (self.size + MARGIN), 3), 255, np.uint8)
        for column, tile in enumerate(tiles):
            row[: self.size, column * (self.size + MARGIN) :][:, : self.size] = tile
        return _write(row, [(4, 2, view)], self.size)

    def _header(self) -> np.ndarray:
        blank = np.full((HEADER, len(self.columns) * (self.size + MARGIN), 3), 255, np.uint8)
        places = [(column * (self.size + MARGIN) + 4, 3, name) for column, name in enumerate(self.columns)]
        return _write(blank, places, self.size)


def write_jpeg(path: Path, picture: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=88)
    write_bytes(path, buffer.getvalue())


def _write(picture: np.ndarray, texts: Iterable[tuple[int, int, str]], width: int) -> np.ndarray:
    """Text onto a picture, cut to ``width`` pixels."""
    image = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    for x, y, text in texts:
        shown = text
        while len(shown) > 1 and draw.textlength(shown, font) > width - 8:
            shown = shown[:-1]
        shown = shown if shown == text else shown[:-1] + "."
        draw.text((x, y), shown, fill=INK, font=font)
    return np.asarray(image)
