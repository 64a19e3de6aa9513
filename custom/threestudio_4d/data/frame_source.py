"""What all sources of frames have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ..errors import UserError

Transform = Callable[[np.ndarray], np.ndarray]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorting key that reads runs of digits as numbers: ``2.png`` comes before ``10.png``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in re.findall(r"\d+|\D+", name)]


def name_some(names: Iterable[str], most: int = 5) -> str:
    """``a, b, c, d, e and 7 more``."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class FrameSource:
    """Frames in order. ``names`` has one entry a frame; ``notes`` says what was passed over and why."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self.names)

    def times(self) -> list[float] | None:
        """When each frame is shown, in seconds after the first, not decreasing; None where the source does not say."""
        return None

    def read(self, indices: list[int], transform: Transform, as_mask: bool = False) -> list[np.ndarray]:
        """Decode the frames at ``indices`` (ascending) and pass each through ``transform``.

        A frame is uint8 ``[H, W, 3]``, or ``[H, W, 4]`` where the file has an alpha channel; with ``as_mask`` it is
        uint8 ``[H, W]``. All frames must have one size, else :class:`UserError`.
        """
        wanted, out, shapes, broken = set(indices), [], {}, []
        for index, frame in self._frames(wanted, as_mask, broken):
            shapes.setdefault(frame.shape[:2], []).append(self.names[index])
            if not broken:
                out.append(transform(frame))
        if broken and self.path.is_file():
            what = "picture" if self.kind == "folder" else f"{self.kind} ({name_some(broken)})"
            raise UserError(f"{self.path}: this {what} cannot be read. It is damaged or incomplete: write it again.")
        if broken:
            raise UserError(
                f"{self.path}: {len(broken)} of {len(wanted)} pictures cannot be read: {name_some(broken)}. "
                "Write them again or take them out of the folder."
            )
        if len(shapes) > 1:
            counted = sorted(shapes.items(), key=lambda item: -len(item[1]))
            told = "; ".join(f"{w}x{h}: {name_some(names, 3)}" for (h, w), names in counted)
            raise UserError(
                f"{self.path}: the frames have different sizes ({told}). All frames of a clip must have one size: "
                "resize them alike, or take the stray pictures out."
            )
        return out

    def read_all(self, indices: list[int], transform: Transform, as_mask: bool = False) -> list[np.ndarray]:
        """:meth:`read` for indices that may come several times; each frame is decoded once."""
        unique = sorted(set(indices))
        frames = dict(zip(unique, self.read(unique, transform, as_mask), strict=True))
        return [frames[i] for i in indices]

    def _frames(self, wanted: set[int], as_mask: bool, broken: list[str]) -> Iterator[tuple[int, np.ndarray]]:
        raise NotImplementedError
